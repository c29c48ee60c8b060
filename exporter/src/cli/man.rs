//! `overmask-export man`: manual pages.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Error};
use clap::{Args, CommandFactory};
use clap_mangen::Man;

/// Print the manual page, or write one for each command.
#[derive(Debug, Args)]
#[command(before_help = "Example:\n  overmask-export man -o ~/.local/share/man/man1")]
pub(super) struct ManArgs {
    /// Write a page for each command into this directory.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs) -> Result<(), Error> {
    let command = super::Cli::command();
    let Some(dir) = &args.output else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        io::stdout().write_all(&page)?;
        return Ok(());
    };
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    clap_mangen::generate_to(command, dir)
        .with_context(|| format!("cannot write to {}", dir.display()))?;
    log::info!("manual pages are in {}", dir.display());
    Ok(())
}
