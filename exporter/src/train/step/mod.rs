//! A training step with its state, on the device or on the host.
//!
//! On a GPU the whole step is one graph, and the state never leaves the device ([`device`]). On a CPU the
//! graph ends with the gradients, and clipping and AdamW are one pass over them ([`host`]): as operators of a
//! graph they would be eleven, and the state would need a second set of buffers.

mod adamw;
mod device;
mod host;

use std::sync::Arc;

use overmask::base::Base;
use overmask::engine::Device;
use overmask_ort::Bound;

use self::device::DeviceStep;
use self::host::HostStep;
use super::TrainError;
use super::graph::{self, Graph, Objective, Optimizer, Role, Trained, name};
use super::loss_scale::LossScale;
use super::session::{Bindings, Frozen, Placement, all_owned};
use super::value::{Feed, f32_value};

/// Examples of a batch that run at once, all of them or a part, and the share of its rows that they have.
pub(super) struct MicroBatch {
    pub(super) inputs: Feed,
    pub(super) share: f32,
}

/// A [`MicroBatch`] whose inputs are ready to be bound.
struct Ready {
    inputs: Bindings,
    share: f32,
}

/// AdamW's numbers of a step, bias correction included: see [`super::schedule::adamw`].
#[derive(Debug, Clone, Copy)]
pub(super) struct StepSizes {
    pub(super) scores: f32,
    pub(super) dense: f32,
    pub(super) head: f32,
    pub(super) epsilon: f32,
}

impl StepSizes {
    /// That of a parameter.
    fn of(self, parameter: &Trained) -> f32 {
        match parameter.role {
            Role::Scores(_) => self.scores,
            Role::Dense => self.dense,
            Role::Head => self.head,
        }
    }

    /// As inputs of a graph; not every graph reads all.
    fn feed(self) -> Result<Feed, TrainError> {
        let inputs = [
            (name::SCORE_RATE, self.scores),
            (name::DENSE_RATE, self.dense),
            (name::HEAD_RATE, self.head),
            (name::EPSILON, self.epsilon),
        ];
        inputs.into_iter().map(|(name, value)| Ok((name.to_owned(), f32_value(&[], vec![value])?))).collect()
    }
}

/// Where steps are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    /// Gradients by a graph, the rest here.
    Host,
    /// All by a graph, a whole batch at once.
    Device,
    /// All by graphs; batches come in parts, whose gradients are added up.
    DeviceInParts,
}

impl Backend {
    /// The best one.
    pub(super) fn of(device: Device, in_parts: bool) -> Self {
        match (device, in_parts) {
            (Device::Cpu, _) => Backend::Host,
            (Device::Cuda, false) => Backend::Device,
            (Device::Cuda, true) => Backend::DeviceInParts,
        }
    }

    /// The graph that it starts from.
    pub(super) fn graph(self, base: &Base, objective: &dyn Objective) -> Result<Graph, TrainError> {
        match self {
            Backend::Host => graph::gradients(base, objective),
            Backend::Device => graph::step(base, objective),
            Backend::DeviceInParts => graph::sums(base, objective),
        }
    }
}

/// What makes steps, in two halves: the state changes in the second, if the first gave numbers.
trait Stepper {
    /// Computes the gradients of the loss times `loss_scale`, and returns the loss and the norm of its
    /// gradients, both without that factor. The current state stays as it is.
    fn try_step(&mut self, parts: &[Ready], sizes: StepSizes, loss_scale: f32) -> Result<(f32, f32), TrainError>;

    /// Makes the state after the step that was tried the current one.
    fn accept(&mut self) -> Result<(), TrainError>;

    /// Binds what all parts see.
    fn bind(&mut self, shared: &Bindings) -> Result<(), TrainError>;

    /// The current value of a parameter, as a graph reads it.
    fn parameter(&self, name: &str) -> Result<&Arc<Bound>, TrainError>;

    /// The whole state: for each parameter its values and two moments.
    fn state(&self) -> Result<Vec<Vec<f32>>, TrainError>;

    /// Puts another state in the place of that in which it started; for before the first step.
    fn restore(&mut self, state: Vec<Vec<f32>>) -> Result<(), TrainError>;

    /// Ends profiling and returns the files' names.
    fn end_profiling(&mut self) -> Result<Vec<String>, TrainError>;
}

/// A training step with its state.
pub(super) struct StepSession {
    stepper: Box<dyn Stepper>,
    scale: Option<LossScale>,
}

impl StepSession {
    /// A session that starts in a state: for each parameter its values and two moments. `graph` is that of
    /// [`Backend::graph`].
    pub(super) fn new(
        backend: Backend,
        graph: &Graph,
        optimizer: Optimizer,
        state: Vec<Vec<f32>>,
        frozen: &Frozen,
        placement: &Placement,
    ) -> Result<Self, TrainError> {
        let stepper: Box<dyn Stepper> = match backend {
            Backend::Host => Box::new(HostStep::new(graph, optimizer, state, frozen, placement)?),
            Backend::Device => Box::new(DeviceStep::new(graph, state, frozen, placement)?),
            Backend::DeviceInParts => Box::new(DeviceStep::in_parts(graph, optimizer, state, frozen, placement)?),
        };
        Ok(StepSession { stepper, scale: optimizer.scales_loss.then(LossScale::new) })
    }

    /// Runs one step on a batch and returns loss and gradient norm; `shared` is what all parts see. A
    /// step whose gradients are no numbers leaves the state as it is.
    pub(super) fn run(
        &mut self,
        parts: Vec<MicroBatch>,
        shared: Feed,
        sizes: StepSizes,
    ) -> Result<(f32, f32), TrainError> {
        self.stepper.bind(&all_owned(shared))?;
        let ready = |part: MicroBatch| Ready { inputs: all_owned(part.inputs), share: part.share };
        let parts: Vec<Ready> = parts.into_iter().map(ready).collect();
        loop {
            let loss_scale = self.scale.map_or(1.0, LossScale::factor);
            let (loss, norm) = self.stepper.try_step(&parts, sizes, loss_scale)?;
            let fine = loss.is_finite() && norm.is_finite();
            if fine {
                self.scale.iter_mut().for_each(LossScale::passed);
                self.stepper.accept()?;
            } else if self.scale.as_mut().is_some_and(LossScale::overflowed) {
                continue;
            }
            return Ok((loss, norm));
        }
    }

    /// The current value of a parameter, as a graph reads it.
    pub(super) fn parameter(&self, name: &str) -> Result<&Arc<Bound>, TrainError> {
        self.stepper.parameter(name)
    }

    /// The current values of a parameter.
    pub(super) fn download(&self, name: &str) -> Result<Vec<f32>, TrainError> {
        Ok(self.parameter(name)?.download()?)
    }

    /// The whole state, as [`StepSession::new`] takes it.
    pub(super) fn state(&self) -> Result<Vec<Vec<f32>>, TrainError> {
        self.stepper.state()
    }

    /// Puts another state in the place of that in which it started; for before the first step.
    pub(super) fn restore(&mut self, state: Vec<Vec<f32>>) -> Result<(), TrainError> {
        self.stepper.restore(state)
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
        self.stepper.end_profiling()
    }
}

/// The index of a parameter.
fn index_of(trained: &[Trained], name: &str) -> Result<usize, TrainError> {
    let index = trained.iter().position(|parameter| parameter.name == name);
    index.ok_or_else(|| TrainError::Runtime(format!("no parameter `{name}`")))
}
