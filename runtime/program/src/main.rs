//! `overmask`: runs task packs on a frozen base. One file for each subcommand, and no logic that the library
//! lacks.
//!
//! Results go to stdout, everything else to stderr. The exit status follows [`ExitCode`].

mod answer;
mod bench;
mod doctor;
mod flash;
#[cfg(feature = "fleet")]
mod fleet;
mod given;
mod input;
mod inspect;
mod packs;
#[cfg(feature = "native")]
mod prepare;
#[cfg(feature = "oci")]
mod push;
#[cfg(feature = "oci")]
mod registry;
mod run;
#[cfg(all(feature = "serve", unix))]
mod serve;
mod store;
#[cfg(test)]
mod tests;
mod verify;

use clap::{CommandFactory, Parser, Subcommand};
use overmask_cli::help::{self, CompletionsArgs, ManArgs};
use overmask_cli::{ENVIRONMENT, ExitCode, Messages, Output, Verbosity};

/// Runs task packs on one frozen base model.
#[derive(Debug, Parser)]
#[command(
    name = "overmask",
    version,
    before_help = "Example:\n  overmask run --base base/ --pack trec.pack \"What is the capital of Peru?\"",
    after_help = format!("{}\n\n{ENVIRONMENT}", ExitCode::HELP),
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    /// What to do.
    #[command(subcommand)]
    command: Command,
    /// What to say while doing it.
    #[command(flatten)]
    verbosity: Verbosity,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Command {
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
    /// Make the derived files of a base and of packs ahead, for an image or a read-only device
    #[cfg(feature = "native")]
    #[command(
        before_help = "Example:\n  overmask prepare --base base/ --pack trec.pack --derived image/var/cache/overmask",
        after_help = ExitCode::HELP
    )]
    Prepare(prepare::PrepareArgs),
    /// Tell what machine this is, whether packs run well on it, and what to do where they would not
    ///
    /// Nothing is changed. What the system does not tell is unknown. A base and packs are checked, too, if they are given.
    #[command(
        before_help = "Examples:\n  overmask doctor\n  overmask doctor --base base/ --pack trec.pack --json",
        after_help = ExitCode::HELP
    )]
    Doctor(doctor::DoctorArgs),
    /// Put bases and packs onto a device, check them there, and switch to them
    ///
    /// Whatever fails, and whenever, the device has the tasks that it had before, or the new ones.
    #[command(
        before_help = "Examples:\n  overmask flash --base base/ trec.pack --store /var/lib/overmask\n  \
                       overmask flash trec.pack movie.pack --to user@board\n  \
                       overmask flash --from registry.example/tasks/trec:3\n  \
                       overmask flash - < trec.pack",
        after_help = ExitCode::HELP
    )]
    Flash(flash::FlashArgs),
    /// Bring packs and bases to an OCI registry, from which devices flash them
    #[cfg(feature = "oci")]
    #[command(
        before_help = "Examples:\n  overmask push trec.pack --base base/ registry.example/tasks/trec:3\n  \
                       overmask push trec.pack movie.pack registry.example/tasks:7\n  \
                       overmask push --base base/ registry.example/bases/minilm:1",
        after_help = ExitCode::HELP
    )]
    Push(push::PushArgs),
    /// Show, check and change what a device holds
    #[command(
        before_help = "Examples:\n  overmask store init\n  overmask store status\n  overmask store rollback",
        after_help = ExitCode::HELP
    )]
    Store(store::StoreArgs),
    /// Answer the store's tasks all day long: HTTP, and lines of JSON
    ///
    /// Another generation of the store takes over between two requests. The protocol is described in docs/serve.md.
    #[cfg(all(feature = "serve", unix))]
    #[command(
        before_help = "Examples:\n  overmask serve --store /var/lib/overmask\n  \
                       overmask serve --listen unix:/run/overmask/overmask.sock --listen tcp:6780\n  \
                       overmask serve --stdio < requests.jsonl",
        after_help = ExitCode::HELP
    )]
    Serve(serve::ServeArgs),
    /// Measure how fast a task runs here: passes, first result, task switch, memory
    ///
    /// With several packs, also what all of them cost at once, which share what they have in common. Switching is measured
    /// between the first two, else between two copies of the one.
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
    Completions(CompletionsArgs),
    /// Print the manual page, of the program or of a subcommand
    #[command(before_help = "Example:\n  overmask man run | man -l -", after_help = ExitCode::HELP)]
    Man(ManArgs),
}

fn main() -> std::process::ExitCode {
    let cli: Cli = match overmask_cli::parse() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    let started = cli.verbosity.start(cli.command.messages());
    #[cfg(feature = "ort")]
    overmask_cli::find_onnxruntime();
    overmask_cli::exit(started.map_err(Into::into).and_then(|()| execute(cli.command)), code)
}

impl Command {
    /// What it says when it was told nothing about that.
    fn messages(&self) -> Messages {
        match self {
            // Who starts a server, or reads its journal, wants to see where it listens and what it serves.
            #[cfg(all(feature = "serve", unix))]
            Command::Serve(args) if !args.stdio => Messages::Information,
            _ => Messages::Warnings,
        }
    }
}

/// The exit code of an error.
fn code(error: &anyhow::Error) -> ExitCode {
    ExitCode::find(error, |cause| {
        #[cfg(feature = "oci")]
        if let Some(error) = cause.downcast_ref::<overmask_oci::OciError>() {
            return Some(error.kind());
        }
        let _ = cause;
        None
    })
}

fn execute(command: Command) -> anyhow::Result<()> {
    // A server writes from threads of its own, and `Output` keeps stdout to one.
    #[cfg(all(feature = "serve", unix))]
    if let Command::Serve(args) = &command {
        return serve::run(args);
    }
    let mut out = Output::stdout();
    match command {
        Command::Run(args) => run::run(&args, &mut out),
        Command::Inspect(args) => inspect::run(&args, &mut out),
        Command::Verify(args) => verify::run(&args, &mut out),
        #[cfg(feature = "native")]
        Command::Prepare(args) => prepare::run(&args, &mut out),
        Command::Doctor(args) => doctor::run(&args, &mut out),
        Command::Flash(args) => flash::run(&args, &mut out),
        #[cfg(feature = "oci")]
        Command::Push(args) => push::run(&args, &mut out),
        Command::Store(args) => store::run(&args, &mut out),
        #[cfg(all(feature = "serve", unix))]
        Command::Serve(args) => serve::run(&args),
        Command::Bench(args) => bench::run(&args, &mut out),
        Command::Completions(args) => help::completions(&args, Cli::command(), &mut out),
        Command::Man(args) => help::man(&args, Cli::command(), &mut out),
    }?;
    out.flush()
}
