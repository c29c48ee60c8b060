//! `overmask-export sweep`: tasks x methods x seeds, each trained in a process of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Error};
use clap::{Args, Command, ValueHint};
use overmask_cli::{ExitCode, Verbosity};
use serde_json::json;

use super::{output, places, train};
use crate::sweep::{self, Event, Line, Plan, Run, Shard, Status, SweepOptions, TrainOption};

/// Train tasks x methods x seeds, as a file describes, and collect the results.
///
/// Each run is a process of its own. What it printed is added to DIR/results.jsonl; its pack and
/// what it said lie beside it. The same command goes on after a stop, a crash or a power cut: runs
/// that are done are skipped. Ctrl-C ends the runs that are under way and starts no other.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export sweep sweep.toml -o sweep/ --workers 2\n  \
                   overmask-export report sweep/results.jsonl -o report.html",
    after_help = ExitCode::HELP
)]
pub(super) struct SweepArgs {
    /// The file that describes the sweep: base, tasks, methods, seeds, grid (docs/sweeps.md).
    #[arg(value_name = "FILE")]
    plan: PathBuf,
    /// Where packs, logs and results go; default: FILE without its ending.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Runs at once; default: one, or one for each of the file's CUDA devices.
    #[arg(long, value_name = "N", value_parser = overmask_cli::threads())]
    workers: Option<u16>,
    /// Threads of each run; default: an even share, all for a single worker.
    #[arg(long, value_name = "N", value_parser = overmask_cli::threads())]
    threads_per_worker: Option<u16>,
    /// Run one part of the sweep: `i/n`, from 0/n, or `auto`: as a Slurm array or a Kubernetes
    /// indexed Job says (SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX, OVERMASK_SHARDS).
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// Repeat runs that failed.
    #[arg(long)]
    retry_failed: bool,
    /// Show the runs and what would become of them, and run none.
    #[arg(long)]
    dry_run: bool,
    /// Print each result as it is there, one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl SweepArgs {
    fn options(&self, plan: &Plan) -> Result<SweepOptions, Error> {
        let shard = match self.shard.as_deref() {
            None => Shard::WHOLE,
            // What is not UTF-8 is no number either.
            Some("auto") => Shard::from_env(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()))?,
            Some(text) => text.parse()?,
        };
        Ok(SweepOptions {
            program: std::env::current_exe().context("cannot tell where this program lies")?,
            dir: self.output.clone().unwrap_or_else(|| default_dir(&self.plan)),
            workers: self.workers.map_or(plan.devices.len().max(1), usize::from),
            threads: self.threads_per_worker.map(usize::from),
            shard,
            retry_failed: self.retry_failed,
        })
    }
}

/// The sweep's file without its ending; a name without one gets one.
fn default_dir(plan: &Path) -> PathBuf {
    let dir = plan.with_extension("");
    if dir == plan { plan.with_extension("out") } else { dir }
}

/// The options that a sweep's file may name: those of the training command.
fn train_options() -> Vec<TrainOption> {
    let command = train::TrainArgs::augment_args(Command::new("train"));
    let option = |arg: &clap::Arg| {
        let takes_value = arg.get_action().takes_values();
        let name = arg.get_long()?.to_owned();
        Some(TrainOption { name, flag: !takes_value, path: takes_value && arg.get_value_hint() == ValueHint::AnyPath })
    };
    command.get_arguments().filter_map(option).collect()
}

pub(super) fn run(args: &SweepArgs, verbosity: Verbosity) -> Result<(), Error> {
    let plan = Plan::read(&args.plan, &train_options())?;
    let options = args.options(&plan)?;
    places::check_directory("-o", &options.dir)?;
    if args.dry_run {
        return show(args, &plan, &options);
    }
    let stop = train::stop_when_asked("no further run starts; once more ends at once".to_owned())?;
    let summary = work(args, &plan, &options, &stop, verbosity)?;
    log::info!(
        "{}: {} runs, {} done now, {} before, {} failed, {} left",
        summary.results.display(),
        summary.runs,
        summary.done,
        summary.skipped,
        summary.failed,
        summary.left,
    );
    Ok(summary.check()?)
}

