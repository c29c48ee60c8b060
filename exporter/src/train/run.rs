//! A run from labelled examples to a measured pack.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use overmask::base::Base;
use overmask::pack::{Input, Pack};

use super::batch::salt;
use super::folds::Folds;
use super::head::Start;
use super::learner::{Learner, Progress};
use super::measure::{Measured, Meter};
use super::options::Split;
use super::state::{Attempt, Best, Epoch, Mark};
use super::texts::{Data, Texts};
use super::trial::{self, Trial};
use super::{Method, TrainError, TrainOptions, head, packing, teacher};
use crate::baseline;
use crate::data::{self, Dataset, LabelSet, Summary};
use crate::evaluate::{self, Mistake};
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
    /// How good teachers of the run's own are, if it has any.
    pub folds: Option<Folds>,
    /// What heads and masks came to on parts of the examples, if that was tried.
    pub trial: Option<Trial>,
    /// The head alone, from which masks of few examples started; none for other methods.
    pub head: Option<HeadAlone>,
    /// The try whose state the pack is, or if that is the head alone, the best other one: its place in `attempts`.
    pub attempt: usize,
    /// The epoch whose state the pack is; 0 is the head alone.
    pub epoch: u32,
    /// What was tried, and how each epoch ended.
    pub attempts: Vec<Attempt>,
    /// The examples at a glance.
    pub summary: Summary,
    /// What simpler models come to.
    pub baselines: Vec<baseline::Measured>,
    /// The surest mistakes, of the examples that are only measured, else of those that choose.
    pub mistakes: Vec<Mistake>,
    /// Examples that were learnt from, those without a label included, ...
    pub train_texts: usize,
    /// ... and that chose the best state.
    pub dev_texts: usize,
    /// Steps done, of all tries.
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

/// How good a head on the frozen encoder is, as a pack would store it.
#[derive(Debug)]
pub struct HeadAlone {
    /// On the dev split.
    pub dev: Card,
    /// On the examples that are only measured, if there are any.
    pub eval: Option<Card>,
}

impl Outcome {
    /// How each epoch of the try ended of which [`Outcome::attempt`] speaks.
    pub fn curve(&self) -> &[Epoch] {
        self.attempts.get(self.attempt).map_or(&[], |attempt| &attempt.curve)
    }
}

