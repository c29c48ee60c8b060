//! The commands `completions` and `man` of both programs.

use anyhow::Context;
use clap::Args;
use clap_complete::Shell;

use crate::{CodedError, ExitCode, Output};

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The subcommand; without one, the program's own page
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Prints the completion script of a program.
///
/// # Errors
/// When it cannot be written.
pub fn completions(args: &CompletionsArgs, mut command: clap::Command, out: &mut Output) -> anyhow::Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    out.raw(&script)
}

/// Prints the manual page of a program or of its subcommand.
///
/// # Errors
/// When there is no such subcommand, or the page cannot be written.
pub fn man(args: &ManArgs, mut command: clap::Command, out: &mut Output) -> anyhow::Result<()> {
    // Fills in the full names of subcommands and the global options.
    command.build();
    let program = command.get_name().to_owned();
    let command = match &args.command {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| CodedError {
            message: format!("there is no subcommand `{name}`; `{program} --help` lists them"),
            code: ExitCode::Usage,
        })?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).context("cannot write the manual page")?;
    out.raw(&page)
}
