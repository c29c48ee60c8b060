//! Sessions over a step graph: the state lives in two sets of buffers on the device, and each
//! step reads one and writes the other. A step whose batch comes in parts adds up their gradients
//! before, likewise in two sets of buffers.

use std::collections::BTreeMap;
use std::sync::Arc;

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynValue, Tensor};
use overmask::base::Base;
use overmask::engine::ort::{Binding, Bound, allocator, environment, on_device};
use overmask::engine::{Device, TokenBatch};
use overmask::onnx::proto::{ModelProto, data_type};
use overmask::onnx::{self, GraphBuilder};

use super::TrainError;
use super::batch::Feed;
use super::graph::{self, Graph, Prefix, Spec, Trained, name, next};
use super::loss_scale::LossScale;

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

/// Examples of a batch that run at once, and the part of its rows that they have.
pub(super) struct Part {
    pub(super) inputs: Feed,
    pub(super) share: f32,
}

/// A training step with its state.
pub(super) struct StepSession {
    /// The whole step, or what comes after the gradients.
    session: Session,
    /// What makes the gradients, if batches come in parts.
    gradients: Option<GradientSession>,
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
    scale: Option<LossScale>,
}

impl StepSession {
    /// A session for whole batches that starts in a state: for each parameter its values and two
    /// moments.
    pub(super) fn new(
        graph: &Graph,
        state: Vec<Vec<f32>>,
        frozen: &Frozen,
        placement: &Placement,
    ) -> Result<Self, TrainError> {
        let mut step = Self::start(open(&graph.model, placement)?, &graph.trained, state, placement.device)?;
        for binding in &mut step.bindings {
            for (name, value) in frozen {
                binding.input(name, value)?;
            }
            binding.output(name::LOSS, &step.loss)?;
        }
        Ok(step)
    }

    /// A session for batches that come in parts; `graph` is of [`graph::gradients`].
    pub(super) fn in_parts(
        graph: &Graph,
        spec: &Spec,
        state: Vec<Vec<f32>>,
        frozen: &Frozen,
        placement: &Placement,
    ) -> Result<Self, TrainError> {
        let profile = placement.profile.as_ref().map(|path| path.with_file_name("update"));
        let update = open(&graph::update(&graph.trained, spec), &Placement { profile, ..placement.clone() })?;
        let mut step = Self::start(update, &graph.trained, state, placement.device)?;
        step.gradients = Some(GradientSession::new(graph, frozen, placement)?);
        Ok(step)
    }

    fn start(session: Session, trained: &[Trained], state: Vec<Vec<f32>>, device: Device) -> Result<Self, TrainError> {
        let names: Vec<String> = trained.iter().flat_map(Trained::state).collect();
        let mut start = Vec::with_capacity(names.len());
        for (i, values) in state.into_iter().enumerate() {
            start.push(owned(f32_value(&trained[i / 3].dims, values)?));
        }
        let shapes = || trained.iter().flat_map(|t| [&t.dims; 3]);
        let first = device_buffers(&session, shapes(), device)?;
        let second = device_buffers(&session, shapes(), device)?;
        let loss = owned(f32_value(&[], vec![0.0])?);
        let norm = owned(f32_value(&[], vec![0.0])?);
        let mut bindings = [Binding::new(&session)?, Binding::new(&session)?];
        for (turn, binding) in bindings.iter_mut().enumerate() {
            let (inputs, outputs) = if turn == 0 { (&start, &second) } else { (&second, &first) };
            for (i, name) in names.iter().enumerate() {
                binding.input(name, &inputs[i])?;
                binding.output(&next(name), &outputs[i])?;
            }
            binding.output(name::NORM, &norm)?;
        }
        let scale = reads(&session, name::LOSS_SCALE).then(LossScale::new);
        Ok(StepSession {
            session,
            gradients: None,
            bindings,
            state: [start, second],
            names,
            dims: trained.iter().map(|t| t.dims.clone()).collect(),
            turn: 0,
            after_start: Some(first),
            loss,
            norm,
            scale,
        })
    }

    /// Runs one step on a batch and returns loss and gradient norm; `shared` is what all parts see. A
    /// step whose gradients are no numbers leaves the state as it is.
    pub(super) fn run(&mut self, parts: Vec<Part>, shared: Feed) -> Result<(f32, f32), TrainError> {
        let shared = all_owned(shared);
        let parts: Vec<_> = parts.into_iter().map(|part| (all_owned(part.inputs), part.share)).collect();
        let binding = &mut self.bindings[self.turn];
        bind(&self.session, binding, &shared)?;
        match &mut self.gradients {
            Some(gradients) => gradients.bind(&shared)?,
            None => parts.iter().try_for_each(|(inputs, _)| bind(&self.session, binding, inputs))?,
        }
        loop {
            let factor = self.scale.map_or(1.0, LossScale::factor);
            let (loss, norm) = self.try_step(&parts, factor)?;
            let fine = loss.is_finite() && norm.is_finite();
            if fine {
                self.scale.iter_mut().for_each(LossScale::passed);
                self.accept()?;
            } else if self.scale.as_mut().is_some_and(LossScale::overflowed) {
                continue;
            }
            return Ok((loss, norm));
        }
    }

