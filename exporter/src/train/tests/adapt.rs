//! Bases that are prepared for masks.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use overmask::base::Base;
use overmask::error::ErrorKind;
use overmask::mask::Granularity;

use super::super::{AdaptOptions, Adapted, CheckpointOptions, TrainError, adapt};
use super::{BLOCK, base};
use crate::data::Unlabelled;
use crate::import;

fn texts(count: usize) -> Unlabelled {
    let texts = ["good film", "bad film of a plot", "fine plot", "dull"];
    let input = |i: usize| (format!("{} {i}", texts[i % 4]).into(), i + 1);
    Unlabelled { path: PathBuf::from("texts.txt"), inputs: (0..count).map(input).collect() }
}

fn options() -> AdaptOptions {
    AdaptOptions {
        granularity: BLOCK,
        steps: 40,
        batch_size: 8,
        learning_rate: 2e-3,
        max_tokens: 16,
        threads: 1,
        ..AdaptOptions::default()
    }
}

fn run(base: &Arc<Base>, texts: &Unlabelled, options: &AdaptOptions) -> Result<Adapted, TrainError> {
    adapt(base, texts, options, &AtomicBool::new(false), &mut |_| ())
}

#[test]
fn masks_come_nearer_to_the_base_and_the_rest_stays() {
    let (dir, base) = base();
    for granularity in [BLOCK, Granularity::Weight, Granularity::TwoOfFour] {
        let adapted = run(&base, &texts(60), &AdaptOptions { granularity, ..options() }).unwrap();
        // Without a mask nothing lies between: student and base are compared by the same values.
        assert_eq!(adapted.before.dense, 0.0);
        assert!(adapted.after.half < 0.9 * adapted.before.half, "{granularity}: {adapted:?}");
        assert!(adapted.after.dense < 0.5 * adapted.after.half, "{granularity}: {:?}", adapted.after);
        assert_eq!((adapted.texts, adapted.held, adapted.repeated, adapted.steps), (57, 3, 0, 40));
        let manifest = base.manifest();
        let masked: BTreeSet<&str> = manifest.maskable.iter().map(|tensor| tensor.name.as_str()).collect();
        let others = adapted.tensors.keys().filter(|name| !masked.contains(name.as_str()));
        assert!(others.clone().all(|name| base.shape(name).unwrap().len() == 1), "{others:?}");
        assert!(masked.iter().all(|name| adapted.tensors[*name] != base.tensor_f32(name).unwrap().1));

        let out = dir.path().join(granularity.to_string().replace(':', "-"));
        let written = import::rewrite(&base, &adapted.tensors, "x".into(), &out).unwrap();
        written.verify().unwrap();
        assert_ne!(written.base_id(), base.base_id());
        assert_eq!((written.names(), written.manifest().source.as_str()), (base.names(), "x"));
        for name in written.names() {
            let values = written.tensor_f32(&name).unwrap().1;
            let wanted = adapted.tensors.get(&name).map_or(base.tensor_f32(&name).unwrap().1, Vec::as_slice);
            assert_eq!(values, wanted, "{name}");
        }
        // Its graph reads them where they are: nothing is left to learn but what was.
        let again = Arc::new(written);
        let still = run(&again, &texts(60), &AdaptOptions { granularity, steps: 1, ..options() }).unwrap();
        assert!(still.before.half < adapted.before.half, "{granularity}: {still:?}");
    }
}

