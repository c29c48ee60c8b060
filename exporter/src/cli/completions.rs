//! `overmask-export completions`: shell completions.

use anyhow::Error;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use overmask::error::ExitCode;

use super::output;

/// Print completions for a shell.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export completions bash > \
                     ~/.local/share/bash-completion/completions/overmask-export",
    after_help = ExitCode::HELP
)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<(), Error> {
    let mut script = Vec::new();
    let mut command = super::Cli::command();
    clap_complete::generate(args.shell, &mut command, "overmask-export", &mut script);
    output::raw(&script)
}
