//! What a run starts from: its graph's specification, first values, and the rates of a step.

use overmask::base::Base;
use overmask::pack::TaskKind;

use super::batch::Scale;
use super::graph::{self, Distillation, Encoder, Graph, Role, Spec, name};
use super::options::{Init, Sampling, TeacherOptions};
use super::state::Kept;
use super::step::StepSizes;
use super::{Method, TrainError, TrainOptions, schedule, scores, select};
use crate::data::rng;

/// The tensors of the base that train themselves.
pub(super) fn dense(base: &Base, o: &TrainOptions) -> Result<Vec<String>, TrainError> {
    let mut dense = match o.method {
        Method::Head | Method::Mask => Vec::new(),
        Method::Layers => o.selection().tensors(base)?.into_iter().map(|tensor| tensor.name).collect(),
        Method::Full => select::all_tensors(base)?,
    };
    let small = select::small_tensors(base, o.tune)?;
    dense.extend(small.into_iter().filter(|name| !dense.contains(name)).collect::<Vec<_>>());
    Ok(dense)
}

/// What the graph of a run is built from.
pub(super) fn spec(base: &Base, labels: usize, o: &TrainOptions) -> Result<Spec, TrainError> {
    let dense = dense(base, o)?;
    let masked = if o.method == Method::Mask { o.selection().tensors(base)? } else { Vec::new() };
    let noisy = o.sampling == Sampling::Bernoulli;
    let encoder = match o.is_live() {
        true => Encoder::Live { masked, granularity: o.granularity, noisy, dense },
        false => Encoder::Frozen,
    };
    let teacher = o.teacher.as_ref().map(|TeacherOptions { weight, temperature, features, states, .. }| Distillation {
        weight: *weight as f32,
        temperature: *temperature as f32,
        features: *features as f32,
        states: *states as f32,
    });
    let (kind, pooling, cut_prefix) = (o.form.kind, o.pooling, o.cache > 0);
    let (clip_norm, damping) = (o.clip_norm as f32, o.damping as f32);
    let precision = o.precision;
    Ok(Spec { encoder, kind, pooling, labels, clip_norm, damping, teacher, cut_prefix, precision })
}

/// Where each parameter starts: the head near zero, or where one has come to that has learnt before.
pub(super) fn initial(
    base: &Base,
    graph: &Graph,
    o: &TrainOptions,
    head: Option<&Kept>,
    scale: Scale,
) -> Result<Vec<Vec<f32>>, TrainError> {
    // What a pack keeps gives the number itself, what trains the scaled one.
    let learnt = |name: &str| -> Option<Vec<f32>> {
        let values = head?.tensors.get(name)?.iter();
        let scaled = |value: &f32| match (o.form.kind, name) {
            (TaskKind::Regress, name::HEAD_BIAS) => scale.apply(f64::from(*value)),
            (TaskKind::Regress, _) => (f64::from(*value) / scale.deviation) as f32,
            _ => *value,
        };
        Some(values.map(scaled).collect())
    };
    let start = |(index, parameter): (usize, &graph::Trained)| match &parameter.role {
        Role::Scores(tensor) if o.init == Init::Uniform => {
            scores::uniform(tensor, index, o.granularity, o.initial_sparsity, o.seed)
        }
        Role::Scores(tensor) => {
            let (_, weights) = base.tensor_f32(&tensor.name)?;
            scores::magnitude_ranks(tensor, weights, o.granularity, o.initial_sparsity)
        }
        Role::Dense => Ok(base.tensor_f32(&parameter.name)?.1.to_vec()),
        Role::Head => {
            if let Some(values) = learnt(&parameter.name) {
                return Ok(values);
            }
            let count = parameter.dims.iter().product();
            let weight = parameter.name == name::HEAD_WEIGHT;
            // BERT's own initialisation of new layers.
            let normal = rng::normal(o.seed, rng::stream::HEAD, 0, count).into_iter().map(|n| 0.02 * n);
            Ok(if weight { normal.collect() } else { vec![0.0; count] })
        }
    };
    graph.trained.iter().enumerate().map(start).collect()
}

/// Learning rates of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    pub(super) scores: f64,
    pub(super) dense: f64,
    pub(super) head: f64,
}

impl Rates {
    /// What they mean at a step.
    pub(super) fn at(self, step: u64) -> StepSizes {
        let size = |rate| schedule::adamw(rate, step).0;
        let epsilon = schedule::adamw(self.head, step).1;
        StepSizes { scores: size(self.scores), dense: size(self.dense), head: size(self.head), epsilon }
    }
}
