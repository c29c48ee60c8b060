//! Sessions over a step graph: the state lives in two sets of buffers on the device, and each
//! step reads one and writes the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynValue, Tensor};
use overmask::base::Base;
use overmask::engine::ort::{Binding, Bound, allocator, environment, on_device};
use overmask::engine::{Device, TokenBatch};
use overmask::onnx::{self, proto::ModelProto};

use super::TrainError;
use super::batch::Feed;
use super::graph::{Graph, Prefix, Trained, name, next};

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

/// The named tensors of the base, where its memory map has them.
pub(super) fn frozen(base: &Arc<Base>, names: &[String]) -> Result<Frozen, TrainError> {
    let value = |name: &String| Ok((name.clone(), Arc::new(Bound::mapped(base, name)?)));
    names.iter().map(value).collect()
}

/// A value of f32 on the CPU.
pub(super) fn f32_value(shape: &[usize], values: Vec<f32>) -> Result<DynValue, TrainError> {
    Ok(Tensor::from_array((shape.to_vec(), values))?.into_dyn())
}

/// A value of int64 on the CPU.
pub(super) fn i64_value(shape: &[usize], values: Vec<i64>) -> Result<DynValue, TrainError> {
    Ok(Tensor::from_array((shape.to_vec(), values))?.into_dyn())
}

/// A session for a graph.
fn open(model: &ModelProto, placement: &Placement) -> Result<Session, TrainError> {
    let mut builder = Session::builder(environment()?)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(placement.threads)?
        // Repeats bit for bit with the same number of threads.
        .with_deterministic_compute(true)?;
    if let Some(path) = &placement.profile {
        builder = builder.with_profiling(path)?;
    }
    let mut builder = on_device(builder, placement.device)?;
    Ok(builder.commit_from_memory(&onnx::encode(model))?)
}

/// A training step with its state.
pub(super) struct StepSession {
    session: Session,
    bindings: [Binding; 2],
    /// The state in each set of buffers: per trained tensor the parameter and two moments.
    state: [Vec<Arc<Bound>>; 2],
    names: Vec<String>,
    /// The shape of each trained tensor.
    dims: Vec<Vec<usize>>,
    /// Which set holds the current state.
    turn: usize,
    /// The buffers of the first set, which take the place of the start values after a step.
    after_start: Option<Vec<Arc<Bound>>>,
    loss: Arc<Bound>,
    norm: Arc<Bound>,
}

impl StepSession {
    /// A session that starts in a state: for each parameter its values and two moments.
    pub(super) fn new(
        graph: &Graph,
        state: Vec<Vec<f32>>,
        frozen: &Frozen,
        placement: &Placement,
    ) -> Result<Self, TrainError> {
        let session = open(&graph.model, placement)?;
        let names: Vec<String> = graph.trained.iter().flat_map(Trained::state).collect();
        let mut start = Vec::with_capacity(names.len());
        for (i, values) in state.into_iter().enumerate() {
            start.push(owned(f32_value(&graph.trained[i / 3].dims, values)?));
        }
        let first = device_buffers(&session, &graph.trained, placement.device)?;
        let second = device_buffers(&session, &graph.trained, placement.device)?;
        let loss = owned(f32_value(&[], vec![0.0])?);
        let norm = owned(f32_value(&[], vec![0.0])?);
        let mut bindings = [Binding::new(&session)?, Binding::new(&session)?];
        for (turn, binding) in bindings.iter_mut().enumerate() {
            for (name, value) in frozen {
                binding.input(name, value)?;
            }
            let (inputs, outputs) = if turn == 0 { (&start, &second) } else { (&second, &first) };
            for (i, name) in names.iter().enumerate() {
                binding.input(name, &inputs[i])?;
                binding.output(&next(name), &outputs[i])?;
            }
            binding.output(name::LOSS, &loss)?;
            binding.output(name::NORM, &norm)?;
        }
        Ok(StepSession {
            session,
            bindings,
            state: [start, second],
            names,
            dims: graph.trained.iter().map(|t| t.dims.clone()).collect(),
            turn: 0,
            after_start: Some(first),
            loss,
            norm,
        })
    }

    /// Runs one step and returns loss and gradient norm.
    pub(super) fn run(&mut self, inputs: Feed) -> Result<(f32, f32), TrainError> {
        let binding = &mut self.bindings[self.turn];
        for (name, value) in inputs.into_iter().filter(|(name, _)| reads(&self.session, name)) {
            binding.input(&name, &owned(value))?;
        }
        binding.run(&mut self.session)?;
        if let Some(buffers) = self.after_start.take() {
            for (name, value) in self.names.iter().zip(&buffers) {
                self.bindings[0].input(name, value)?;
            }
            self.state[0] = buffers;
        }
        self.turn = 1 - self.turn;
        Ok((scalar(&self.loss)?, scalar(&self.norm)?))
    }

