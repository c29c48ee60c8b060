//! The trainer's errors name fields of its options; who typed flags is told of flags.

use anyhow::Error;
use clap::{Args, Command};
use overmask_cli::CodedError;

use super::TrainArgs;
use crate::cli::data;
use crate::train::TrainError;

/// Fields, and what they are set to, whose flags have other names.
const OTHERS: [(&str, &str); 5] = [
    ("form.kind", "--task"),
    ("form.pair", "--pair"),
    ("data.dev", "--dev-data"),
    ("data.unlabelled", "--unlabelled"),
    ("check_placement = false", "--allow-cpu-fallback"),
];

/// The flag that sets a field.
fn flag(field: &str) -> String {
    let other = OTHERS.iter().find(|(name, _)| *name == field).map(|(_, flag)| (*flag).to_owned());
    other.unwrap_or_else(|| format!("--{}", field.replace(['_', '.'], "-")))
}

/// The error in the words of the command line.
pub(in crate::cli) fn in_flags(error: TrainError) -> Error {
    let error = match error {
        TrainError::Data(error) => return data::in_flags(error),
        error => error,
    };
    let library = error.to_string();
    let mut message = library.clone();
    // Only these speak of other fields; what is quoted in the rest may be the user's.
    if matches!(error, TrainError::Option { .. } | TrainError::Diverged { .. } | TrainError::Placement { .. }) {
        message = flags_in(&message);
    }
    if let Some((field, rest)) = error.field().and_then(|field| Some((field, message.strip_prefix(field)?))) {
        message = flag(field) + rest;
    }
    match message == library {
        true => error.into(),
        false => CodedError { message, code: error.kind().into() }.into(),
    }
}

/// A text in which fields between backticks have become flags.
fn flags_in(text: &str) -> String {
    let command = TrainArgs::augment_args(Command::new("train"));
    let known = |flag: &str| command.get_arguments().any(|arg| arg.get_long() == flag.strip_prefix("--"));
    let mut pieces = text.split('`');
    let mut message = pieces.next().unwrap_or_default().to_owned();
    while let Some(quoted) = pieces.next() {
        match (flag(quoted), pieces.next()) {
            (flag, Some(rest)) if known(&flag) => message.extend([&flag, rest]),
            (_, Some(rest)) => message.extend(["`", quoted, "`", rest]),
            (_, None) => message.extend(["`", quoted]),
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use overmask::error::ErrorKind;
    use overmask_cli::ExitCode;

    use super::*;
    use crate::data::DataError;

    #[test]
    fn errors_say_what_to_type() {
        let advice = "lower the learning rates (`learning_rate` of scores, `dense_learning_rate`, `head_learning_rate`), \
                      lengthen `warmup`, or leave `precision` f16";
        let option = |field, reason: &str| TrainError::Option { field, reason: reason.to_owned() };
        let path = PathBuf::from("a.file");
        for (error, said) in [
            (option("polish", "is for `method` mask"), "--polish: is for --method mask"),
            (
                option("learning_rate", "is for the scores of `method` mask; `dense_learning_rate` is for the rest"),
                "--learning-rate: is for the scores of --method mask; --dense-learning-rate is for the rest",
            ),
            (
                option("initial_sparsity", "is for masks of `weight` or `block:RxC`"),
                "--initial-sparsity: is for masks of `weight` or `block:RxC`",
            ),
            (
                option("teacher.states", "is not for `micro_batch` with `form.kind` tag"),
                "--teacher-states: is not for --micro-batch with --task tag",
            ),
            (option("teacher", "is for a `teacher.weight` above 0"), "--teacher: is for a --teacher-weight above 0"),
            (
                option("form.pair", "is not for `form.kind` tag, whose examples are lists of words"),
                "--pair: is not for --task tag, whose examples are lists of words",
            ),
            (
                option("dev_fraction", "leaves 1 examples to train on, 0 to choose by; take another, or `data.dev`"),
                "--dev-fraction: leaves 1 examples to train on, 0 to choose by; take another, or --dev-data",
            ),
            (
                option("data.unlabelled", "texts without a label need a teacher, `teacher` or `teacher.folds`"),
                "--unlabelled: texts without a label need a teacher, --teacher or --teacher-folds",
            ),
            (option("checkpoint.every", "is 0"), "--checkpoint-every: is 0"),
            (
                TrainError::Module { module: "layers".into(), known: "key, query".into() },
                "--modules: the base has no `layers`, only key, query",
            ),
            (
                TrainError::Teacher { path: path.clone(), reason: "is a task of the kind `tag`".into() },
                "--teacher a.file: is a task of the kind `tag`",
            ),
            (
                TrainError::Checkpoint { path, reason: "is of a run in which `seed` was 1, not 2".into() },
                "--checkpoint a.file: is of a run in which `seed` was 1, not 2; remove the file to start anew",
            ),
            (
                TrainError::Diverged { step: 3, what: "the loss is NaN".into(), advice },
                "at step 3 the loss is NaN; lower the learning rates (--learning-rate of scores, \
                 --dense-learning-rate, --head-learning-rate), lengthen --warmup, or leave --precision f16",
            ),
            (
                TrainError::Placement { nodes: vec!["n (Erf, CPU)".into()] },
                "1 nodes of the step graph ran outside the device: n (Erf, CPU); --allow-cpu-fallback lets them",
            ),
            (
                TrainError::Data(DataError::ManyLabels { path: "a.csv".into(), labels: 30, of: "40 examples".into() }),
                "a.csv: 30 labels for 40 examples, so that most have one of their own; if that is an id or a text, say \
                 which column holds the labels with --label-column; numbers are learnt as such by a task of the kind \
                 `regress`",
            ),
        ] {
            let kind = error.kind();
            let error = in_flags(error);
            assert_eq!(error.to_string(), said);
            assert_eq!(ExitCode::of(&error), ExitCode::from(kind), "{said}");
        }
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        let error = in_flags(TrainError::Stopped);
        assert!(matches!(error.downcast_ref(), Some(TrainError::Stopped)));
        let error = in_flags(TrainError::Runtime("no `seed` of `".into()));
        assert_eq!(error.to_string(), "ONNX Runtime: no `seed` of `");
        assert_eq!(error.downcast_ref::<TrainError>().map(TrainError::kind), Some(ErrorKind::Other));
        assert_eq!(flags_in("an `open end"), "an `open end");
    }

    #[test]
    fn every_other_flag_is_there() {
        for (field, flag) in OTHERS {
            assert_eq!(flags_in(&format!("`{field}`")), flag);
        }
    }
}
