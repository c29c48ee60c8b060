//! Whole runs on a tiny encoder: every method and kind, stopping, going on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use overmask::base::Base;
use overmask::error::ErrorKind;
use overmask::mask::Granularity;
use overmask::pack::{Input, NamedMask, Pooling, TaskKind};

use super::super::learner::Progress;
use super::super::{
    CheckpointOptions, Data, Epoch, Init, Method, Outcome, Precision, Sampling, TrainError, TrainOptions, Tune,
};
use super::{BLOCK, base};
use crate::data::tests::dataset;
use crate::data::{self, Dataset, Form, Target};
use crate::train;

/// Texts of two labels.
pub(super) fn texts(count: usize) -> Dataset {
    let texts = ["good film", "bad film", "fine plot", "dull plot"];
    let examples = (0..count).map(|i| (format!("{} {i}", texts[i % 4]), if i % 2 == 0 { "yes" } else { "no" }));
    let examples: Vec<_> = examples.collect();
    let examples: Vec<_> = examples.iter().map(|(text, label)| (text.as_str(), *label)).collect();
    dataset(&examples)
}

#[test]
fn a_run_repeats_bit_for_bit_and_a_seed_matters() {
    let (_dir, base) = base();
    let data = texts(40);
    for method in [Method::Head, Method::Mask, Method::Layers, Method::Full] {
        let pack = |seed| {
            let options = options(method, seed);
            let outcome = train::run(&base, only(&data), &options, &AtomicBool::new(false), &mut |_| ()).unwrap();
            outcome.pack.to_bytes(Some(&base)).unwrap()
        };
        let first = pack(1);
        assert_eq!(first, pack(1), "{method:?}");
        assert_ne!(first, pack(2), "{method:?}");
    }
}

pub(super) fn only(train: &Dataset) -> Data<'_> {
    Data { train, dev: None, eval: None, unlabelled: None }
}

pub(super) fn options(method: Method, seed: u64) -> TrainOptions {
    let usual = TrainOptions::new("tiny", method);
    TrainOptions {
        epochs: 2,
        batch_size: 8,
        learning_rate: if method == Method::Mask { 1e-2 } else { usual.learning_rate },
        head_learning_rate: 1e-3,
        warmup: 0.1,
        seed,
        max_tokens: 16,
        dev_fraction: 0.2,
        threads: 2,
        ..usual
    }
}

#[test]
fn a_run_that_is_stopped_keeps_what_it_has() {
    let (_dir, base) = base();
    let data = texts(40);
    for method in [Method::Head, Method::Mask, Method::Layers, Method::Full] {
        let run = |options: &TrainOptions, stop_after: u64| -> Result<Outcome, TrainError> {
            let stop = AtomicBool::new(stop_after == 0);
            train::run(&base, Data { eval: Some(&data), ..only(&data) }, options, &stop, &mut |now: &Progress| {
                if now.step == stop_after {
                    stop.store(true, Ordering::Relaxed);
                }
            })
        };
        let options = options(method, 1);
        assert!(matches!(run(&options, 0), Err(TrainError::Stopped)), "{method:?}");
        let outcome = run(&options, 3).unwrap();
        assert_eq!((outcome.steps, outcome.stopped), (3, true), "{method:?}");
        assert_eq!(outcome.pack.document.provenance["stopped"], true);
        let outcome = run(&options, u64::MAX).unwrap();
        assert_eq!((outcome.steps, outcome.stopped), (8, false), "{method:?}");
        let provenance = outcome.pack.document.provenance;
        assert_eq!(provenance["eval_sha256"], data::digest(&data).as_str());
        assert_eq!((&provenance["threads"], &provenance["warmup"]), (&2.into(), &0.1.into()));
        assert!(!provenance.contains_key("stopped") && !provenance.contains_key("max_steps"));
        let outcome = run(&TrainOptions { max_steps: Some(5), ..options }, u64::MAX).unwrap();
        assert_eq!((outcome.steps, outcome.stopped), (5, false), "{method:?}");
        assert_eq!(outcome.pack.document.provenance["max_steps"], 5);
    }
}

#[test]
fn a_small_dev_split_is_filled_up_with_training_texts() {
    let (_dir, base) = base();
    for (count, golden) in [(6, 6), (20, 8), (60, 8)] {
        let data = texts(count);
        let options = options(Method::Head, 1);
        let outcome = train::run(&base, only(&data), &options, &AtomicBool::new(false), &mut |_| ()).unwrap();
        let mut seen: Vec<&str> = outcome.pack.golden.iter().map(|g| g.input.texts()[0]).collect();
        assert_eq!(seen.len(), golden);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), golden, "no text comes twice");
    }
}