    /// The current value of a parameter, as the graph reads it.
    fn parameter(&self, name: &str) -> Result<&Arc<Bound>, TrainError> {
        let index = self.names.iter().position(|n| n == name);
        let value = index.and_then(|i| self.state[self.turn].get(i));
        value.ok_or_else(|| TrainError::Runtime(format!("no parameter `{name}`")))
    }

    /// The current values of a parameter.
    pub(super) fn download(&self, name: &str) -> Result<Vec<f32>, TrainError> {
        Ok(self.parameter(name)?.download()?)
    }

    /// Starts anew in a state.
    pub(super) fn restore(&mut self, state: Vec<Vec<f32>>) -> Result<(), TrainError> {
        for (i, values) in state.into_iter().enumerate() {
            let value = owned(f32_value(&self.dims[i / 3], values)?);
            self.bindings[self.turn].input(&self.names[i], &value)?;
            self.state[self.turn][i] = value;
        }
        Ok(())
    }

    /// The whole state, as [`StepSession::new`] takes it.
    pub(super) fn state(&self) -> Result<Vec<Vec<f32>>, TrainError> {
        self.names.iter().map(|name| self.download(name)).collect()
    }

    /// Ends profiling and returns the file's name.
    pub(super) fn end_profiling(&mut self) -> Result<String, TrainError> {
        Ok(self.session.end_profiling()?)
    }
}

/// The state in which a run begins: parameters with moments of zero.
pub(super) fn fresh(initial: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let with_moments = |values: Vec<f32>| {
        let zeros = vec![0.0; values.len()];
        [values, zeros.clone(), zeros]
    };
    initial.into_iter().flat_map(with_moments).collect()
}

/// Uninitialised buffers for the state, on the device.
fn device_buffers(session: &Session, trained: &[Trained], device: Device) -> Result<Vec<Arc<Bound>>, TrainError> {
    let allocator = allocator(session, device)?;
    let mut buffers = Vec::with_capacity(3 * trained.len());
    for parameter in trained {
        for _ in parameter.state() {
            buffers.push(owned(Tensor::<f32>::new(&allocator, parameter.dims.clone())?.into_dyn()));
        }
    }
    Ok(buffers)
}

/// Whether a graph reads an input: not every encoder has token types.
fn reads(session: &Session, name: &str) -> bool {
    session.inputs().iter().any(|input| input.name() == name)
}

fn owned(value: DynValue) -> Arc<Bound> {
    Arc::new(Bound::owned(value))
}

fn scalar(value: &Bound) -> Result<f32, TrainError> {
    value.download()?.first().copied().ok_or_else(|| TrainError::Runtime("an empty scalar".to_owned()))
}

/// What runs once for each example: what lies below everything that trains.
pub(super) struct PrefixSession {
    session: Session,
    binding: Binding,
}

impl PrefixSession {
    pub(super) fn new(prefix: &Prefix, base: &Arc<Base>, placement: &Placement) -> Result<Self, TrainError> {
        let session = open(&prefix.model, &Placement { profile: None, ..placement.clone() })?;
        let mut binding = Binding::new(&session)?;
        for (name, value) in frozen(base, &prefix.frozen)? {
            binding.input(&name, &value)?;
        }
        Ok(PrefixSession { session, binding })
    }

    /// The output for a batch, [batch, sequence, width].
    pub(super) fn run(&mut self, batch: &TokenBatch, width: usize) -> Result<Vec<f32>, TrainError> {
        let shape = [batch.batch, batch.sequence];
        for name in ["input_ids", "attention_mask", "token_type_ids"].into_iter().filter(|n| reads(&self.session, n)) {
            let values = batch.input(name).cloned().unwrap_or_default();
            self.binding.input(name, &owned(i64_value(&shape, values)?))?;
        }
        let output = owned(f32_value(&[batch.batch, batch.sequence, width], vec![0.0; shape[0] * shape[1] * width])?);
        self.binding.output(name::PREFIX, &output)?;
        self.binding.run(&mut self.session)?;
        Ok(output.download()?)
    }
}

/// The forward pass over the parameters of a step session, for choosing checkpoints.
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

    /// Logits of a batch, [rows, labels], with the step's current parameters.
    pub(super) fn logits(&mut self, step: &StepSession, inputs: Feed) -> Result<Vec<f32>, TrainError> {
        // The first input has a row for each row of logits.
        let rows = inputs.first().and_then(|(_, value)| value.shape().first()).map_or(0, |n| *n as usize);
        for (name, value) in inputs.into_iter().filter(|(name, _)| reads(&self.session, name)) {
            self.binding.input(&name, &owned(value))?;
        }
        for name in &self.parameters {
            self.binding.input(name, step.parameter(name)?)?;
        }
        let logits = owned(f32_value(&[rows, self.labels], vec![0.0; rows * self.labels])?);
        self.binding.output(name::LOGITS, &logits)?;
        self.binding.run(&mut self.session)?;
        Ok(logits.download()?)
    }
}
