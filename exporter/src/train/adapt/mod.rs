//! A base is prepared for masks, once and for no task: it learns to give under random masks what it gave without one,
//! so that more of its masks are good ones. What comes of it is another base, with packs of its own.

mod masks;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use overmask::base::Base;
use overmask::engine::Device;
use overmask::mask::Granularity;
use overmask::task::{Tokenizer, Tokens};
use overmask_graph::encoder::Padded;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::masks::Masks;
use super::batch::{salt, token_feed};
use super::graph::{self, Adaptation, Graph, Objective, States, name};
use super::sealed::{self, Sealed};
use super::select::{self, Tune};
use super::session::{BaseSession, ForwardSession, Frozen, Placement, all_owned, fresh, frozen};
use super::setup::Rates;
use super::step::{Backend, MicroBatch, StepSession};
use super::value::{Feed, f32_value};
use super::{CheckpointOptions, TrainError, placement, schedule};
use crate::data::rng::{self, stream};
use crate::data::{self, Unlabelled};

/// Texts that tell how far the student is from the base, and are not learnt: one in so many, ...
const HELD: usize = 20;
/// ... but no more than these.
const MOST_HELD: usize = 128;

/// Fewer texts than these are learnt by heart.
const FEW: usize = 1000;

/// In how many parts the distance is said on the way.
const REPORTS: u64 = 10;

/// What to do about a run whose numbers grow without end.
const STEADIER: &str = "lower `learning_rate`, or lengthen `warmup`";

/// How a base is prepared.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptOptions {
    /// Unit of the random masks.
    pub granularity: Granularity,
    /// The largest part of all units that a random mask zeroes; of `2:4` it zeroes half.
    pub sparsity: f64,
    /// Steps.
    pub steps: u64,
    /// Texts a step.
    pub batch_size: usize,
    /// AdamW's rate, at its highest.
    pub learning_rate: f64,
    /// The part of all steps in which the rate rises from zero.
    pub warmup: f64,
    /// The largest norm of all gradients together.
    pub clip_norm: f64,
    /// The longest text, in tokens with the special ones; longer ones are cut.
    pub max_tokens: usize,
    /// Decides masks, the order of texts, and which are held out.
    pub seed: u64,
    /// Where the steps run.
    pub device: Device,
    /// Threads of a CPU run.
    pub threads: usize,
    /// The run on disk, if it is to be there.
    pub checkpoint: Option<CheckpointOptions>,
    /// Whether the run fails when a node that computes has run outside the device.
    pub check_placement: bool,
}

impl Default for AdaptOptions {
    fn default() -> Self {
        AdaptOptions {
            granularity: Granularity::Block { rows: 32, cols: 1 },
            sparsity: 0.6,
            steps: 4000,
            batch_size: 32,
            learning_rate: 2e-4,
            warmup: 0.06,
            clip_norm: 1.0,
            max_tokens: 64,
            seed: 1,
            device: Device::Cpu,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            checkpoint: None,
            check_placement: false,
        }
    }
}

impl AdaptOptions {
    fn check(&self, base: &Base) -> Result<(), TrainError> {
        let wrong = |field, reason: String| Err(TrainError::Option { field, reason });
        let part = |value: f64| value > 0.0 && value < 1.0;
        if !part(self.sparsity) {
            return wrong("sparsity", format!("{} is not between 0 and 1", self.sparsity));
        }
        if !(0.0..1.0).contains(&self.warmup) {
            return wrong("warmup", format!("{} is not from 0 to below 1", self.warmup));
        }
        for (field, value) in [("learning_rate", self.learning_rate), ("clip_norm", self.clip_norm)] {
            if !(value.is_finite() && value > 0.0) {
                return wrong(field, format!("{value} is not a finite number above 0"));
            }
        }
        for (field, value) in [("steps", self.steps), ("batch_size", self.batch_size as u64)] {
            if value == 0 {
                return wrong(field, "is 0".to_owned());
            }
        }
        if self.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.every == 0) {
            return wrong("checkpoint.every", "is 0".to_owned());
        }
        let most = base.manifest().architecture.max_positions;
        if !(3..=most).contains(&self.max_tokens) {
            return wrong("max_tokens", format!("{} is not from 3 to {most}, what the base takes", self.max_tokens));
        }
        Ok(())
    }
}

/// A run on disk, but for its state.
#[derive(Serialize, Deserialize)]
struct Document {
    /// What decides the run.
    facts: BTreeMap<String, Value>,
    step: u64,
    loss: f32,
    before: Distances,
    seconds: f64,
}

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct AdaptProgress {
    /// Steps done, ...
    pub step: u64,
    /// ... of how many.
    pub steps: u64,
    /// Running mean of the loss.
    pub loss: f32,
}

