//! `overmask-export convert`: data sets in layouts of their own become JSONL.

use std::path::{Path, PathBuf};

use anyhow::Error;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use overmask_cli::ExitCode;
use serde_json::json;

use super::output;
use crate::data::glue::{GlueTask, TASKS, Written};

/// How many lines a warning lists.
const LISTED: usize = 5;

/// Convert a data set to JSONL files that `train` and `evaluate` read.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export convert glue GLUE/CoLA --task cola -o cola/",
    after_help = ExitCode::HELP
)]
pub(super) struct ConvertArgs {
    #[command(subcommand)]
    layout: Layout,
}

#[derive(Debug, Subcommand)]
enum Layout {
    Glue(GlueArgs),
}

/// Convert a task of GLUE from the folder that GLUE's download script makes: train.tsv, dev.tsv.
///
/// Writes train.jsonl and dev.jsonl, for MNLI dev_mismatched.jsonl too, and prints the commands that train
/// and measure the task.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export convert glue GLUE/CoLA --task cola -o cola/",
    after_help = ExitCode::HELP
)]
struct GlueArgs {
    /// The task's folder.
    dir: PathBuf,
    /// The task.
    #[arg(
        long,
        value_parser = PossibleValuesParser::new(TASKS.map(|task| task.name))
            .try_map(|name| GlueTask::find(&name).ok_or("is no task of GLUE"))
    )]
    task: GlueTask,
    /// Where to write the JSONL files; must not exist, or be empty.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Print what was written as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ConvertArgs) -> Result<(), Error> {
    let Layout::Glue(args) = &args.layout;
    let task = args.task;
    let written = task.convert(&args.dir, &args.output)?;
    for Written { name, examples, left_out } in &written {
        let path = args.output.join(name);
        log::info!("{}: {examples} examples", path.display());
        if !left_out.is_empty() {
            let listed: Vec<String> = left_out.iter().take(LISTED).map(usize::to_string).collect();
            let more = if left_out.len() > LISTED { ", ..." } else { "" };
            let (count, lines) = (left_out.len(), listed.join(", "));
            log::warn!("{}: {count} lines without a text or a label are left out ({lines}{more})", path.display());
        }
    }
    let commands = commands(task, &args.output, &written);
    if args.json {
        let files = written.iter().map(|Written { name, examples, left_out }| {
            json!({"path": args.output.join(name).display().to_string(), "examples": examples, "left_out": left_out.len()})
        });
        return output::json(&json!({
            "task": task.name,
            "kind": task.form.kind,
            "pair": task.form.pair,
            "metrics": task.metrics,
            "files": files.collect::<Vec<_>>(),
            "commands": commands,
        }));
    }
    output::line(&format!("# GLUE judges {} by: {}", task.name, task.metrics.join(", ")))?;
    commands.iter().try_for_each(|command| output::line(command))
}

/// What trains the task and measures it, as a shell takes it.
fn commands(task: GlueTask, dir: &Path, written: &[Written]) -> Vec<String> {
    let file = |name: &str| output::quoted(&dir.join(name).display().to_string());
    let pair = if task.form.pair { " --pair" } else { "" };
    let train = format!(
        "overmask-export train --base base/ --data {} --eval-data {} --task {}{pair} --max-tokens 128 -o {}.pack",
        file("train.jsonl"),
        file("dev.jsonl"),
        task.form.kind,
        task.name,
    );
    let evaluate = |written: &Written| {
        let data = file(written.name);
        format!("overmask-export evaluate --base base/ --pack {}.pack --data {data}", task.name)
    };
    [train].into_iter().chain(written.iter().filter(|w| w.name != "train.jsonl").map(evaluate)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_say_what_the_task_is() {
        let file = |name| Written { name, examples: 1, left_out: Vec::new() };
        let files = [file("train.jsonl"), file("dev.jsonl"), file("dev_mismatched.jsonl")];
        let found = commands(GlueTask::find("sts-b").unwrap(), Path::new("my data/it's"), &files);
        assert_eq!(found.len(), 3);
        assert!(found[0].contains("--data 'my data/it'\\''s/train.jsonl' "), "{}", found[0]);
        assert!(found[0].contains(" --task regress --pair "), "{}", found[0]);
        assert!(found[2].ends_with("dev_mismatched.jsonl'"), "{}", found[2]);
        let found = commands(GlueTask::find("cola").unwrap(), Path::new("cola"), &files[..2]);
        assert!(found[0].contains("--data cola/train.jsonl") && !found[0].contains("--pair"), "{}", found[0]);
    }
}
