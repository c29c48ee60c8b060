//! ModernBERT (Warner et al. 2024): norms before each part, rotary positions, a gated feed-forward part, attention to
//! all tokens in some layers and to near ones in the others, no biases.
//!
//! A checkpoint has query, key and value in one tensor, and so have the feed-forward part's two inputs; here each is one
//! of its own, called as BERT's is.

use super::super::Architecture;
use super::bert::{self, Names};
use super::encoder::{Activation, Embeddings, Encoder, Layer, Linear, Norm, Table};

/// The sizes that only ModernBERT encoders have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Attention heads a layer.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// The first of so many layers attends to all tokens, ...
    pub global_every: usize,
    /// ... the others to those that are this far away at most.
    pub window: usize,
    /// Base of the rotary angles in layers of the first kind, ...
    pub global_theta: f64,
    /// ... and of the second.
    pub local_theta: f64,
}

pub(super) fn encoder(a: &Architecture, sizes: &Sizes, prefix: &str) -> Encoder {
    let width = a.hidden_size;
    let names = Names { prefix };
    let norm = |name: &str| Norm { scale: format!("{prefix}{name}.weight"), bias: None };
    let layer = |i: usize| {
        let linear = |linear: bert::Linear| {
            let [outputs, inputs] = linear.shape(width, sizes.intermediate_size);
            Linear { weight: names.weight(i, linear), bias: None, outputs, inputs }
        };
        let is_global = i.is_multiple_of(sizes.global_every);
        Layer {
            // The embeddings are normed already.
            before_attention: (i > 0).then(|| norm(&format!("encoder.layer.{i}.attention.norm"))),
            query: linear(bert::Linear::Query),
            key: linear(bert::Linear::Key),
            value: linear(bert::Linear::Value),
            attended: linear(bert::Linear::AttentionOutput),
            after_attention: None,
            before_feed_forward: Some(norm(&format!("encoder.layer.{i}.intermediate.norm"))),
            intermediate: linear(bert::Linear::Intermediate),
            gate: Some(linear(bert::Linear::Gate)),
            activation: Activation::Gelu,
            output: linear(bert::Linear::Output),
            after_feed_forward: (i + 1 == a.layers).then(|| norm("encoder.norm")),
            rotary: Some(if is_global { sizes.global_theta } else { sizes.local_theta }),
            window: (!is_global).then_some(sizes.window),
        }
    };
    Encoder {
        width,
        heads: sizes.heads,
        epsilon: sizes.layer_norm_eps,
        embeddings: Embeddings {
            words: Table { name: names.table(bert::Table::Words), rows: a.vocab_size },
            positions: None,
            segments: None,
            width,
            norm: norm("embeddings.LayerNorm"),
            projection: None,
        },
        relative: None,
        layers: (0..a.layers).map(layer).collect(),
    }
}
