//! Learning from a teacher.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use overmask::base::Base;
use overmask::pack::{Input, Pooling, TaskKind};

use super::super::{Data, Method, Outcome, Teacher, TeacherOptions, TrainError, TrainOptions};
use super::base;
use super::runs::{learn, of_kind, only, options, texts};
use crate::data::{Dataset, Form, Scale, Soft, Unlabelled};
use crate::train;

#[test]
fn a_teacher_is_followed_and_must_fit() {
    let (dir, base) = base();
    let data = texts(60);
    let full =
        TrainOptions { epochs: 20, dense_learning_rate: 5e-3, head_learning_rate: 1e-2, ..options(Method::Full, 1) };
    let outcome = learn(&base, &data, &full).unwrap();
    let path = dir.path().join("teacher.pack");
    outcome.pack.write(&path, Some(&base)).unwrap();
    let teacher = |weight, features, states| {
        Some(TeacherOptions { who: Teacher::Pack(path.clone()), weight, temperature: 2.0, features, states })
    };
    // With all of the loss its own, the labels say nothing: what is learnt is the teacher.
    for (kind, teacher) in
        [("logits", teacher(1.0, 0.0, 0.0)), ("features", teacher(1.0, 1.0, 0.0)), ("states", teacher(1.0, 0.0, 1.0))]
    {
        let student = TrainOptions { teacher, epochs: 20, ..options(Method::Mask, 1) };
        let outcome = learn(&base, &data, &student).unwrap();
        assert!(outcome.dev.main() > 0.7, "{kind}: {:?}", outcome.dev.metrics);
        assert!(outcome.pack.document.provenance.contains_key("teacher_sha256"));
    }
    let other = TrainOptions {
        teacher: teacher(0.5, 0.0, 0.0),
        form: Form { kind: TaskKind::Regress, pair: false },
        ..options(Method::Mask, 1)
    };
    let error = learn(&base, &of_kind(TaskKind::Regress, false), &other).unwrap_err();
    assert!(matches!(error, TrainError::Teacher { .. }), "{error}");
    let nothing = TrainOptions { teacher: teacher(0.0, 0.0, 0.0), ..options(Method::Mask, 1) };
    let error = learn(&base, &data, &nothing).unwrap_err();
    assert!(error.to_string().starts_with("teacher: is for a weight"), "{error}");
}

/// A teacher that is the base itself: at the first step nothing is to be learnt of its states, whatever their
/// weight, and however the batch is divided.
#[test]
fn states_are_those_of_the_same_tokens() {
    let (dir, base) = base();
    let mut data = texts(40);
    for (i, example) in data.examples.iter_mut().enumerate() {
        example.input = Input::Text(format!("{}good film {i}", "the ".repeat(i % 9)));
    }
    let path = dir.path().join("teacher.pack");
    learn(&base, &data, &options(Method::Head, 1)).unwrap().pack.write(&path, Some(&base)).unwrap();
    let first_loss = |states, micro_batch| {
        let teacher = TeacherOptions { weight: 0.0, states, ..TeacherOptions::new(Teacher::Pack(path.clone())) };
        let o = TrainOptions {
            teacher: (states > 0.0).then_some(teacher),
            micro_batch,
            max_steps: Some(1),
            ..options(Method::Full, 1)
        };
        learn(&base, &data, &o).unwrap().curve()[0].loss
    };
    let alone = first_loss(0.0, None);
    for micro_batch in [None, Some(3)] {
        let taught = first_loss(1e3, micro_batch);
        assert!((taught - alone).abs() < 1e-4, "{micro_batch:?}: {taught} and {alone}");
    }
}

/// One step of a run that starts from no head.
fn full(base: &Arc<Base>, data: Data<'_>, teacher: Option<TeacherOptions>) -> Result<Outcome, TrainError> {
    let o = TrainOptions { teacher, max_steps: Some(1), ..options(Method::Full, 1) };
    train::run(base, data, &o, &AtomicBool::new(false), &mut |_| ())
}

/// Probabilities of 1 for each label, beside it or in its place.
fn certain(mut data: Dataset, alone: bool) -> Dataset {
    for example in &mut data.examples {
        let label = example.target.labels().concat();
        let scores = ["no", "yes"].map(|name| (name.to_owned(), f64::from(u8::from(name == label))));
        example.soft = Some(Soft { scale: Scale::Probs, scores: scores.into(), alone });
    }
    data
}