#[test]
fn options_that_cannot_be_are_refused_before_the_work() {
    let (_dir, base) = base();
    let change = |change: fn(&mut TrainOptions)| {
        let mut options = options(Method::Mask, 1);
        change(&mut options);
        let work = &mut |_: &Progress| panic!("a step was done");
        let error = train::run(&base, only(&texts(40)), &options, &AtomicBool::new(false), work).unwrap_err();
        assert!(matches!(&error, TrainError::Option { .. } | TrainError::Module { .. }), "{error}");
        error.to_string()
    };
    assert!(change(|o| o.name = "a\nb".into()).starts_with("name: "));
    assert!(change(|o| o.max_tokens = 33).starts_with("max_tokens: 33 is not from 3 to 32"));
    assert_eq!(TrainOptions::usual_tokens(base.manifest()), 32);
    assert!(change(|o| o.dev_folds = Some(41)).starts_with("dev_folds: 41 parts of 40 examples"));
    assert!(change(|o| o.name = "x".repeat(257)).starts_with("name: "));
    assert!(change(|o| (o.method, o.polish) = (Method::Full, 0.5)).starts_with("polish: is for `method` mask"));
    assert!(change(|o| (o.method, o.layers) = (Method::Full, "0".parse().unwrap())).starts_with("layers: "));
    assert!(change(|o| (o.method, o.sampling) = (Method::Layers, Sampling::Bernoulli)).starts_with("sampling: "));
    let of_head = change(|o| *o = TrainOptions { precision: Precision::F16, ..options(Method::Head, 1) });
    assert!(of_head.starts_with("precision: "), "{of_head}");
    // What would have no effect.
    assert!(change(|o| *o = TrainOptions { learning_rate: 2e-5, ..options(Method::Full, 1) }).starts_with("learning_"));
    let of_full = change(|o| (o.method, o.tune.norms) = (Method::Full, true));
    assert!(of_full.starts_with("tune: is for `method` mask, layers or head"), "{of_full}");
    assert!(change(|o| o.dense_learning_rate = 2e-5).starts_with("dense_learning_rate: "));
    assert!(change(|o| (o.granularity, o.initial_sparsity) = (Granularity::TwoOfFour, 0.1)).starts_with("initial_"));
    let of_head = change(|o| *o = TrainOptions { granularity: Granularity::Weight, ..options(Method::Head, 1) });
    assert!(of_head.starts_with("granularity: is for `method` mask"), "{of_head}");
    assert!(change(|o| o.ramp = 0.5).starts_with("ramp: is for `target_sparsity`"));
    assert!(change(|o| (o.form.kind, o.form.pair) = (TaskKind::Tag, true)).starts_with("form.pair: "));
    assert!(change(|o| (o.target_sparsity, o.polish, o.ramp) = (Some(0.5), 0.8, 0.3)).starts_with("ramp: "));
    assert!(change(|o| o.micro_batch = Some(0)).starts_with("micro_batch: "));
    assert!(change(|o| o.precision = Precision::Bf16).starts_with("precision: "));
    assert!(change(|o| o.max_steps = Some(0)).starts_with("max_steps: "));
    assert!(change(|o| o.layers = "2".parse().unwrap()).starts_with("layers: "));
    assert!(change(|o| o.modules = vec!["heads".into()]).starts_with("modules: "));
    assert!(change(|o| o.target_sparsity = Some(1.5)).starts_with("target_sparsity: "));
    assert!(change(|o| (o.target_sparsity, o.ramp) = (Some(0.5), 0.0)).starts_with("ramp: "));
    assert!(change(|o| o.pooling = Pooling::First).starts_with("pooling: "));
    assert!(change(|o| o.max_tokens = 33).starts_with("max_tokens: "));
    assert!(change(|o| o.dropout = 1.0).starts_with("dropout: "));
    assert!(change(|o| o.dev_fraction = 0.01).starts_with("dev_fraction: "));
    assert!(change(|o| o.clip_norm = f64::NAN).starts_with("clip_norm: "));
    assert!(change(|o| o.damping = -0.5).starts_with("damping: "));
}

