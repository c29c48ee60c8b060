//! Sessions of ONNX Runtime for training: what all share, and those of the prefix and the forward pass.

use std::collections::BTreeMap;
use std::sync::Arc;

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynValue, Tensor};
use overmask::base::Base;
use overmask::engine::Device;
use overmask_graph::GraphBuilder;
use overmask_graph::encoder::Padded;
use overmask_graph::proto::{ModelProto, data_type};
use overmask_ort::{Binding, Bound, allocator, environment, on_device, usable};

use super::TrainError;
use super::batch::token_feed;
use super::graph::{self, Graph, Prefix, name, next};
use super::value::{Feed, f32_value};

/// Where and with how many threads sessions run.
#[derive(Debug, Clone)]
pub(super) struct Placement {
    pub(super) device: Device,
    pub(super) threads: usize,
    /// Write a profile that tells which provider ran each node.
    pub(super) profile: Option<std::path::PathBuf>,
}

/// Weights of the base as values, shared by all sessions.
pub(super) type Frozen = BTreeMap<String, Arc<Bound>>;

/// The named tensors of the base: where its memory map has them, on a GPU a copy.
pub(super) fn frozen(base: &Arc<Base>, names: &[String], placement: &Placement) -> Result<Frozen, TrainError> {
    let value = |name: &String| Ok((name.clone(), Arc::new(Bound::mapped(base, name)?)));
    let mapped: Frozen = names.iter().map(value).collect::<Result<_, TrainError>>()?;
    if placement.device == Device::Cpu || mapped.is_empty() {
        return Ok(mapped);
    }
    let dims = names.iter().map(|name| Ok((name.clone(), base.tensor_f32(name)?.0.to_vec())));
    copies(&mapped, &dims.collect::<Result<_, TrainError>>()?, placement)
}

/// Copies of values on the device. Bound as they are, each binding would upload its own.
pub(super) fn copies(
    values: &Frozen,
    dims: &BTreeMap<String, Vec<usize>>,
    placement: &Placement,
) -> Result<Frozen, TrainError> {
    let mut b = GraphBuilder::new("copy");
    for (name, dims) in dims {
        graph::declare(dims, |dims| {
            b.input(name, data_type::FLOAT, dims);
            b.node("Identity", &[name], &[&next(name)], &[]);
            b.output(&next(name), data_type::FLOAT, dims);
        });
    }
    let mut session = open(&b.finish(), &Placement { profile: None, ..placement.clone() })?;
    let buffers = device_buffers(&session, dims.values(), placement.device)?;
    let mut binding = Binding::new(&session)?;
    for ((name, value), buffer) in values.iter().zip(&buffers) {
        binding.input(name, value)?;
        binding.output(&next(name), buffer)?;
    }
    binding.run(&mut session)?;
    Ok(values.keys().cloned().zip(buffers).collect())
}

/// A session for a graph.
pub(super) fn open(model: &ModelProto, placement: &Placement) -> Result<Session, TrainError> {
    let mut builder = Session::builder(environment()?)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(usable(placement.threads))?
        // Repeats bit for bit with the same number of threads.
        .with_deterministic_compute(true)?;
    if let Some(path) = &placement.profile {
        builder = builder.with_profiling(path)?;
    }
    let mut builder = on_device(builder, placement.device)?;
    Ok(builder.commit_from_memory(&overmask_graph::encode(model))?)
}

/// Inputs that are ready to be bound, by name.
pub(super) type Bindings = Vec<(String, Arc<Bound>)>;

pub(super) fn all_owned(feed: Feed) -> Bindings {
    feed.into_iter().map(|(name, value)| (name, owned(value))).collect()
}

/// Binds those inputs that a session reads.
pub(super) fn bind(session: &Session, binding: &mut Binding, inputs: &Bindings) -> Result<(), TrainError> {
    for (name, value) in inputs.iter().filter(|(name, _)| reads(session, name)) {
        binding.input(name, value)?;
    }
    Ok(())
}

/// The state in which a run begins: parameters with moments of zero.
pub(super) fn fresh(initial: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let with_moments = |values: Vec<f32>| {
        let zeros = vec![0.0; values.len()];
        [values, zeros.clone(), zeros]
    };
    initial.into_iter().flat_map(with_moments).collect()
}

/// Uninitialised buffers of these shapes, on the device.
pub(super) fn device_buffers<'a>(
    session: &Session,
    shapes: impl Iterator<Item = &'a Vec<usize>>,
    device: Device,
) -> Result<Vec<Arc<Bound>>, TrainError> {
    let allocator = allocator(session, device)?;
    shapes.map(|dims| Ok(owned(Tensor::<f32>::new(&allocator, dims.clone())?.into_dyn()))).collect()
}

