//! A run from labelled examples to a measured pack.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use overmask::base::Base;
use overmask::engine::{Device, Engine, EngineOptions};
use overmask::pack::{Codec, Delta, FloatType, Golden, Head, Input, Pack, PackDocument, SCHEMA, TextSettings};
use overmask::task::Runner;
use overmask_ort::OrtEngine;
use serde_json::{Value, json};

use super::batch::salt;
use super::graph::name;
use super::learner::{Learner, Learnt, Progress};
use super::options::{Init, Sampling};
use super::state::Epoch;
use super::{Method, Precision, TrainError, TrainOptions, teacher};
use crate::data::{self, Dataset, LabelSet};
use crate::evaluate;
use crate::score::Card;

/// Inputs whose logits a pack records, so that a device can check its own.
const GOLDEN: usize = 8;
/// Characters of each of their texts, ...
const GOLDEN_CHARS: usize = 200;
/// ... and how many words there are at most.
const GOLDEN_WORDS: usize = 32;

/// What a run made.
#[derive(Debug)]
pub struct Outcome {
    /// The pack, not yet written.
    pub pack: Pack,
    /// How good the pack is, as it is stored, on the dev split.
    pub dev: Card,
    /// The same on the examples that are only measured, if there are any.
    pub eval: Option<Card>,
    /// How each epoch ended.
    pub curve: Vec<Epoch>,
    /// Steps done.
    pub steps: u64,
    /// Whether it was stopped before its end.
    pub stopped: bool,
    /// Time spent before the first step: the prefix, the frozen encoder and a teacher see each example then.
    pub prepared: Duration,
    /// Time spent in steps and dev evaluations.
    pub time: Duration,
    /// How much of it was spent in waiting for batches.
    pub waited: Duration,
}

/// The examples of a run.
#[derive(Debug, Clone, Copy)]
pub struct Data<'a> {
    /// Those to learn from.
    pub train: &'a Dataset,
    /// Those that choose the best state; without them a part of `train` does, and is not trained on.
    pub dev: Option<&'a Dataset>,
    /// Those that are only measured, at the end, through the same code that a device runs.
    pub eval: Option<&'a Dataset>,
}

