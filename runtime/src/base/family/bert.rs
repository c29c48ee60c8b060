//! BERT (Devlin et al. 2018) and its kin: norms after each part, learnt positions, GELU. Names and shapes of their
//! tensors, as BERT's checkpoints spell them.

use super::super::{Architecture, BaseManifest};
use super::encoder::{self, Activation, Embeddings, Encoder, Layer, Relative};

/// The sizes that only BERT and its kin have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Attention heads a layer.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Which of them it is.
    pub kin: Kin,
}

/// How an encoder differs from BERT.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kin {
    /// Not at all.
    Bert,
    /// ELECTRA (Clark et al. 2020) with narrow embeddings, which are widened for the layers.
    Electra {
        /// Width of the embeddings.
        embedding_size: usize,
    },
    /// ALBERT (Lan et al. 2020): narrow embeddings, and one layer that is gone through again and again.
    Albert {
        /// Width of the embeddings.
        embedding_size: usize,
        /// Of its layer.
        activation: Activation,
    },
    /// MPNet (Song et al. 2020): scores of attention depend on distances, too.
    Mpnet,
}

impl Kin {
    /// The name of the family in `base.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Electra { .. } => "electra",
            Self::Albert { .. } => "albert",
            Self::Mpnet => "mpnet",
        }
    }

    fn embedding_size(self) -> Option<usize> {
        match self {
            Self::Electra { embedding_size } | Self::Albert { embedding_size, .. } => Some(embedding_size),
            Self::Bert | Self::Mpnet => None,
        }
    }
}

/// A linear layer of an encoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linear {
    /// To the queries of attention.
    Query,
    /// To its keys.
    Key,
    /// To its values.
    Value,
    /// From what the heads attended to.
    AttentionOutput,
    /// Up to the feed-forward width.
    Intermediate,
    /// Back down.
    Output,
    /// Beside the one up, where the feed-forward part is gated; BERT's is not.
    Gate,
}

impl Linear {
    /// All of a layer of BERT, in the order in which a forward pass reads them. `output.dense` ends the name of
    /// the attention's, too, which comes first.
    pub const ALL: [Linear; 6] =
        [Self::Query, Self::Key, Self::Value, Self::AttentionOutput, Self::Intermediate, Self::Output];

    /// Its name inside a layer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "attention.self.query",
            Self::Key => "attention.self.key",
            Self::Value => "attention.self.value",
            Self::AttentionOutput => "attention.output.dense",
            Self::Intermediate => "intermediate.dense",
            Self::Output => "output.dense",
            Self::Gate => "intermediate.gate",
        }
    }

    /// What users call it (`--modules`).
    pub fn module(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::AttentionOutput => "attention-output",
            Self::Intermediate => "intermediate",
            Self::Output => "output",
            Self::Gate => "gate",
        }
    }

    /// Outputs and inputs.
    pub fn shape(self, hidden_size: usize, intermediate_size: usize) -> [usize; 2] {
        match self {
            Self::Intermediate | Self::Gate => [intermediate_size, hidden_size],
            Self::Output => [hidden_size, intermediate_size],
            _ => [hidden_size, hidden_size],
        }
    }
}

/// A table of embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Of tokens.
    Words,
    /// Of positions.
    Positions,
    /// Of segments.
    Segments,
}

impl Table {
    /// Its name, without the prefix of all names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Words => "embeddings.word_embeddings.weight",
            Self::Positions => "embeddings.position_embeddings.weight",
            Self::Segments => "embeddings.token_type_embeddings.weight",
        }
    }
}

/// A layer norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Of the embeddings.
    Embeddings,
    /// After attention, of this layer.
    Attention(usize),
    /// At the end of this layer.
    Output(usize),
}

/// The tensors of an encoder, whose names may all have a prefix.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// What all names start with: a checkpoint that was saved with a task's head on top has one.
    pub prefix: &'a str,
}

impl<'a> Names<'a> {
    /// The names in a base, whose maskable tensors tell the prefix; or why it is no BERT encoder.
    ///
    /// # Errors
    /// A reason in words.
    pub fn of_base(manifest: &'a BaseManifest) -> Result<(Names<'a>, &'a Sizes), String> {
        let family = manifest.architecture.family.name();
        let sizes = manifest.architecture.bert().filter(|sizes| sizes.kin == Kin::Bert);
        let sizes = sizes.ok_or_else(|| format!("the base is of the family `{family}`, not `bert`"))?;
        Ok((Names { prefix: prefix(manifest)? }, sizes))
    }

    /// The name of a table of embeddings.
    pub fn table(&self, table: Table) -> String {
        format!("{}{}", self.prefix, table.name())
    }

    /// The name of a linear layer's weight.
    pub fn weight(&self, layer: usize, linear: Linear) -> String {
        format!("{}encoder.layer.{layer}.{}.weight", self.prefix, linear.name())
    }

    /// The name of a linear layer's bias.
    pub fn bias(&self, layer: usize, linear: Linear) -> String {
        format!("{}encoder.layer.{layer}.{}.bias", self.prefix, linear.name())
    }

