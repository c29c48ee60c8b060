//! Masks start from a head that has learnt, and have to beat it; several tries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use overmask::base::Base;
use overmask::mask::Granularity;
use overmask::pack::{Pooling, TaskKind};

use super::super::{Amount, CheckpointOptions, Data, Effort, Given, Keep, Method, TrainOptions, Try, Tune, head};
use super::base;
use super::runs::{learn, of_kind, options, texts};
use crate::baseline::Baseline;
use crate::data::{self, Form};
use crate::train;

const KINDS: [(TaskKind, bool); 5] = [
    (TaskKind::Classify, false),
    (TaskKind::Classify, true),
    (TaskKind::Multilabel, false),
    (TaskKind::Regress, false),
    (TaskKind::Tag, false),
];

fn of(kind: TaskKind, pair: bool) -> TrainOptions {
    let pooling = if kind == TaskKind::Tag { Pooling::First } else { Pooling::Mean };
    TrainOptions { form: Form { kind, pair }, pooling, ..options(Method::Mask, 1) }
}

#[test]
fn a_mask_that_does_nothing_yet_is_as_good_as_the_head_it_starts_from() {
    let (_dir, base) = base();
    for (kind, pair) in KINDS {
        let still = TrainOptions {
            // One weight of each tensor is zero: the smallest.
            granularity: Granularity::Weight,
            initial_sparsity: 0.0,
            learning_rate: 1e-9,
            head_learning_rate: 1e-9,
            epochs: 1,
            ..of(kind, pair)
        };
        let outcome = learn(&base, &of_kind(kind, pair), &still).unwrap();
        let [start, first] = outcome.curve() else { panic!("{:?}", outcome.attempts) };
        assert_eq!((start.epoch, start.step, first.epoch), (0, 0, 1));
        assert!((start.dev - first.dev).abs() < 1e-3, "{kind}: {start:?} {first:?}");
        assert!(
            (start.dev_loss - first.dev_loss).abs() < 1e-2 * start.dev_loss.max(1e-2),
            "{kind}: {start:?} {first:?}"
        );
    }
}

#[test]
fn a_mask_of_many_examples_starts_from_a_new_head() {
    let (_dir, base) = base();
    let still = TrainOptions {
        learning_rate: 1e-9,
        head_learning_rate: 1e-9,
        epochs: 1,
        max_steps: Some(1),
        ..options(Method::Mask, 1)
    };
    let outcome = learn(&base, &texts(2 * head::MANY), &still).unwrap();
    let [start, first] = outcome.curve() else { panic!("{:?}", outcome.attempts) };
    // To a new head both labels are nearly as likely as each other.
    assert!((first.dev_loss - 2f64.ln()).abs() < 0.05 && start.dev_loss < 0.1, "{start:?} {first:?}");
    assert_eq!(outcome.epoch, 0, "the head alone is there all the same");
}

#[test]
fn a_pack_is_never_worse_than_the_head_alone() {
    let (_dir, base) = base();
    for (kind, pair) in KINDS {
        // Scores that jump about, and norms with them: whatever comes of it, the head is there.
        let wild = TrainOptions {
            learning_rate: 5.0,
            dense_learning_rate: 0.5,
            tune: Tune { norms: true, biases: true },
            ..of(kind, pair)
        };
        let outcome = learn(&base, &of_kind(kind, pair), &wild).unwrap();
        let head = outcome.head.as_ref().unwrap();
        assert!(outcome.dev.main() >= head.dev.main(), "{kind}: {:?} {:?}", outcome.dev.metrics, head.dev.metrics);
        let metrics = &outcome.pack.document.metrics;
        assert_eq!(metrics[&format!("dev_head_{}", kind.metric())], head.dev.main());
        assert_eq!(outcome.pack.document.provenance["epoch"], outcome.epoch);
        let is_head = outcome.pack.masks.is_empty() && outcome.pack.deltas.is_empty();
        assert_eq!(outcome.epoch == 0, is_head, "{kind}");
        outcome.pack.to_bytes(Some(&base)).unwrap();
    }
    let wild = TrainOptions { learning_rate: 5.0, ..options(Method::Mask, 1) };
    let outcome = learn(&base, &texts(60), &wild).unwrap();
    assert!(outcome.epoch == 0 && outcome.pack.masks.is_empty(), "{:?}", outcome.attempts);
    // Zeros that were asked for are there, whatever they cost.
    for asked in [
        TrainOptions { target_sparsity: Some(0.9), ..wild.clone() },
        TrainOptions { granularity: Granularity::TwoOfFour, ..wild },
    ] {
        let outcome = learn(&base, &texts(60), &asked).unwrap();
        assert!(outcome.epoch > 0 && outcome.pack.document.sparsity > 0.4, "{:?}", outcome.attempts);
    }
    for method in [Method::Head, Method::Layers, Method::Full] {
        let outcome = learn(&base, &texts(40), &options(method, 1)).unwrap();
        assert!(outcome.head.is_none() && outcome.curve().iter().all(|epoch| epoch.epoch > 0));
        assert!(!outcome.pack.document.provenance.contains_key("epoch"));
    }
}

