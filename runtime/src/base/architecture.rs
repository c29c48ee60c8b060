//! The kind and the sizes of an encoder.

use serde::{Deserialize, Serialize};

use super::family::bert::{self, Kin};
use super::family::encoder::Activation;
use super::family::{Family, modernbert};

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
/// what is not known, and those that only some have.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Fields {
    pub(super) family: String,
    pub(super) hidden_size: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) vocab_size: usize,
    pub(super) max_positions: usize,
    pub(super) layer_norm_eps: f64,
    /// Width of the embeddings: ELECTRA, ALBERT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) embedding_size: Option<usize>,
    /// `gelu` or `gelu_tanh`: ALBERT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) activation: Option<Activation>,
    /// Which layers attend to all tokens, how far the others do, and the bases of their rotary angles: ModernBERT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) global_every: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) window: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) global_theta: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) local_theta: Option<f64>,
}

impl Fields {
    /// The fields that only some families have, with the name and the value of each that is there.
    pub(super) fn own(&self) -> Vec<(&'static str, String)> {
        let number = |name, value: Option<usize>| value.map(|value| (name, value.to_string()));
        let real = |name, value: Option<f64>| value.map(|value| (name, format!("{:016x}", value.to_bits())));
        let all = [
            number("embedding_size", self.embedding_size),
            self.activation.map(|activation| ("activation", activation.name().to_owned())),
            number("global_every", self.global_every),
            number("window", self.window),
            real("global_theta", self.global_theta),
            real("local_theta", self.local_theta),
        ];
        all.into_iter().flatten().collect()
    }
}

impl From<Architecture> for Fields {
    fn from(a: Architecture) -> Fields {
        let common = Fields {
            family: a.family.name().to_owned(),
            hidden_size: a.hidden_size,
            layers: a.layers,
            vocab_size: a.vocab_size,
            max_positions: a.max_positions,
            ..Fields::default()
        };
        match a.family {
            Family::Bert(bert::Sizes { heads, intermediate_size, layer_norm_eps, kin }) => {
                let (embedding_size, activation) = match kin {
                    Kin::Bert | Kin::Mpnet => (None, None),
                    Kin::Electra { embedding_size } => (Some(embedding_size), None),
                    Kin::Albert { embedding_size, activation } => (Some(embedding_size), Some(activation)),
                };
                Fields { heads, intermediate_size, layer_norm_eps, embedding_size, activation, ..common }
            }
            Family::ModernBert(sizes) => Fields {
                heads: sizes.heads,
                intermediate_size: sizes.intermediate_size,
                layer_norm_eps: sizes.layer_norm_eps,
                global_every: Some(sizes.global_every),
                window: Some(sizes.window),
                global_theta: Some(sizes.global_theta),
                local_theta: Some(sizes.local_theta),
                ..common
            },
            Family::Onnx(hints) => Fields {
                intermediate_size: hints.intermediate_size.unwrap_or(0),
                layer_norm_eps: hints.layer_norm_eps.unwrap_or(0.0),
                ..common
            },
        }
    }
}

impl TryFrom<Fields> for Architecture {
    type Error = String;

    fn try_from(f: Fields) -> Result<Architecture, String> {
        let Fields { heads, intermediate_size, layer_norm_eps, .. } = f;
        let bert = |kin| Family::Bert(bert::Sizes { heads, intermediate_size, layer_norm_eps, kin });
        let missing = |field| format!("field `architecture/{field}` is missing, which a base of `{}` has", f.family);
        let embedding_size = || f.embedding_size.ok_or_else(|| missing("embedding_size"));
        let family = match f.family.as_str() {
            "bert" => bert(Kin::Bert),
            "electra" => bert(Kin::Electra { embedding_size: embedding_size()? }),
            "albert" => bert(Kin::Albert {
                embedding_size: embedding_size()?,
                activation: f.activation.ok_or_else(|| missing("activation"))?,
            }),
            "mpnet" => bert(Kin::Mpnet),
            "modernbert" => Family::ModernBert(modernbert::Sizes {
                heads,
                intermediate_size,
                layer_norm_eps,
                global_every: f.global_every.ok_or_else(|| missing("global_every"))?,
                window: f.window.ok_or_else(|| missing("window"))?,
                global_theta: f.global_theta.ok_or_else(|| missing("global_theta"))?,
                local_theta: f.local_theta.ok_or_else(|| missing("local_theta"))?,
            }),
            "onnx" => Family::Onnx(GraphHints {
                intermediate_size: Some(intermediate_size).filter(|size| *size > 0),
                layer_norm_eps: Some(layer_norm_eps).filter(|epsilon| *epsilon != 0.0),
            }),
            other => {
                let known = "`bert`, `electra`, `albert`, `mpnet`, `modernbert` and `onnx`";
                return Err(format!("field `architecture/family`: `{other}`, this program knows {known}"));
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

/// The most positions of an encoder that has no table of them, whose length would be a limit.
pub const MAX_POSITIONS: usize = 65_536;

/// The most layers of an encoder whose layers are listed by their number alone.
pub const MAX_LAYERS: usize = 1_000;

impl Architecture {
    /// The sizes that only BERT and its kin have; none of another family.
    pub fn bert(&self) -> Option<&bert::Sizes> {
        match &self.family {
            Family::Bert(sizes) => Some(sizes),
            _ => None,
        }
    }

    /// Whether every tensor is known, so that the engine `native` runs it.
    pub fn is_known(&self) -> bool {
        !matches!(self.family, Family::Onnx(_))
    }

    /// What cannot be: the field and the reason.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        let wrong = |field: &str, reason: String| Err((format!("architecture/{field}"), reason));
        let heads = match self.family {
            Family::Bert(bert::Sizes { heads, .. }) | Family::ModernBert(modernbert::Sizes { heads, .. }) => heads,
            Family::Onnx(_) => 1,
        };
        if self.hidden_size == 0 || heads == 0 || !self.hidden_size.is_multiple_of(heads) {
            return wrong("heads", format!("{heads} heads do not divide width {}", self.hidden_size));
        }
        match self.family {
            _ if self.is_known() && self.layers > MAX_LAYERS => {
                return wrong("layers", format!("{}; {MAX_LAYERS} are the most", self.layers));
            }
            Family::ModernBert(_) if self.max_positions > MAX_POSITIONS => {
                return wrong("max_positions", format!("{}; {MAX_POSITIONS} are the most", self.max_positions));
            }
            Family::ModernBert(modernbert::Sizes { global_every: 0, .. }) => {
                return wrong("global_every", "is 0".to_owned());
            }
            Family::ModernBert(_) if !(self.hidden_size / heads).is_multiple_of(2) => {
                return wrong("heads", format!("are {} wide, which is no even number", self.hidden_size / heads));
            }
            Family::ModernBert(modernbert::Sizes { global_theta, local_theta, .. })
                if !(global_theta > 0.0 && local_theta > 0.0) =>
            {
                return wrong(
                    "global_theta",
                    format!("{global_theta} and `local_theta` {local_theta}; both are above 0"),
                );
            }
            _ => {}
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
