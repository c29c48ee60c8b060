//! What an encoder computes, layer by layer, and how its tensors are called: what graphs are written of and what the
//! engine `native` runs. Each family describes itself so.

use serde::{Deserialize, Serialize};

use super::super::MaskableTensor;

/// An encoder of transformer layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoder {
    /// Width of the residual stream.
    pub width: usize,
    /// Attention heads a layer.
    pub heads: usize,
    /// Epsilon of the layer norms.
    pub epsilon: f64,
    /// From tokens to the first layer's input.
    pub embeddings: Embeddings,
    /// What is added to scores of attention for the distance between two tokens; one table for all layers.
    pub relative: Option<Relative>,
    /// The layers; several may name the same tensors.
    pub layers: Vec<Layer>,
}

/// The sum of rows of tables, normed.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Of tokens, [tokens, width].
    pub words: Table,
    /// Of positions, [positions, width].
    pub positions: Option<Table>,
    /// Of segments, [segments, width].
    pub segments: Option<String>,
    /// Width of the tables.
    pub width: usize,
    /// Of the sum.
    pub norm: Norm,
    /// From the width of the tables to that of the layers, where they differ; not maskable.
    pub projection: Option<Linear>,
}

/// A table of a known number of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The tensor.
    pub name: String,
    /// Its rows.
    pub rows: usize,
}

/// A learnt number for each head and bucket of distances, [buckets, heads]; see [`bucket`].
#[derive(Debug, Clone, PartialEq)]
pub struct Relative {
    /// The tensor.
    pub table: String,
    /// Its rows.
    pub buckets: usize,
}

/// A layer norm.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// The tensor of scales.
    pub scale: String,
    /// The tensor that is added.
    pub bias: Option<String>,
}

/// A linear layer, whose weight is [outputs, inputs].
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// The tensor of weights.
    pub weight: String,
    /// The tensor that is added.
    pub bias: Option<String>,
    /// Rows of the weight.
    pub outputs: usize,
    /// Its columns.
    pub inputs: usize,
}

/// The function between the two linear layers of a feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · Φ(x) (Hendrycks & Gimpel 2016).
    Gelu,
    /// Its approximation with tanh, from the same paper.
    GeluTanh,
}

impl Activation {
    /// Its name in `base.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
        }
    }
}

/// A layer: attention, then the feed-forward part, each added to what it reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Of what attention reads; the residual stream goes on without it.
    pub before_attention: Option<Norm>,
    /// To the queries of attention.
    pub query: Linear,
    /// To its keys.
    pub key: Linear,
    /// To its values.
    pub value: Linear,
    /// From what the heads attended to.
    pub attended: Linear,
    /// Of the stream after attention.
    pub after_attention: Option<Norm>,
    /// Of what the feed-forward part reads.
    pub before_feed_forward: Option<Norm>,
    /// Up to the feed-forward width.
    pub intermediate: Linear,
    /// What the activation of `intermediate` is multiplied with.
    pub gate: Option<Linear>,
    /// Between up and down.
    pub activation: Activation,
    /// Back down.
    pub output: Linear,
    /// Of the stream at the layer's end.
    pub after_feed_forward: Option<Norm>,
    /// The base of the angles by which queries and keys are turned with their positions (Su et al. 2021).
    pub rotary: Option<f64>,
    /// A token attends to those that are this far away at most.
    pub window: Option<usize>,
}

impl Layer {
    /// What a mask may touch, in the order in which a forward pass reads it.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let first = [&self.query, &self.key, &self.value, &self.attended, &self.intermediate];
        first.into_iter().chain(&self.gate).chain([&self.output])
    }

    fn norms(&self) -> impl Iterator<Item = &Norm> {
        [&self.before_attention, &self.after_attention, &self.before_feed_forward, &self.after_feed_forward]
            .into_iter()
            .flatten()
    }
}