/// Where few examples choose, those that a state did not learn decide between masks and the head alone.
#[test]
fn folds_decide_whether_a_mask_pays() {
    let (_dir, base) = base();
    let folds = |o: TrainOptions| TrainOptions { dev_folds: Some(3), ..o };
    let wild = TrainOptions { learning_rate: 5.0, ..options(Method::Mask, 1) };
    for o in [options(Method::Mask, 1), wild] {
        let mut seen = Vec::new();
        let (data, o) = (texts(60), folds(o));
        let data = Data { train: &data, dev: None, eval: None, unlabelled: None };
        let outcome = train::run(&base, data, &o, &AtomicBool::new(false), &mut |now| {
            let part = now.part.map(|part| (part.what, part.number, part.of));
            if seen.last() != Some(&part) {
                seen.push(part);
            }
        });
        let outcome = outcome.unwrap();
        assert_eq!(seen, [Some(("fold", 1, 3)), Some(("fold", 2, 3)), Some(("fold", 3, 3)), None]);
        let train::Trial { folds, head, mask } = outcome.trial.unwrap();
        assert!(folds == 3 && (0.0..=1.0).contains(&head) && (0.0..=1.0).contains(&mask));
        assert_eq!(outcome.epoch == 0, head > mask, "{head} {mask} {:?}", outcome.attempts);
        assert_eq!(outcome.pack.document.provenance["dev_folds"], 3);
        // The run's own part is what it is without.
        let alone = learn(&base, &texts(60), &TrainOptions { dev_folds: None, ..o }).unwrap();
        assert_eq!(alone.attempts, outcome.attempts);
        assert!(alone.trial.is_none());
    }
    let refused = |o: TrainOptions| learn(&base, &texts(60), &folds(o)).unwrap_err().to_string();
    let usual = || options(Method::Mask, 1);
    assert!(refused(TrainOptions { target_sparsity: Some(0.5), ..usual() }).starts_with("dev_folds: "));
    assert!(refused(TrainOptions { granularity: Granularity::TwoOfFour, ..usual() }).starts_with("dev_folds: "));
    assert!(refused(options(Method::Head, 1)).starts_with("dev_folds: "));
    let many = TrainOptions { dev_folds: Some(61), ..usual() };
    let error = learn(&base, &texts(60), &many).unwrap_err().to_string();
    assert!(error.starts_with("dev_folds: 61 parts of 60 examples"), "{error}");
}

