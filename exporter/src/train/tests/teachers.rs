//! Learning from a teacher.

use overmask::pack::{Input, TaskKind};

use super::super::{Method, TeacherOptions, TrainError, TrainOptions};
use super::base;
use super::runs::{learn, of_kind, options, texts};
use crate::data::Form;

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
        Some(TeacherOptions { pack: path.clone(), weight, temperature: 2.0, features, states })
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
        let teacher = TeacherOptions { pack: path.clone(), weight: 0.0, temperature: 2.0, features: 0.0, states };
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
