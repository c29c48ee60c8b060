//! The two tasks of the demo and the benchmark: how they are learnt and measured.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::setup::Ready;
use crate::work::{Run, Work};

/// A task that is learnt.
pub(crate) struct Task {
    /// Its name, and that of its data set.
    pub(crate) name: &'static str,
    /// A few texts to show; none of them is in the data set.
    pub(crate) texts: [&'static str; 3],
}

/// The tasks.
pub(crate) const TASKS: [Task; 2] = [
    Task {
        name: "trec",
        texts: [
            "What is the capital of Peru?",
            "How many legs does a spider have?",
            "Who painted the ceiling of the Sistine Chapel?",
        ],
    },
    Task {
        name: "movie",
        texts: [
            "A quiet film that stays with you for days.",
            "Two hours of my life that nobody will give back.",
            "The plot is thin, but the leads carry it with charm.",
        ],
    },
];

/// How a task is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// The frozen encoder with a head: what a mask has to beat.
    Head,
    /// Masks of this granularity.
    Mask(&'static str),
    /// The same with half of the weights zero, for measuring speed: learnt in one epoch.
    Half(&'static str),
}

impl Method {
    /// The arguments of `train`.
    pub(crate) fn args(self) -> String {
        match self {
            Self::Head => "--method head".to_owned(),
            Self::Mask(granularity) => format!("--method mask --granularity {granularity}"),
            Self::Half(granularity) => {
                format!("--method mask --granularity {granularity} --initial-sparsity 0.5 --epochs 1")
            }
        }
    }

    /// A word for tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Mask(granularity) | Self::Half(granularity) => granularity,
        }
    }
}

/// A data file of a task.
pub(crate) fn data(work: &Work, task: &Task, part: &str) -> PathBuf {
    work.assets().join(task.name).join(format!("{part}.jsonl"))
}

/// Learns a task; returns what `train --json` says.
pub(crate) fn train(
    ready: &Ready,
    work: &Work,
    base: &Path,
    task: &Task,
    method: Method,
    seed: u64,
    pack: &Path,
) -> Result<Value> {
    eprintln!("{}: learning with {}, seed {seed}", task.name, method.name());
    let run = ready
        .run("overmask-export")
        .args("train --task classify --json --base")
        .arg(base)
        .arg("--data")
        .arg(data(work, task, "train"))
        .args(&method.args())
        .args("--name")
        .arg(task.name)
        .args("--seed")
        .arg(seed.to_string())
        .arg("-o")
        .arg(pack);
    object(run)
}

/// Measures a pack on the held-out texts; returns what `evaluate --json` says.
pub(crate) fn evaluate(
    ready: &Ready,
    work: &Work,
    base: &Path,
    task: &Task,
    pack: &Path,
    predictions: Option<&Path>,
) -> Result<Value> {
    let mut run = ready
        .run("overmask-export")
        .args("evaluate --json --base")
        .arg(base)
        .arg("--pack")
        .arg(pack)
        .arg("--data")
        .arg(data(work, task, "test"));
    if let Some(path) = predictions {
        run = run.arg("--predictions").arg(path);
    }
    object(run)
}

/// The JSON object that a program prints.
pub(crate) fn object(run: Run) -> Result<Value> {
    let text = run.output()?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))?;
    ensure!(value.is_object(), "not a JSON object: {text}");
    Ok(value)
}

/// A number of an object.
pub(crate) fn number(object: &Value, field: &str) -> Result<f64> {
    object[field].as_f64().with_context(|| format!("no number `{field}` in {object}"))
}
