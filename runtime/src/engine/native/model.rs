//! A base's weights as the forward pass reads them.

use std::sync::Arc;

use overmask_kernels::{NR, Panels, Row};

use super::distances::Distances;
use super::packed::{Packed, Weight};
use crate::base::family::encoder::{self, Activation, Encoder};
use crate::base::{Base, Stored};
use crate::derived::Directory;
use crate::engine::EngineError;
use crate::pack::Delta;

/// An encoder whose family is known.
pub(super) struct Model {
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) epsilon: f32,
    pub(super) embeddings: Embeddings,
    /// Those that share their weights are one.
    pub(super) layers: Vec<Arc<Layer>>,
    pub(super) packed: Arc<Packed>,
}

/// From tokens to the first layer's input.
#[derive(PartialEq)]
pub(super) struct Embeddings {
    pub(super) width: usize,
    pub(super) words: Table,
    pub(super) positions: Option<Table>,
    pub(super) segments: Option<Table>,
    pub(super) norm: Norm,
    pub(super) projection: Option<Linear>,
}

/// A table of embeddings that are looked up.
#[derive(PartialEq)]
pub(super) enum Table {
    /// The base's tensor of this name.
    Base(String),
    /// A task's own.
    Own(Vec<f32>),
}

impl Table {
    pub(super) fn values<'a>(&'a self, base: &'a Base) -> Result<Stored<'a>, EngineError> {
        match self {
            Self::Base(name) => Ok(base.stored(name)?.1),
            Self::Own(values) => Ok(Stored::F32(values)),
        }
    }
}

/// A layer norm.
#[derive(PartialEq)]
pub(super) struct Norm {
    pub(super) scale: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// A linear layer.
#[derive(PartialEq)]
pub(super) struct Linear {
    /// Its place among the base's maskable tensors, if it is one.
    pub(super) index: Option<usize>,
    outputs: usize,
    inputs: usize,
    /// The panels of a task's own weight, or of one that is not maskable, in f32 whatever the base's are.
    own: Vec<f32>,
    /// What the codes of each output are multiplied with, if the base's weights are codes.
    pub(super) scales: Vec<Row>,
    /// One value an output, zeros up to a whole panel.
    pub(super) bias: Vec<Row>,
}

impl Linear {
    pub(super) fn weight<'a>(&'a self, packed: &'a Packed) -> Weight<'a> {
        match self.index {
            Some(index) if self.own.is_empty() => packed.weight(index, self.outputs, self.inputs),
            _ => Weight::F32(Panels::new(&self.own, self.outputs, self.inputs)),
        }
    }

    /// The number of panels of the weight.
    pub(super) fn panels(&self) -> usize {
        self.bias.len()
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }
}

/// A layer of the encoder; see [`encoder::Layer`].
#[derive(PartialEq)]
pub(super) struct Layer {
    pub(super) before_attention: Option<Norm>,
    /// To queries, keys and values.
    pub(super) projections: [Linear; 3],
    pub(super) attended: Linear,
    pub(super) after_attention: Option<Norm>,
    pub(super) before_feed_forward: Option<Norm>,
    /// The one up, and perhaps the one that gates it.
    pub(super) up: Vec<Linear>,
    pub(super) activation: Activation,
    pub(super) output: Linear,
    pub(super) after_feed_forward: Option<Norm>,
    pub(super) rotary: Option<f32>,
    /// What distances add to scores of attention.
    pub(super) distances: Option<Arc<Distances>>,
}

impl Layer {
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.projections.iter().chain([&self.attended]).chain(&self.up).chain([&self.output])
    }
}

impl Model {
    /// Finds a base's weights, and maps or packs the maskable ones.
    ///
    /// # Errors
    /// When the base is of another kind.
    pub(super) fn new(base: &Base, directory: Option<&Directory>) -> Result<Self, EngineError> {
        // First, so that nothing is packed of a base that is of no use.
        let encoder = known(base)?;
        let packed = Arc::new(Packed::open(base, directory)?);
        Reader { base, encoder: &encoder, deltas: &[] }.model(packed)
    }

