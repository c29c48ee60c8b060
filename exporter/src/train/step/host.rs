//! Steps on a CPU: a graph makes the gradients, the rest is done here, in place.

use std::sync::Arc;

use ort::session::Session;
use overmask_ort::{Binding, Bound};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::adamw::{self, Change};
use super::{Ready, StepSizes, Stepper, index_of};
use crate::train::TrainError;
use crate::train::graph::{self, CLIP_EPSILON, Graph, Optimizer, Trained, name};
use crate::train::session::{Bindings, Frozen, Placement, bind, device_buffers, open, owned, scalar};
use crate::train::value::f32_value;

/// A step of which only the gradients are a graph's.
pub(super) struct HostStep {
    session: Session,
    binding: Binding,
    loss: Arc<Bound>,
    trained: Vec<Trained>,
    parameters: Vec<Arc<Bound>>,
    /// Two for each parameter.
    moments: Vec<[Vec<f32>; 2]>,
    /// Of the part of a batch that ran last.
    gradients: Vec<Arc<Bound>>,
    /// Of all parts of a batch that has several.
    sums: Vec<Vec<f32>>,
    /// Whether the batch has several.
    in_parts: bool,
    /// What the gradients in place make of the state.
    next: Option<(StepSizes, f32)>,
    optimizer: Optimizer,
    pool: ThreadPool,
}

impl HostStep {
    pub(super) fn new(
        graph: &Graph,
        optimizer: Optimizer,
        state: Vec<Vec<f32>>,
        frozen: &Frozen,
        placement: &Placement,
    ) -> Result<Self, TrainError> {
        let session = open(&graph.model, placement)?;
        let mut binding = Binding::new(&session)?;
        for (name, value) in frozen {
            binding.input(name, value)?;
        }
        let loss = owned(f32_value(&[], vec![0.0])?);
        binding.output(name::LOSS, &loss)?;
        let gradients = device_buffers(&session, graph.trained.iter().map(|t| &t.dims), placement.device)?;
        for (parameter, buffer) in graph.trained.iter().zip(&gradients) {
            binding.output(&graph::gradient(&parameter.name), buffer)?;
        }
        let pool = ThreadPoolBuilder::new().num_threads(placement.threads).build();
        let pool = pool.map_err(|e| TrainError::Runtime(format!("no threads for AdamW: {e}")))?;
        let mut step = HostStep {
            session,
            binding,
            loss,
            trained: graph.trained.clone(),
            parameters: Vec::new(),
            moments: Vec::new(),
            gradients,
            sums: Vec::new(),
            in_parts: false,
            next: None,
            optimizer,
            pool,
        };
        step.restore(state)?;
        Ok(step)
    }

    /// Adds the gradients of a part to those of the parts before.
    fn add(&mut self, first: bool) -> Result<(), TrainError> {
        if self.sums.is_empty() {
            self.sums = self.trained.iter().map(|t| vec![0.0; t.dims.iter().product()]).collect();
        }
        for (sum, gradient) in self.sums.iter_mut().zip(&self.gradients) {
            gradient.with(|gradient| match first {
                true => sum.copy_from_slice(gradient),
                false => sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g),
            })?;
        }
        Ok(())
    }
}

/// Parameters that this step changes, by number, and their step sizes: scores that are polished stay, and
/// their gradients clip nobody else's.
fn moving(trained: &[Trained], sizes: StepSizes) -> impl Iterator<Item = (usize, f32)> {
    let all = trained.iter().map(move |parameter| sizes.of(parameter)).enumerate();
    all.filter(|(_, rate)| *rate != 0.0)
}

/// The gradients of a step: those of its only part, or the sums of all parts.
enum Gradients<'a> {
    Whole(&'a [Arc<Bound>]),
    Sums(&'a [Vec<f32>]),
}

impl Gradients<'_> {
    /// Hands the gradient of a parameter on.
    fn with<R>(&self, index: usize, with: impl FnOnce(&[f32]) -> R) -> Result<R, TrainError> {
        match self {
            Gradients::Whole(values) => Ok(values[index].with(with)?),
            Gradients::Sums(values) => Ok(with(&values[index])),
        }
    }
}

