//! `overmask run`: inputs in, answers out.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use overmask::base::Base;
use overmask::engine::TaskId;
use overmask::task::{Runner, Task, TaskError};
use overmask_cli::{CodedError, EngineArgs, Output};

use super::BaseArgs;
use super::answer::{Given, Row};
use super::input::{Line, Lines};
use super::packs::{self, TrustArgs};

/// Arguments of `overmask run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
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

/// The tasks that answer, each with its pack's file.
struct Tasks {
    ids: Vec<TaskId>,
    known: Vec<(Arc<Task>, String)>,
}

pub(super) fn run(args: &RunArgs, out: &mut Output) -> anyhow::Result<()> {
    // What can be wrong with the files is found before the engine starts, but for what only shows
    // when masks are decoded.
    let base = Arc::new(Base::open(&args.base.base)?);
    let given = packs::read(&args.packs, &args.trust)?;
    given.iter().try_for_each(|given| given.file.check_base(&base))?;
    let runner = Runner::new(args.engine.start(&base)?, base)?;
    let mut tasks = Tasks { ids: Vec::new(), known: Vec::new() };
    for packs::Given { path, file, .. } in given {
        let id = runner.add_file(file)?;
        tasks.ids.push(id);
        tasks.known.push((runner.task(id)?, path));
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
    tasks: &Tasks,
    place: &str,
    lines: &[Line],
    args: &RunArgs,
    out: &mut Output,
) -> anyhow::Result<()> {
    let wrong = |line: usize, reason: String| CodedError::input(format!("{place} {}: {reason}", lines[line].0));
    let read = |(i, (_, text)): (usize, &Line)| Given::read(text, args.jsonl).map_err(|reason| wrong(i, reason));
    let given = lines.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let requests: Vec<_> = given.iter().map(|given| (given.input(), &tasks.ids)).collect();
    let answers = runner.run(&requests).map_err(|error| match error {
        TaskError::Text { index, source } => wrong(index, source.to_string()).into(),
        other => anyhow::Error::from(other),
    })?;
    let info = runner.describe();
    for (((line, _), given), answers) in lines.iter().zip(&given).zip(&answers) {
        for ((task, pack), answer) in tasks.known.iter().zip(answers) {
            let row = Row { line: *line, task, pack, given, answer, info: &info };
            row.print(args.json, tasks.ids.len() > 1, out)?;
        }
    }
    Ok(())
}
