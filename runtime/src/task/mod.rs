//! From texts to answers: questions, tokens, plan, pooling, head, decisions, spans of words.

mod answer;
mod groups;
mod head;
mod model;
mod question;
mod runner;
mod spans;
#[expect(clippy::module_inception, reason = "what the module is named after")]
mod task;
mod tokenizer;
mod unigram;
mod words;
mod work;

pub use answer::{Answer, Prediction, Reply, TextSpan, applies, largest};
pub use head::{logits, pool, sigmoid, softmax};
pub use question::Question;
pub use runner::{GoldenCheck, Runner, golden_tolerance};
pub use spans::{OUTSIDE, Span, spans};
pub use task::{Rows, Task};
pub use tokenizer::{Tokenizer, Tokens};
pub use words::words;

use std::error::Error;
use std::path::PathBuf;

use crate::base::BaseError;
use crate::derived::DerivedError;
use crate::engine::EngineError;
use crate::error::ErrorKind;
use crate::pack::PackError;

/// What can go wrong between a text and its label.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The base's tokenizer cannot be used.
    #[error("{path}: {source}; import the base again")]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A text cannot become tokens.
    #[error("text {index}: {source}")]
    Text {
        /// Which text of those given, from 0.
        index: usize,
        /// What is wrong.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A file of the base cannot be read.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The pack cannot be used with the base.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// There is no such task.
    #[error("the task was never added to this runner, or was removed from it")]
    NoTask,
    /// The encoder's output cannot be used.
    #[error("the encoder's output is not finite; the base or the pack is damaged: `overmask verify` tells which")]
    NotFinite,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A derived file is not what it should be.
    #[error(transparent)]
    Derived(#[from] DerivedError),
}

impl TaskError {
    /// The same, of the text at this place.
    fn at(self, index: usize) -> TaskError {
        match self {
            Self::Text { source, .. } => Self::Text { index, source },
            other => other,
        }
    }

    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Tokenizer { .. } | Self::NotFinite => ErrorKind::CorruptFile,
            Self::Text { .. } => ErrorKind::InputData,
            Self::Base(error) => error.kind(),
            Self::Pack(error) => error.kind(),
            Self::NoTask => ErrorKind::Other,
            Self::Engine(error) => error.kind(),
            Self::Derived(error) => error.kind(),
        }
    }
}
