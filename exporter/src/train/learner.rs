//! What learns: sessions, parameters, and what a pack would keep of them. How a run goes is in `course`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use overmask::base::Base;
use overmask::mask::{Granularity, Mask};
use overmask::pack::{NamedMask, TaskKind};
use overmask::task::Tokenizer;
use serde_json::Value;
use tempfile::TempDir;

use super::batch::{Examples, Inputs};
use super::features::{self, FrozenEncoder};
use super::graph::{self, Encoder, Graph, Objective, Role, Spec, name};
use super::session::{self, BaseSession, ForwardSession, Frozen, Placement};
use super::setup::{initial, spec};
use super::sparsity::{self, Phases};
use super::state::{Best, Kept};
use super::step::{Backend, StepSession};
use super::texts::Texts;
use super::value::{Feed, f32_value};
use super::{Layers, TrainError, TrainOptions, checkpoint, scores};
use crate::data::LabelSet;

/// A part of the work before the run's own: a teacher that learns, or a mask that is tried on some of the examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What it is, in a word.
    pub what: &'static str,
    /// Which, from 1, ...
    pub number: usize,
    /// ... of how many.
    pub of: usize,
}

/// How far a run is.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Epochs done.
    pub epoch: u32,
    /// Epochs in all; the last one may be cut short.
    pub epochs: u32,
    /// Running mean of the loss.
    pub loss: f32,
    /// Best score on the dev split so far.
    pub dev: Option<f64>,
    /// The try that is under way, from 1.
    pub attempt: usize,
    /// Tries in all.
    pub attempts: usize,
    /// Which part of the work before the run's own it is, if it is one; steps are then those of all parts.
    pub part: Option<Part>,
}

pub(super) struct Learner<'a> {
    base: &'a Arc<Base>,
    pub(super) options: &'a TrainOptions,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) labels: &'a LabelSet,
    pub(super) train: Arc<Examples>,
    pub(super) dev: Examples,
    /// Whether what lies below everything that trains is run beforehand, if anything does.
    pub(super) cuts_prefix: bool,
    pub(super) graph: Graph,
    pub(super) step: StepSession,
    pub(super) forward: ForwardSession,
    pub(super) threshold: f32,
    /// After how many epochs each the state is judged.
    pub(super) judged: u32,
    /// Where the first step's profiles are written, until they are read.
    pub(super) profiles: Option<TempDir>,
    /// What a further try is made of.
    spec: Spec,
    frozen: Frozen,
    start: Option<Kept>,
}

impl<'a> Learner<'a> {
    /// Sessions for a run; `start` is the head that it begins with.
    pub(super) fn new(
        base: &'a Arc<Base>,
        texts: Texts,
        labels: &'a LabelSet,
        start: Option<&Best>,
        options: &'a TrainOptions,
        stop: &AtomicBool,
    ) -> Result<Self, TrainError> {
        let Texts { tokenizer, mut train, mut dev, .. } = texts;
        let width = base.manifest().architecture.hidden_size;
        let mut spec = spec(base, labels.len(), options)?;
        if spec.encoder == Encoder::Frozen && matches!(train.inputs, Inputs::Tokens(_)) {
            let encoder = FrozenEncoder::start(base, &[], &[], options)?;
            encoder.replace_tokens(&mut train, &tokenizer, stop)?;
            encoder.replace_tokens(&mut dev, &tokenizer, stop)?;
        }
        let backend = Backend::of(options.device, options.in_parts());
        let mut graph = backend.graph(base, &spec)?;
        if graph.prefix.is_none() && spec.cut_prefix && options.layers != Layers::all() {
            log::info!("no part of the encoder can be run beforehand: all of it runs at every step");
        }
        let bytes = train.states_bytes(width) + dev.states_bytes(width);
        if graph.prefix.is_some() && bytes > options.cache {
            log::warn!(
                "the layers below all that trains run at every step: their output would take {} MB, and \
                 --cache is {} MB",
                bytes / 1_000_000,
                options.cache / 1_000_000
            );
            spec.cut_prefix = false;
            graph = backend.graph(base, &spec)?;
        }
        let forward = graph::forward(base, &spec)?;
        if let Some(prefix) = &graph.prefix {
            let placement = Placement { device: options.device, threads: options.threads, profile: None };
            let mut session = BaseSession::of_prefix(prefix, base, &placement)?;
            for examples in [&mut train, &mut dev] {
                features::keep_prefixes(&mut session, examples, &tokenizer, width, stop)?;
            }
        }
        let profiles = options.check_placement.then(tempfile::tempdir).transpose();
        let profiles = profiles.map_err(|source| TrainError::Write { path: std::env::temp_dir(), source })?;
        let profile = profiles.as_ref().map(|dir| dir.path().join("step"));
        let placement = Placement { device: options.device, threads: options.threads, profile };
        // The forward pass of the dev split reads the same weights.
        let frozen = session::frozen(base, &graph.frozen, &placement)?;
        let start = start.map(|best| best.kept.clone());
        let state = session::fresh(initial(base, &graph, options, start.as_ref(), train.scale)?);
        let step = StepSession::new(backend, &graph, spec.optimizer(), state, &frozen, &placement)?;
        let forward = ForwardSession::new(&forward, &frozen, &placement)?;
        Ok(Learner {
            base,
            options,
            tokenizer,
            labels,
            train: Arc::new(train),
            dev,
            cuts_prefix: spec.cut_prefix,
            graph,
            step,
            forward,
            threshold: 0.0,
            judged: 1,
            profiles,
            spec,
            frozen,
            start,
        })
    }

