//! The options of runs whose state is on disk, and what is said of that file.

use std::path::{Path, PathBuf};

use anyhow::Error;
use clap::Args;
use overmask_cli::{CodedError, ExitCode};

use crate::train::CheckpointOptions;

/// Where the state of a run is, if it is to be on disk.
#[derive(Debug, Args)]
pub(super) struct CheckpointArgs {
    /// Write the state of the run to this file, now and then; it is removed at the end.
    #[arg(long, value_name = "FILE")]
    pub(super) checkpoint: Option<PathBuf>,
    /// Steps between two writes of the state.
    #[arg(long, value_name = "N", default_value_t = 200, requires = "checkpoint")]
    checkpoint_every: u64,
    /// Go on from --checkpoint, if the file is there: the result is that of an unbroken run.
    #[arg(long, requires = "checkpoint")]
    resume: bool,
}

impl CheckpointArgs {
    pub(super) fn options(&self) -> Option<CheckpointOptions> {
        let (every, resume) = (self.checkpoint_every, self.resume);
        self.checkpoint.clone().map(|file| CheckpointOptions { file, every, resume })
    }

    /// Refuses to write over the state of a run that nobody goes on from.
    pub(super) fn check(&self) -> Result<(), Error> {
        match &self.checkpoint {
            Some(file) if !self.resume && file.exists() => {
                let file = file.display();
                let message = format!("--checkpoint {file}: is there; go on from it with --resume, or remove it");
                Err(CodedError { message, code: ExitCode::Usage }.into())
            }
            _ => Ok(()),
        }
    }

    /// Removes the state of a run whose result is there: nobody goes on from it.
    pub(super) fn remove(&self) {
        let Some(file) = &self.checkpoint else { return };
        match std::fs::remove_file(file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                log::warn!("cannot remove {}, of which nobody has use any more: {e}", file.display());
            }
            _ => (),
        }
    }
}

/// What is answered to Ctrl-C, with the file of the run's state if it has one.
pub(super) fn stopping(state: Option<&Path>) -> String {
    match state {
        Some(state) => format!(
            "stopping after this step; once more ends at once, and {} has the run as it was last written",
            state.display()
        ),
        None => "stopping after this step; once more ends at once and keeps nothing".to_owned(),
    }
}
