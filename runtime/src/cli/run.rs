//! `overmask run`: texts in, labels out.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::input::{Line, Lines};
use super::output::Output;
use super::packs::{self, Given, TrustArgs};
use super::{BaseArgs, EngineArgs};
use crate::base::Base;
use crate::error::{CodedError, printable};
use crate::task::{Prediction, Runner, TaskError, TaskRef};

/// Arguments of `overmask run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    base: BaseArgs,
    /// A task's pack, a pack set, or one pack of a set (SET#NAME); give it again for more tasks,
    /// which all stay loaded
    #[arg(long = "pack", value_name = "FILE", required = true)]
    packs: Vec<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object for each text and task
    #[arg(long)]
    json: bool,
    /// The texts; without any, the lines of stdin
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Row<'a> {
    /// Number of the text or line, from 1.
    line: usize,
    task: &'a str,
    pack: &'a str,
    text: &'a str,
    label: &'a str,
    score: f32,
    scores: BTreeMap<&'a str, f32>,
    engine: &'a str,
    precision: &'a str,
}

/// A loaded pack.
struct Task {
    task: TaskRef,
    name: String,
    file: String,
    labels: Vec<String>,
}

pub(super) fn run(args: &RunArgs, out: &mut Output) -> anyhow::Result<()> {
    // What can be wrong with the files is found before the engine starts, but for what only shows
    // when masks are decoded.
    let base = Arc::new(Base::open(&args.base.base)?);
    let given = packs::read(&args.packs, &args.trust)?;
    given.iter().try_for_each(|given| given.file.check_base(&base))?;
    let engine = args.engine.start(&base)?;
    let mut runner = Runner::new(engine, base)?;
    let mut tasks = Vec::new();
    for Given { path: file, file: pack, .. } in given {
        let task = runner.add_file(pack)?;
        tasks.push(Task { task, name: runner.name(task)?.to_owned(), file, labels: runner.labels(task)?.to_vec() });
    }

    if !args.texts.is_empty() {
        let texts: Vec<Line> = args.texts.iter().cloned().enumerate().map(|(i, text)| (i + 1, text)).collect();
        return classify(&runner, &tasks, "text", &texts, args.json, out);
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        log::warn!("reading texts from the terminal, one a line; Ctrl-D ends");
    }
    let mut lines = Lines::new(stdin.lock(), "stdin");
    loop {
        let chunk = lines.next_chunk()?;
        if chunk.is_empty() {
            return Ok(());
        }
        classify(&runner, &tasks, "stdin, line", &chunk, args.json, out)?;
        out.flush()?;
    }
}

/// Labels texts; `place` is what their numbers count.
fn classify(
    runner: &Runner,
    tasks: &[Task],
    place: &str,
    lines: &[Line],
    json: bool,
    out: &mut Output,
) -> anyhow::Result<()> {
    let texts: Vec<&str> = lines.iter().map(|(_, text)| text.as_str()).collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(runner.classify(task.task, &texts).map_err(|error| match error {
            TaskError::Text { index, reason } => {
                CodedError::input(format!("{place} {}: {reason}", lines[index].0)).into()
            }
            other => anyhow::Error::from(other),
        })?);
    }
    let info = runner.describe();
    for (i, (line, text)) in lines.iter().enumerate() {
        for (task, predictions) in tasks.iter().zip(&all) {
            let Prediction { label, score, scores, .. } = &predictions[i];
            if json {
                out.json(&Row {
                    line: *line,
                    task: &task.name,
                    pack: &task.file,
                    text,
                    label,
                    score: *score,
                    scores: task.labels.iter().map(String::as_str).zip(scores.iter().copied()).collect(),
                    engine: &info.engine,
                    precision: &info.precision,
                })?;
            } else if tasks.len() > 1 {
                out.line(&format!("{}\t{label}\t{score:.4}\t{}", task.name, printable(text)))?;
            } else {
                out.line(&format!("{label}\t{score:.4}\t{}", printable(text)))?;
            }
        }
    }
    Ok(())
}