/// Learns a task and returns its pack.
///
/// When `stop` becomes true the run ends early with what there is so far.
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
    teacher::check(data.train, data.unlabelled, options)?;
    trial::check(data.train, options)?;
    for other in [data.dev, data.eval].into_iter().flatten() {
        labels.gold(other)?;
    }
    let (rest, dev) = divide(&data, options);
    let repeated = data::duplicates(&rest, &dev).len();
    if repeated > 0 {
        log::warn!("{repeated} of the {} examples that choose the best state are also trained on", dev.len());
    }
    let teacher = teacher::open(base, &labels, options)?;
    let mut texts = Texts::read(base, &rest, &dev, data.unlabelled, &labels, options)?;
    let unlabelled = data.unlabelled.map(|texts| texts.inputs.len());
    let summary = Summary { tokens: texts.lengths(), unlabelled, ..Summary::of(data.train, data.dev, data.eval) };
    log::info!("{summary}");
    if let Some(lone) = summary.lone_labels() {
        log::warn!("{lone}");
    }
    let baselines = baseline::measure(&rest, &dev, data.eval, &labels, options.seed)?;
    let start = match options.method {
        Method::Mask => Some(head::learn(base, &texts, &labels, options, stop)?),
        _ => None,
    };
    let trial = options.dev_folds.filter(|_| start.as_ref().is_some_and(|start| start.counts));
    let trial = trial.map(|parts| trial::run(base, (data.train, &dev), &labels, (parts, options), stop, progress));
    let trial = trial.transpose()?;
    let few = texts.train.len() < head::MANY;
    let best = start.as_ref().filter(|_| few).map(|start| &start.best);
    let folds = teacher::teach(base, teacher.as_ref(), (&rest, &mut texts), &labels, options, stop, progress)?;
    let mut learner = Learner::new(base, texts, &labels, best, options, stop)?;
    let facts = packing::facts(base, &data, &learner, options)?;
    let prepared = started.elapsed();
    let mut learnt = learner.learn(&facts, start.as_ref().map(Start::mark), stop, progress)?;
    let meter = Meter::start(base, &dev, data.eval, options)?;
    let measure = |best: &Best| meter.measure(packing::pack(base, best, &learnt, facts.clone(), &labels, options)?);
    let mut chosen = (learnt.best.mark, measure(&learnt.best)?);
    let mut head = None;
    if let Some(start) = &start {
        let mark = Mark { attempt: chosen.0.attempt, ..start.mark() };
        let alone = measure(&Best { mark, kept: start.best.kept.clone() })?;
        head = Some(HeadAlone { dev: alone.dev.clone(), eval: alone.eval.clone() });
        // As they are stored, too: rounding may turn a tie. Of equals the mask is taken: on texts that chose nothing
        // it is the better one more often.
        let is_better = match trial {
            Some(Trial { head, mask, .. }) => head > mask,
            None => mark.score > chosen.0.score || alone.dev.main() > chosen.1.dev.main(),
        };
        if start.counts && is_better {
            chosen = (mark, alone);
        }
        learnt.attempts.iter_mut().for_each(|attempt| attempt.curve.insert(0, start.epoch));
    }
    let (mark, Measured { pack, dev: of_dev, eval: of_eval, mistakes }) = chosen;
    let pack = meter.with_golden(pack, golden(&learner))?;
    Ok(Outcome {
        pack: with_metrics(pack, &of_dev, of_eval.as_ref(), head.as_ref()),
        dev: of_dev,
        eval: of_eval,
        folds,
        trial,
        head,
        attempt: mark.attempt,
        epoch: mark.epoch,
        attempts: learnt.attempts,
        summary,
        baselines,
        mistakes,
        train_texts: learner.train.len(),
        dev_texts: learner.dev.len(),
        steps: learnt.steps,
        stopped: learnt.stopped,
        prepared,
        time: learnt.time,
        waited: learnt.waited,
    })
}

/// What is trained on, and what chooses the best state.
pub(super) fn divide(data: &Data<'_>, o: &TrainOptions) -> (Dataset, Dataset) {
    let seed = o.seed ^ salt::DEV;
    match (data.dev, o.split) {
        (Some(dev), _) => (data.train.clone(), dev.clone()),
        (None, Split::Random) => data::split(data.train, o.dev_fraction, seed),
        (None, Split::Stratified) => data::split_stratified(data.train, o.dev_fraction, seed),
    }
}

/// The first inputs of the dev split; a small one has too few. All their words must be answered.
fn golden(learner: &Learner<'_>) -> Vec<Input> {
    let whole = [&learner.dev, &*learner.train];
    let inputs = whole.into_iter().flat_map(|examples| {
        let whole = |i: &usize| examples.counted(*i).iter().all(|counted| *counted);
        (0..examples.len()).filter(whole).map(|i| &examples.source[i])
    });
    inputs.take(GOLDEN).map(short).collect()
}

/// The pack with what it was measured to be, and the head alone beside.
fn with_metrics(mut pack: Pack, dev: &Card, eval: Option<&Card>, head: Option<&HeadAlone>) -> Pack {
    let metrics = &mut pack.document.metrics;
    metrics.insert(format!("dev_{}", dev.metric), dev.main());
    metrics.extend(eval.into_iter().flat_map(evaluate::promised));
    if let Some(head) = head {
        metrics.insert(format!("dev_head_{}", dev.metric), head.dev.main());
        metrics.extend(head.eval.as_ref().map(|card| (format!("eval_head_{}", card.metric), card.main())));
    }
    pack
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
}