#[test]
fn soft_labels_are_learnt_beside_labels_or_in_their_place() {
    let (_dir, base) = base();
    let data = texts(60);
    let loss = |data: &Dataset, weight, temperature| {
        let teacher = TeacherOptions { weight, temperature, ..TeacherOptions::new(Teacher::Labels) };
        let outcome = full(&base, only(data), Some(teacher)).unwrap();
        assert_eq!(outcome.summary.soft, Some(60));
        outcome.curve()[0].loss
    };
    let hard = full(&base, only(&data), None).unwrap().curve()[0].loss;
    // What is certain is as good as a label; where there is none, nothing but it counts.
    for (alone, weight, part) in [(false, 0.25, 1.0), (true, 0.25, 0.25), (true, 1.0, 1.0)] {
        let soft = loss(&certain(data.clone(), alone), weight, 1.0);
        assert!((soft - part * hard).abs() < 1e-5, "{alone} {weight}: {soft}, {hard}");
    }
    // By them alone it is learnt.
    let soft = certain(data.clone(), true);
    let teacher = Some(TeacherOptions::new(Teacher::Labels));
    let outcome = learn(&base, &soft, &TrainOptions { teacher, epochs: 20, ..options(Method::Mask, 1) }).unwrap();
    assert!(outcome.dev.main() > 0.7, "{:?}", outcome.dev.metrics);
    assert_eq!(outcome.pack.document.provenance["teacher_temperature"], 2.0);
    // Who says nothing of them, or speaks of them where there are none, is told.
    let error = full(&base, only(&soft), None).unwrap_err();
    assert!(error.to_string().starts_with("teacher: some examples have `probs`"), "{error}");
    let error = full(&base, only(&data), Some(TeacherOptions::new(Teacher::Labels))).unwrap_err();
    assert!(error.to_string().starts_with("teacher.weight: is for `teacher`, `teacher.folds`, or"), "{error}");
}

/// Where only some have soft labels, the others are learnt by their labels.
#[test]
fn examples_without_soft_labels_are_learnt_by_their_labels() {
    let (_dir, base) = base();
    let data = texts(60);
    let hard = full(&base, only(&data), None).unwrap().curve()[0].loss;
    let mut mixed = certain(data.clone(), false);
    mixed.examples.iter_mut().for_each(|example| example.soft = None);
    mixed.examples[0].soft = certain(data, false).examples[0].soft.clone();
    let teacher = TeacherOptions { weight: 0.25, temperature: 1.0, ..TeacherOptions::new(Teacher::Labels) };
    let outcome = full(&base, only(&mixed), Some(teacher)).unwrap();
    let parts = outcome.curve()[0].loss / hard;
    assert!((0.75..0.9).contains(&parts), "{parts}: at most one of the eight counts more than three quarters");
}

#[test]
fn teachers_of_a_runs_own_teach_what_they_have_not_learnt() {
    let (_dir, base) = base();
    let data = texts(60);
    let run = |folds, seed, stop_after: u64| {
        let teacher = Some(TeacherOptions::new(Teacher::Folds(folds)));
        let o = TrainOptions { teacher, ..options(Method::Mask, seed) };
        let (stop, mut seen) = (AtomicBool::new(false), Vec::new());
        let outcome = train::run(&base, only(&data), &o, &stop, &mut |now| {
            stop.store(now.part.is_some() && now.step >= stop_after, Ordering::Relaxed);
            if now.part.is_some() {
                assert!(now.step <= now.steps);
            }
            if seen.last() != Some(&now.part.map(|part| (part.number, part.of))) {
                seen.push(now.part.map(|part| (part.number, part.of)));
            }
        });
        (outcome, seen)
    };
    let (outcome, seen) = run(3, 1, u64::MAX);
    let outcome = outcome.unwrap();
    assert_eq!(seen, [Some((1, 3)), Some((2, 3)), Some((3, 3)), None]);
    let folds = outcome.folds.unwrap();
    assert!(folds.folds == 3 && folds.held_out > 0.9 && folds.steps >= 240, "{folds:?}");
    assert_eq!(outcome.pack.document.provenance["teacher_folds"], 3);
    let bytes = outcome.pack.to_bytes(Some(&base)).unwrap();
    assert_eq!(bytes, run(3, 1, u64::MAX).0.unwrap().pack.to_bytes(Some(&base)).unwrap());
    assert!(run(3, 2, u64::MAX).0.unwrap().pack.to_bytes(Some(&base)).unwrap() != bytes);
    assert!(matches!(run(3, 1, 5), (Err(TrainError::Stopped), seen) if seen == [Some((1, 3))]));
    for (folds, said) in [(1, "teacher.folds: 1 parts"), (49, "teacher.folds: 49 parts of 48 examples")] {
        let error = run(folds, 1, u64::MAX).0.unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
    }
    let teacher = Some(TeacherOptions { features: 1.0, ..TeacherOptions::new(Teacher::Folds(3)) });
    let error = learn(&base, &data, &TrainOptions { teacher, ..options(Method::Mask, 1) }).unwrap_err();
    assert!(error.to_string().starts_with("teacher.features: is for a `teacher` that is a pack"), "{error}");
}

