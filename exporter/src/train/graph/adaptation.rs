//! The step that prepares a base for masks: it learns to give under random masks what it gave without one.
//!
//! Student and base are compared by what every layer gives ([`states`]).

use std::collections::BTreeSet;

use overmask::base::{Base, MaskableTensor};
use overmask::mask::Granularity;
use overmask_graph::proto::{GraphProto, ModelProto, data_type};
use overmask_graph::{GraphBuilder, encoder};

use super::prefix::{Halves, Waist};
use super::{Differentiated, Graph, Objective, Open, Optimizer, Trained, dense, encoder_of, mask, name, scaled, state};
use crate::autodiff;
use crate::autodiff::shape::Shapes;
use crate::train::TrainError;

/// What is added to what distances are divided by, so that states of zeros divide nothing.
const EPSILON: f32 = 1e-12;

/// What a step graph of a base that is prepared is built from.
#[derive(Debug, Clone, PartialEq)]
pub struct Adaptation {
    /// Tensors under masks, which train.
    pub masked: Vec<MaskableTensor>,
    /// Unit of the masks.
    pub granularity: Granularity,
    /// Tensors that train besides.
    pub dense: Vec<String>,
    /// Largest norm of all gradients together.
    pub clip_norm: f32,
}

impl Adaptation {
    /// How far the student is from the base, [`name::LOSS`], for masks that are inputs.
    ///
    /// # Errors
    /// As [`Objective::differentiated`].
    pub fn distance(&self, base: &Base) -> Result<Graph, TrainError> {
        let (open, loss) = self.forward(base)?;
        Ok(open.finish(&[(&loss, name::LOSS, &[])]))
    }

    fn forward(&self, base: &Base) -> Result<(Open, String), TrainError> {
        let width = base.manifest().architecture.hidden_size;
        let (graph, mut frozen) = encoder_of(base)?;
        let waists = waists(base, &graph, &frozen);
        let trains = |name: &String| self.masked.iter().any(|t| t.name == *name) || self.dense.contains(name);
        frozen.retain(|name| !trains(name));
        let names = self.masked.iter().map(|tensor| &tensor.name).chain(&self.dense);
        let trained: Vec<Trained> = names.map(|name| dense(base, name)).collect::<Result<_, _>>()?;
        let mut b = GraphBuilder::extend(graph);
        mask::insert_given(&mut b, &self.masked, self.granularity)?;
        let loss = loss(&mut b, &waists, width);
        Ok((Open { b, trained, frozen, prefix: None }, loss))
    }
}

impl Objective for Adaptation {
    fn differentiated(&self, base: &Base, scale: Option<&str>) -> Result<Differentiated, TrainError> {
        let (mut open, loss) = self.forward(base)?;
        let scaled = scaled(&mut open.b, &loss, scale);
        let wrt: Vec<String> = open.trained.iter().map(|t| t.name.clone()).collect();
        let gradients = autodiff::differentiate(&mut open.b, &scaled, &wrt)?;
        Ok(Differentiated { open, loss, gradients })
    }

    fn optimizer(&self) -> Optimizer {
        Optimizer { clip_norm: self.clip_norm, damping: 0.0, scales_loss: false }
    }
}

/// The base itself, with what a student is compared with as outputs.
#[derive(Debug)]
pub struct States {
    /// From tokens to [`state`]s, each f32 [batch, sequence, width].
    pub model: ModelProto,
    /// Tensors of the base that are its inputs.
    pub frozen: Vec<String>,
    /// How many states there are.
    pub count: usize,
}

/// What the base gives after its layers, and at the end.
///
/// # Errors
/// When its graph cannot be read.
pub fn states(base: &Base) -> Result<States, TrainError> {
    let width = base.manifest().architecture.hidden_size;
    let (graph, frozen) = encoder_of(base)?;
    let waists = waists(base, &graph, &frozen);
    let mut b = GraphBuilder::extend(graph);
    let values = values(&mut b, &waists, width);
    for (number, value) in values.iter().enumerate() {
        b.node("Identity", &[value], &[&state(number)], &[]);
        b.output(&state(number), data_type::FLOAT, &["batch", "sequence", &width.to_string()]);
    }
    Ok(States { model: b.finish(), frozen, count: values.len() })
}

/// What each layer gives to the next that has weights of its own, but for the last one.
fn waists(base: &Base, graph: &GraphProto, weights: &[String]) -> Vec<Waist> {
    let manifest = base.manifest();
    let Ok(shapes) = Shapes::infer(graph) else { return Vec::new() };
    let below = |first: usize| {
        let is_above = |name: &&String| manifest.maskable.iter().any(|t| t.name == **name && t.layer >= first);
        let (live, frozen): (Vec<&String>, Vec<&String>) = weights.iter().partition(is_above);
        let live: Vec<&str> = live.into_iter().map(String::as_str).collect();
        let frozen: Vec<String> = frozen.into_iter().cloned().collect();
        Halves::of(graph, &live, &frozen).output(&shapes, manifest.architecture.hidden_size)
    };
    // Layers that share their weights count as the first of them.
    let layers: BTreeSet<usize> = manifest.maskable.iter().map(|tensor| tensor.layer).collect();
    layers.into_iter().skip(1).filter_map(below).collect()
}

/// What is compared, each [batch, sequence, width].
fn values(b: &mut GraphBuilder, waists: &[Waist], width: usize) -> Vec<String> {
    let mut values: Vec<String> = waists.iter().map(|waist| waist.unfolded(b, width)).collect();
    values.push(encoder::OUTPUT.to_owned());
    values
}

/// The mean over all states of |student - base|² / |base|², of all tokens that are no padding.
fn loss(b: &mut GraphBuilder, waists: &[Waist], width: usize) -> String {
    let mask = b.op("Cast", &["attention_mask"], &[("to", i64::from(data_type::FLOAT).into())]);
    let squares = |b: &mut GraphBuilder, values: &str| {
        let square = b.op("Mul", &[values, values], &[]);
        let of_token = b.op("ReduceMean", &[&square], &[("axes", vec![2].into()), ("keepdims", 0i64.into())]);
        let kept = b.op("Mul", &[&of_token, &mask], &[]);
        let all = b.shape(&[0, 1]);
        b.op("ReduceSum", &[&kept, &all], &[("keepdims", 0i64.into())])
    };
    let values = values(b, waists, width);
    let epsilon = b.float(EPSILON);
    let of_state = |(number, value): (usize, &String)| {
        let target = b.input(&state(number), data_type::FLOAT, &["batch", "sequence", &width.to_string()]);
        let difference = b.op("Sub", &[value, &target], &[]);
        let (apart, size) = (squares(b, &difference), squares(b, &target));
        let size = b.op("Add", &[&size, &epsilon], &[]);
        b.op("Div", &[&apart, &size], &[])
    };
    let distances: Vec<String> = values.iter().enumerate().map(of_state).collect();
    let share = b.float(1.0 / distances.len() as f32);
    let sum = distances.into_iter().reduce(|sum, distance| b.op("Add", &[&sum, &distance], &[])).unwrap_or_default();
    b.op("Mul", &[&sum, &share], &[])
}