/// Whether a graph reads an input: not every encoder has token types.
pub(super) fn reads(session: &Session, name: &str) -> bool {
    session.inputs().iter().any(|input| input.name() == name)
}

pub(super) fn owned(value: DynValue) -> Arc<Bound> {
    Arc::new(Bound::owned(value))
}

pub(super) fn scalar(value: &Bound) -> Result<f32, TrainError> {
    value.download()?.first().copied().ok_or_else(|| TrainError::Runtime("an empty scalar".to_owned()))
}

/// A part of the base, which nothing changes.
pub(super) struct BaseSession {
    session: Session,
    binding: Binding,
    outputs: Vec<String>,
}

impl BaseSession {
    /// From tokens to some values, each [batch, sequence, width]; `frozen` are the weights that the graph reads.
    pub(super) fn new(
        model: &ModelProto,
        frozen: &Frozen,
        outputs: Vec<String>,
        placement: &Placement,
    ) -> Result<Self, TrainError> {
        let session = open(model, &Placement { profile: None, ..placement.clone() })?;
        let mut binding = Binding::new(&session)?;
        for (name, value) in frozen {
            binding.input(name, value)?;
        }
        Ok(BaseSession { session, binding, outputs })
    }

    /// The part below all that trains.
    pub(super) fn of_prefix(prefix: &Prefix, base: &Arc<Base>, placement: &Placement) -> Result<Self, TrainError> {
        let frozen = frozen(base, &prefix.frozen, placement)?;
        Self::new(&prefix.model, &frozen, vec![name::PREFIX.to_owned()], placement)
    }

    /// The outputs for a batch, [batch, sequence, width] each.
    pub(super) fn run(&mut self, batch: &Padded, width: usize) -> Result<Vec<Vec<f32>>, TrainError> {
        let shape = [batch.batch, batch.sequence];
        for (name, value) in token_feed(batch)?.into_iter().filter(|(name, _)| reads(&self.session, name)) {
            self.binding.input(&name, &owned(value))?;
        }
        let empty = || f32_value(&[shape[0], shape[1], width], vec![0.0; shape[0] * shape[1] * width]);
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for name in &self.outputs {
            let output = owned(empty()?);
            self.binding.output(name, &output)?;
            outputs.push(output);
        }
        self.binding.run(&mut self.session)?;
        outputs.into_iter().map(|output| Ok(output.download()?)).collect()
    }
}

/// The forward pass over parameters that lie elsewhere, which tells how good they are.
pub(super) struct ForwardSession {
    session: Session,
    binding: Binding,
    parameters: Vec<String>,
    labels: usize,
}

impl ForwardSession {
    pub(super) fn new(graph: &Graph, frozen: &Frozen, placement: &Placement) -> Result<Self, TrainError> {
        let session = open(&graph.model, &Placement { profile: None, ..placement.clone() })?;
        let mut binding = Binding::new(&session)?;
        for (name, value) in frozen {
            binding.input(name, value)?;
        }
        let parameters = graph.trained.iter().map(|t| t.name.clone()).collect();
        let bias = graph.trained.iter().find(|t| t.name == name::HEAD_BIAS);
        let labels = bias.map_or(0, |t| t.dims.iter().product());
        Ok(ForwardSession { session, binding, parameters, labels })
    }

    /// Logits of a batch, [rows, labels], with what `parameter` says that each parameter is now.
    pub(super) fn logits<'a>(
        &mut self,
        parameter: impl Fn(&str) -> Result<&'a Arc<Bound>, TrainError>,
        inputs: Feed,
    ) -> Result<Vec<f32>, TrainError> {
        // The first input has a row for each row of logits.
        let rows = inputs.first().and_then(|(_, value)| value.shape().first()).map_or(0, |n| *n as usize);
        self.run(parameter, &all_owned(inputs), name::LOGITS, &[rows, self.labels])
    }

    /// The output of this name and shape; inputs that were bound before stay.
    pub(super) fn run<'a>(
        &mut self,
        parameter: impl Fn(&str) -> Result<&'a Arc<Bound>, TrainError>,
        inputs: &Bindings,
        output: &str,
        shape: &[usize],
    ) -> Result<Vec<f32>, TrainError> {
        bind(&self.session, &mut self.binding, inputs)?;
        for name in &self.parameters {
            self.binding.input(name, parameter(name)?)?;
        }
        let value = owned(f32_value(shape, vec![0.0; shape.iter().product()])?);
        self.binding.output(output, &value)?;
        self.binding.run(&mut self.session)?;
        Ok(value.download()?)
    }
}