#[test]
fn a_run_repeats_and_goes_on_as_if_nothing_had_been() {
    let (dir, base) = base();
    let whole = AdaptOptions { steps: 12, ..options() };
    let wanted = run(&base, &texts(30), &whole).unwrap();
    assert_eq!(run(&base, &texts(30), &whole).unwrap().tensors, wanted.tensors);
    assert_ne!(run(&base, &texts(30), &AdaptOptions { seed: 2, ..whole.clone() }).unwrap().tensors, wanted.tensors);

    let file = dir.path().join("run.checkpoint");
    let with = |every, resume| AdaptOptions {
        checkpoint: Some(CheckpointOptions { file: file.clone(), every, resume }),
        ..whole.clone()
    };
    let stop = AtomicBool::new(false);
    let cut = adapt(&base, &texts(30), &with(1000, false), &stop, &mut |now| {
        stop.store(now.step == 5, Ordering::Relaxed);
    });
    let cut = cut.unwrap();
    assert_eq!((cut.steps, cut.stopped, cut.saved), (5, true, true));
    let resumed = run(&base, &texts(30), &with(1000, true)).unwrap();
    assert!(resumed.tensors == wanted.tensors && resumed.before == wanted.before && resumed.after == wanted.after);
    assert_eq!((resumed.steps, resumed.stopped, resumed.loss), (12, false, wanted.loss));

    // What was written last goes on, too, wherever the run was cut off; with other texts nothing does.
    run(&base, &texts(30), &with(7, false)).unwrap();
    assert_eq!(run(&base, &texts(30), &with(1000, true)).unwrap().tensors, wanted.tensors);
    let threads = AdaptOptions { threads: 2, ..with(1000, true) };
    let error = run(&base, &texts(30), &threads).unwrap_err();
    assert!(error.to_string().contains("is of a run in which `threads` was 1, not 2"), "{error}");
    // A state that cannot be written is said, and what was learnt is there all the same.
    let nowhere = AdaptOptions {
        checkpoint: Some(CheckpointOptions { file: dir.path().join("absent/x"), every: 5, resume: false }),
        ..whole.clone()
    };
    let kept = run(&base, &texts(30), &nowhere).unwrap();
    assert!(!kept.saved && kept.tensors == wanted.tensors);
    let error = run(&base, &texts(31), &with(1000, true)).unwrap_err();
    assert!(error.to_string().contains("is of a run in which `texts` was"), "{error}");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = run(&base, &texts(30), &with(1000, true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CorruptFile, "{error}");
}

#[test]
fn texts_that_are_there_twice_count_once() {
    let (_dir, base) = base();
    let mut doubled = texts(20);
    doubled.inputs.extend(texts(10).inputs);
    let adapted = run(&base, &doubled, &AdaptOptions { steps: 1, ..options() }).unwrap();
    assert_eq!((adapted.texts, adapted.held, adapted.repeated), (19, 1, 10));
}

#[test]
fn what_cannot_be_is_refused_before_the_work() {
    let (_dir, base) = base();
    for (options, said) in [
        (AdaptOptions { sparsity: 1.0, ..options() }, "sparsity: 1 is not between 0 and 1"),
        (AdaptOptions { sparsity: f64::NAN, ..options() }, "sparsity: NaN is not"),
        (AdaptOptions { steps: 0, ..options() }, "steps: is 0"),
        (AdaptOptions { batch_size: 0, ..options() }, "batch_size: is 0"),
        (AdaptOptions { learning_rate: -1.0, ..options() }, "learning_rate: -1 is not a finite number above 0"),
        (AdaptOptions { warmup: 1.0, ..options() }, "warmup: 1 is not from 0 to below 1"),
        (AdaptOptions { max_tokens: 2, ..options() }, "max_tokens: 2 is not from 3 to"),
        (AdaptOptions { granularity: Granularity::Block { rows: 7, cols: 1 }, ..options() }, "does not divide"),
    ] {
        let error = run(&base, &texts(30), &options).unwrap_err();
        assert!(error.kind() == ErrorKind::Usage && error.to_string().contains(said), "{error}");
    }
    let error = run(&base, &texts(1), &options()).unwrap_err();
    assert!(error.to_string().contains("texts: is one text"), "{error}");
    let stopped = adapt(&base, &texts(30), &options(), &AtomicBool::new(true), &mut |_| ()).unwrap_err();
    assert!(matches!(stopped, TrainError::Stopped));
}