/// Learns a task and returns its pack.
///
/// When `stop` becomes true the run ends early with the best state so far.
///
/// # Errors
/// When options, examples or base do not fit, the run is stopped before its first step, or the
/// runtime fails.
pub fn run(
    base: &Arc<Base>,
    data: Data<'_>,
    options: &TrainOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Outcome, TrainError> {
    let started = Instant::now();
    options.check(base)?;
    // Before the work: `ort` panics where it finds no library.
    overmask_ort::environment()?;
    let labels = LabelSet::for_training(data.train)?;
    for doubt in data::doubts(data.train) {
        log::warn!("{doubt}");
    }
    for other in [data.dev, data.eval].into_iter().flatten() {
        labels.gold(other)?;
    }
    let (rest, dev) = match data.dev {
        Some(dev) => (data.train.clone(), dev.clone()),
        None => data::split(data.train, options.dev_fraction, options.seed ^ salt::DEV),
    };
    let repeated = data::duplicates(&rest, &dev).len();
    if repeated > 0 {
        log::warn!("{repeated} of the {} examples that choose the best state are also trained on", dev.len());
    }
    let teacher = teacher::open(base, &labels, options)?;
    let mut learner = Learner::new(base, &rest, &dev, &labels, teacher.as_ref(), options, stop)?;
    let facts = facts(base, &data, &learner, options)?;
    let prepared = started.elapsed();
    let learnt = learner.learn(&facts, stop, progress)?;
    let (steps, stopped, time, waited) = (learnt.steps, learnt.stopped, learnt.time, learnt.waited);
    let curve = learnt.curve.clone();
    let pack = pack(base, learnt, facts, &labels, options)?;
    // The first inputs of the dev split; a small one has too few. All their words must be answered.
    let whole = [&learner.dev, &learner.train];
    let golden = whole.into_iter().flat_map(|examples| {
        let whole = |i: &usize| examples.counted(*i).iter().all(|counted| *counted);
        (0..examples.len()).filter(whole).map(|i| &examples.source[i]).collect::<Vec<_>>()
    });
    let golden = golden.take(GOLDEN).map(short);
    let (pack, dev, eval) = measure(base, pack, golden, &dev, data.eval, options)?;
    Ok(Outcome { pack, dev, eval, curve, steps, stopped, prepared, time, waited })
}

/// The beginning of an input: packs are small, and any input that is recorded with its logits checks a device.
fn short(input: &Input) -> Input {
    let start = |text: &String| text.trim_start().chars().take(GOLDEN_CHARS).collect();
    match input {
        Input::Text(text) => Input::Text(start(text)),
        Input::Pair(a, b) => Input::Pair(start(a), start(b)),
        Input::Words { words } => Input::Words { words: words.iter().take(GOLDEN_WORDS).map(start).collect() },
    }
}

/// Checks that a pack can store what was learnt. Values that f16 cannot hold are those of a run that went astray.
fn check_held(field: &'static str, dtype: FloatType, values: &[f32]) -> Result<(), TrainError> {
    let Some(value) = values.iter().find(|value| value.is_finite() && !dtype.round(**value).is_finite()) else {
        return Ok(());
    };
    let reason = format!("{dtype} cannot hold {value}, which was learnt; lower the learning rates, or take f32");
    Err(TrainError::Option { field, reason })
}

/// The pack, as yet without metrics and golden vectors.
fn pack(
    base: &Base,
    learnt: Learnt,
    mut provenance: BTreeMap<String, Value>,
    labels: &LabelSet,
    o: &TrainOptions,
) -> Result<Pack, TrainError> {
    provenance.insert("steps".to_owned(), json!(learnt.steps));
    // The document has them elsewhere.
    provenance.retain(|name, _| !["base_id", "max_tokens", "pooling", "granularity"].contains(&name.as_str()));
    if learnt.stopped {
        provenance.insert("stopped".to_owned(), json!(true));
    }
    let mut best = learnt.best;
    let mut take = |name: &str| best.tensors.remove(name).unwrap_or_default();
    let (weight, bias) = (take(name::HEAD_WEIGHT), take(name::HEAD_BIAS));
    let manifest = base.manifest();
    let hidden = manifest.architecture.hidden_size;
    for values in [&weight, &bias] {
        check_held("head_dtype", o.head_dtype, values)?;
    }
    let head = Head { weight, bias, labels: labels.len(), hidden, dtype: o.head_dtype };
    let mut deltas = Vec::new();
    for (tensor, values) in best.tensors {
        let shape = base.tensor_f32(&tensor)?.0.to_vec();
        check_held("delta_dtype", o.delta_dtype, &values)?;
        deltas.push(Delta { tensor, shape, values, dtype: o.delta_dtype });
    }
    let maskable: usize = manifest.maskable.iter().map(|t| t.outputs * t.inputs).sum();
    let zeros: u64 = best.masks.iter().map(|m| m.mask.zero_weights()).sum();
    let document = PackDocument {
        schema: SCHEMA,
        requires: Vec::new(),
        name: o.name.clone(),
        revision: o.revision,
        kind: o.form.kind,
        labels: labels.names().to_vec(),
        text: TextSettings { max_tokens: o.max_tokens, pooling: o.pooling, pair: o.form.pair },
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
    Ok(Pack::new(document, best.masks, head, Vec::new())?.with_deltas(deltas)?)
}

/// How the pack was made: with the same program, base and data it can be made again, and a run with
/// the same facts can go on from its checkpoint.
fn facts(
    base: &Base,
    data: &Data<'_>,
    learner: &Learner<'_>,
    o: &TrainOptions,
) -> Result<BTreeMap<String, Value>, TrainError> {
    let mut facts = vec![
        ("tool", json!(format!("overmask-export {}", env!("CARGO_PKG_VERSION")))),
        ("method", json!(o.method)),
        ("seed", json!(o.seed)),
        ("epochs", json!(o.epochs)),
        ("batch_size", json!(o.batch_size)),
        ("head_learning_rate", json!(o.head_learning_rate)),
        ("warmup", json!(o.warmup)),
        ("dropout", json!(o.dropout)),
        ("clip_norm", json!(o.clip_norm)),
        ("max_tokens", json!(o.max_tokens)),
        ("pooling", json!(o.pooling)),
        ("device", json!(o.device.to_string())),
        ("threads", json!(o.threads)),
        ("train_texts", json!(learner.train.len())),
        ("train_sha256", json!(data::digest(data.train))),
        ("base_id", json!(base.base_id())),
    ];
    match data.dev {
        Some(dev) => facts.push(("dev_sha256", json!(data::digest(dev)))),
        None => facts.push(("dev_fraction", json!(o.dev_fraction))),
    }
    if o.method == Method::Mask {
        facts.push(("granularity", json!(o.granularity)));
        facts.push(("learning_rate", json!(o.learning_rate)));
        if o.damping > 0.0 {
            facts.push(("damping", json!(o.damping)));
        }
        facts.push(("initial_sparsity", json!(o.initial_sparsity)));
        if o.init != Init::Magnitude {
            facts.push(("init", json!(o.init)));
        }
        if o.sampling != Sampling::Threshold {
            facts.push(("sampling", json!(o.sampling)));
        }
        if let Some(target) = o.target_sparsity {
            facts.push(("target_sparsity", json!(target)));
            facts.push(("ramp", json!(o.ramp)));
        }
        if o.polish > 0.0 {
            facts.push(("polish", json!(o.polish)));
        }
    }
    if matches!(o.method, Method::Mask | Method::Layers) {
        facts.push(("layers", json!(o.layers.to_string())));
        if !o.modules.is_empty() {
            facts.push(("modules", json!(o.modules)));
        }
    }
    let tuned: Vec<&str> = [("norms", o.tune.norms), ("biases", o.tune.biases)]
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(n, _)| n)
        .collect();
    if !tuned.is_empty() {
        facts.push(("tune", json!(tuned)));
    }
    if !tuned.is_empty() || matches!(o.method, Method::Layers | Method::Full) {
        facts.push(("dense_learning_rate", json!(o.dense_learning_rate)));
    }
    if let Some(teacher) = &o.teacher {
        facts.push(("teacher_weight", json!(teacher.weight)));
        facts.push(("teacher_temperature", json!(teacher.temperature)));
        facts.push(("teacher_features", json!(teacher.features)));
        facts.extend((teacher.states > 0.0).then_some(("teacher_states", json!(teacher.states))));
        let (file, name) = overmask::pack::split_name(&teacher.pack);
        facts.push((
            "teacher_sha256",
            json!(overmask::fs::file_digest(&file).map_err(|source| TrainError::Read { path: file, source })?),
        ));
        facts.extend(name.map(|name| ("teacher_name", json!(name))));
    }
    // A batch in parts rounds differently.
    facts.extend(o.micro_batch.filter(|_| o.in_parts()).map(|size| ("micro_batch", json!(size))));
    facts.extend((o.precision != Precision::F32).then_some(("precision", json!(o.precision))));
    // What runs at every step runs in other batches.
    facts.extend((!learner.cuts_prefix).then_some(("prefix_kept", json!(false))));
    facts.extend(o.max_steps.map(|steps| ("max_steps", json!(steps))));
    facts.extend(data.eval.map(|eval| ("eval_sha256", json!(data::digest(eval)))));
    Ok(facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Measures the pack through the code that a device runs, and records that and the logits of some inputs in it.
/// Returns how good it is on the dev split and on what is only measured, too.
fn measure(
    base: &Arc<Base>,
    mut pack: Pack,
    inputs: impl Iterator<Item = Input>,
    dev: &Dataset,
    eval: Option<&Dataset>,
    o: &TrainOptions,
) -> Result<(Pack, Card, Option<Card>), TrainError> {
    let engine = OrtEngine::new(Arc::clone(base), Device::Cpu, &EngineOptions::default().threads(o.threads))?;
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let runner = Runner::new(engine, Arc::clone(base))?;
    let task = runner.add_pack(pack.clone())?;
    let mut golden = Vec::with_capacity(GOLDEN);
    // One by one, as a device checks them: no padding, whatever the other inputs.
    for input in inputs {
        let rows = runner.logits(task, std::slice::from_ref(&input))?;
        let logits = rows.into_iter().flatten().flatten().flatten().collect();
        golden.push(Golden { input, logits });
    }
    let measure = |data| Ok::<_, TrainError>(evaluate::measure_task(&runner, task, data, &mut |_| ())?.card);
    // Not the score of the training loop, whose head and deltas are not rounded yet.
    let dev = measure(dev)?;
    let eval = eval.map(measure).transpose()?;
    let metrics = &mut pack.document.metrics;
    metrics.insert(format!("dev_{}", o.form.kind.metric()), dev.main());
    if let Some(card) = &eval {
        metrics.extend(evaluate::promised(card));
    }
    Ok((pack.with_golden(golden)?, dev, eval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_inputs_are_short() {
        assert_eq!(short(&Input::Text(format!(" {}", "ä".repeat(300)))), Input::Text("ä".repeat(200)));
        assert_eq!(short(&Input::Pair("a b".into(), "c".into())), Input::Pair("a b".into(), "c".into()));
        let words = |count: usize| Input::Words { words: vec!["x".to_owned(); count] };
        assert_eq!(short(&words(100)), words(32));
    }

    #[test]
    fn values_that_a_pack_cannot_hold_are_told_with_advice() {
        assert!(check_held("head_dtype", FloatType::F16, &[1.0, -65504.0]).is_ok());
        assert!(check_held("head_dtype", FloatType::F32, &[1e30]).is_ok());
        let error = check_held("head_dtype", FloatType::F16, &[1.0, 1e6]).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|e| e.starts_with("head_dtype: f16 cannot hold 1000000")), "{error:?}");
    }
}