    /// Makes the next state, with the loss times a factor; [`StepSession::accept`] makes it the current
    /// one.
    fn try_step(&mut self, parts: &[(Inputs, f32)], factor: f32) -> Result<(f32, f32), TrainError> {
        let binding = &mut self.bindings[self.turn];
        if self.scale.is_some() {
            binding.input(name::LOSS_SCALE, &owned(f32_value(&[], vec![factor])?))?;
        }
        let mut loss = None;
        if let Some(gradients) = &mut self.gradients {
            let parameters = self.state[self.turn].iter().step_by(3);
            loss = Some(gradients.run(parameters, parts, factor)?);
            for (name, value) in gradients.sums() {
                binding.input(name, value)?;
            }
        }
        binding.run(&mut self.session)?;
        let loss = loss.map_or_else(|| scalar(&self.loss), Ok)?;
        Ok((loss, scalar(&self.norm)?))
    }

    fn accept(&mut self) -> Result<(), TrainError> {
        if let Some(buffers) = self.after_start.take() {
            for (name, value) in self.names.iter().zip(&buffers) {
                self.bindings[0].input(name, value)?;
            }
            self.state[0] = buffers;
        }
        self.turn = 1 - self.turn;
        Ok(())
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

    /// The loss scale, if the loss is scaled.
    pub(super) fn loss_scale(&self) -> Option<LossScale> {
        self.scale
    }

    /// Goes on with a loss scale.
    pub(super) fn restore_loss_scale(&mut self, scale: Option<LossScale>) {
        self.scale = self.scale.and(scale);
    }

    /// Ends profiling and returns the files' names.
    pub(super) fn end_profiling(&mut self) -> Result<Vec<String>, TrainError> {
        let gradients = self.gradients.as_mut().map(|gradients| &mut gradients.session);
        gradients.into_iter().chain([&mut self.session]).map(|session| Ok(session.end_profiling()?)).collect()
    }
}

/// Inputs that are ready to be bound.
type Inputs = Vec<(String, Arc<Bound>)>;

fn all_owned(feed: Feed) -> Inputs {
    feed.into_iter().map(|(name, value)| (name, owned(value))).collect()
}

/// Binds those inputs that a session reads.
fn bind(session: &Session, binding: &mut Binding, inputs: &Inputs) -> Result<(), TrainError> {
    for (name, value) in inputs.iter().filter(|(name, _)| reads(session, name)) {
        binding.input(name, value)?;
    }
    Ok(())
}

/// Adds up the gradients of the parts of a batch.
struct GradientSession {
    session: Session,
    binding: Binding,
    parameters: Vec<String>,
    /// Names of the sums.
    names: Vec<String>,
    zeros: Vec<Arc<Bound>>,
    /// Each part reads the sums from one set of buffers and writes the other.
    sums: [Vec<Arc<Bound>>; 2],
    /// Which set was written last.
    turn: usize,
    loss: Arc<Bound>,
}

impl GradientSession {
    fn new(graph: &Graph, frozen: &Frozen, placement: &Placement) -> Result<Self, TrainError> {
        let session = open(&graph.model, placement)?;
        let mut binding = Binding::new(&session)?;
        for (name, value) in frozen {
            binding.input(name, value)?;
        }
        let loss = owned(f32_value(&[], vec![0.0])?);
        binding.output(name::LOSS, &loss)?;
        let shapes = || graph.trained.iter().map(|t| &t.dims);
        let sums = [
            device_buffers(&session, shapes(), placement.device)?,
            device_buffers(&session, shapes(), placement.device)?,
        ];
        let zero = |dims: &Vec<usize>| Ok(owned(f32_value(dims, vec![0.0; dims.iter().product()])?));
        let zeros = shapes().map(zero).collect::<Result<_, TrainError>>()?;
        let parameters = graph.trained.iter().map(|t| t.name.clone()).collect();
        let names = graph.trained.iter().map(|t| graph::sum(&t.name)).collect();
        Ok(GradientSession { session, binding, parameters, names, zeros, sums, turn: 0, loss })
    }

    fn bind(&mut self, shared: &Inputs) -> Result<(), TrainError> {
        bind(&self.session, &mut self.binding, shared)
    }

    /// Adds up the gradients of the loss times a factor, and returns the loss.
    fn run<'a>(
        &mut self,
        parameters: impl Iterator<Item = &'a Arc<Bound>>,
        parts: &[(Inputs, f32)],
        factor: f32,
    ) -> Result<f32, TrainError> {
        for (name, value) in self.parameters.iter().zip(parameters) {
            self.binding.input(name, value)?;
        }
        let mut loss = 0.0;
        for (i, (inputs, share)) in parts.iter().enumerate() {
            bind(&self.session, &mut self.binding, inputs)?;
            self.binding.input(name::SHARE, &owned(f32_value(&[], vec![share * factor])?))?;
            let before = if i == 0 { &self.zeros } else { &self.sums[self.turn] };
            self.turn = 1 - self.turn;
            for ((name, before), after) in self.names.iter().zip(before).zip(&self.sums[self.turn]) {
                self.binding.input(name, before)?;
                self.binding.output(&next(name), after)?;
            }
            self.binding.run(&mut self.session)?;
            loss += share * scalar(&self.loss)?;
        }
        Ok(loss)
    }

    /// The sums by name.
    fn sums(&self) -> impl Iterator<Item = (&String, &Arc<Bound>)> {
        self.names.iter().zip(&self.sums[self.turn])
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

/// Uninitialised buffers of these shapes, on the device.
fn device_buffers<'a>(
    session: &Session,
    shapes: impl Iterator<Item = &'a Vec<usize>>,
    device: Device,
) -> Result<Vec<Arc<Bound>>, TrainError> {
    let allocator = allocator(session, device)?;
    shapes.map(|dims| Ok(owned(Tensor::<f32>::new(&allocator, dims.clone())?.into_dyn()))).collect()
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
        for (name, value) in frozen(base, &prefix.frozen, placement)? {
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
