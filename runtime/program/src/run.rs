//! `overmask run`: inputs in, answers out.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use overmask::engine::{EngineInfo, TaskId};
use overmask::task::{Reply, Runner, Task, TaskError};
use overmask_cli::{CodedError, ExitCode, Output, together};

use super::answer::{self, Known, Row};
use super::given::Given;
use super::input::{Line, Lines};
use super::packs::{self, Opened, TaskArgs};

/// Arguments of `overmask run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    tasks: TaskArgs,
    /// Print one JSON object for each text and task
    #[arg(long)]
    json: bool,
    /// Read JSON objects instead of plain texts: `text`, with `text_pair` for a task that reads two
    /// texts, or `tokens`, a list of words for a task that tags words. Other fields are passed on
    /// to the answers of --json
    #[arg(long)]
    jsonl: bool,
    /// Stop at the first text without an answer; otherwise the others are answered all the same, and
    /// the exit code is 3 at the end
    #[arg(long)]
    strict: bool,
    /// The texts; without any, the lines of stdin. A task that reads two texts takes them with a tab
    /// in between; one that tags words finds them itself
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
}

pub(super) fn run(args: &RunArgs, out: &mut Output) -> anyhow::Result<()> {
    let Opened { base, packs, engine, left_out } = args.tasks.open(|_, _| Ok(()))?;
    let runner = Runner::new(engine, base)?;
    let mut tasks = Vec::new();
    for packs::Given { path, file, .. } in packs {
        let id = runner.add_file(file)?;
        tasks.push(LoadedTask { id, task: runner.task(id)?, pack: path, shown: None });
    }
    name(&mut tasks);
    if tasks.len() > 1 && log::log_enabled!(log::Level::Info) {
        let ids: Vec<TaskId> = tasks.iter().map(|loaded| loaded.id).collect();
        together::explain(&runner, &ids)?.iter().for_each(|line| log::info!("{line}"));
    }
    let place = if args.texts.is_empty() { "stdin, line" } else { "text" };
    let info = runner.describe();
    let mut answers = Answers { runner, info, tasks, place, args, count: 0, failed: 0, warned: false };
    if args.texts.is_empty() {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            log::warn!("reading texts from the terminal, one a line; Ctrl-D ends");
        }
        let mut lines = Lines::new(stdin.lock());
        loop {
            let chunk = lines.next_chunk().context(CodedError::input("cannot read stdin"))?;
            if chunk.is_empty() {
                break;
            }
            answers.print(chunk, out)?;
            out.flush()?;
        }
    } else {
        let texts = args.texts.iter().cloned().enumerate().map(|(i, text)| (i + 1, Ok(text)));
        answers.print(texts.collect(), out)?;
    }
    answers.end()?;
    left_out.map_or(Ok(()), |error| Err(error.into()))
}

/// A task that answers.
struct LoadedTask {
    id: TaskId,
    task: Arc<Task>,
    /// The pack's file.
    pack: String,
    /// The name before its plain answers.
    shown: Option<String>,
}

/// Names several tasks, those of one name by their packs, too.
fn name(tasks: &mut [LoadedTask]) {
    let names: Vec<String> = tasks.iter().map(|loaded| loaded.task.name().to_owned()).collect();
    for (loaded, name) in tasks.iter_mut().zip(&names).filter(|_| names.len() > 1) {
        let same = names.iter().filter(|other| *other == name).count();
        loaded.shown = Some(if same > 1 { format!("{name} ({})", loaded.pack) } else { name.clone() });
    }
}

/// Inputs that become answers of all tasks, and what became of them.
struct Answers<'a> {
    runner: Runner,
    info: EngineInfo,
    tasks: Vec<LoadedTask>,
    /// What the inputs' numbers count.
    place: &'static str,
    args: &'a RunArgs,
    /// Inputs so far.
    count: usize,
    /// Those without an answer of every task.
    failed: usize,
    /// Whether it was said that an input was cut.
    warned: bool,
}

impl Answers<'_> {
    fn print(&mut self, lines: Vec<Line>, out: &mut Output) -> anyhow::Result<()> {
        let is_blank = |line: &Result<String, String>| line.as_ref().is_ok_and(|text| text.trim().is_empty());
        let read = |text: String| Given::read(&text, self.args.jsonl);
        let lines = lines.into_iter().filter(|(_, line)| !(self.args.jsonl && is_blank(line)));
        let lines: Vec<_> = lines.map(|(number, line)| (number, line.and_then(read))).collect();
        let ids: Vec<TaskId> = self.tasks.iter().map(|loaded| loaded.id).collect();
        let given = lines.iter().filter_map(|(_, line)| line.as_ref().ok());
        let requests: Vec<_> = given.map(|given| (&given.input, &ids)).collect();
        let mut replies = self.runner.run_each(&requests).into_iter();
        for (number, line) in &lines {
            self.count += 1;
            let answered = match line {
                Ok(given) => self.print_replies(*number, given, replies.next().unwrap_or_default(), out)?,
                Err(reason) => {
                    self.print_error(*number, None, None, &CodedError::input(reason.as_str()), out)?;
                    false
                }
            };
            self.failed += usize::from(!answered);
        }
        Ok(())
    }

    /// Prints what the tasks say of an input; returns whether all had an answer.
    fn print_replies(
        &mut self,
        line: usize,
        given: &Given,
        replies: Vec<Result<Reply, TaskError>>,
        out: &mut Output,
    ) -> anyhow::Result<bool> {
        let mut answered = true;
        for (i, reply) in replies.iter().enumerate() {
            let LoadedTask { task, pack, shown, .. } = &self.tasks[i];
            let known = Known { task, pack };
            match reply {
                Ok(reply) => {
                    if reply.dropped > 0 && !std::mem::replace(&mut self.warned, true) {
                        let (place, name, limit) = (self.place, task.name(), task.text().max_tokens);
                        log::warn!(
                            "{place} {line}: the task `{name}` reads {limit} tokens, {} more are cut away; --json \
                             tells `truncated` of every such text",
                            reply.dropped
                        );
                    }
                    let row = Row { line, known, given, reply, info: &self.info };
                    row.print(self.args.json, shown.as_deref(), out)?;
                }
                Err(error) => {
                    answered = false;
                    let error = CodedError { message: answer::reason(error), code: ExitCode::from(error.kind()) };
                    self.print_error(line, Some(&known), Some(given), &error, out)?;
                }
            }
        }
        Ok(answered)
    }

    /// Says why an input has no answer, in its place; with `--strict` that is the end.
    fn print_error(
        &self,
        line: usize,
        known: Option<&Known<'_>>,
        given: Option<&Given>,
        error: &CodedError,
        out: &mut Output,
    ) -> anyhow::Result<()> {
        let CodedError { message, code } = error;
        let told = format!("{} {line}: {message}", self.place);
        if self.args.json {
            answer::print_error(line, known, given, message, out)?;
        }
        if self.args.strict {
            out.flush()?;
            return Err(CodedError { message: told, code: *code }.into());
        }
        if !self.args.json {
            log::error!("{told}");
        }
        Ok(())
    }

    /// An error if an input had no answer.
    fn end(self) -> anyhow::Result<()> {
        match (self.failed, self.count) {
            (0, _) => Ok(()),
            (failed, count) => Err(CodedError::input(format!("{failed} of {count} inputs have no answer")).into()),
        }
    }
}