impl Encoder {
    /// Every tensor with its shape, each once, in the order in which a forward pass reads them; the table of segments,
    /// if there is one, has so many rows.
    pub fn tensors(&self, segments: usize) -> Vec<(String, Vec<usize>)> {
        let Embeddings { words, positions, segments: of_segments, width, norm, projection } = &self.embeddings;
        let mut all = Vec::new();
        let mut push = |name: &str, shape: &[usize]| all.push((name.to_owned(), shape.to_vec()));
        push(&words.name, &[words.rows, *width]);
        positions.iter().for_each(|table| push(&table.name, &[table.rows, *width]));
        of_segments.iter().for_each(|table| push(table, &[segments, *width]));
        norm.tensors().for_each(|name| push(name, &[*width]));
        let linear = |of: &Linear, push: &mut dyn FnMut(&str, &[usize])| {
            push(&of.weight, &[of.outputs, of.inputs]);
            of.bias.iter().for_each(|name| push(name, &[of.outputs]));
        };
        projection.iter().for_each(|of| linear(of, &mut push));
        self.relative.iter().for_each(|of| push(&of.table, &[of.buckets, self.heads]));
        for layer in self.own_layers() {
            layer.linears().for_each(|of| linear(of, &mut push));
            layer.norms().flat_map(Norm::tensors).for_each(|name| push(name, &[self.width]));
        }
        all
    }

    /// The tensors that a mask may touch, layer by layer; those that several layers share belong to the first of them.
    pub fn maskable(&self) -> Vec<MaskableTensor> {
        let of_layer = |(layer, of): (usize, &Layer)| {
            let linears = of.linears().map(move |Linear { weight, outputs, inputs, .. }| MaskableTensor {
                name: weight.clone(),
                outputs: *outputs,
                inputs: *inputs,
                layer,
            });
            linears.collect::<Vec<_>>()
        };
        self.own_layers().enumerate().flat_map(of_layer).collect()
    }

    /// The layers whose tensors are not those of the one before.
    fn own_layers(&self) -> impl Iterator<Item = &Layer> {
        let is_own = |(i, layer): &(usize, &Layer)| *i == 0 || self.layers[i - 1].query != layer.query;
        self.layers.iter().enumerate().filter(is_own).map(|(_, layer)| layer)
    }
}

impl Norm {
    fn tensors(&self) -> impl Iterator<Item = &str> {
        [Some(&self.scale), self.bias.as_ref()].into_iter().flatten().map(String::as_str)
    }
}

/// The distance from which on all are in the last bucket.
const FARTHEST: f32 = 128.0;

/// The bucket of a distance, key's position minus query's, among so many of both directions (Raffel et al. 2020): one for
/// each of the small ones, then ever wider ones. Computed in f32, as PyTorch does, in whose roundings some ends lie.
pub fn bucket(distance: i64, buckets: usize) -> usize {
    let half = buckets / 2;
    let exact = half / 2;
    let (start, far) = (if distance > 0 { half } else { 0 }, distance.unsigned_abs() as usize);
    if far < exact {
        return start + far;
    }
    let (far, exact_f) = (far as f32, exact as f32);
    let wide = (far / exact_f).ln() / f64::from(FARTHEST / exact_f).ln() as f32 * (half - exact) as f32;
    start + (exact + wide as usize).min(half - 1)
}

/// How fast each pair of values of a head turns with its position (Su et al. 2021), for heads `d` wide; in f32, as PyTorch
/// computes it.
pub fn frequencies(theta: f32, d: usize) -> Vec<f32> {
    (0..d / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / d as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_have_buckets_as_in_the_paper() {
        let near: Vec<usize> = [0, -1, -7, 1, 7].map(|distance| bucket(distance, 32)).into();
        assert_eq!(near, [0, 1, 7, 17, 23]);
        // Twice as far is two buckets further; behind 128 comes nothing.
        let far: Vec<usize> = [8, 16, 32, 64, 127, 128, 5_000].map(|distance| bucket(-distance, 32)).into();
        assert_eq!(far[..3], [8, 10, 12]);
        assert_eq!(far[4..], [15, 15, 15]);
    }
}