pub(super) fn learn(base: &Arc<Base>, data: &Dataset, options: &TrainOptions) -> Result<Outcome, TrainError> {
    train::run(base, only(data), options, &AtomicBool::new(false), &mut |_| ())
}

/// The epochs of a run's own, without that of the head from which masks start.
fn own(outcome: &Outcome) -> Vec<Epoch> {
    outcome.curve().iter().copied().filter(|epoch| epoch.epoch > 0).collect()
}

#[test]
fn each_method_changes_what_it_says_and_nothing_else() {
    let (_dir, base) = base();
    let run = |change: fn(&mut TrainOptions), method| {
        let mut options = options(method, 1);
        if method == Method::Mask {
            // Zeros that are asked for: no head alone takes the place of the mask.
            options.initial_sparsity = 0.06;
        }
        change(&mut options);
        let outcome = learn(&base, &texts(40), &options).unwrap();
        let names = |names: Vec<String>| {
            let mut names: Vec<String> = names.iter().map(|n| n.replace("encoder.layer.", "")).collect();
            names.sort();
            names
        };
        let masks = names(outcome.pack.masks.iter().map(|m| m.tensor.clone()).collect());
        (masks, names(outcome.pack.deltas.iter().map(|d| d.tensor.clone()).collect()))
    };
    let (masks, deltas) = run(|o| (o.layers, o.modules) = ("1".parse().unwrap(), vec!["query".into()]), Method::Mask);
    assert_eq!((masks.join(" "), deltas.len()), ("1.attention.self.query.weight".to_owned(), 0));
    let (masks, deltas) =
        run(|o| (o.layers, o.modules) = ("0".parse().unwrap(), vec!["output".into()]), Method::Layers);
    assert_eq!((masks.len(), deltas.join(" ")), (0, "0.output.dense.weight".to_owned()));
    let (masks, deltas) = run(|o| o.tune = Tune { norms: true, biases: false }, Method::Mask);
    assert_eq!((masks.len(), deltas.len()), (12, 10));
    assert!(deltas.iter().all(|name| name.contains("LayerNorm")));
    let (_, deltas) = run(|o| o.tune = Tune { norms: false, biases: true }, Method::Head);
    assert!(deltas.len() == 12 && deltas.iter().all(|name| name.ends_with(".bias") && !name.contains("Norm")));
    let (masks, deltas) = run(|_| (), Method::Full);
    // Three tables, and in each of two layers six linears and two norms of two tensors, and a norm.
    assert_eq!((masks.len(), deltas.len()), (0, 3 + 2 + 2 * 16));
}

/// Dense gradients of every tensor, tables included, against PyTorch are in
/// `gradients_of_the_whole_encoder_agree_with_pytorch`; here they must lower the loss.
#[test]
fn every_method_learns() {
    let (_dir, base) = base();
    for (method, change) in [
        (Method::Head, (|_| ()) as fn(&mut TrainOptions)),
        (Method::Mask, |_| ()),
        (Method::Mask, |o| o.granularity = Granularity::TwoOfFour),
        (Method::Mask, |o| o.init = Init::Uniform),
        (Method::Mask, |o| o.sampling = Sampling::Bernoulli),
        (Method::Mask, |o| o.tune = Tune { norms: true, biases: true }),
        (Method::Layers, |o| o.dense_learning_rate = 1e-2),
        (Method::Full, |o| o.dense_learning_rate = 1e-2),
    ] {
        let mut options = TrainOptions { epochs: 20, head_learning_rate: 1e-2, ..options(method, 1) };
        change(&mut options);
        let outcome = learn(&base, &texts(60), &options).unwrap();
        let own = own(&outcome);
        let [first, .., last] = own.as_slice() else { panic!("two epochs or more") };
        assert!(last.dev_loss < first.dev_loss, "{method:?}: {} to {}", first.dev_loss, last.dev_loss);
        assert!(outcome.dev.main() > 0.6, "{method:?}: {:?}", outcome.dev.metrics);
        assert_eq!(own.len(), 20);
    }
}

