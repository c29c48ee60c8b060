//! From texts to labels: tokens, encoder, pooling, head.

mod fit;
mod head;
mod runner;
mod tokenizer;

pub use fit::check_base;
pub use head::{logits, pool, softmax};
pub use runner::{GOLDEN_TOLERANCE, GoldenCheck, Prediction, Runner, TaskRef};
pub use tokenizer::Tokenizer;

use std::path::PathBuf;

use crate::engine::EngineError;
use crate::error::ExitCode;

/// What can go wrong between a text and its label.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The base's tokenizer cannot be used.
    #[error("{path}: {reason}; import the base again")]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A text cannot become tokens.
    #[error("text {index}: {reason}")]
    Text {
        /// Which text of those given, from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// The pack was made for another base.
    #[error(
        "the pack `{pack}` does not fit the base {base}: field `{field}`: {reason}; use the base that it was made for"
    )]
    BaseMismatch {
        /// The task's name.
        pack: String,
        /// The base's directory.
        base: PathBuf,
        /// The field of the pack.
        field: String,
        /// What does not fit.
        reason: String,
    },
    /// There is no such task.
    #[error("the task was not added to this runner")]
    NoTask,
    /// The encoder's output cannot be used.
    #[error("the encoder's output is not finite; the base or the pack is damaged: `overmask verify` tells which")]
    NotFinite,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl TaskError {
    /// The program's exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Tokenizer { .. } | Self::NotFinite => ExitCode::CorruptFile,
            Self::Text { .. } => ExitCode::InputData,
            Self::BaseMismatch { .. } => ExitCode::BaseMismatch,
            Self::NoTask => ExitCode::Other,
            Self::Engine(error) => error.exit_code(),
        }
    }
}