impl Stepper for HostStep {
    fn bind(&mut self, shared: &Bindings) -> Result<(), TrainError> {
        bind(&self.session, &mut self.binding, shared)
    }

    fn try_step(&mut self, parts: &[Ready], sizes: StepSizes, loss_scale: f32) -> Result<(f32, f32), TrainError> {
        self.in_parts = parts.len() > 1;
        let mut loss = 0.0;
        for (i, Ready { inputs, share }) in parts.iter().enumerate() {
            bind(&self.session, &mut self.binding, inputs)?;
            self.binding.input(name::SHARE, &owned(f32_value(&[], vec![share * loss_scale])?))?;
            self.binding.run(&mut self.session)?;
            loss += share * scalar(&self.loss)?;
            if self.in_parts {
                self.add(i == 0)?;
            }
        }
        let gradients = if self.in_parts { Gradients::Sums(&self.sums) } else { Gradients::Whole(&self.gradients) };
        let squares = self.pool.install(|| {
            let of = |(index, _)| gradients.with(index, adamw::sum_of_squares);
            moving(&self.trained, sizes).map(of).sum::<Result<f64, TrainError>>()
        })?;
        let norm = (squares.sqrt() / f64::from(loss_scale)) as f32;
        let clipped = (self.optimizer.clip_norm / (norm + CLIP_EPSILON)).min(1.0);
        self.next = Some((sizes, clipped / loss_scale));
        Ok((loss, norm))
    }

    fn accept(&mut self) -> Result<(), TrainError> {
        let nothing = || TrainError::Runtime("no step was tried".to_owned());
        let (sizes, scale) = self.next.take().ok_or_else(nothing)?;
        let gradients = if self.in_parts { Gradients::Sums(&self.sums) } else { Gradients::Whole(&self.gradients) };
        let (trained, parameters, moments, damping) =
            (&self.trained, &self.parameters, &mut self.moments, self.optimizer.damping);
        self.pool.install(|| {
            for (index, rate) in moving(trained, sizes) {
                let damping = if trained[index].scores_of().is_some() { damping } else { 0.0 };
                let (by, [m, v]) = (Change { scale, rate, epsilon: sizes.epsilon, damping }, &mut moments[index]);
                gradients.with(index, |gradient| {
                    parameters[index].with_mut(|values| adamw::update(values, m, v, gradient, by))
                })??;
            }
            Ok(())
        })
    }

    fn parameter(&self, name: &str) -> Result<&Arc<Bound>, TrainError> {
        Ok(&self.parameters[index_of(&self.trained, name)?])
    }

    fn state(&self) -> Result<Vec<Vec<f32>>, TrainError> {
        let mut state = Vec::with_capacity(3 * self.trained.len());
        for (parameter, [m, v]) in self.parameters.iter().zip(&self.moments) {
            state.extend([parameter.download()?, m.clone(), v.clone()]);
        }
        Ok(state)
    }

    fn restore(&mut self, state: Vec<Vec<f32>>) -> Result<(), TrainError> {
        (self.parameters, self.moments) = (Vec::new(), Vec::new());
        let mut values = state.into_iter();
        for parameter in &self.trained {
            let [p, m, v] = [(); 3].map(|()| values.next().unwrap_or_default());
            let p = owned(f32_value(&parameter.dims, p)?);
            self.binding.input(&parameter.name, &p)?;
            self.parameters.push(p);
            self.moments.push([m, v]);
        }
        Ok(())
    }

    fn end_profiling(&mut self) -> Result<Vec<String>, TrainError> {
        Ok(vec![self.session.end_profiling()?])
    }
}
