//! What can go wrong when something is fetched.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use overmask::error::ErrorKind;

use crate::data::DataError;

/// What can go wrong when something is fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// A name that no manifest has.
    #[error("nothing is known of `{name}`; known are: {known} (or name a manifest file, *.toml)")]
    Unknown {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A manifest that is not one.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Nothing of the manifest is for this machine.
    #[error("`{name}` has no files for {platform}; {advice}")]
    Platform {
        /// The manifest.
        name: String,
        /// This machine, or the one that was asked for.
        platform: String,
        /// What to do instead.
        advice: String,
    },
    /// A file or directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or directory cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is where one is to be written, and is another.
    #[error("{} is there and is another file; name another directory, or remove it", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// A program that is needed is not installed.
    #[error("`{program}` is not installed; install it with `{install}`")]
    Missing {
        /// The program.
        program: &'static str,
        /// The command that installs it.
        install: &'static str,
    },
    /// A program could not be started.
    #[error("`{command}` failed (it did not start): {source}")]
    Start {
        /// What was to be run.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// What was run.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// An archive, or a file that was opened, cannot be read to its end.
    #[error("{}: {source}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A file is not where it should be.
    #[error("{} holds no `{name}`", place.display())]
    Absent {
        /// The archive or directory.
        place: PathBuf,
        /// What was looked for.
        name: String,
    },
    /// A file is another one than the manifest says.
    #[error("`{name}` from {origin} has sha256 {found}, the manifest says {expected}")]
    Digest {
        /// The file.
        name: String,
        /// Where it came from.
        origin: String,
        /// Its digest.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A file is longer than the manifest says.
    #[error("`{name}` from {origin} is not of the {expected} bytes that the manifest says")]
    Size {
        /// The file.
        name: String,
        /// Where it came from.
        origin: String,
        /// What it should be.
        expected: u64,
    },
    /// The data set's source file is not as the recipe expects.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No source worked.
    #[error("`{name}` could not be fetched; tried: {attempts}; a local copy works too: --from FILE or DIR")]
    NoSource {
        /// The manifest.
        name: String,
        /// Each attempt and how it failed.
        attempts: String,
        /// The exit code of the most telling attempt.
        code: ErrorKind,
    },
}

impl FetchError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown { .. } => ErrorKind::Usage,
            Self::Manifest { .. } | Self::Archive { .. } => ErrorKind::CorruptFile,
            Self::Digest { .. } | Self::Size { .. } => ErrorKind::CorruptFile,
            Self::Data(e) => e.kind(),
            Self::Read { .. } | Self::Absent { .. } | Self::Occupied { .. } => ErrorKind::InputData,
            Self::Write { .. } => ErrorKind::DeviceOrStore,
            Self::NoSource { code, .. } => *code,
            Self::Platform { .. } | Self::Missing { .. } => ErrorKind::Other,
            Self::Start { .. } | Self::Command { .. } => ErrorKind::Other,
        }
    }
}