#[test]
fn a_sparsity_that_is_asked_for_is_hit() {
    let (_dir, base) = base();
    for granularity in [BLOCK, Granularity::Weight] {
        for target in [0.01, 0.3, 0.6] {
            let options =
                TrainOptions { granularity, target_sparsity: Some(target), epochs: 4, ..options(Method::Mask, 1) };
            let outcome = learn(&base, &texts(40), &options).unwrap();
            // Half a unit may be missing, and units of the same score fall together.
            let unit = 1.0 / outcome.pack.masks.iter().map(|m| m.mask.unit_bits().len()).sum::<usize>() as f64;
            let found = outcome.pack.document.sparsity;
            assert!((found - target).abs() < 1.5 * unit, "{granularity}: {found} for {target}");
            let curve: Vec<f64> = own(&outcome).iter().map(|epoch| epoch.sparsity).collect();
            assert!((curve[3] - target).abs() < 1.5 * unit && (curve[0] - target).abs() > 0.001, "{curve:?}");
        }
    }
    let options = TrainOptions { granularity: Granularity::TwoOfFour, ..options(Method::Mask, 1) };
    let outcome = learn(&base, &texts(40), &options).unwrap();
    assert_eq!(outcome.pack.document.sparsity, 0.5);
}

#[test]
fn polished_masks_stay_as_they_are() {
    let (_dir, base) = base();
    let run = |epochs: u32, polish: f64, max_steps: Option<u64>| {
        let options = TrainOptions { epochs, polish, max_steps, initial_sparsity: 0.06, ..options(Method::Mask, 1) };
        learn(&base, &texts(40), &options).unwrap().pack
    };
    // 4 steps an epoch, and no step but the first left to the scores.
    let start = run(1, 0.0, Some(1)).masks;
    let polished = run(4, 0.93, None).masks;
    let free = run(4, 0.0, None).masks;
    let moved = |masks: &[NamedMask]| -> usize {
        let units = |mask: &NamedMask| mask.mask.unit_bits().to_bitvec();
        masks.iter().zip(&start).map(|(a, b)| (units(a) ^ units(b)).count_ones()).sum()
    };
    assert_eq!(moved(&polished), 0);
    assert!(moved(&free) > 0);
}

/// Whatever a task's rows are, a batch in parts learns what a whole one does.
#[test]
fn a_batch_in_parts_learns_the_same() {
    let (_dir, base) = base();
    for (kind, pair) in
        [(TaskKind::Classify, true), (TaskKind::Multilabel, false), (TaskKind::Regress, false), (TaskKind::Tag, false)]
    {
        let data = of_kind(kind, pair);
        let form = Form { kind, pair };
        let run = |micro_batch| {
            let o = options(Method::Full, 1);
            let pooling = if form.kind == TaskKind::Tag { Pooling::First } else { Pooling::Mean };
            learn(&base, &data, &TrainOptions { form, pooling, micro_batch, epochs: 1, ..o }).unwrap()
        };
        let whole = run(None);
        for size in [1, 3, 100] {
            let parts = run(Some(size));
            let (a, b) = (parts.curve()[0].loss, whole.curve()[0].loss);
            assert!((a - b).abs() < 1e-3 * b.abs(), "{form:?}, {size}: {a} and {b}");
            let (a, b) = (parts.curve()[0].dev_loss, whole.curve()[0].dev_loss);
            assert!((a - b).abs() < 1e-2 * b.abs(), "{form:?}, {size}: {a} and {b}");
            assert_eq!(parts.pack.document.provenance.contains_key("micro_batch"), size < 8);
        }
    }
}