    /// The names of a norm's scale and bias.
    pub fn norm(&self, norm: Norm) -> [String; 2] {
        let name = match norm {
            Norm::Embeddings => "embeddings.LayerNorm".to_owned(),
            Norm::Attention(layer) => format!("encoder.layer.{layer}.attention.output.LayerNorm"),
            Norm::Output(layer) => format!("encoder.layer.{layer}.output.LayerNorm"),
        };
        ["weight", "bias"].map(|part| format!("{}{name}.{part}", self.prefix))
    }

    /// What an encoder of some sizes computes.
    pub fn encoder(&self, a: &Architecture, sizes: &Sizes) -> Encoder {
        let width = a.hidden_size;
        let of_embeddings = sizes.kin.embedding_size().unwrap_or(width);
        let table = |table, rows| encoder::Table { name: self.table(table), rows };
        let projection = (of_embeddings != width || matches!(sizes.kin, Kin::Albert { .. })).then(|| {
            let [weight, bias] = ["weight", "bias"].map(|part| format!("{}{PROJECTION}.{part}", self.prefix));
            encoder::Linear { weight, bias: Some(bias), outputs: width, inputs: of_embeddings }
        });
        let relative = match sizes.kin {
            Kin::Mpnet => Some(Relative { table: format!("{}{RELATIVE}.weight", self.prefix), buckets: BUCKETS }),
            _ => None,
        };
        let layer = |i| match sizes.kin {
            Kin::Albert { activation, .. } => self.layer(0, width, sizes, activation),
            _ => self.layer(i, width, sizes, Activation::Gelu),
        };
        Encoder {
            width,
            heads: sizes.heads,
            epsilon: sizes.layer_norm_eps,
            embeddings: Embeddings {
                words: table(Table::Words, a.vocab_size),
                positions: Some(table(Table::Positions, a.max_positions)),
                segments: (sizes.kin != Kin::Mpnet).then(|| self.table(Table::Segments)),
                width: of_embeddings,
                norm: self.norm_of(Norm::Embeddings),
                projection,
            },
            relative,
            layers: (0..a.layers).map(layer).collect(),
        }
    }

    fn layer(&self, layer: usize, width: usize, sizes: &Sizes, activation: Activation) -> Layer {
        let linear = |linear: Linear| {
            let [outputs, inputs] = linear.shape(width, sizes.intermediate_size);
            let (weight, bias) = (self.weight(layer, linear), Some(self.bias(layer, linear)));
            encoder::Linear { weight, bias, outputs, inputs }
        };
        Layer {
            before_attention: None,
            query: linear(Linear::Query),
            key: linear(Linear::Key),
            value: linear(Linear::Value),
            attended: linear(Linear::AttentionOutput),
            after_attention: Some(self.norm_of(Norm::Attention(layer))),
            before_feed_forward: None,
            intermediate: linear(Linear::Intermediate),
            gate: None,
            activation,
            output: linear(Linear::Output),
            after_feed_forward: Some(self.norm_of(Norm::Output(layer))),
            rotary: None,
            window: None,
        }
    }

    fn norm_of(&self, norm: Norm) -> encoder::Norm {
        let [scale, bias] = self.norm(norm);
        encoder::Norm { scale, bias: Some(bias) }
    }
}

/// What all names of a base's tensors start with, which its maskable ones tell.
pub(super) fn prefix(manifest: &BaseManifest) -> Result<&str, String> {
    let first = Names { prefix: "" }.weight(0, Linear::Query);
    let prefix = manifest.maskable.iter().find_map(|tensor| tensor.name.strip_suffix(first.as_str()));
    prefix.ok_or_else(|| format!("the base has no maskable tensor `{first}`"))
}

/// The linear layer behind narrow embeddings, as ELECTRA calls it.
const PROJECTION: &str = "embeddings_project";

/// The table of distances, as MPNet calls it.
const RELATIVE: &str = "encoder.relative_attention_bias";

/// Its rows.
pub const BUCKETS: usize = 32;

#[cfg(test)]
mod tests {
    use super::super::Family;
    use super::*;

    #[test]
    fn kin_have_the_tensors_that_they_differ_by() {
        let (embedding_size, activation) = (4, Activation::GeluTanh);
        let kin = [
            // Three tables and a norm; in each layer six linears and two norms, of two tensors each.
            (Kin::Bert, 5 + 3 * 16, 18),
            (Kin::Electra { embedding_size }, 7 + 3 * 16, 18),
            (Kin::Albert { embedding_size, activation }, 7 + 16, 6),
            (Kin::Mpnet, 5 + 3 * 16, 18),
        ];
        for (kin, tensors, maskable) in kin {
            let sizes = Sizes { heads: 2, intermediate_size: 16, layer_norm_eps: 1e-12, kin };
            let family = Family::Bert(sizes);
            let a = Architecture { family, hidden_size: 8, layers: 3, vocab_size: 10, max_positions: 16 };
            let encoder = Names { prefix: "x." }.encoder(&a, &sizes);
            let listed = encoder.tensors(2);
            assert_eq!((listed.len(), encoder.maskable().len()), (tensors, maskable), "{kin:?}");
            for tensor in encoder.maskable() {
                assert!(listed.contains(&(tensor.name, vec![tensor.outputs, tensor.inputs])));
            }
            assert!(listed.iter().all(|(name, _)| name.starts_with("x.")));
        }
    }
}
