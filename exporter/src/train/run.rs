//! The training loop.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ort::value::DynValue;
use overmask::base::Base;
use overmask::engine::{self, Device, EngineKind, EngineOptions};
use overmask::mask::Mask;
use overmask::pack::{Codec, Golden, Head, NamedMask, Pack, PackDocument, SCHEMA, TaskKind, TextSettings, check_name};
use overmask::task::{self, Runner, Tokenizer};
use serde_json::{Value, json};

use super::batch::{Texts, dropout, salt, stream};
use super::features::FrozenEncoder;
use super::graph::{self, Encoder, Graph, Spec, name};
use super::session::{ForwardSession, Frozen, Placement, StepSession, f32_value};
use super::{Method, TrainError, TrainOptions, go_on, placement, schedule, scores};
use crate::data::{self, Dataset, LabelSet, rng};
use crate::evaluate::evaluate;

/// Texts whose logits a pack records, so that a device can check its own.
const GOLDEN: usize = 8;

/// How far a run is.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Epochs done.
    pub epoch: u32,
    /// Running mean of the loss.
    pub loss: f32,
    /// Best accuracy on the dev split so far.
    pub dev_accuracy: Option<f64>,
}

/// What a run made.
#[derive(Debug)]
pub struct Outcome {
    /// The pack, not yet written.
    pub pack: Pack,
    /// Accuracy of the pack, as it is stored, on the dev split.
    pub dev_accuracy: f64,
    /// Steps done.
    pub steps: u64,
    /// Whether it was stopped before its end.
    pub stopped: bool,
    /// Time spent in steps and dev evaluations.
    pub time: Duration,
}