/// How far what the encoder gives is from what the base gave: |difference|² / |base|² over texts that were not learnt,
/// the mean of all layers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distances {
    /// Without a mask.
    pub dense: f32,
    /// Under random masks with a tenth of all units zero; `2:4` has always half.
    pub tenth: Option<f32>,
    /// With half of them.
    pub half: f32,
}

/// What a run made.
#[derive(Debug)]
pub struct Adapted {
    /// The tensors that have changed.
    pub tensors: BTreeMap<String, Vec<f32>>,
    /// How far from the base it was before the first step, ...
    pub before: Distances,
    /// ... and after the last one.
    pub after: Distances,
    /// Texts that were learnt from, each counted once.
    pub texts: usize,
    /// Texts that were not, but tell the distances.
    pub held: usize,
    /// Texts that were there a second time, and left out.
    pub repeated: usize,
    /// Steps done.
    pub steps: u64,
    /// Running mean of the loss at the end.
    pub loss: f32,
    /// Whether it was stopped before its end.
    pub stopped: bool,
    /// Whether all that was learnt is on disk, to go on from.
    pub saved: bool,
    /// Seconds from the first step to the last, what is measured on the way included.
    pub seconds: f64,
}

/// Prepares a base; the texts are any that are like those of its tasks.
///
/// When `stop` becomes true the run ends after the step under way with what has been learnt so far.
///
/// # Errors
/// When options, texts or base do not fit, the run is stopped before its first step, or the runtime fails.
pub fn adapt(
    base: &Arc<Base>,
    texts: &Unlabelled,
    options: &AdaptOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(AdaptProgress),
) -> Result<Adapted, TrainError> {
    options.check(base)?;
    // Before the work: `ort` panics where it finds no library.
    overmask_ort::environment()?;
    let mut run = Run::start(base, texts, options)?;
    let facts = facts(base, texts, options);
    let mut course = match run.saved(&facts)? {
        Some(course) => course,
        None => {
            super::go_on(stop)?;
            Document { facts, step: 0, loss: 0.0, before: run.distances()?, seconds: 0.0 }
        }
    };
    log::info!("before: {}", course.before);
    let (first, started) = (course.step, Instant::now());
    let earlier = course.seconds;
    let stopped = 'run: {
        let lengths: Vec<usize> = run.learnt.iter().map(Tokens::len).collect();
        let epoch_steps = lengths.len().div_ceil(options.batch_size) as u64;
        for epoch in course.step / epoch_steps.. {
            let batches = data::epoch_batches(&lengths, options.batch_size, options.seed ^ salt::ORDER, epoch);
            for batch in &batches[(course.step - epoch * epoch_steps) as usize..] {
                if course.step == options.steps {
                    break 'run false;
                }
                // One step is done in any case, so that there is something to keep.
                if course.step > first && stop.load(Ordering::Relaxed) {
                    break 'run true;
                }
                let loss = run.step(batch, course.step)?;
                course.step += 1;
                course.loss = if course.step == 1 { loss } else { 0.98 * course.loss + 0.02 * loss };
                course.seconds = earlier + started.elapsed().as_secs_f64();
                progress(AdaptProgress { step: course.step, steps: options.steps, loss: course.loss });
                let step = course.step;
                if options.checkpoint.as_ref().is_some_and(|checkpoint| step.is_multiple_of(checkpoint.every)) {
                    run.save(&course);
                }
                if step.is_multiple_of(options.steps.div_ceil(REPORTS)) && step < options.steps {
                    log::info!("step {step}: loss {:.4}; {}", course.loss, run.distances()?);
                }
            }
        }
        false
    };
    // Whatever becomes of the base that is written of it.
    let saved = run.save(&course);
    let after = run.distances()?;
    log::info!("after: {after}");
    let tensors = run.graph.trained.iter().map(|t| Ok((t.name.clone(), run.session.download(&t.name)?)));
    let tensors = tensors.collect::<Result<_, TrainError>>()?;
    let (texts, held, repeated) = (run.learnt.len(), run.held.len(), run.repeated);
    let Document { step: steps, loss, before, seconds, .. } = course;
    Ok(Adapted { tensors, before, after, texts, held, repeated, steps, loss, stopped, saved, seconds })
}