/// What a teacher says of texts without a label is learnt, of whatever kind they are.
#[test]
fn texts_without_a_label_are_learnt_from_a_teacher() {
    let (dir, base) = base();
    for (kind, pair) in
        [(TaskKind::Classify, true), (TaskKind::Multilabel, false), (TaskKind::Regress, false), (TaskKind::Tag, false)]
    {
        let pooling = if kind == TaskKind::Tag { Pooling::First } else { Pooling::Mean };
        let data = of_kind(kind, pair);
        let of = |method| TrainOptions { form: Form { kind, pair }, pooling, ..options(method, 1) };
        let path = dir.path().join("teacher.pack");
        let full = TrainOptions { epochs: 20, dense_learning_rate: 5e-3, head_learning_rate: 1e-2, ..of(Method::Full) };
        let taught = learn(&base, &data, &full).unwrap();
        taught.pack.write(&path, Some(&base)).unwrap();
        let inputs = data.examples.iter().map(|example| (example.input.clone(), example.line)).collect();
        let unlabelled = Unlabelled { path: "more.jsonl".into(), inputs };
        let few = Dataset { path: data.path.clone(), examples: data.examples[..30].to_vec() };
        for (who, method) in [(Teacher::Pack(path), Method::Head), (Teacher::Folds(2), Method::Mask)] {
            let teacher = Some(TeacherOptions::new(who));
            let o = TrainOptions { teacher, epochs: 20, head_learning_rate: 2e-2, ..of(method) };
            let data = Data { unlabelled: Some(&unlabelled), ..only(&few) };
            let outcome = train::run(&base, data, &o, &AtomicBool::new(false), &mut |_| ()).unwrap();
            assert_eq!((outcome.train_texts, outcome.dev_texts), (24 + 60, 6), "{kind} {method:?}");
            assert_eq!((outcome.summary.unlabelled, outcome.steps), (Some(60), 20 * 11));
            assert_eq!(outcome.pack.document.provenance["unlabelled_texts"], 60);
            assert!(outcome.dev.main() > 0.6, "{kind} {method:?}: {:?}", outcome.dev.metrics);
        }
    }
}

#[test]
fn texts_without_a_label_need_a_teacher_and_never_choose() {
    let (dir, base) = base();
    let data = texts(60);
    let path = dir.path().join("teacher.pack");
    learn(&base, &data, &options(Method::Head, 1)).unwrap().pack.write(&path, Some(&base)).unwrap();
    let unlabelled = Unlabelled {
        path: "more.jsonl".into(),
        inputs: data.examples.iter().map(|example| (example.input.clone(), example.line)).collect(),
    };
    let learnt = |who: Option<Teacher>, weight| {
        let teacher = who.map(|who| TeacherOptions { weight, ..TeacherOptions::new(who) });
        full(&base, Data { unlabelled: Some(&unlabelled), ..only(&data) }, teacher)
    };
    for who in [None, Some(Teacher::Labels)] {
        let error = learnt(who, 0.5).unwrap_err().to_string();
        assert!(error.starts_with("data.unlabelled: texts without a label need a teacher"), "{error}");
    }
    let outcome = learnt(Some(Teacher::Pack(path)), 0.5).unwrap();
    assert_eq!((outcome.train_texts, outcome.dev_texts), (48 + 60, 12));
    assert!(outcome.summary.to_string().contains("; 60 texts without a label beside them"), "{}", outcome.summary);
}
