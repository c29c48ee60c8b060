//! The command line of `overmask-export`: one file a subcommand, no logic that the library
//! lacks.

mod adapt;
mod analyze;
mod baseline;
mod bench_step;
mod checkpoint;
mod convert;
mod data;
mod diff;
mod evaluate;
mod export;
mod fetch;
mod import;
mod keygen;
mod merge;
mod output;
mod patch;
mod places;
mod plan;
mod quantize;
mod repack;
mod report;
mod sign;
mod sweep;
mod train;

use std::process;
#[cfg(unix)]
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};
use overmask::error::ErrorKind;
use overmask_cli::help::{self, CompletionsArgs, ManArgs};
use overmask_cli::{ENVIRONMENT, ExitCode, Messages, Verbosity};

use crate::analyze::AnalyzeError;
use crate::data::DataError;
use crate::data::glue::GlueError;
use crate::evaluate::EvaluateError;
use crate::export::ExportError;
use crate::fetch::FetchError;
use crate::import::ImportError;
use crate::quantize::QuantizeError;
use crate::report::ReportError;
use crate::sweep::SweepError;
use crate::train::TrainError;

/// What the help ends with.
fn after_help() -> String {
    format!(
        "{}\n\n{ENVIRONMENT}\n  OVERMASK_SHARDS   in how many parts `sweep --shard auto` cuts its runs",
        ExitCode::HELP
    )
}

#[derive(Debug, Parser)]
#[command(
    name = "overmask-export",
    version,
    about = "Imports encoders, learns tasks as masks over them, measures them, writes packs.",
    before_help = "Example: from nothing to a pack\n  \
        overmask-export fetch minilm-l6 -o checkpoint/\n  \
        overmask-export import hf checkpoint/ -o base/\n  \
        overmask-export fetch trec -o trec/\n  \
        overmask-export train --base base/ --data trec/train.jsonl -o trec.pack\n  \
        overmask-export evaluate --base base/ --pack trec.pack --data trec/test.jsonl",
    after_help = after_help(),
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Fetch(fetch::FetchArgs),
    Import(import::ImportArgs),
    Convert(convert::ConvertArgs),
    Train(Box<train::TrainArgs>),
    Evaluate(evaluate::EvaluateArgs),
    Baseline(baseline::BaselineArgs),
    Sweep(sweep::SweepArgs),
    Report(report::ReportArgs),
    Export(export::ExportArgs),
    Diff(diff::DiffArgs),
    Analyze(analyze::AnalyzeArgs),
    Quantize(quantize::QuantizeArgs),
    Adapt(adapt::AdaptArgs),
    Plan(plan::PlanArgs),
    Repack(repack::RepackArgs),
    Patch(patch::PatchArgs),
    Merge(merge::MergeArgs),
    Keygen(keygen::KeygenArgs),
    Sign(sign::SignArgs),
    /// Print completions for a shell.
    #[command(
        before_help = "Example:\n  overmask-export completions bash > /etc/bash_completion.d/overmask-export",
        after_help = ExitCode::HELP
    )]
    Completions(CompletionsArgs),
    /// Print the manual page, of the program or of a command.
    #[command(before_help = "Example:\n  overmask-export man train | man -l -", after_help = ExitCode::HELP)]
    Man(ManArgs),
    BenchStep(bench_step::BenchStepArgs),
}

/// Runs the program with the process's arguments.
pub fn main() -> process::ExitCode {
    let cli: Cli = match overmask_cli::parse() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    // A write beyond the limit of a file's size is to fail, with the file's name, and not to end the process.
    #[cfg(unix)]
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    // Unlike on a device, information is shown: what was fetched, learnt and written.
    let started = cli.verbosity.start(Messages::Information);
    overmask_cli::find_onnxruntime();
    let done = started.map_err(Into::into).and_then(|()| match &cli.command {
        Command::Fetch(args) => fetch::run(args),
        Command::Import(args) => import::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Train(args) => train::run(args, cli.verbosity),
        Command::Evaluate(args) => evaluate::run(args, cli.verbosity),
        Command::Baseline(args) => baseline::run(args),
        Command::Sweep(args) => sweep::run(args, cli.verbosity),
        Command::Report(args) => report::run(args),
        Command::Export(args) => export::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Analyze(args) => analyze::run(args, cli.verbosity),
        Command::Quantize(args) => quantize::run(args),
        Command::Adapt(args) => adapt::run(args, cli.verbosity),
        Command::Plan(args) => plan::run(args),
        Command::Repack(args) => repack::run(args),
        Command::Patch(args) => patch::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Keygen(args) => keygen::run(args),
        Command::Sign(args) => sign::run(args),
        Command::Completions(args) => output::print(|out| help::completions(args, Cli::command(), out)),
        Command::Man(args) => output::print(|out| help::man(args, Cli::command(), out)),
        Command::BenchStep(args) => bench_step::run(args),
    });
    overmask_cli::exit(done, |error| ExitCode::find(error, own_kind))
}

/// The kind of one of this library's errors.
fn own_kind(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    macro_rules! first_of {
        ($($kind:ty),*) => { None$(.or_else(|| error.downcast_ref::<$kind>().map(<$kind>::kind)))* };
    }
    first_of!(
        TrainError,
        EvaluateError,
        SweepError,
        ReportError,
        FetchError,
        ImportError,
        QuantizeError,
        ExportError,
        GlueError,
        DataError,
        AnalyzeError
    )
}

#[cfg(test)]
mod tests {
    use anyhow::Error;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_starts_with_an_example() {
        fn check(command: &mut clap::Command, path: &str) {
            let help = command.render_long_help().to_string();
            assert!(help.starts_with("Example"), "{path}: {help}");
            // clap's own `help` command has none.
            for sub in command.get_subcommands_mut().filter(|c| c.get_name() != "help") {
                let path = format!("{path} {}", sub.get_name());
                check(sub, &path);
            }
        }
        check(&mut Cli::command(), "overmask-export");
    }

    #[test]
    fn library_errors_keep_their_exit_codes() {
        let error = crate::data::read(std::path::Path::new("absent.csv"), crate::data::Form::CLASSIFY).unwrap_err();
        let error = Error::from(error).context("while testing");
        assert_eq!(ExitCode::find(&error, own_kind), ExitCode::InputData);
        let error = crate::fetch::Manifest::find("absent").unwrap_err();
        assert_eq!(ExitCode::find(&error.into(), own_kind), ExitCode::Usage);
    }
}