#[test]
fn a_resumed_run_equals_an_unbroken_one() {
    let (dir, base) = base();
    let data = texts(40);
    for (i, change) in [
        (|_| ()) as fn(&mut TrainOptions),
        |o| o.sampling = Sampling::Bernoulli,
        |o| o.target_sparsity = Some(0.3),
        |o| *o = TrainOptions { tune: Tune { norms: true, biases: true }, ..options(Method::Layers, 1) },
        |o| *o = options(Method::Head, 1),
        |o| o.micro_batch = Some(3),
        |o| o.precision = Precision::F16,
    ]
    .into_iter()
    .enumerate()
    {
        let file = dir.path().join(format!("run{i}.checkpoint"));
        let mut whole = options(Method::Mask, 1);
        change(&mut whole);
        whole.epochs = 3;
        let unbroken = learn(&base, &data, &whole).unwrap();
        let checkpoint = |resume| Some(CheckpointOptions { file: file.clone(), every: 1000, resume });
        // Cut off in the middle of the second epoch: what is on disk goes on from there.
        let stop = AtomicBool::new(false);
        let first = TrainOptions { checkpoint: checkpoint(false), ..whole.clone() };
        let outcome = train::run(&base, only(&data), &first, &stop, &mut |now| {
            if now.step == 6 {
                stop.store(true, Ordering::Relaxed);
            }
        });
        assert!(outcome.unwrap().stopped);
        let resumed = learn(&base, &data, &TrainOptions { checkpoint: checkpoint(true), ..whole.clone() }).unwrap();
        assert_eq!(resumed.steps, 12);
        assert_eq!(resumed.attempts, unbroken.attempts, "case {i}");
        assert_eq!(
            resumed.pack.to_bytes(Some(&base)).unwrap(),
            unbroken.pack.to_bytes(Some(&base)).unwrap(),
            "case {i}"
        );

        // Cut off between its last step and the pack.
        let late = CheckpointOptions { file: file.with_extension("late"), every: 1, resume: true };
        let again = TrainOptions { checkpoint: Some(late.clone()), ..whole.clone() };
        learn(&base, &data, &again).unwrap();
        let judged = learn(&base, &data, &again).unwrap();
        assert_eq!((judged.steps, &judged.attempts), (12, &unbroken.attempts), "case {i}");
        assert!(judged.time >= judged.waited);

        // Of another run it is refused, and a damaged one, too.
        for (change, said) in [
            ((|o| o.seed = 2) as fn(&mut TrainOptions), "`seed` was 1, not 2"),
            (|o| o.pooling = Pooling::Cls, "`pooling` was \"mean\", not \"cls\""),
        ] {
            let mut other = TrainOptions { checkpoint: checkpoint(true), ..whole.clone() };
            change(&mut other);
            let error = learn(&base, &data, &other).unwrap_err();
            assert!(error.to_string().contains(said) && error.kind() == ErrorKind::InputData, "{error}");
        }
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let resumed = TrainOptions { checkpoint: checkpoint(true), ..whole };
        let error = learn(&base, &data, &resumed).unwrap_err();
        assert!(error.to_string().contains("damaged") && error.kind() == ErrorKind::CorruptFile, "{error}");
        let text = String::from_utf8_lossy(&std::fs::read(&late.file).unwrap()).into_owned();
        assert!(text.contains("\\\"step\\\":12"), "{}", &text[..400]);
        let bytes = std::fs::read(&late.file).unwrap();
        let at = text.find("\\\"step\\\":12").unwrap() + 10;
        let mut bytes = bytes;
        bytes[at] = b'9';
        std::fs::write(&file, bytes).unwrap();
        let error = learn(&base, &data, &resumed).unwrap_err();
        assert!(error.to_string().contains("damaged") && error.kind() == ErrorKind::CorruptFile, "{error}");
    }
}

/// The same texts for every kind of task.
pub(super) fn of_kind(kind: TaskKind, pair: bool) -> Dataset {
    let mut data = texts(60);
    for (i, example) in data.examples.iter_mut().enumerate() {
        let text = example.input.texts()[0].to_owned();
        let good = i % 2 == 0;
        example.input = match (kind, pair) {
            (TaskKind::Tag, _) => Input::Words { words: text.split(' ').map(str::to_owned).collect() },
            (_, true) => Input::Pair(text, "good film".into()),
            (_, false) => Input::Text(text),
        };
        example.target = match kind {
            TaskKind::Classify => example.target.clone(),
            TaskKind::Multilabel if good => Target::Labels(vec!["good".into(), "any".into()]),
            TaskKind::Multilabel => Target::Labels(vec!["any".into()]),
            TaskKind::Regress => Target::Value(if good { 30.0 } else { 10.0 } + (i % 3) as f64),
            TaskKind::Tag => {
                let first = if good { "B-good" } else { "B-bad" };
                Target::Tags(vec![first.into(), "O".into(), "O".into()])
            }
        };
    }
    data
}

#[test]
fn every_kind_of_task_is_learnt_and_runs_as_it_was_measured() {
    let (_dir, base) = base();
    for (kind, pair, enough) in [
        (TaskKind::Classify, true, 0.8),
        (TaskKind::Multilabel, false, 0.85),
        (TaskKind::Regress, false, 0.6),
        (TaskKind::Tag, false, 0.8),
    ] {
        let pooling = if kind == TaskKind::Tag { Pooling::First } else { Pooling::Mean };
        let data = of_kind(kind, pair);
        for method in [Method::Mask, Method::Full, Method::Head] {
            let mut options = TrainOptions {
                form: Form { kind, pair },
                pooling,
                epochs: 40,
                head_learning_rate: 2e-2,
                ..options(method, 1)
            };
            if method == Method::Full {
                options.dense_learning_rate = 2e-3;
            }
            let outcome = learn(&base, &data, &options).unwrap();
            let reached = outcome.dev.main();
            assert!(reached > enough, "{kind}, {method:?}: {:?}", outcome.dev.metrics);
            assert_eq!((outcome.dev.task, outcome.pack.document.kind), (kind, kind));
            // The loop's own score is that of the pack, but for what rounding moves.
            let best = outcome.curve().iter().map(|epoch| epoch.dev).fold(f64::MIN, f64::max);
            assert!((best - reached).abs() < 0.1, "{kind}, {method:?}: {best} and {reached}");
            assert!(!outcome.pack.golden.is_empty());
        }
    }
}

