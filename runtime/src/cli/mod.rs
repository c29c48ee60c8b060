//! The `overmask` program: one file for each subcommand, and no logic that the library lacks.
//!
//! Results go to stdout, everything else to stderr. The exit status follows [`ExitCode`].

mod answer;
mod bench;
pub mod help;
mod input;
mod inspect;
mod output;
mod packs;
mod run;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

pub use self::output::{Output, describe};
use crate::base::Base;
use crate::engine::{self, Engine, EngineError, EngineKind, EngineOptions};
use crate::error::{ExitCode, printable};

/// Runs task packs on one frozen base model.
#[derive(Debug, Parser)]
#[command(
    name = "overmask",
    version,
    before_help = "Example:\n  overmask run --base base/ --pack trec.pack \"What is the capital of Peru?\"",
    after_help = ExitCode::HELP,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What to say while doing it.
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// How much is said on stderr.
#[derive(Debug, Clone, Copy, Args)]
pub struct Verbosity {
    /// Say more on stderr; twice for even more. OVERMASK_LOG=filter overrides it
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Label texts with one or more task packs
    #[command(
        before_help = "Examples:\n  overmask run --base base/ --pack trec.pack \"What is the capital of Peru?\"\n  \
                       overmask run --base base/ --pack trec.pack --pack movie.pack --json < texts.txt\n  \
                       overmask run --base base/ --pack people.pack --jsonl < tokens.jsonl",
        after_help = ExitCode::HELP
    )]
    Run(run::RunArgs),
    /// Show what a pack holds, and what its bytes are spent on
    #[command(before_help = "Example:\n  overmask inspect trec.pack --base base/", after_help = ExitCode::HELP)]
    Inspect(inspect::InspectArgs),
    /// Check base and packs: digests, structure, signature, fit, and the golden vectors on an engine
    #[command(
        before_help = "Examples:\n  overmask verify trec.pack --base base/\n  \
                       overmask verify trec.pack --key fleet.pub",
        after_help = ExitCode::HELP
    )]
    Verify(verify::VerifyArgs),
    /// Measure how fast a task runs here: passes, first result, task switch, memory
    #[command(
        before_help = "Examples:\n  overmask bench --base base/ --pack trec.pack\n  \
                       overmask bench --base base/ --pack trec.pack --pack movie.pack --seq 32 --threads 1 --json",
        after_help = ExitCode::HELP
    )]
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell
    #[command(
        before_help = "Example:\n  overmask completions bash > /etc/bash_completion.d/overmask",
        after_help = ExitCode::HELP
    )]
    Completions(help::CompletionsArgs),
    /// Print the manual page, of the program or of a subcommand
    #[command(before_help = "Example:\n  overmask man run | man -l -", after_help = ExitCode::HELP)]
    Man(help::ManArgs),
}

/// The base that a command works on.
#[derive(Debug, Args)]
struct BaseArgs {
    /// Directory of the base bundle
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
}

/// The engine that a command runs on.
#[derive(Debug, Args)]
struct EngineArgs {
    /// What computes; an engine that cannot start is an error, never replaced by another [default:
    /// native for the bases that it knows, else ort or what the build has]
    #[arg(
        long,
        value_parser = PossibleValuesParser::new(["native", "ort", "ort:cpu", "ort:cuda", "tract"])
            .try_map(|name| name.parse::<EngineKind>())
    )]
    engine: Option<EngineKind>,
    /// Threads to compute with; `tract` always takes one [default: the engine decides]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl EngineArgs {
    /// Starts the engine on a base.
    fn start(&self, base: &Arc<Base>) -> Result<Box<dyn Engine>, EngineError> {
        let kind = self.engine.unwrap_or_else(|| engine::default_for(base));
        engine::start(kind, Arc::clone(base), &self.options())
    }

    fn options(&self) -> EngineOptions {
        EngineOptions { threads: self.threads.map(usize::from) }
    }
}

/// Runs the program with the process's arguments and returns its exit status.
pub fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    start_logging(cli.verbosity);
    exit(execute(cli.command), ExitCode::of)
}

/// Reports a failed command on stderr and turns the result into an exit status; `code` finds
/// the one of an error.
///
/// A closed pipe at stdout is no failure: whoever read has seen enough.
pub fn exit(result: anyhow::Result<()>, code: impl Fn(&anyhow::Error) -> ExitCode) -> std::process::ExitCode {
    match result {
        Ok(()) => ExitCode::Ok,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::Ok,
        Err(error) => {
            log::error!("{}", describe(&error));
            code(&error)
        }
    }
    .into()
}

fn execute(command: Command) -> anyhow::Result<()> {
    let mut out = Output::stdout();
    match command {
        Command::Run(args) => run::run(&args, &mut out),
        Command::Inspect(args) => inspect::run(&args, &mut out),
        Command::Verify(args) => verify::run(&args, &mut out),
        Command::Bench(args) => bench::run(&args, &mut out),
        Command::Completions(args) => help::completions(&args, Cli::command(), &mut out),
        Command::Man(args) => help::man(&args, Cli::command(), &mut out),
    }?;
    out.flush()
}

/// Starts logging to stderr: warnings and errors, more or less with `-v` and `-q`; the
/// environment variable `OVERMASK_LOG` overrides both. Colours only on a terminal, and never
/// with `NO_COLOR`.
pub fn start_logging(verbosity: Verbosity) {
    let level = match (verbosity.quiet, verbosity.verbose) {
        (true, _) => log::LevelFilter::Error,
        (false, 0) => log::LevelFilter::Warn,
        (false, 1) => log::LevelFilter::Info,
        (false, 2) => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    // Below debugging, what libraries log is of no use to who runs the program.
    if level <= log::LevelFilter::Info {
        for library in ["tract_core", "tract_hir", "tract_onnx", "tract_linalg", "tokenizers"] {
            builder.filter_module(library, log::LevelFilter::Error);
        }
    }
    let builder = builder.filter_level(level).parse_env("OVERMASK_LOG").format(|buf, record| {
        use std::io::Write;
        let style = buf.default_level_style(record.level());
        let level = match record.level() {
            log::Level::Error => "error",
            log::Level::Warn => "warning",
            log::Level::Info => "info",
            log::Level::Debug => "debug",
            log::Level::Trace => "trace",
        };
        // Messages quote files, which may hold anything.
        writeln!(buf, "{style}{level}{style:#}: {}", printable(&record.args().to_string()))
    });
    // A second call (tests, embedders with a logger of their own) changes nothing.
    let _ = builder.try_init();
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
