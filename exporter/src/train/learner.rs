//! The training loop: steps, dev scores, the best state, checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use overmask::base::Base;
use overmask::mask::{Granularity, Mask};
use overmask::pack::{NamedMask, Pack, TaskKind};
use overmask::task::Tokenizer;
use serde_json::Value;
use tempfile::TempDir;

use super::batch::{Examples, salt};
use super::features::{self, FrozenEncoder};
use super::graph::{self, Encoder, Graph, Role, name};
use super::loader::{Batch, Loader, Source};
use super::losses::Losses;
use super::options::Sampling;
use super::session::{self, ForwardSession, Placement, PrefixSession};
use super::setup::{Rates, initial, spec};
use super::sparsity::{self, Noise, Phases};
use super::state::{Best, Epoch, Kept};
use super::step::{Backend, StepSession};
use super::value::{Feed, f32_value};
use super::{Layers, TrainError, TrainOptions, checkpoint, go_on, placement, schedule, scores, teacher};
use crate::data::{self, Dataset, LabelSet};

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
}

/// What a run comes to.
pub(super) struct Learnt {
    pub(super) best: Kept,
    pub(super) curve: Vec<Epoch>,
    pub(super) steps: u64,
    pub(super) stopped: bool,
    pub(super) time: Duration,
    /// How much of it was spent in waiting for batches.
    pub(super) waited: Duration,
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
    graph: Graph,
    pub(super) step: StepSession,
    pub(super) forward: ForwardSession,
    threshold: f32,
    /// Where profiles are written; removed at the end.
    _profiles: Option<TempDir>,
}