/// Learns a task and returns its pack.
///
/// A part of `train` chooses the checkpoint and is not trained on; `eval`, if given, is only
/// measured, at the end, through the same code that a device runs. When `stop` becomes true the
/// run ends early with the best checkpoint so far.
///
/// # Errors
/// When options, texts or base do not fit, the run is stopped before its first step, or the
/// runtime fails.
pub fn run(
    base: &Arc<Base>,
    train: &Dataset,
    eval: Option<&Dataset>,
    options: &TrainOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Outcome, TrainError> {
    check(base, options)?;
    // Before the work: `ort` panics where it finds no library.
    overmask::engine::ort::environment()?;
    let labels = LabelSet::for_training(train)?;
    if let Some(eval) = eval {
        labels.targets(eval)?;
    }
    let (rest, dev) = data::split(train, options.dev_fraction, options.seed ^ salt::DEV);
    if rest.is_empty() || dev.is_empty() {
        let reason = format!("leaves {} texts to train on, {} to choose by", rest.len(), dev.len());
        return Err(TrainError::Option { option: "--dev-fraction", reason });
    }
    let repeated = data::duplicates(&rest, &dev).len();
    if repeated > 0 {
        log::warn!("{repeated} of the {} texts that choose the checkpoint are also trained on", dev.len());
    }
    let mut learner = Learner::new(base, &rest, &dev, &labels, options, stop)?;
    let learnt = learner.learn(stop, progress)?;
    let (steps, stopped, time) = (learnt.steps, learnt.stopped, learnt.time);
    let mut pack = learner.pack(learnt, train, eval, &labels)?;
    // The first texts of the dev split; a small one has too few.
    let golden = dev.texts().into_iter().chain(rest.texts()).take(GOLDEN);
    let dev_accuracy = measure(base, &mut pack, golden, &dev, eval, options)?;
    Ok(Outcome { pack, dev_accuracy, steps, stopped, time })
}

fn check(base: &Base, o: &TrainOptions) -> Result<(), TrainError> {
    let wrong = |option, reason: String| Err(TrainError::Option { option, reason });
    let a = &base.manifest().architecture;
    check_name(&o.name).or_else(|reason| wrong("--name", reason))?;
    for (option, value) in [
        ("--initial-sparsity", o.initial_sparsity),
        ("--dropout", o.dropout),
        ("--warmup", o.warmup),
        ("--dev-fraction", o.dev_fraction),
    ] {
        if !(0.0..1.0).contains(&value) {
            return wrong(option, format!("{value} is not from 0 to below 1"));
        }
    }
    for (option, value) in [
        ("--learning-rate", o.learning_rate),
        ("--head-learning-rate", o.head_learning_rate),
        ("--clip-norm", o.clip_norm),
    ] {
        if !(value.is_finite() && value > 0.0) {
            return wrong(option, format!("{value} is not above 0"));
        }
    }
    if o.from_layer >= a.layers && o.method == Method::Mask {
        return wrong("--from-layer", format!("{} of a base with layers 0 to {}", o.from_layer, a.layers - 1));
    }
    if o.max_tokens < 3 || o.max_tokens > a.max_positions {
        return wrong("--max-tokens", format!("{} is not from 3 to {}", o.max_tokens, a.max_positions));
    }
    for (option, value) in [("--epochs", o.epochs as usize), ("--batch-size", o.batch_size), ("--threads", o.threads)] {
        if value == 0 {
            return wrong(option, "is 0".to_owned());
        }
    }
    if o.max_steps == Some(0) {
        return wrong("--max-steps", "is 0".to_owned());
    }
    Ok(())
}

/// A checkpoint: what a pack keeps of the state.
struct Checkpoint {
    masks: Vec<NamedMask>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

struct Learnt {
    best: Checkpoint,
    steps: u64,
    stopped: bool,
    time: Duration,
}

struct Learner<'a> {
    base: &'a Arc<Base>,
    options: &'a TrainOptions,
    tokenizer: Tokenizer,
    train: Texts,
    dev: Texts,
    classes: usize,
    graph: Graph,
    step: StepSession,
    forward: ForwardSession,
}

impl<'a> Learner<'a> {
    fn new(
        base: &'a Arc<Base>,
        train: &Dataset,
        dev: &Dataset,
        labels: &LabelSet,
        options: &'a TrainOptions,
        stop: &AtomicBool,
    ) -> Result<Self, TrainError> {
        let tokenizer = Tokenizer::open(base)?;
        let tokenize = |data| Texts::tokenize(data, labels, &tokenizer, options.max_tokens);
        let (mut train, mut dev) = (tokenize(train)?, tokenize(dev)?);
        let encoder = match options.method {
            Method::Head => {
                let mut features = FrozenEncoder::start(base, options)?;
                features.replace_tokens(&mut train, &tokenizer, stop)?;
                features.replace_tokens(&mut dev, &tokenizer, stop)?;
                Encoder::Frozen
            }
            Method::Mask => Encoder::Masked { granularity: options.granularity, from_layer: options.from_layer },
        };
        let classes = labels.len();
        let spec = Spec { encoder, pooling: options.pooling, classes, clip_norm: options.clip_norm as f32 };
        let graph = graph::step(base, &spec)?;
        let forward = graph::forward(base, &spec)?;
        let profile = options.check_placement.then(|| std::env::temp_dir().join("overmask-step"));
        let placement = Placement { device: options.device, threads: options.threads, profile };
        let frozen: Frozen = super::session::frozen(base, &graph.frozen)?;
        let initial = initial(base, &graph, options)?;
        let step = StepSession::new(&graph, &initial, &frozen, &placement)?;
        let forward = ForwardSession::new(&forward, &frozen, &placement)?;
        Ok(Learner { base, options, tokenizer, train, dev, classes, graph, step, forward })
    }

    fn width(&self) -> usize {
        self.base.manifest().architecture.hidden_size
    }

    fn learn(&mut self, stop: &AtomicBool, progress: &mut dyn FnMut(&Progress)) -> Result<Learnt, TrainError> {
        go_on(stop)?;
        let started = Instant::now();
        let o = self.options;
        let epoch_steps = self.train.len().div_ceil(o.batch_size) as u64;
        let steps = (epoch_steps * u64::from(o.epochs)).min(o.max_steps.unwrap_or(u64::MAX));
        let mut losses = Losses::open(o)?;
        let mut now = Progress { step: 0, steps, epoch: 0, loss: 0.0, dev_accuracy: None };
        let mut best: Option<(f64, f64, Checkpoint)> = None;
        let mut stopped = false;
        while now.step < steps && !stopped {
            let batches =
                data::epoch_batches(&self.train.lengths, o.batch_size, o.seed ^ salt::ORDER, u64::from(now.epoch));
            for indices in batches {
                // The first step is done in any case, so that there is something to keep.
                stopped = now.step > 0 && stop.load(Ordering::Relaxed);
                if stopped || now.step == steps {
                    break;
                }
                let loss = self.one_step(&indices, &mut now, &mut losses)?;
                now.loss = if now.step == 1 { loss } else { 0.95 * now.loss + 0.05 * loss };
                if now.step == 1 && o.check_placement {
                    placement::check(&self.step.end_profiling()?, o.device)?;
                }
                progress(&now);
            }
            now.epoch += 1;
            let (accuracy, loss) = self.evaluate_dev()?;
            // A head alone has a hundred epochs, of a blink each.
            let level = if o.method == Method::Head { log::Level::Debug } else { log::Level::Info };
            log::log!(level, "epoch {}: dev accuracy {accuracy:.4}, dev loss {loss:.4}", now.epoch);
            // Equal accuracies are common on small dev splits; then the lower loss is better.
            if best.as_ref().is_none_or(|(a, l, _)| (accuracy, -loss) > (*a, -*l)) {
                best = Some((accuracy, loss, self.checkpoint()?));
            }
            now.dev_accuracy = best.as_ref().map(|b| b.0);
            progress(&now);
        }
        losses.finish()?;
        let (_, _, best) = best.ok_or(TrainError::Stopped)?;
        Ok(Learnt { best, steps: now.step, stopped, time: started.elapsed() })
    }

    fn one_step(&mut self, indices: &[usize], now: &mut Progress, losses: &mut Losses) -> Result<f32, TrainError> {
        let o = self.options;
        let factor = schedule::factor(now.step, now.steps, o.warmup);
        let mask = dropout(o.dropout, o.seed, now.step, indices.len() * self.width());
        let mut inputs = self.train.batch(&self.tokenizer, indices, mask)?;
        inputs.push(self.train.targets(indices)?);
        inputs.extend(rates(o.learning_rate * factor, o.head_learning_rate * factor, now.step)?);
        let (loss, norm) = self.step.run(inputs)?;
        now.step += 1;
        if !loss.is_finite() || !norm.is_finite() {
            return Err(TrainError::Diverged { step: now.step, loss });
        }
        losses.write(now.step, loss, norm)?;
        Ok(loss)
    }

    /// Accuracy and mean loss on the dev split.
    fn evaluate_dev(&mut self) -> Result<(f64, f64), TrainError> {
        let mut order: Vec<usize> = (0..self.dev.len()).collect();
        order.sort_by_key(|i| self.dev.lengths[*i]);
        let (mut right, mut loss) = (0usize, 0f64);
        for indices in order.chunks(self.options.batch_size) {
            let inputs = self.dev.batch(&self.tokenizer, indices, vec![1.0; indices.len() * self.width()])?;
            let logits = self.forward.logits(&self.step, inputs)?;
            for (index, row) in indices.iter().zip(logits.chunks_exact(self.classes)) {
                let target = self.dev.targets[*index] as usize;
                right += usize::from(largest(row) == target);
                loss -= f64::from(task::softmax(row)[target].max(f32::MIN_POSITIVE)).ln();
            }
        }
        let n = self.dev.len() as f64;
        Ok((right as f64 / n, loss / n))
    }

    fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        let mut masks = Vec::new();
        for parameter in &self.graph.trained {
            if let Some(tensor) = &parameter.scores_of {
                let scores = self.step.download(&parameter.name)?;
                let mask: Mask = scores::to_mask(tensor, &scores, self.options.granularity)?;
                masks.push(NamedMask { tensor: tensor.name.clone(), mask });
            }
        }
        Ok(Checkpoint {
            masks,
            weight: self.step.download(name::HEAD_WEIGHT)?,
            bias: self.step.download(name::HEAD_BIAS)?,
        })
    }

    /// The pack, as yet without golden vectors; `eval` is only named.
    fn pack(
        &self,
        learnt: Learnt,
        data: &Dataset,
        eval: Option<&Dataset>,
        labels: &LabelSet,
    ) -> Result<Pack, TrainError> {
        let o = self.options;
        let provenance = self.provenance(&learnt, data, eval);
        let best = learnt.best;
        let head = Head {
            weight: best.weight,
            bias: best.bias,
            labels: self.classes,
            hidden: self.width(),
            dtype: o.head_dtype,
        };
        let manifest = self.base.manifest();
        let maskable: usize = manifest.maskable.iter().map(|t| t.outputs * t.inputs).sum();
        let zeros: u64 = best.masks.iter().map(|m| m.mask.zero_weights()).sum();
        let document = PackDocument {
            schema: SCHEMA,
            requires: Vec::new(),
            name: o.name.clone(),
            revision: o.revision,
            kind: TaskKind::Classify,
            labels: labels.names().to_vec(),
            text: TextSettings { max_tokens: o.max_tokens, pooling: o.pooling },
            base_id: manifest.base_id.clone(),
            tokenizer_sha256: manifest.tokenizer_sha256.clone(),
            granularity: o.granularity,
            codec: Codec::Ranked,
            sparsity: zeros as f64 / maskable as f64,
            masks: Vec::new(),
            golden: Vec::new(),
            provenance,
            metrics: BTreeMap::new(),
            extra: BTreeMap::new(),
        };
        Ok(Pack::new(document, best.masks, head, Vec::new())?)
    }

    /// How the pack was made: with the same program, base and data it can be made again.
    fn provenance(&self, learnt: &Learnt, data: &Dataset, eval: Option<&Dataset>) -> BTreeMap<String, Value> {
        let o = self.options;
        let mut facts = vec![
            ("tool", json!(format!("overmask-export {}", env!("CARGO_PKG_VERSION")))),
            ("method", json!(o.method)),
            ("seed", json!(o.seed)),
            ("epochs", json!(o.epochs)),
            ("steps", json!(learnt.steps)),
            ("batch_size", json!(o.batch_size)),
            ("head_learning_rate", json!(o.head_learning_rate)),
            ("warmup", json!(o.warmup)),
            ("dropout", json!(o.dropout)),
            ("clip_norm", json!(o.clip_norm)),
            ("dev_fraction", json!(o.dev_fraction)),
            ("device", json!(o.device.to_string())),
            ("threads", json!(o.threads)),
            ("train_texts", json!(self.train.len())),
            ("train_sha256", json!(data::digest(data))),
        ];
        if o.method == Method::Mask {
            facts.push(("learning_rate", json!(o.learning_rate)));
            facts.push(("initial_sparsity", json!(o.initial_sparsity)));
            facts.push(("from_layer", json!(o.from_layer)));
        }
        facts.extend(o.max_steps.map(|steps| ("max_steps", json!(steps))));
        facts.extend(learnt.stopped.then_some(("stopped", json!(true))));
        facts.extend(eval.map(|eval| ("eval_sha256", json!(data::digest(eval)))));
        facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Where each parameter starts.
pub(super) fn initial(base: &Base, graph: &Graph, o: &TrainOptions) -> Result<Vec<Vec<f32>>, TrainError> {
    let start = |parameter: &graph::Trained| match &parameter.scores_of {
        Some(tensor) => {
            let (_, weights) = base.tensor_f32(&tensor.name)?;
            scores::magnitude_ranks(tensor, weights, o.granularity, o.initial_sparsity)
        }
        None => {
            let count = parameter.dims.iter().product();
            let weight = parameter.name == name::HEAD_WEIGHT;
            // BERT's own initialisation of new layers.
            let normal = rng::normal(o.seed, stream::HEAD, 0, count).into_iter().map(|n| 0.02 * n);
            Ok(if weight { normal.collect() } else { vec![0.0; count] })
        }
    };
    graph.trained.iter().map(start).collect()
}

/// The learning rates of a step, as inputs.
pub(super) fn rates(scores: f64, head: f64, step: u64) -> Result<[(&'static str, DynValue); 3], TrainError> {
    let ((scores, epsilon), (head, _)) = (schedule::adamw(scores, step), schedule::adamw(head, step));
    Ok([
        (name::SCORE_RATE, f32_value(&[], vec![scores])?),
        (name::HEAD_RATE, f32_value(&[], vec![head])?),
        (name::EPSILON, f32_value(&[], vec![epsilon])?),
    ])
}

/// Measures the pack through the code that a device runs, and records the logits of `texts`.
/// Returns the accuracy on the dev split.
fn measure<'a>(
    base: &Arc<Base>,
    pack: &mut Pack,
    texts: impl Iterator<Item = &'a str>,
    dev: &Dataset,
    eval: Option<&Dataset>,
    o: &TrainOptions,
) -> Result<f64, TrainError> {
    let (kind, options) = (EngineKind::Ort(Device::Cpu), EngineOptions { threads: Some(o.threads) });
    let mut runner = Runner::new(engine::start(kind, Arc::clone(base), &options)?, Arc::clone(base))?;
    let task = runner.add_pack(pack.clone())?;
    let mut golden = Vec::with_capacity(GOLDEN);
    // One by one, as a device checks them: no padding, whatever the other texts.
    for text in texts {
        for prediction in runner.classify(task, &[text])? {
            golden.push(Golden { text: text.to_owned(), logits: prediction.logits });
        }
    }
    let mut document = pack.document.clone();
    // Not that of the training loop, whose head is not rounded yet.
    let dev_accuracy = evaluate(base, pack.clone(), dev, kind, &options, &mut |_| ())?.accuracy;
    document.metrics.insert("dev_accuracy".to_owned(), dev_accuracy);
    if let Some(eval) = eval {
        let report = evaluate(base, pack.clone(), eval, kind, &options, &mut |_| ())?;
        document.metrics.insert("eval_accuracy".to_owned(), report.accuracy);
        document.metrics.insert("eval_macro_f1".to_owned(), report.macro_f1);
        document.metrics.insert("eval_texts".to_owned(), report.n as f64);
    }
    *pack = Pack::new(document, std::mem::take(&mut pack.masks), pack.head.clone(), golden)?;
    Ok(dev_accuracy)
}

/// The index of the largest value, the first of equal ones.
fn largest(values: &[f32]) -> usize {
    let best = |best: usize, i: usize| if values[i] > values[best] { i } else { best };
    (1..values.len()).fold(0, best)
}

/// The log of losses that `--log-losses` asks for.
struct Losses(Option<(std::path::PathBuf, BufWriter<File>)>);

impl Losses {
    fn open(o: &TrainOptions) -> Result<Self, TrainError> {
        let Some(path) = &o.log_losses else { return Ok(Losses(None)) };
        let file = File::create(path).map_err(|source| TrainError::Write { path: path.clone(), source })?;
        Ok(Losses(Some((path.clone(), BufWriter::new(file)))))
    }

    fn write(&mut self, step: u64, loss: f32, norm: f32) -> Result<(), TrainError> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        writeln!(file, r#"{{"step":{step},"gradient_norm":{norm},"loss":{loss}}}"#)
            .map_err(|source| TrainError::Write { path: path.clone(), source })
    }

    fn finish(self) -> Result<(), TrainError> {
        let Some((path, mut file)) = self.0 else { return Ok(()) };
        file.flush().map_err(|source| TrainError::Write { path, source })
    }
}
