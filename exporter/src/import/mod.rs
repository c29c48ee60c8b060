//! A pre-trained model becomes a base bundle.

mod bundle;
mod checkpoint;
mod config;
mod files;
pub mod fuzz;
mod graph;
pub mod hf;
mod known;
pub mod onnx;
mod spelling;
#[cfg(test)]
mod tests;
mod vocab;

pub use self::bundle::{rewrite, try_place};

use std::error::Error;
use std::path::PathBuf;

use overmask::error::ErrorKind;
use overmask::fs::{OverBudget, StagedError};

/// What reading the JSON of one of a checkpoint's files may take in memory, but for the tokenizer.
const MAX_JSON: u64 = 64 << 20;

/// What the manifest says of the weights' origin.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// Licence, `unknown` when not given.
    pub licence: Option<String>,
    /// Source, the checkpoint's own name when not given.
    pub source: Option<String>,
}

/// What can go wrong when a model is imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file of the checkpoint cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A checkpoint has not all the files that it must have.
    #[error("{dir}: there is no {file}{found}; {advice}")]
    Missing {
        /// The checkpoint.
        dir: PathBuf,
        /// The file.
        file: &'static str,
        /// What is there instead, in words.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// The bundle cannot be written.
    #[error(transparent)]
    Staged(#[from] StagedError),
    /// `config.json` cannot be understood.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// A file's JSON holds more values than that of any checkpoint.
    #[error("{path}: {source}, more than that of any checkpoint; copy or download it again")]
    Json {
        /// The file.
        path: PathBuf,
        /// How much it may take.
        source: OverBudget,
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
    /// An ONNX model cannot be read.
    #[error(transparent)]
    Onnx(#[from] overmask_graph::OnnxError),
    /// An ONNX model is broken, or of a kind that cannot become a base.
    #[error("{path}: {place}: {reason}")]
    Model {
        /// The file.
        path: PathBuf,
        /// Where in it: a field, a node or a tensor.
        place: String,
        /// What is wrong, and what would do.
        reason: String,
    },
    /// An option that cannot be, or not with this model.
    #[error("{field}: {reason}")]
    Option {
        /// The field of [`onnx::Options`], with whose name the message begins.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The weights are no safetensors file.
    #[error("{path}: {source}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// The weights are no file that `torch.save` wrote, or hold more than tensors.
    #[error(
        "{path}: {reason}; it is read without running its pickle: where you trust it, save the checkpoint anew with \
         Python's transformers, AutoModel.from_pretrained(DIR).save_pretrained(OUT)"
    )]
    Torch {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
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
    /// A weight is no finite number, so that nothing which is computed with it would be one.
    #[error("{path}: tensor `{name}`: {reason}; the checkpoint is damaged, or its training went astray: take another")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Where in it, and what is there.
        reason: String,
    },
    /// The tokenizer cannot be used, or not with this encoder.
    #[error("{path}: {source}; is it the encoder's own tokenizer?")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The bundle that was written does not open.
    #[error(transparent)]
    Base(#[from] overmask::base::BaseError),
}

impl ImportError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } | Self::Missing { .. } => ErrorKind::InputData,
            Self::Staged(e) => e.kind(),
            Self::Base(e) => e.kind(),
            Self::Onnx(e) => e.kind(),
            Self::Option { .. } => ErrorKind::Usage,
            _ => ErrorKind::CorruptFile,
        }
    }
}
