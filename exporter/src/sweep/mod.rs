//! Sweeps: tasks x methods x seeds, each a run of `overmask-export train` in a process of its own,
//! with results that a power cut cannot break and that any number of machines can share.
//!
//! `docs/sweeps.md` explains the file that describes one; [`Plan`] reads it, [`run()`] works it off,
//! [`Results`] is what remains.

mod children;
mod expand;
mod plan;
mod results;
mod shard;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::path::{Path, PathBuf};

use overmask::base::BaseError;
use overmask::error::ErrorKind;

pub use children::{Event, Summary, SweepOptions, run};
pub use plan::{Plan, Run, TrainOption};
pub use results::{Line, Results, Status, states};
pub use shard::Shard;

/// What can go wrong with a sweep.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The file that describes the sweep is wrong.
    #[error("{}: {source}", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<dyn Error + Send + Sync>,
    },
    /// What should be a base's manifest is none.
    #[error("{}: not a base: {source}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The base, or a file of texts, cannot be read.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A part of the sweep that cannot be.
    #[error("shard `{text}`: {reason}")]
    Shard {
        /// What was asked for.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or directory cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of the results is none.
    #[error("{}: line {line}: is no result: {source}; delete the line to repeat its run", path.display())]
    Results {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Another process writes these results.
    #[error("{}: another sweep writes to it; wait for its end, or give each its own --shard or -o", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A run cannot even be started.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Some runs failed.
    #[error("{failed} of {runs} runs failed; {} has what they said, --retry-failed repeats them", logs.display())]
    Failed {
        /// How many.
        failed: usize,
        /// Of how many.
        runs: usize,
        /// The directory of what they said.
        logs: PathBuf,
    },
    /// It was stopped.
    #[error("stopped with {left} of {runs} runs left; the same command goes on with them")]
    Stopped {
        /// How many are left.
        left: usize,
        /// Of how many.
        runs: usize,
    },
}

impl SweepError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Base(e) => e.kind(),
            Self::Shard { .. } => ErrorKind::Usage,
            Self::Plan { .. } | Self::Manifest { .. } | Self::Read { .. } => ErrorKind::InputData,
            Self::Results { .. } => ErrorKind::CorruptFile,
            Self::Write { .. } | Self::Locked { .. } => ErrorKind::DeviceOrStore,
            Self::Start { .. } | Self::Failed { .. } | Self::Stopped { .. } => ErrorKind::Other,
        }
    }
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> SweepError + use<> {
    let path = path.to_owned();
    move |source| SweepError::Read { path, source }
}

fn unwritable(path: &Path) -> impl FnOnce(std::io::Error) -> SweepError + use<> {
    let path = path.to_owned();
    move |source| SweepError::Write { path, source }
}
