//! `overmask run`: inputs in, answers out.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::answer::{Given, Row};
use super::input::{Line, Lines};
use super::output::Output;
use super::packs::{self, TrustArgs};
use super::{BaseArgs, EngineArgs};
use crate::base::Base;
use crate::error::CodedError;
use crate::pack::{TaskKind, TextSettings};
use crate::task::{Runner, TaskError, TaskRef};

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
    /// Read JSON objects instead of plain texts: `text`, with `text_pair` for a task that reads two
    /// texts, or `tokens`, a list of words for a task that tags words
    #[arg(long)]
    jsonl: bool,
    /// The texts; without any, the lines of stdin. A task that reads two texts takes them with a tab
    /// in between; one that tags words finds them itself
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
}

/// A loaded pack.
pub(super) struct Task {
    pub(super) task: TaskRef,
    pub(super) name: String,
    pub(super) file: String,
    pub(super) kind: TaskKind,
    pub(super) text: TextSettings,
    pub(super) labels: Vec<String>,
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
    for packs::Given { path: file, file: pack, .. } in given {
        let task = runner.add_file(pack)?;
        tasks.push(Task {
            task,
            name: runner.name(task)?.to_owned(),
            file,
            kind: runner.kind(task)?,
            text: runner.text(task)?.clone(),
            labels: runner.labels(task)?.to_vec(),
        });
    }

    if !args.texts.is_empty() {
        let texts: Vec<Line> = args.texts.iter().cloned().enumerate().map(|(i, text)| (i + 1, text)).collect();
        return answer(&runner, &tasks, "text", &texts, args, out);
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
        answer(&runner, &tasks, "stdin, line", &chunk, args, out)?;
        out.flush()?;
    }
}

/// Runs lines through all tasks; `place` is what their numbers count.
fn answer(
    runner: &Runner,
    tasks: &[Task],
    place: &str,
    lines: &[Line],
    args: &RunArgs,
    out: &mut Output,
) -> anyhow::Result<()> {
    let wrong = |line: usize, reason: String| CodedError::input(format!("{place} {}: {reason}", lines[line].0));
    let read = |(i, (_, text)): (usize, &Line)| Given::read(text, args.jsonl).map_err(|reason| wrong(i, reason));
    let given = lines.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let mut all = Vec::new();
    for task in tasks {
        let input = |(i, given): (usize, &Given)| given.input(task, runner).map_err(|reason| wrong(i, reason));
        let asked = given.iter().enumerate().map(input).collect::<Result<Vec<_>, _>>()?;
        let inputs: Vec<_> = asked.iter().map(|asked| asked.input.clone()).collect();
        let answers = runner.predict(task.task, &inputs).map_err(|error| match error {
            TaskError::Text { index, reason } => wrong(index, reason).into(),
            other => anyhow::Error::from(other),
        })?;
        all.push(asked.into_iter().zip(answers).collect::<Vec<_>>());
    }
    let info = runner.describe();
    for (i, (line, _)) in lines.iter().enumerate() {
        for (task, answers) in tasks.iter().zip(&all) {
            let (asked, answer) = &answers[i];
            let row = Row { line: *line, task, given: &given[i], asked, answer, info: &info };
            row.print(args.json, tasks.len() > 1, out)?;
        }
    }
    Ok(())
}