impl<'a> Learner<'a> {
    pub(super) fn new(
        base: &'a Arc<Base>,
        train: &Dataset,
        dev: &Dataset,
        labels: &'a LabelSet,
        teacher: Option<&Pack>,
        options: &'a TrainOptions,
        stop: &AtomicBool,
    ) -> Result<Self, TrainError> {
        let tokenizer = Tokenizer::open(base)?;
        let tokenize =
            |data, scale| Examples::tokenize(data, options.form.kind, labels, &tokenizer, options.max_tokens, scale);
        let mut train = tokenize(train, None)?;
        let mut dev = tokenize(dev, Some(train.scale))?;
        if train.len() == 0 || dev.len() == 0 {
            let counts = format!("leaves {} examples to train on, {} to choose by", train.len(), dev.len());
            let reason = format!("{counts}; take another fraction, or `data.dev`");
            return Err(TrainError::Option { field: "dev_fraction", reason });
        }
        let full = train.lengths.iter().chain(&dev.lengths).filter(|length| **length >= options.max_tokens).count();
        if full > 0 {
            let all = train.len() + dev.len();
            log::info!("{full} of {all} examples fill --max-tokens {}: what is longer is cut", options.max_tokens);
        }
        if options.form.kind == TaskKind::Regress {
            train.scale.check(options.head_dtype)?;
        }
        let width = base.manifest().architecture.hidden_size;
        let taught = options.teacher.as_ref().is_some_and(|teacher| teacher.states > 0.0);
        if taught && train.states_bytes(width) > options.cache {
            let (takes, most) = (train.states_bytes(width) / 1_000_000, options.cache / 1_000_000);
            let reason = format!("takes {takes} MB of memory, and `cache` is {most} MB");
            return Err(TrainError::Option { field: "teacher.states", reason });
        }
        if let Some(pack) = teacher {
            teacher::teach(base, pack, &mut train, &tokenizer, options, stop)?;
        }
        let mut spec = spec(base, labels.len(), options)?;
        if spec.encoder == Encoder::Frozen {
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
            let mut session = PrefixSession::new(prefix, base, &placement)?;
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
        let state = session::fresh(initial(base, &graph, options)?);
        let step = StepSession::new(backend, &graph, &spec, state, &frozen, &placement)?;
        let forward = ForwardSession::new(&forward, &frozen, &placement)?;
        let (train, tokenizer) = (Arc::new(train), Arc::new(tokenizer));
        Ok(Learner {
            base,
            options,
            tokenizer,
            labels,
            train,
            dev,
            cuts_prefix: spec.cut_prefix,
            graph,
            step,
            forward,
            threshold: 0.0,
            _profiles: profiles,
        })
    }

    pub(super) fn width(&self) -> usize {
        self.base.manifest().architecture.hidden_size
    }

    /// Trains; `facts` is what a checkpoint must agree with.
    pub(super) fn learn(
        &mut self,
        facts: &BTreeMap<String, Value>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Learnt, TrainError> {
        go_on(stop)?;
        let started = Instant::now();
        let o = self.options;
        let epoch_steps = self.train.len().div_ceil(o.batch_size) as u64;
        let steps = (epoch_steps * u64::from(o.epochs)).min(o.max_steps.unwrap_or(u64::MAX));
        let phases = Phases::new(steps, o);
        let mut before = [Duration::ZERO; 2];
        // No more than were asked for.
        let epochs = steps.div_ceil(epoch_steps.max(1)) as u32;
        let mut now = Progress { step: 0, steps, epoch: 0, epochs, loss: 0.0, dev: None };
        let (mut best, mut curve): (Option<Best>, Vec<Epoch>) = (None, Vec::new());
        if let Some(saved) = self.saved(facts)? {
            (now.step, now.loss, best, curve) =
                (saved.document.step, saved.document.loss, saved.best, saved.document.curve);
            before = saved.document.time;
            log::info!("going on after step {} of {steps}", now.step);
        }
        now.epoch = curve.len() as u32;
        now.dev = best.as_ref().map(|best| best.score);
        let first = now.step;
        let mut losses = Losses::open(o.log_losses.as_deref(), first)?;
        let (mut stopped, mut waited) = (false, Duration::ZERO);
        let source = Arc::new(Source {
            examples: Arc::clone(&self.train),
            tokenizer: Arc::clone(&self.tokenizer),
            width: self.width(),
            dropout: o.dropout,
            seed: o.seed,
            micro_batch: o.micro_batch.unwrap_or(o.batch_size),
            noise: Noise::new(&self.graph.trained, &phases, o),
        });
        // A run that goes on from its last step has still to be judged there.
        while u64::from(now.epoch) * epoch_steps < steps && !stopped {
            let mut batches =
                data::epoch_batches(&self.train.lengths, o.batch_size, o.seed ^ salt::ORDER, u64::from(now.epoch));
            let done = now.step.saturating_sub(u64::from(now.epoch) * epoch_steps).min(epoch_steps);
            let mut loader = Loader::start(Arc::clone(&source), batches.split_off(done as usize), now.step);
            let time = |loader: &Loader| [before[0] + started.elapsed(), before[1] + waited + loader.waited()];
            for _ in done..epoch_steps {
                if now.step == steps {
                    break;
                }
                // The first step is done in any case, so that there is something to keep.
                stopped = now.step > 0 && stop.load(Ordering::Relaxed);
                if stopped {
                    break;
                }
                let loss = self.one_step(loader.next()?, &phases, &mut now, &mut losses)?;
                now.loss = if now.step == 1 { loss } else { 0.95 * now.loss + 0.05 * loss };
                if now.step == first + 1 && o.check_placement {
                    for profile in self.step.end_profiling()? {
                        placement::check(&profile, o.device)?;
                    }
                }
                progress(&now);
                if self.is_due(now.step) {
                    self.save(facts, &now, best.as_ref(), &curve, time(&loader))?;
                }
            }
            if stopped {
                self.save(facts, &now, best.as_ref(), &curve, time(&loader))?;
            }
            let time = time(&loader);
            waited += loader.waited();
            now.epoch += 1;
            self.judge(&phases, &now, stopped, &mut best, &mut curve)?;
            now.dev = best.as_ref().map(|best| best.score);
            progress(&now);
            if !stopped && now.step < steps && stop.load(Ordering::Relaxed) {
                stopped = true;
                self.save(facts, &now, best.as_ref(), &curve, time)?;
            }
        }
        losses.finish()?;
        let best = best.ok_or(TrainError::Stopped)?.kept;
        let (time, waited) = (before[0] + started.elapsed(), before[1] + waited);
        Ok(Learnt { best, curve, steps: now.step, stopped, time, waited })
    }

    /// How good the state at the end of an epoch is; the best is kept.
    fn judge(
        &mut self,
        phases: &Phases,
        now: &Progress,
        stopped: bool,
        best: &mut Option<Best>,
        curve: &mut Vec<Epoch>,
    ) -> Result<(), TrainError> {
        let o = self.options;
        if phases.reached(now.step) {
            // Scores have moved since it was set: what is judged and kept is what was asked for.
            self.move_threshold(phases, now.step)?;
        }
        let kept = self.kept()?;
        let (score, loss) = self.evaluate_dev(now.step)?;
        let sparsity = sparsity_of(&kept);
        // A head alone has a hundred epochs, of a blink each.
        let level = if o.is_live() { log::Level::Info } else { log::Level::Debug };
        let metric = o.form.kind.metric();
        let zeros = 100.0 * sparsity;
        let epoch = now.epoch;
        log::log!(
            level,
            "epoch {epoch}: dev {metric} {score:.4}, dev loss {loss:.4}, {zeros:.1} % of masked weights zero"
        );
        curve.push(Epoch { epoch, step: now.step, loss: now.loss, dev: score, dev_loss: loss, sparsity });
        // Equal scores are common on small dev splits; then the lower loss is better. A state that has not
        // the sparsity asked for only counts when there is no other.
        let reached = phases.reached(now.step);
        if !reached && stopped && best.is_none() {
            log::warn!("{zeros:.1} % of masked weights are zero so far, not yet what --target-sparsity asks for");
        }
        let counts = reached || stopped && best.is_none();
        if counts && best.as_ref().is_none_or(|best| (score, -loss) > (best.score, -best.loss)) {
            *best = Some(Best { score, loss, kept });
        }
        Ok(())
    }

    fn one_step(
        &mut self,
        batch: Batch,
        phases: &Phases,
        now: &mut Progress,
        losses: &mut Losses,
    ) -> Result<f32, TrainError> {
        let o = self.options;
        if phases.moves_threshold(now.step) {
            self.move_threshold(phases, now.step)?;
        }
        let factor = schedule::factor(now.step, now.steps, o.warmup);
        let of_scores = match now.step < phases.polish {
            true => schedule::factor(now.step, phases.polish, o.warmup),
            false => 0.0,
        };
        let rates = Rates {
            scores: o.learning_rate * of_scores,
            dense: o.dense_learning_rate * factor,
            head: o.head_learning_rate * factor,
        };
        let thresholds = if o.sampling == Sampling::Threshold { self.threshold()? } else { batch.noise };
        let (loss, norm) = self.step.run(batch.parts, thresholds, rates.at(now.step))?;
        now.step += 1;
        if !loss.is_finite() || !norm.is_finite() {
            let what = format!("the loss is {loss} and the norm of its gradients {norm}");
            return Err(TrainError::Diverged { step: now.step, what });
        }
        losses.write(now.step, loss, norm)?;
        Ok(loss)
    }

    /// Puts the threshold where the schedule wants it, if there is one.
    fn move_threshold(&mut self, phases: &Phases, step: u64) -> Result<(), TrainError> {
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
    fn kept(&self) -> Result<Kept, TrainError> {
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
    fn saved(&mut self, facts: &BTreeMap<String, Value>) -> Result<Option<checkpoint::Saved>, TrainError> {
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
    fn is_due(&self, step: u64) -> bool {
        self.options.checkpoint.as_ref().is_some_and(|checkpoint| step.is_multiple_of(checkpoint.every))
    }

    /// Writes the run to disk, if it has a file. A write that fails leaves the last whole file and does
    /// not end the run: there may be room again when the next one is due.
    fn save(
        &self,
        facts: &BTreeMap<String, Value>,
        now: &Progress,
        best: Option<&Best>,
        curve: &[Epoch],
        time: [Duration; 2],
    ) -> Result<(), TrainError> {
        let Some(checkpoint) = &self.options.checkpoint else { return Ok(()) };
        let (step, loss, threshold) = (now.step, now.loss, self.threshold);
        let (loss_scale, state) = (self.step.loss_scale(), self.step.state()?);
        let run = checkpoint::Run { facts, step, loss, loss_scale, threshold, curve, state, best, time };
        if let Err(error) = checkpoint::write(&checkpoint.file, &self.graph, run) {
            log::warn!("step {step}: {error}; a run that is cut off before the next write loses more");
        }
        Ok(())
    }
}

/// The fraction of the masked tensors' weights that are zero; 0 without masks.
fn sparsity_of(kept: &Kept) -> f64 {
    let zeros: u64 = kept.masks.iter().map(|m| m.mask.zero_weights()).sum();
    let weights: u64 = kept.masks.iter().map(|m| (m.mask.outputs() * m.mask.inputs()) as u64).sum();
    if weights == 0 { 0.0 } else { zeros as f64 / weights as f64 }
}
