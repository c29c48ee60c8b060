//! A base's weights as the forward pass reads them.

use std::sync::Arc;

use overmask_kernels::{NR, Panels, Row};

use super::packed::{Packed, Weight};
use crate::base::family::bert::{self, Names, Sizes};
use crate::base::{Base, Stored};
use crate::derived::Directory;
use crate::engine::EngineError;
use crate::pack::Delta;

/// An encoder of the family [`bert`].
pub(super) struct Model {
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) epsilon: f32,
    pub(super) words: Table,
    pub(super) positions: Table,
    pub(super) segments: Table,
    pub(super) norm: Norm,
    pub(super) layers: Vec<Layer>,
    pub(super) packed: Arc<Packed>,
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
    /// Its place among the base's maskable tensors.
    pub(super) index: usize,
    outputs: usize,
    inputs: usize,
    /// The panels of a task's own weight, in f32 whatever the base's are.
    own: Option<Vec<f32>>,
    /// What the codes of each output are multiplied with, if the base's weights are codes.
    pub(super) scales: Vec<Row>,
    /// One value an output, zeros up to a whole panel.
    pub(super) bias: Vec<Row>,
}

impl Linear {
    pub(super) fn weight<'a>(&'a self, packed: &'a Packed) -> Weight<'a> {
        match &self.own {
            Some(own) => Weight::F32(Panels::new(own, self.outputs, self.inputs)),
            None => packed.weight(self.index, self.outputs, self.inputs),
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

/// A layer of the encoder.
#[derive(PartialEq)]
pub(super) struct Layer {
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) attended: Linear,
    pub(super) attention_norm: Norm,
    pub(super) intermediate: Linear,
    pub(super) output: Linear,
    pub(super) output_norm: Norm,
}

impl Layer {
    pub(super) fn linears(&self) -> [&Linear; 6] {
        [&self.query, &self.key, &self.value, &self.attended, &self.intermediate, &self.output]
    }
}

impl Model {
    /// Whether both look tokens up in the same tables.
    pub(super) fn has_embeddings_of(&self, other: &Model) -> bool {
        [&self.words, &self.positions, &self.segments] == [&other.words, &other.positions, &other.segments]
            && self.norm == other.norm
    }

    /// Finds a base's weights, and maps or packs the maskable ones.
    ///
    /// # Errors
    /// When the base is of another kind.
    pub(super) fn new(base: &Base, directory: Option<&Directory>) -> Result<Self, EngineError> {
        // First, so that nothing is packed of a base that is of no use.
        let (names, sizes) = known(base)?;
        let packed = Arc::new(Packed::open(base, directory)?);
        Reader { base, names, sizes, deltas: &[] }.model(packed)
    }

    /// The same with some tensors replaced, which must fit the base.
    ///
    /// # Errors
    /// The same.
    pub(super) fn with(&self, base: &Base, deltas: &[Delta]) -> Result<Self, EngineError> {
        let (names, sizes) = known(base)?;
        Reader { base, names, sizes, deltas }.model(Arc::clone(&self.packed))
    }
}

/// The names and sizes of a base that this engine knows.
fn known(base: &Base) -> Result<(Names<'_>, &Sizes), EngineError> {
    Names::of_base(base.manifest())
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
    names: Names<'a>,
    sizes: &'a Sizes,
    deltas: &'a [Delta],
}

impl Reader<'_> {
    fn model(&self, packed: Arc<Packed>) -> Result<Model, EngineError> {
        let architecture = &self.base.manifest().architecture;
        let layers = (0..architecture.layers).map(|layer| self.layer(layer)).collect::<Result<Vec<_>, _>>()?;
        let width = architecture.hidden_size;
        let rows = [
            (bert::Table::Words, architecture.vocab_size),
            (bert::Table::Positions, architecture.max_positions),
            (bert::Table::Segments, self.base.segments().unwrap_or(1)),
        ];
        let [words, positions, segments] = rows.map(|(table, rows)| self.table(self.names.table(table), rows, width));
        Ok(Model {
            width,
            heads: self.sizes.heads,
            epsilon: self.sizes.layer_norm_eps as f32,
            words: words?,
            positions: positions?,
            segments: segments?,
            norm: self.norm(bert::Norm::Embeddings)?,
            layers,
            packed,
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
    fn table(&self, name: String, rows: usize, width: usize) -> Result<Table, EngineError> {
        match self.tensor(&name)?.0 {
            [found, of] if *found >= rows && *of == width => {}
            shape => return Err(wrong_shape(&name, shape, &[rows, width])),
        }
        Ok(match self.delta(&name) {
            Some(delta) => Table::Own(delta.values.clone()),
            None => Table::Base(name),
        })
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, EngineError> {
        match self.tensor(name)? {
            ([found], values) if *found == len => Ok(values.widened().into_owned()),
            (shape, _) => Err(wrong_shape(name, shape, &[len])),
        }
    }

    fn norm(&self, norm: bert::Norm) -> Result<Norm, EngineError> {
        let width = self.base.manifest().architecture.hidden_size;
        let [scale, bias] = self.names.norm(norm).map(|name| self.vector(&name, width));
        Ok(Norm { scale: scale?, bias: bias? })
    }

    fn linear(&self, layer: usize, linear: bert::Linear) -> Result<Linear, EngineError> {
        let [outputs, inputs] = linear.shape(self.base.manifest().architecture.hidden_size, self.sizes);
        let weight = self.names.weight(layer, linear);
        let maskable = &self.base.manifest().maskable;
        let index = maskable.iter().position(|tensor| tensor.name == weight);
        let missing = || format!("the base has no maskable tensor `{weight}`; import the base again");
        let index = index.ok_or_else(|| super::unavailable(missing()))?;
        let found = [maskable[index].outputs, maskable[index].inputs];
        if found != [outputs, inputs] {
            return Err(wrong_shape(&weight, &found, &[outputs, inputs]));
        }
        let bias = rows(self.vector(&self.names.bias(layer, linear), outputs)?);
        let scales = match self.base.stored(&weight)?.1 {
            Stored::Int8 { scales, .. } => scales.to_vec(),
            _ => Vec::new(),
        };
        let own = self.delta(&weight).map(|delta| {
            let mut panels = vec![0.0; Panels::<f32>::packed_len(outputs, inputs)];
            Panels::pack(&delta.values, outputs, inputs, &mut panels);
            panels
        });
        Ok(Linear { index, outputs, inputs, own, scales: rows(scales), bias })
    }

    fn layer(&self, layer: usize) -> Result<Layer, EngineError> {
        let linear = |linear| self.linear(layer, linear);
        Ok(Layer {
            query: linear(bert::Linear::Query)?,
            key: linear(bert::Linear::Key)?,
            value: linear(bert::Linear::Value)?,
            attended: linear(bert::Linear::AttentionOutput)?,
            attention_norm: self.norm(bert::Norm::Attention(layer))?,
            intermediate: linear(bert::Linear::Intermediate)?,
            output: linear(bert::Linear::Output)?,
            output_norm: self.norm(bert::Norm::Output(layer))?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
