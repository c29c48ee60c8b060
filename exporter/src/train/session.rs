//! Sessions over a step graph: the state lives in two sets of buffers on the device, and each
//! step reads one and writes the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynValue, Tensor};
use overmask::base::Base;
use overmask::engine::Device;
use overmask::engine::ort::{Binding, Bound, allocator, environment, on_device};
use overmask::onnx;

use super::TrainError;
use super::graph::{Graph, Trained, name, next};

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
fn open(graph: &Graph, placement: &Placement) -> Result<Session, TrainError> {
    let mut builder = Session::builder(environment()?)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(placement.threads)?
        // Repeats bit for bit with the same number of threads.
        .with_deterministic_compute(true)?;
    if let Some(path) = &placement.profile {
        builder = builder.with_profiling(path)?;
    }
    let mut builder = on_device(builder, placement.device)?;
    Ok(builder.commit_from_memory(&onnx::encode(&graph.model))?)
}

/// A training step with its state.
pub(super) struct StepSession {
    session: Session,
    bindings: [Binding; 2],
    /// The state in each set of buffers: per trained tensor the parameter and two moments.
    state: [Vec<Arc<Bound>>; 2],
    names: Vec<String>,
    /// Which set holds the current state.
    turn: usize,
    /// The buffers of the first set, which take the place of the start values after a step.
    after_start: Option<Vec<Arc<Bound>>>,
    loss: Arc<Bound>,
    norm: Arc<Bound>,
}

impl StepSession {
    /// A session whose parameters start at `initial` and whose moments start at zero.
    pub(super) fn new(
        graph: &Graph,
        initial: &[Vec<f32>],
        frozen: &Frozen,
        placement: &Placement,
    ) -> Result<Self, TrainError> {
        let session = open(graph, placement)?;
        let names: Vec<String> = graph.trained.iter().flat_map(Trained::state).collect();
        let mut start = Vec::with_capacity(names.len());
        for (parameter, values) in graph.trained.iter().zip(initial) {
            for part in [values.clone(), vec![0.0; values.len()], vec![0.0; values.len()]] {
                start.push(owned(f32_value(&parameter.dims, part)?));
            }
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
            turn: 0,
            after_start: Some(first),
            loss,
            norm,
        })
    }

    /// Runs one step and returns loss and gradient norm.
    pub(super) fn run(&mut self, inputs: Vec<(&'static str, DynValue)>) -> Result<(f32, f32), TrainError> {
        let binding = &mut self.bindings[self.turn];
        for (name, value) in inputs.into_iter().filter(|(name, _)| reads(&self.session, name)) {
            binding.input(name, &owned(value))?;
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

    /// Ends profiling and returns the file's name.
    pub(super) fn end_profiling(&mut self) -> Result<String, TrainError> {
        Ok(self.session.end_profiling()?)
    }
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

/// The forward pass over the parameters of a step session, for choosing checkpoints.
pub(super) struct ForwardSession {
    session: Session,
    binding: Binding,
    parameters: Vec<String>,
    classes: usize,
}

impl ForwardSession {
    pub(super) fn new(graph: &Graph, frozen: &Frozen, placement: &Placement) -> Result<Self, TrainError> {
        let session = open(graph, &Placement { profile: None, ..placement.clone() })?;
        let mut binding = Binding::new(&session)?;
        for (name, value) in frozen {
            binding.input(name, value)?;
        }
        let parameters = graph.trained.iter().map(|t| t.name.clone()).collect();
        let bias = graph.trained.iter().find(|t| t.name == name::HEAD_BIAS);
        let classes = bias.map_or(0, |t| t.dims.iter().product());
        Ok(ForwardSession { session, binding, parameters, classes })
    }

    /// Logits of a batch, [batch, classes], with the step's current parameters.
    pub(super) fn logits(
        &mut self,
        step: &StepSession,
        inputs: Vec<(&'static str, DynValue)>,
    ) -> Result<Vec<f32>, TrainError> {
        // Every input has a row for each text.
        let batch = inputs.first().and_then(|(_, value)| value.shape().first()).map_or(0, |n| *n as usize);
        for (name, value) in inputs.into_iter().filter(|(name, _)| reads(&self.session, name)) {
            self.binding.input(name, &owned(value))?;
        }
        for name in &self.parameters {
            self.binding.input(name, step.parameter(name)?)?;
        }
        let logits = owned(f32_value(&[batch, self.classes], vec![0.0; batch * self.classes])?);
        self.binding.output(name::LOGITS, &logits)?;
        self.binding.run(&mut self.session)?;
        Ok(logits.download()?)
    }
}