    /// The same with some tensors replaced, which must fit the base.
    ///
    /// # Errors
    /// The same.
    pub(super) fn with(&self, base: &Base, deltas: &[Delta]) -> Result<Self, EngineError> {
        let encoder = known(base)?;
        Reader { base, encoder: &encoder, deltas }.model(Arc::clone(&self.packed))
    }
}

/// What a base computes that this engine knows.
fn known(base: &Base) -> Result<Encoder, EngineError> {
    Encoder::of_base(base.manifest())
        .map_err(|reason| super::unavailable(format!("{reason}; the engines `ort` and `tract` run any encoder")))
}

fn wrong_shape(name: &str, found: &[usize], expected: &[usize]) -> EngineError {
    super::unavailable(format!("`{name}` is {found:?}, a base of its sizes has {expected:?}; import the base again"))
}

/// Values in whole panels, with zeros at the end.
fn rows(mut values: Vec<f32>) -> Vec<Row> {
    values.resize(values.len().next_multiple_of(NR), 0.0);
    values.as_chunks().0.to_vec()
}

/// Reads tensors, those of a task before those of the base.
struct Reader<'a> {
    base: &'a Base,
    encoder: &'a Encoder,
    deltas: &'a [Delta],
}

impl Reader<'_> {
    fn model(&self, packed: Arc<Packed>) -> Result<Model, EngineError> {
        let Encoder { width, heads, epsilon, .. } = *self.encoder;
        let mut layers: Vec<Arc<Layer>> = Vec::with_capacity(self.encoder.layers.len());
        let mut distances: Vec<(Option<usize>, Arc<Distances>)> = Vec::new();
        for (i, layer) in self.encoder.layers.iter().enumerate() {
            let shared = i.checked_sub(1).filter(|last| self.encoder.layers[*last] == *layer);
            layers.push(match shared {
                Some(last) => Arc::clone(&layers[last]),
                None => Arc::new(self.layer(layer, self.distances(layer.window, &mut distances)?)?),
            });
        }
        Ok(Model { width, heads, epsilon: epsilon as f32, embeddings: self.embeddings()?, layers, packed })
    }

    fn embeddings(&self) -> Result<Embeddings, EngineError> {
        let encoder::Embeddings { words, positions, segments, width, norm, projection } = &self.encoder.embeddings;
        let of_segments = self.base.segments().unwrap_or(1);
        Ok(Embeddings {
            width: *width,
            words: self.table(&words.name, words.rows, *width)?,
            positions: positions.as_ref().map(|table| self.table(&table.name, table.rows, *width)).transpose()?,
            segments: segments.as_ref().map(|name| self.table(name, of_segments, *width)).transpose()?,
            norm: self.norm(norm, *width)?,
            projection: projection.as_ref().map(|linear| self.projection(linear)).transpose()?,
        })
    }

    fn delta(&self, name: &str) -> Option<&Delta> {
        self.deltas.iter().find(|delta| delta.tensor == name)
    }

    /// A tensor's shape and values.
    fn tensor(&self, name: &str) -> Result<(&[usize], Stored<'_>), EngineError> {
        match self.delta(name) {
            Some(delta) => Ok((&delta.shape, Stored::F32(&delta.values))),
            None => Ok(self.base.stored(name)?),
        }
    }

    /// A table with a row for each number that a batch may have: rows are looked up without a check.
    fn table(&self, name: &str, rows: usize, width: usize) -> Result<Table, EngineError> {
        match self.tensor(name)?.0 {
            [found, of] if *found >= rows && *of == width => {}
            shape => return Err(wrong_shape(name, shape, &[rows, width])),
        }
        Ok(match self.delta(name) {
            Some(delta) => Table::Own(delta.values.clone()),
            None => Table::Base(name.to_owned()),
        })
    }

    /// All values of a tensor of a shape.
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EngineError> {
        match self.tensor(name)? {
            (found, values) if found == shape => Ok(values.widened().into_owned()),
            (found, _) => Err(wrong_shape(name, found, shape)),
        }
    }

    fn norm(&self, norm: &encoder::Norm, width: usize) -> Result<Norm, EngineError> {
        let scale = self.values(&norm.scale, &[width])?;
        let bias = norm.bias.as_ref().map(|name| self.values(name, &[width])).transpose()?;
        Ok(Norm { scale, bias: bias.unwrap_or_else(|| vec![0.0; width]) })
    }

    fn bias(&self, linear: &encoder::Linear) -> Result<Vec<Row>, EngineError> {
        let values = linear.bias.as_ref().map(|name| self.values(name, &[linear.outputs])).transpose()?;
        Ok(rows(values.unwrap_or_else(|| vec![0.0; linear.outputs])))
    }

    fn linear(&self, linear: &encoder::Linear) -> Result<Linear, EngineError> {
        let encoder::Linear { weight, outputs, inputs, .. } = linear;
        let maskable = &self.base.manifest().maskable;
        let index = maskable.iter().position(|tensor| tensor.name == *weight);
        let missing = || format!("the base has no maskable tensor `{weight}`; import the base again");
        let index = index.ok_or_else(|| super::unavailable(missing()))?;
        let found = [maskable[index].outputs, maskable[index].inputs];
        if found != [*outputs, *inputs] {
            return Err(wrong_shape(weight, &found, &[*outputs, *inputs]));
        }
        let bias = self.bias(linear)?;
        let scales = match self.base.stored(weight)?.1 {
            Stored::Int8 { scales, .. } => scales.to_vec(),
            _ => Vec::new(),
        };
        let own = self.delta(weight).map(|delta| panels(&delta.values, linear)).unwrap_or_default();
        Ok(Linear { index: Some(index), outputs: *outputs, inputs: *inputs, own, scales: rows(scales), bias })
    }

    /// A linear layer that no mask touches.
    fn projection(&self, linear: &encoder::Linear) -> Result<Linear, EngineError> {
        let encoder::Linear { weight, outputs, inputs, .. } = linear;
        let own = panels(&self.values(weight, &[*outputs, *inputs])?, linear);
        let bias = self.bias(linear)?;
        Ok(Linear { index: None, outputs: *outputs, inputs: *inputs, own, scales: Vec::new(), bias })
    }

    /// What distances add to scores of attention within a window, if anything, once for all layers alike.
    fn distances(
        &self,
        window: Option<usize>,
        known: &mut Vec<(Option<usize>, Arc<Distances>)>,
    ) -> Result<Option<Arc<Distances>>, EngineError> {
        if let Some((_, distances)) = known.iter().find(|(of, _)| *of == window) {
            return Ok(Some(Arc::clone(distances)));
        }
        let Encoder { width, heads, relative, .. } = self.encoder;
        let positions = self.base.manifest().architecture.max_positions;
        let table = relative.as_ref().map(|relative| self.values(&relative.table, &[relative.buckets, *heads]));
        let Some(made) = Distances::new(positions, width / heads, *heads, table.transpose()?.as_deref(), window) else {
            return Ok(None);
        };
        let made = Arc::new(made);
        known.push((window, Arc::clone(&made)));
        Ok(Some(made))
    }

    fn layer(&self, layer: &encoder::Layer, distances: Option<Arc<Distances>>) -> Result<Layer, EngineError> {
        let norm =
            |norm: &Option<encoder::Norm>| norm.as_ref().map(|norm| self.norm(norm, self.encoder.width)).transpose();
        let up = std::iter::once(&layer.intermediate).chain(&layer.gate).map(|linear| self.linear(linear));
        Ok(Layer {
            before_attention: norm(&layer.before_attention)?,
            projections: [self.linear(&layer.query)?, self.linear(&layer.key)?, self.linear(&layer.value)?],
            attended: self.linear(&layer.attended)?,
            after_attention: norm(&layer.after_attention)?,
            before_feed_forward: norm(&layer.before_feed_forward)?,
            up: up.collect::<Result<_, _>>()?,
            activation: layer.activation,
            output: self.linear(&layer.output)?,
            after_feed_forward: norm(&layer.after_feed_forward)?,
            rotary: layer.rotary.map(|theta| theta as f32),
            distances,
        })
    }
}

/// A weight in panels.
fn panels(weight: &[f32], linear: &encoder::Linear) -> Vec<f32> {
    let mut panels = vec![0.0; Panels::<f32>::packed_len(linear.outputs, linear.inputs)];
    Panels::pack(weight, linear.outputs, linear.inputs, &mut panels);
    panels
}

#[cfg(test)]
pub(super) mod tests;
