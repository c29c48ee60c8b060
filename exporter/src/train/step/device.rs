//! Steps as graphs: the state lives in two sets of buffers on the device, and each step reads one and writes
//! the other. A step whose batch comes in parts adds up their gradients before, likewise in two sets of
//! buffers.

use std::sync::Arc;

use ort::session::Session;
use overmask::engine::Device;
use overmask_ort::{Binding, Bound};

use super::{Ready, StepSizes, Stepper, index_of};
use crate::train::TrainError;
use crate::train::graph::{self, Graph, Optimizer, Trained, name, next};
use crate::train::session::{Bindings, Frozen, Placement, all_owned, bind, device_buffers, open, owned, scalar};
use crate::train::value::f32_value;

/// A step that is all graphs.
pub(super) struct DeviceStep {
    /// The whole step, or what comes after the gradients.
    session: Session,
    /// What makes the gradients, if batches come in parts.
    gradients: Option<GradientSession>,
    bindings: [Binding; 2],
    /// The state in each set of buffers: per trained tensor the parameter and two moments.
    state: [Vec<Arc<Bound>>; 2],
    /// Names of the state, in its order.
    names: Vec<String>,
    trained: Vec<Trained>,
    /// Which set holds the current state.
    turn: usize,
    /// The buffers of the first set, which take the place of the start values after a step.
    after_start: Option<Vec<Arc<Bound>>>,
    loss: Arc<Bound>,
    norm: Arc<Bound>,
}

impl DeviceStep {
    /// For whole batches; `graph` is of [`graph::step`].
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

    /// For batches that come in parts; `graph` is of [`graph::sums`].
    pub(super) fn in_parts(
        graph: &Graph,
        optimizer: Optimizer,
        state: Vec<Vec<f32>>,
        frozen: &Frozen,
        placement: &Placement,
    ) -> Result<Self, TrainError> {
        let profile = placement.profile.as_ref().map(|path| path.with_file_name("update"));
        let update = open(&graph::update(&graph.trained, optimizer), &Placement { profile, ..placement.clone() })?;
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
        Ok(DeviceStep {
            session,
            gradients: None,
            bindings,
            state: [start, second],
            names,
            trained: trained.to_vec(),
            turn: 0,
            after_start: Some(first),
            loss,
            norm,
        })
    }
}

impl Stepper for DeviceStep {
    fn bind(&mut self, shared: &Bindings) -> Result<(), TrainError> {
        bind(&self.session, &mut self.bindings[self.turn], shared)?;
        self.gradients.iter_mut().try_for_each(|gradients| gradients.bind(shared))
    }

    fn try_step(&mut self, parts: &[Ready], sizes: StepSizes, loss_scale: f32) -> Result<(f32, f32), TrainError> {
        let binding = &mut self.bindings[self.turn];
        let mut own = sizes.feed()?;
        own.push((name::LOSS_SCALE.to_owned(), f32_value(&[], vec![loss_scale])?));
        bind(&self.session, binding, &all_owned(own))?;
        let mut loss = None;
        match &mut self.gradients {
            None => parts.iter().try_for_each(|part| bind(&self.session, binding, &part.inputs))?,
            Some(gradients) => {
                let parameters = self.state[self.turn].iter().step_by(3);
                loss = Some(gradients.run(parameters, parts, loss_scale)?);
                for (name, value) in gradients.sums() {
                    binding.input(name, value)?;
                }
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

    fn parameter(&self, name: &str) -> Result<&Arc<Bound>, TrainError> {
        Ok(&self.state[self.turn][3 * index_of(&self.trained, name)?])
    }

    fn state(&self) -> Result<Vec<Vec<f32>>, TrainError> {
        self.state[self.turn].iter().map(|value| Ok(value.download()?)).collect()
    }

    fn restore(&mut self, state: Vec<Vec<f32>>) -> Result<(), TrainError> {
        for (i, values) in state.into_iter().enumerate() {
            let value = owned(f32_value(&self.trained[i / 3].dims, values)?);
            self.bindings[self.turn].input(&self.names[i], &value)?;
            self.state[self.turn][i] = value;
        }
        Ok(())
    }

    fn end_profiling(&mut self) -> Result<Vec<String>, TrainError> {
        let gradients = self.gradients.as_mut().map(|gradients| &mut gradients.session);
        gradients.into_iter().chain([&mut self.session]).map(|session| Ok(session.end_profiling()?)).collect()
    }
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

    fn bind(&mut self, shared: &Bindings) -> Result<(), TrainError> {
        bind(&self.session, &mut self.binding, shared)
    }

    /// Adds up the gradients of the loss times `loss_scale`, and returns the loss.
    fn run<'a>(
        &mut self,
        parameters: impl Iterator<Item = &'a Arc<Bound>>,
        parts: &[Ready],
        loss_scale: f32,
    ) -> Result<f32, TrainError> {
        for (name, value) in self.parameters.iter().zip(parameters) {
            self.binding.input(name, value)?;
        }
        let mut loss = 0.0;
        for (i, Ready { inputs, share }) in parts.iter().enumerate() {
            bind(&self.session, &mut self.binding, inputs)?;
            self.binding.input(name::SHARE, &owned(f32_value(&[], vec![share * loss_scale])?))?;
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