#[test]
fn the_best_try_is_the_run_that_it_would_be_alone() {
    let (dir, base) = base();
    let data = texts(40);
    let one = |learning_rate, epochs| Try { learning_rate, epochs };
    let tries = [one(1e-2, 2), one(3e-2, 2), one(1e-3, 3)];
    let several =
        TrainOptions { learning_rate: 1e-2, epochs: 2, tries: tries[1..].to_vec(), ..options(Method::Mask, 1) };
    let best = learn(&base, &data, &several).unwrap();
    assert_eq!((best.attempts.len(), best.steps, best.stopped), (3, 4 * (2 + 2 + 3), false));
    for (attempt, Try { learning_rate, epochs }) in best.attempts.iter().zip(tries) {
        let alone = TrainOptions { learning_rate, epochs, ..options(Method::Mask, 1) };
        let alone = learn(&base, &data, &alone).unwrap();
        assert_eq!(&alone.attempts[0], attempt);
        assert!(best.dev.main() >= alone.dev.main() || alone.epoch == 0);
        if best.attempt == 0 && learning_rate == tries[0].learning_rate {
            assert_eq!(alone.pack.masks.len(), best.pack.masks.len());
        }
    }
    let provenance = &best.pack.document.provenance;
    assert_eq!(provenance["learning_rate"], tries[best.attempt].learning_rate);
    assert!(!provenance.contains_key("tries"));

    // Cut off in the second and in the third try, and stopped: the same in the end.
    for cut in [10, 20] {
        let file = dir.path().join(format!("{cut}.checkpoint"));
        let checkpoint = |resume| Some(CheckpointOptions { file: file.clone(), every: 1000, resume });
        let stop = AtomicBool::new(false);
        let first = TrainOptions { checkpoint: checkpoint(false), ..several.clone() };
        let only = Data { train: &data, dev: None, eval: None, unlabelled: None };
        let stopped = train::run(&base, only, &first, &stop, &mut |now| {
            assert_eq!((now.steps, now.attempts), (28, 3));
            if now.step == cut {
                stop.store(true, Ordering::Relaxed);
            }
        });
        let stopped = stopped.unwrap();
        assert!(stopped.stopped && stopped.steps == cut);
        let resumed = TrainOptions { checkpoint: checkpoint(true), ..several.clone() };
        let resumed = learn(&base, &data, &resumed).unwrap();
        assert_eq!(resumed.attempts, best.attempts, "cut at {cut}");
        assert!(resumed.pack.to_bytes(Some(&base)).unwrap() == best.pack.to_bytes(Some(&base)).unwrap());
        let other = TrainOptions { checkpoint: checkpoint(true), tries: Vec::new(), ..several.clone() };
        assert!(learn(&base, &data, &other).unwrap_err().to_string().contains("`tries`"));
    }
}

#[test]
fn baselines_are_measured_beside_and_by_themselves() {
    let (_dir, base) = base();
    let form = |kind| Form { kind, pair: false };
    for (kind, rows) in [(TaskKind::Classify, 4), (TaskKind::Multilabel, 4), (TaskKind::Regress, 4), (TaskKind::Tag, 1)]
    {
        let data = of_kind(kind, false);
        let options = of(kind, false).fit(Effort::Normal, Given::default(), Amount::labelled(data.len()));
        let options = TrainOptions { form: form(kind), ..options };
        let only = Data { train: &data, dev: None, eval: Some(&data), unlabelled: None };
        let found = train::baselines(Some(&base), only, &options, &AtomicBool::new(false)).unwrap();
        assert_eq!(found.len(), rows, "{kind}");
        assert!(found.iter().all(|row| row.eval.as_ref().is_some_and(|eval| eval.n == 60)));
        let head = found.iter().find(|row| row.baseline == Baseline::Head).unwrap();
        assert!(head.dev.main() > 0.5, "{kind}: {:?}", head.dev.metrics);
        let without = train::baselines(None, only, &options, &AtomicBool::new(false)).unwrap();
        assert_eq!(without.len(), rows.saturating_sub(2).min(2));
        // A run has the cheap ones, on the same split, and its head is the same.
        let outcome = learn(&base, &data, &TrainOptions { epochs: 1, ..options }).unwrap();
        let dev = |rows: &[crate::baseline::Measured]| rows.iter().map(|row| row.dev.main()).collect::<Vec<_>>();
        assert_eq!(dev(&outcome.baselines), dev(&without));
        assert!((outcome.head.unwrap().dev.main() - head.dev.main()).abs() < 0.02, "{kind}");
    }
}

#[test]
fn the_best_state_or_the_last_one_of_each_try_is_kept() {
    let (_dir, base) = base();
    // With more zeros than usual at the start the head alone does not count.
    let tries = vec![Try { learning_rate: 0.2, epochs: 3 }];
    let tried =
        |seed| TrainOptions { initial_sparsity: 0.06, epochs: 6, tries: tries.clone(), ..options(Method::Mask, seed) };
    let kept = |seed| [Keep::Best, Keep::Last].map(|keep| kept_of(&base, &TrainOptions { keep, ..tried(seed) }));
    assert!((1..=6).any(|seed| kept(seed)[0] != kept(seed)[1]), "this says nothing of which is kept");
}

