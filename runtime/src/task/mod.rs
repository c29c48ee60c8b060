//! From texts to labels: tokens, encoder, pooling, head; from tags to spans of words.

mod head;
mod runner;
mod spans;
mod tokenizer;

pub use head::{logits, pool, sigmoid, softmax};
pub use runner::{Answer, GOLDEN_TOLERANCE, GoldenCheck, Prediction, Runner, TaskRef};
pub use spans::{Span, spans};
pub use tokenizer::{Tokenizer, Tokens};

use std::path::PathBuf;

use crate::engine::EngineError;
use crate::error::ExitCode;
use crate::pack::{PackError, TaskKind};

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
    /// The pack cannot be used with the base.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The task is of another kind than it is asked for.
    #[error("the task `{task}` is of the kind `{kind}`; it does not give one label for a text")]
    Kind {
        /// The task.
        task: String,
        /// Its kind.
        kind: TaskKind,
    },
    /// There is no such task.
    #[error("the task was never added to this runner, or was removed from it")]
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
            Self::Text { .. } | Self::Kind { .. } => ExitCode::InputData,
            Self::Pack(error) => error.exit_code(),
            Self::NoTask => ExitCode::Other,
            Self::Engine(error) => error.exit_code(),
        }
    }
}