/// What decides a run: a checkpoint of another one is of no use.
fn facts(base: &Base, texts: &Unlabelled, o: &AdaptOptions) -> BTreeMap<String, Value> {
    let facts = [
        ("tool", json!(concat!("overmask-export ", env!("CARGO_PKG_VERSION")))),
        ("method", json!("adapt")),
        ("device", json!(o.device.to_string())),
        ("threads", json!(o.threads)),
        ("base", json!(base.base_id())),
        ("texts", json!(texts.digest())),
        ("granularity", json!(o.granularity.to_string())),
        ("sparsity", json!(o.sparsity)),
        ("steps", json!(o.steps)),
        ("batch_size", json!(o.batch_size)),
        ("learning_rate", json!(o.learning_rate)),
        ("warmup", json!(o.warmup)),
        ("clip_norm", json!(o.clip_norm)),
        ("max_tokens", json!(o.max_tokens)),
        ("seed", json!(o.seed)),
    ];
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl std::fmt::Display for Distances {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Distances { dense, tenth, half } = self;
        write!(f, "{dense:.4} from the base without a mask, ")?;
        if let Some(tenth) = tenth {
            write!(f, "{tenth:.4} with 10 % zeros, ")?;
        }
        write!(f, "{half:.4} with 50 %")
    }
}

/// Everything that a step reads.
struct Run<'a> {
    options: &'a AdaptOptions,
    tokenizer: Tokenizer,
    width: usize,
    learnt: Vec<Tokens>,
    held: Vec<Tokens>,
    repeated: usize,
    masks: Masks,
    states: BaseSession,
    graph: Graph,
    session: StepSession,
    forward: ForwardSession,
    /// Where the first step's profiles are written, until they are read.
    profiles: Option<TempDir>,
}

impl<'a> Run<'a> {
    fn start(base: &Arc<Base>, texts: &Unlabelled, o: &'a AdaptOptions) -> Result<Self, TrainError> {
        let tokenizer = Tokenizer::open(base)?;
        let mut seen = HashSet::new();
        let distinct = texts.inputs.iter().filter(|(input, _)| seen.insert(data::key(input)));
        let tokens: Vec<Tokens> =
            distinct.map(|(input, _)| Ok(tokenizer.encode(input, o.max_tokens)?)).collect::<Result<_, TrainError>>()?;
        let repeated = texts.inputs.len() - tokens.len();
        let order = rng::permutation(o.seed, stream::SPLIT, 0, tokens.len());
        let (held, learnt) = order.split_at((tokens.len() / HELD).clamp(1, MOST_HELD).min(tokens.len()));
        let [held, learnt] = [held, learnt].map(|part| part.iter().map(|i| tokens[*i].clone()).collect::<Vec<_>>());
        if learnt.is_empty() {
            let reason = "is one text; it takes thousands".to_owned();
            return Err(TrainError::Option { field: "texts", reason });
        }
        if learnt.len() < FEW {
            log::warn!("{} texts are few to prepare a base by: they are soon known by heart", learnt.len());
        }
        let masked = base.manifest().maskable.clone();
        let mut dense = Vec::new();
        // A graph of somebody else may have none that could be told.
        for tune in [Tune { norms: true, biases: false }, Tune { norms: false, biases: true }] {
            match select::small_tensors(base, tune) {
                Err(TrainError::Option { .. }) => (),
                small => dense.extend(small?),
            }
        }
        let (granularity, clip_norm) = (o.granularity, o.clip_norm as f32);
        let adaptation = Adaptation { masked, granularity, dense, clip_norm };
        let masks = Masks::new(base, &adaptation, o.sparsity)?;
        let backend = Backend::of(o.device, false);
        let profiles = o.check_placement.then(tempfile::tempdir).transpose();
        let profiles = profiles.map_err(|source| TrainError::Write { path: std::env::temp_dir(), source })?;
        let profile = profiles.as_ref().map(|dir| dir.path().join("step"));
        let placement = Placement { device: o.device, threads: o.threads, profile };
        let graph = backend.graph(base, &adaptation)?;
        let States { model, frozen: all, count } = graph::states(base)?;
        log::info!("compared with the base after {count} of its {} layers", base.manifest().architecture.layers);
        let weights = frozen(base, &all, &placement)?;
        let outputs = (0..count).map(graph::state).collect();
        let states = BaseSession::new(&model, &weights, outputs, &placement)?;
        let initial = graph.trained.iter().map(|t| Ok(base.tensor_f32(&t.name)?.1.to_vec()));
        let state = fresh(initial.collect::<Result<_, TrainError>>()?);
        let own: Frozen = weights.into_iter().filter(|(name, _)| graph.frozen.contains(name)).collect();
        let session = StepSession::new(backend, &graph, adaptation.optimizer(), state, &own, &placement)?;
        let forward = ForwardSession::new(&adaptation.distance(base)?, &own, &placement)?;
        let width = base.manifest().architecture.hidden_size;
        Ok(Run {
            options: o,
            tokenizer,
            width,
            learnt,
            held,
            repeated,
            masks,
            states,
            graph,
            session,
            forward,
            profiles,
        })
    }