    /// Puts everything where it was before the first step: the next try begins there.
    pub(super) fn restart(&mut self) -> Result<(), TrainError> {
        let o = self.options;
        let (backend, scale) = (Backend::of(o.device, o.in_parts()), self.train.scale);
        let state = session::fresh(initial(self.base, &self.graph, o, self.start.as_ref(), scale)?);
        let placement = Placement { device: o.device, threads: o.threads, profile: None };
        self.step = StepSession::new(backend, &self.graph, self.spec.optimizer(), state, &self.frozen, &placement)?;
        self.threshold = 0.0;
        Ok(())
    }

    /// Whether the state after so many epochs is judged: each, or one in several, and the last.
    pub(super) fn is_judged(&self, epoch: u32, epochs: u32) -> bool {
        epoch == epochs || epoch.is_multiple_of(self.judged)
    }

    pub(super) fn width(&self) -> usize {
        self.base.manifest().architecture.hidden_size
    }

    /// Puts the threshold where the schedule wants it, if there is one.
    pub(super) fn move_threshold(&mut self, phases: &Phases, step: u64) -> Result<(), TrainError> {
        if let Some(sparsity) = sparsity::scheduled(self.options, phases, step) {
            self.threshold = sparsity::threshold(self.scores()?, sparsity);
        }
        Ok(())
    }

    /// The scores of each masked tensor.
    fn scores(&self) -> Result<Vec<Vec<f32>>, TrainError> {
        let scores = self.graph.trained.iter().filter(|t| t.scores_of().is_some());
        scores.map(|t| self.step.download(&t.name)).collect()
    }

    /// What all scores are compared with; nothing for `2:4`, which compares them with each other.
    pub(super) fn threshold(&self) -> Result<Feed, TrainError> {
        let compared = self.graph.trained.iter().any(|t| t.scores_of().is_some());
        if !compared || self.options.granularity == Granularity::TwoOfFour {
            return Ok(Vec::new());
        }
        Ok(vec![(name::THRESHOLD.to_owned(), f32_value(&[], vec![self.threshold])?)])
    }

    /// What a pack would keep of the current state.
    pub(super) fn kept(&self) -> Result<Kept, TrainError> {
        let mut kept = Kept { masks: Vec::new(), tensors: BTreeMap::new() };
        for parameter in &self.graph.trained {
            let values = self.step.download(&parameter.name)?;
            match &parameter.role {
                Role::Scores(tensor) => {
                    let mask: Mask = scores::to_mask(tensor, &values, self.options.granularity, self.threshold)?;
                    kept.masks.push(NamedMask { tensor: tensor.name.clone(), mask });
                }
                Role::Dense | Role::Head => drop(kept.tensors.insert(parameter.name.clone(), values)),
            }
        }
        let scale = self.train.scale;
        if self.options.form.kind == TaskKind::Regress {
            // The device's head gives the number itself.
            let deviation = scale.deviation as f32;
            if let Some(weight) = kept.tensors.get_mut(name::HEAD_WEIGHT) {
                weight.iter_mut().for_each(|w| *w *= deviation);
            }
            if let Some(bias) = kept.tensors.get_mut(name::HEAD_BIAS) {
                bias.iter_mut().for_each(|b| *b = scale.undo(*b));
            }
        }
        Ok(kept)
    }

    /// The run on disk, if it is to go on from there; puts its state in place.
    pub(super) fn saved(&mut self, facts: &BTreeMap<String, Value>) -> Result<Option<checkpoint::Saved>, TrainError> {
        let Some(file) = self.options.checkpoint.as_ref().filter(|c| c.resume).map(|c| &c.file) else {
            return Ok(None);
        };
        let mask = |tensor: &str, bytes: &[u8]| {
            let tensor = self.base.maskable(tensor)?;
            Mask::from_bytes(self.options.granularity, tensor.outputs, tensor.inputs, bytes).ok()
        };
        let Some(mut saved) = checkpoint::read(file, &self.graph, facts, mask)? else { return Ok(None) };
        self.step.restore(std::mem::take(&mut saved.state))?;
        self.step.restore_loss_scale(saved.document.loss_scale);
        self.threshold = saved.document.threshold.unwrap_or(f32::NEG_INFINITY);
        Ok(Some(saved))
    }

    /// Whether the run is to be written to disk after so many steps.
    pub(super) fn is_due(&self, step: u64) -> bool {
        self.options.checkpoint.as_ref().is_some_and(|checkpoint| step.is_multiple_of(checkpoint.every))
    }
}

/// The fraction of the masked tensors' weights that are zero; 0 without masks.
pub(super) fn sparsity_of(kept: &Kept) -> f64 {
    let zeros: u64 = kept.masks.iter().map(|m| m.mask.zero_weights()).sum();
    let weights: u64 = kept.masks.iter().map(|m| (m.mask.outputs() * m.mask.inputs()) as u64).sum();
    if weights == 0 { 0.0 } else { zeros as f64 / weights as f64 }
}