#[test]
fn a_run_that_diverges_ends_with_advice() {
    let (_dir, base) = base();
    for (method, change) in [
        (Method::Head, (|o| o.head_learning_rate = 1e38) as fn(&mut TrainOptions)),
        (Method::Full, |o| o.dense_learning_rate = 1e30),
    ] {
        let mut options = options(method, 1);
        change(&mut options);
        let error = learn(&base, &texts(40), &options).unwrap_err();
        assert!(matches!(error, TrainError::Diverged { step: 2.., .. }), "{method:?}: {error}");
        let advice = error.to_string();
        assert!(advice.contains("lower the learning rates") && advice.contains("the loss is "), "{advice}");
    }
}

#[test]
fn what_does_not_train_runs_once_and_changes_nothing() {
    let (_dir, base) = base();
    for (method, change) in [
        (Method::Mask, (|o| o.layers = "1".parse().unwrap()) as fn(&mut TrainOptions)),
        (Method::Layers, |o| (o.layers, o.modules) = ("1".parse().unwrap(), vec!["output".into()])),
        // Keys and values of the same layer are made anew of what is kept.
        (Method::Mask, |o| (o.layers, o.modules) = ("1".parse().unwrap(), vec!["query".into()])),
        // No attention above it: only pooling reads where texts end.
        (Method::Layers, |o| (o.layers, o.modules) = ("1".parse().unwrap(), vec!["intermediate".into()])),
        (Method::Mask, |o| {
            (o.layers, o.modules, o.pooling) = ("1".parse().unwrap(), vec!["intermediate".into()], Pooling::Cls)
        }),
    ] {
        let run = |cache| {
            let mut options = TrainOptions { cache, epochs: 3, ..options(method, 1) };
            change(&mut options);
            learn(&base, &texts(40), &options).unwrap()
        };
        let (cached, plain) = (run(1 << 20), run(0));
        let uncached = |outcome: &Outcome| outcome.pack.document.provenance.contains_key("prefix_kept");
        assert_eq!([&cached, &plain].map(uncached), [false, true]);
        for (cached, plain) in cached.curve().iter().zip(plain.curve()) {
            assert!((cached.loss - plain.loss).abs() < 1e-3, "{method:?}: {} and {}", cached.loss, plain.loss);
            assert!((cached.dev_loss - plain.dev_loss).abs() < 1e-3);
        }
    }
    // Too small a cache is as good as none.
    let [small, none] = [100, 0].map(|cache| {
        let options = TrainOptions { cache, layers: "1".parse().unwrap(), ..options(Method::Mask, 1) };
        learn(&base, &texts(40), &options).unwrap()
    });
    assert_eq!((&small.attempts, &small.pack), (&none.attempts, &none.pack));
    let spec = |change: fn(&mut TrainOptions)| {
        let mut options = options(Method::Mask, 1);
        change(&mut options);
        super::super::setup::spec(&base, 2, &options).unwrap()
    };
    let step = |spec| crate::train::graph::step(&base, &spec).unwrap();
    for module in ["query", "key", "value", "attention-output", "intermediate", "output"] {
        let mut options = TrainOptions { layers: "1".parse().unwrap(), ..options(Method::Mask, 1) };
        options.modules = vec![module.into()];
        let upper = step(super::super::setup::spec(&base, 2, &options).unwrap());
        assert!(upper.prefix.is_some(), "{module}");
    }
    let (upper, all) = (step(spec(|o| o.layers = "1".parse().unwrap())), step(spec(|_| ())));
    assert!(upper.prefix.is_some() && all.prefix.is_none());
    assert!(upper.frozen.len() < all.frozen.len(), "the weights below are not the step's");
    assert!(step(spec(|o| o.tune = Tune { norms: true, biases: false })).prefix.is_none());
}
