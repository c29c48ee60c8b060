//! A pre-trained model becomes a base bundle.

mod bert;
pub mod hf;

use std::path::PathBuf;

use overmask::error::ExitCode;

/// What can go wrong when a model is imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file of the checkpoint cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bundle, or something in it, cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `config.json` cannot be understood.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// The model is of a kind that we cannot build.
    #[error("{path}: `{field}` is {found}; supported: {supported}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        supported: &'static str,
    },
    /// The weights are no safetensors file.
    #[error("{path}: {source}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// A tensor is missing or of another shape or type.
    #[error("{path}: tensor `{name}`: {reason}; is this checkpoint the one that config.json describes?")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer does not load.
    #[error("{path}: {reason}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The bundle that was written does not open.
    #[error(transparent)]
    Base(#[from] overmask::base::BaseError),
    /// Something is already where the bundle should go.
    #[error("{path} exists and is not an empty directory; name another place or remove it")]
    Exists {
        /// The place.
        path: PathBuf,
    },
}

impl ImportError {
    /// The program's exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Read { .. } | Self::Exists { .. } => ExitCode::InputData,
            Self::Write { .. } => ExitCode::DeviceOrStore,
            Self::Base(e) => e.exit_code(),
            _ => ExitCode::CorruptFile,
        }
    }
}