/// Runs what is left, and says how it goes.
fn work(
    args: &SweepArgs,
    plan: &Plan,
    options: &SweepOptions,
    stop: &AtomicBool,
    verbosity: Verbosity,
) -> Result<sweep::Summary, Error> {
    let left = options.states(plan)?.iter().filter(|(_, state)| options.wants(*state)).count();
    let bar = output::bar(verbosity, left as u64, "{wide_bar} {pos}/{len} runs, {elapsed}")?;
    let (mut ended, mut unprinted) = (0, Ok(()));
    let summary = sweep::run(plan, options, stop, &mut |event| match event {
        Event::Started(run) => bar.suspend(|| log::debug!("{} begins", title(&run.task, &run.method, run.seed))),
        Event::Ended(line) => {
            bar.inc(1);
            ended += 1;
            bar.suspend(|| said(line, ended, left));
            if args.json && unprinted.is_ok() {
                unprinted = bar.suspend(|| output::json(line));
            }
        }
    });
    bar.finish_and_clear();
    let summary = summary?;
    // The results are in their file whether or not anybody reads them here.
    unprinted?;
    Ok(summary)
}

fn title(task: &str, method: &str, seed: u64) -> String {
    format!("{task}, {method}, seed {seed}")
}

/// Says how a run ended.
fn said(line: &Line, done: usize, of: usize) {
    let title = title(&line.task, &line.method, line.seed);
    match line.status {
        Status::Done => log::info!("[{done}/{of}] {title}: done in {:.0} s", line.seconds),
        Status::Failed => {
            let error = line.error.as_deref().unwrap_or_default();
            // Advice may follow it.
            let what = error.lines().find(|line| line.starts_with("error")).or(error.lines().last());
            log::warn!("[{done}/{of}] {title}: failed: {}", what.unwrap_or_default());
        }
    }
}

/// The runs, what became of them, and their command lines.
fn show(args: &SweepArgs, plan: &Plan, options: &SweepOptions) -> Result<(), Error> {
    let row = |run: &Run, state: Option<Status>| {
        let command = options.command(run);
        let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let (next, was) = match (options.wants(state), state) {
            (true, _) => ("run", state),
            (false, Some(Status::Done)) => ("skip, done", state),
            (false, _) => ("skip, failed", state),
        };
        if args.json {
            let (run, task, method, seed) = (&run.id, &run.task, &run.method, run.seed);
            return output::json(&json!({
                "run": run, "task": task, "method": method, "seed": seed, "status": was,
                "runs": options.wants(state), "command": words,
            }));
        }
        let command = words[1..].iter().map(|word| output::quoted(word)).collect::<Vec<_>>().join(" ");
        let title = title(&run.task, &run.method, run.seed);
        output::line(&format!("{}  {next:<12}  {title}: {}", run.id, command))
    };
    options.states(plan)?.into_iter().try_for_each(|(run, state)| row(run, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_training_command_tells_its_options() {
        let options = train_options();
        let find = |name: &str| options.iter().find(|o| o.name == name).unwrap();
        assert_eq!((find("data").path, find("data").flag), (true, false));
        assert_eq!((find("eval-data").path, find("epochs").path), (true, false));
        assert!(find("allow-cpu-fallback").flag && find("json").flag && !find("granularity").flag);
        // What a sweep sets is there to be set.
        for name in ["base", "output", "name", "seed", "threads"] {
            assert!(!find(name).flag);
        }
    }

    #[test]
    fn a_sweep_goes_beside_its_file() {
        assert_eq!(default_dir(Path::new("a/sweep.toml")), Path::new("a/sweep"));
        assert_eq!(default_dir(Path::new("a/sweep")), Path::new("a/sweep.out"));
    }
}