/// The try and the epoch that a run keeps, which are those that it should keep.
fn kept_of(base: &Arc<Base>, o: &TrainOptions) -> (usize, u32) {
    let keep = o.keep;
    let outcome = learn(base, &texts(60), o).unwrap();
    let of_tries = outcome.attempts.iter().map(|attempt| attempt.curve.iter().filter(|epoch| epoch.epoch > 0));
    let candidates = of_tries.enumerate().flat_map(|(i, curve)| {
        let first = if keep == Keep::Last { curve.clone().count() - 1 } else { 0 };
        curve.skip(first).map(move |epoch| (i, *epoch)).collect::<Vec<_>>()
    });
    let candidates: Vec<_> = candidates.collect();
    assert_eq!(candidates.len(), if keep == Keep::Last { 2 } else { 9 });
    // Of equals the first one stays.
    let best = candidates.into_iter().reduce(|best, next| {
        let better = (next.1.dev, -next.1.dev_loss) > (best.1.dev, -best.1.dev_loss);
        if better { next } else { best }
    });
    let (attempt, epoch) = best.unwrap();
    assert_eq!((outcome.attempt, outcome.epoch), (attempt, epoch.epoch), "{keep:?}");
    let noted = outcome.pack.document.provenance.get("keep").cloned();
    assert_eq!(noted, (keep == Keep::Last).then(|| "last".into()));
    (attempt, epoch.epoch)
}

/// Where the last state is kept and a run is stopped, between epochs or within one, that is the state there; one that goes on
/// ends as one in one go.
#[test]
fn a_run_that_keeps_its_last_state_can_be_stopped() {
    let (dir, base) = base();
    let data = texts(60);
    let whole = TrainOptions { keep: Keep::Last, initial_sparsity: 0.06, epochs: 4, ..options(Method::Mask, 1) };
    let expected = learn(&base, &data, &whole).unwrap().pack.to_bytes(Some(&base)).unwrap();
    for (i, after) in [3, 6, 12].into_iter().enumerate() {
        let file = dir.path().join(format!("run-{i}"));
        let checkpoint = |resume| Some(CheckpointOptions { file: file.clone(), every: 100, resume });
        let stop = AtomicBool::new(false);
        let cut = TrainOptions { checkpoint: checkpoint(false), ..whole.clone() };
        let outcome = train::run(
            &base,
            Data { train: &data, dev: None, eval: None, unlabelled: None },
            &cut,
            &stop,
            &mut |now| stop.store(now.step >= after, Ordering::Relaxed),
        );
        let outcome = outcome.unwrap();
        assert_eq!((outcome.stopped, outcome.steps), (true, after));
        assert_eq!(u64::from(outcome.epoch), after.div_ceil(6), "what there is");
        let on = learn(&base, &data, &TrainOptions { checkpoint: checkpoint(true), ..whole.clone() }).unwrap();
        assert_eq!(on.pack.to_bytes(Some(&base)).unwrap(), expected, "after {after}");
    }
}

#[test]
fn every_label_keeps_an_example_and_the_data_are_told() {
    let (_dir, base) = base();
    let mut data = texts(60);
    data.examples[5].target = data::Target::Label("lone".into());
    let options = options(Method::Mask, 1).fit(Effort::Normal, Given::default(), Amount::labelled(60));
    let outcome = learn(&base, &data, &TrainOptions { epochs: 1, ..options }).unwrap();
    assert_eq!((outcome.train_texts, outcome.dev_texts), (48, 12));
    assert_eq!((outcome.summary.examples, outcome.summary.labels), (60, 3));
    assert_eq!(outcome.summary.rarest[0], ("lone".to_owned(), 1));
    assert_eq!(outcome.summary.tokens.map(|tokens| tokens.cut), Some(0));
    assert_eq!(outcome.pack.document.provenance["dev_split"], "stratified");
    assert!(outcome.mistakes.is_sorted_by(|a, b| a.score >= b.score) && outcome.mistakes.len() <= 10);
}
