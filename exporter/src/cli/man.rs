//! `overmask-export man`: manual pages.

use anyhow::{Context, Error};
use clap::{Args, CommandFactory};
use clap_mangen::Man;
use overmask::error::{CodedError, ExitCode};

use super::output;

/// Print the manual page, of the program or of a command.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export man train | man -l -",
    after_help = ExitCode::HELP
)]
pub(super) struct ManArgs {
    /// The command; without one, the program's own page.
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

pub(super) fn run(args: &ManArgs) -> Result<(), Error> {
    let mut command = super::Cli::command();
    // Fills in the full names of commands and the flags that all have.
    command.build();
    let command = match &args.command {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| CodedError {
            message: format!("there is no command `{name}`; `overmask-export --help` lists them"),
            code: ExitCode::Usage,
        })?,
    };
    let mut page = Vec::new();
    Man::new(command).render(&mut page).context("cannot write the manual page")?;
    output::raw(&page)
}
