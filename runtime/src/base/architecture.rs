//! The kind and the sizes of an encoder.

use serde::{Deserialize, Serialize};

use super::family::{Family, bert};

/// Kind and sizes of an encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Architecture {
    /// What kind of encoder it is, with the sizes that only this kind has.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of encoder layers.
    pub layers: usize,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Most tokens that a text may have.
    pub max_positions: usize,
}

/// What is told of an encoder whose graph alone says what it computes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GraphHints {
    /// The widest input of a maskable tensor, if there is one.
    pub intermediate_size: Option<usize>,
    /// Epsilon of the first layer norm, if the graph has one as an operator.
    pub layer_norm_eps: Option<f64>,
}

/// How `base.json` and the base's identity spell an architecture: the same fields for every family, 0 for
/// what is not known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Fields {
    pub(super) family: String,
    pub(super) hidden_size: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) vocab_size: usize,
    pub(super) max_positions: usize,
    pub(super) layer_norm_eps: f64,
}

impl From<Architecture> for Fields {
    fn from(a: Architecture) -> Fields {
        let (heads, intermediate_size, layer_norm_eps) = match a.family {
            Family::Bert(sizes) => (sizes.heads, sizes.intermediate_size, sizes.layer_norm_eps),
            Family::Onnx(hints) => (0, hints.intermediate_size.unwrap_or(0), hints.layer_norm_eps.unwrap_or(0.0)),
        };
        Fields {
            family: a.family.name().to_owned(),
            hidden_size: a.hidden_size,
            layers: a.layers,
            heads,
            intermediate_size,
            vocab_size: a.vocab_size,
            max_positions: a.max_positions,
            layer_norm_eps,
        }
    }
}

impl TryFrom<Fields> for Architecture {
    type Error = String;

    fn try_from(f: Fields) -> Result<Architecture, String> {
        let Fields { heads, intermediate_size, layer_norm_eps, .. } = f;
        let family = match f.family.as_str() {
            "bert" => Family::Bert(bert::Sizes { heads, intermediate_size, layer_norm_eps }),
            "onnx" => Family::Onnx(GraphHints {
                intermediate_size: Some(intermediate_size).filter(|size| *size > 0),
                layer_norm_eps: Some(layer_norm_eps).filter(|epsilon| *epsilon != 0.0),
            }),
            other => {
                return Err(format!("field `architecture/family`: `{other}`, this program knows `bert` and `onnx`"));
            }
        };
        Ok(Architecture {
            family,
            hidden_size: f.hidden_size,
            layers: f.layers,
            vocab_size: f.vocab_size,
            max_positions: f.max_positions,
        })
    }
}

impl Architecture {
    /// The sizes that only BERT encoders have; none of another family.
    pub fn bert(&self) -> Option<&bert::Sizes> {
        match &self.family {
            Family::Bert(sizes) => Some(sizes),
            Family::Onnx(_) => None,
        }
    }

    /// What cannot be: the field and the reason.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        let wrong = |field: &str, reason: String| Err((format!("architecture/{field}"), reason));
        let heads = self.bert().map_or(1, |sizes| sizes.heads);
        if self.hidden_size == 0 || heads == 0 || !self.hidden_size.is_multiple_of(heads) {
            return wrong("heads", format!("{heads} heads do not divide width {}", self.hidden_size));
        }
        for (field, value) in
            [("max_positions", self.max_positions), ("vocab_size", self.vocab_size), ("layers", self.layers)]
        {
            if value == 0 {
                return wrong(field, "is 0".to_owned());
            }
        }
        Ok(())
    }
}