    /// The run on disk, if it is to go on from there; puts its state in place.
    fn saved(&mut self, facts: &BTreeMap<String, Value>) -> Result<Option<Document>, TrainError> {
        let Some(checkpoint) = self.options.checkpoint.as_ref().filter(|checkpoint| checkpoint.resume) else {
            return Ok(None);
        };
        let Some(sealed) = Sealed::read(&checkpoint.file)? else { return Ok(None) };
        let document: Document = sealed.document(|document: &Document| &document.facts, facts)?;
        self.session.restore(sealed.state(&self.graph)?)?;
        log::info!("going on after step {} of {}", document.step, self.options.steps);
        Ok(Some(document))
    }

    /// Writes the run to disk, if it has a file, and returns whether it is there. A write that fails leaves the last
    /// whole file and does not end the run: there may be room again when the next one is due.
    fn save(&self, document: &Document) -> bool {
        let Some(checkpoint) = &self.options.checkpoint else { return false };
        let state = self.session.state();
        let done =
            state.and_then(|state| sealed::write(&checkpoint.file, document, &sealed::of_state(&self.graph, &state)));
        if let Err(error) = &done {
            log::warn!("step {}: {error}; a run that is cut off before the next write loses more", document.step);
        }
        done.is_ok()
    }

    fn step(&mut self, batch: &[usize], step: u64) -> Result<f32, TrainError> {
        let texts: Vec<&Tokens> = batch.iter().map(|i| &self.learnt[*i]).collect();
        let mut inputs = inputs(&mut self.states, &self.tokenizer, &texts, self.width)?;
        let o = self.options;
        inputs.extend(self.masks.of_step(o.seed, step)?);
        let rate = o.learning_rate * schedule::factor(step, o.steps, o.warmup);
        let sizes = Rates { scores: rate, dense: rate, head: rate }.at(step);
        let (loss, norm) = self.session.run(vec![MicroBatch { inputs, share: 1.0 }], Feed::new(), sizes)?;
        if !loss.is_finite() || !norm.is_finite() {
            let what = format!("the loss is {loss} and the norm of its gradients {norm}");
            return Err(TrainError::Diverged { step: step + 1, what, advice: STEADIER });
        }
        if let Some(_dir) = self.profiles.take() {
            for profile in self.session.end_profiling()? {
                placement::check(&profile, o.device)?;
            }
        }
        Ok(loss)
    }

    /// How far the texts that are held out are from the base, under masks that are the same at each call.
    fn distances(&mut self) -> Result<Distances, TrainError> {
        let mut sums = [0.0; 3];
        let o = self.options;
        for (number, texts) in (0..).zip(self.held.chunks(o.batch_size)) {
            let texts: Vec<&Tokens> = texts.iter().collect();
            let inputs = all_owned(inputs(&mut self.states, &self.tokenizer, &texts, self.width)?);
            for (sum, sparsity) in sums.iter_mut().zip([0.0, 0.1, 0.5]) {
                let mut all = inputs.clone();
                all.extend(all_owned(self.masks.given(o.seed ^ salt::DEV, sparsity, 1.0, number)?));
                let parameter = |name: &str| self.session.parameter(name);
                let distance = self.forward.run(parameter, &all, name::LOSS, &[])?;
                *sum += distance.first().copied().unwrap_or_default() * texts.len() as f32;
            }
        }
        let [dense, tenth, half] = sums.map(|sum| sum / self.held.len() as f32);
        let tenth = (o.granularity != Granularity::TwoOfFour).then_some(tenth);
        Ok(Distances { dense, tenth, half })
    }
}

/// What a step or a distance reads of some texts: tokens, and the base's states.
fn inputs(
    states: &mut BaseSession,
    tokenizer: &Tokenizer,
    texts: &[&Tokens],
    width: usize,
) -> Result<Feed, TrainError> {
    let batch = Padded::from(&tokenizer.batch(texts.iter().copied()));
    let shape = [batch.batch, batch.sequence, width];
    let mut inputs = token_feed(&batch)?;
    for (number, values) in states.run(&batch, width)?.into_iter().enumerate() {
        inputs.push((graph::state(number), f32_value(&shape, values)?));
    }
    Ok(inputs)
}
