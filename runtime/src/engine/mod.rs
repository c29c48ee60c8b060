//! What runs the encoder: one trait, and the engine that is built in.
//!
//! | engine | crate | how a mask is applied |
//! | --- | --- | --- |
//! | `native` (our own kernels; BERT-type encoders on a CPU) | this one | in the matrix kernels, while weights are read |
//! | `ort` (ONNX Runtime; CPU or CUDA) | `overmask-ort` | weights are session inputs; a small graph masks them on the device when a task is added |
//! | `tract` (pure Rust) | `overmask-tract` | masked weights are constants of the plan |
//!
//! An engine that was asked for and cannot start is an error; nothing falls back to another one.

mod batch;
mod changes;
mod kind;
#[cfg(feature = "native")]
pub mod native;
mod options;
mod plan;

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

pub use batch::{Hidden, TokenBatch};
pub use changes::{Changes, check_changes, check_precision};
pub use kind::{Device, EngineKind, ParseEngineError};
pub use options::EngineOptions;
pub use plan::{Plan, Sharing};

use crate::base::{BaseError, Precision};
#[cfg(feature = "native")]
use crate::derived::DerivedError;
use crate::derived::Directory;
use crate::error::ErrorKind;
use crate::pack::PackError;

/// What can go wrong in an engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine cannot start.
    #[error("the engine `{engine}` is not available: {reason}")]
    Unavailable {
        /// The engine that was asked for.
        engine: EngineKind,
        /// What is missing, and how to get it.
        reason: String,
    },
    /// The engine has no such option.
    #[error("the engine `{engine}` does not take `{option}`: {reason}")]
    Option {
        /// The engine.
        engine: EngineKind,
        /// The field of [`EngineOptions`].
        option: &'static str,
        /// Why not.
        reason: String,
    },
    /// The engine started but cannot do this.
    #[error("the engine `{engine}` failed: {reason}")]
    Failed {
        /// The engine.
        engine: EngineKind,
        /// What it said.
        reason: String,
    },
    /// A mask is for a tensor that the base does not have in that shape.
    #[error("mask of `{tensor}`: {reason}; the pack was made for another base")]
    Mask {
        /// The tensor that the mask names.
        tensor: String,
        /// What does not fit.
        reason: String,
    },
    /// A replaced tensor is not one that the base has in that shape.
    #[error("delta of `{tensor}`: {reason}; the pack was made for another base")]
    Delta {
        /// The tensor that is replaced.
        tensor: String,
        /// What does not fit.
        reason: String,
    },
    /// The tokens cannot be run.
    #[error("tokens: {0}")]
    Batch(String),
    /// There is no such task.
    #[error("task {0} is not loaded")]
    NoTask(TaskId),
    /// The base cannot be read.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The base's graph cannot be used.
    #[error("{0}")]
    Graph(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A pack's masks cannot be decoded.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A derived file is not what it should be.
    #[cfg(feature = "native")]
    #[error(transparent)]
    Derived(#[from] DerivedError),
}

impl EngineError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } => ErrorKind::EngineUnavailable,
            Self::Option { .. } => ErrorKind::Usage,
            Self::Failed { .. } | Self::NoTask(_) => ErrorKind::Other,
            Self::Mask { .. } | Self::Delta { .. } => ErrorKind::BaseMismatch,
            Self::Batch(_) => ErrorKind::InputData,
            Self::Base(error) => error.kind(),
            Self::Graph(_) => ErrorKind::CorruptFile,
            Self::Pack(error) => error.kind(),
            #[cfg(feature = "native")]
            Self::Derived(error) => error.kind(),
        }
    }
}

/// Says what made a result.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineInfo {
    /// The engine and its device.
    pub engine: EngineKind,
    /// Precision of weights and activations.
    pub precision: Precision,
    /// What computes: the instruction set of our own kernels, or the library.
    pub kernels: String,
}

impl EngineInfo {
    /// What an engine says of itself.
    pub fn new(engine: EngineKind, precision: Precision, kernels: impl Into<String>) -> Self {
        EngineInfo { engine, precision, kernels: kernels.into() }
    }
}

/// What an engine remembers of texts that came before ([`EngineOptions::cache_texts`]), and of what use that was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheUse {
    /// How often a text started where its task touches the first layer. Asked for tasks that begin at different depths,
    /// a text counts for each of these.
    pub hits: u64,
    /// How often it did not; tasks that touch the embeddings or the first layer count as neither.
    pub misses: u64,
    /// Texts that are held, each for every depth at which it is.
    pub texts: usize,
    /// Bytes of their activations.
    pub bytes: usize,
}

/// A task of an engine; that of a task that was removed never becomes another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(u64);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Gives each task of an engine a name of its own.
#[derive(Debug, Default)]
pub struct TaskIds(AtomicU64);

impl TaskIds {
    /// A name that no task had before.
    pub fn next(&self) -> TaskId {
        TaskId(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Runs one base's encoder for any number of tasks, on any number of threads at once. Tasks come and go
/// while other threads run.
///
/// Threads that run `native` do not wait for each other; those of `ort` take turns.
pub trait Engine: Any + Send + Sync {
    /// What the engine is.
    fn describe(&self) -> EngineInfo;

    /// Takes a task in: afterwards it can be run, and going from one task to another costs nothing. A tensor
    /// without a mask or a delta keeps the base's values.
    ///
    /// # Errors
    /// When a mask or a delta does not fit the base, a mask cannot be decoded, or the engine fails.
    fn add(&self, task: Changes<'_>) -> Result<TaskId, EngineError>;

    /// Lets a task go; what runs at this moment ends as it began.
    ///
    /// # Errors
    /// When there is no such task.
    fn remove(&self, task: TaskId) -> Result<(), EngineError>;

    /// Runs the encoder on some texts with one task's weights.
    ///
    /// # Errors
    /// When there is no such task, the batch does not fit the base, or the engine fails.
    fn encode(&self, task: TaskId, texts: &TokenBatch) -> Result<Hidden, EngineError>;

    /// Runs a plan: what the encoder makes of each task's texts, in the order of [`Plan::tasks`].
    ///
    /// Here one task is run after the other; an engine that can share work among them does so.
    ///
    /// # Errors
    /// As [`Engine::encode`].
    fn run(&self, plan: &Plan) -> Result<Vec<Hidden>, EngineError> {
        let run = |(task, texts): &(TaskId, Vec<usize>)| match texts.len() == plan.texts().len() {
            true => self.encode(*task, plan.texts()),
            false => self.encode(*task, &plan.texts().select(texts)),
        };
        plan.tasks().iter().map(run).collect()
    }

    /// Whether texts of a plan are padded to the longest of them, so that a short one costs as much as a long one.
    fn pads(&self) -> bool {
        true
    }

    /// Which steps of the encoder some tasks have in common, so that [`Engine::run`] computes them once; `None` where the
    /// engine runs one task after the other.
    ///
    /// # Errors
    /// When there is no such task.
    fn sharing(&self, tasks: &[TaskId]) -> Result<Option<Sharing>, EngineError> {
        let _ = tasks;
        Ok(None)
    }

    /// Where it keeps derived files, if it does: what is made of the base's tokenizer is kept there, too.
    fn derived(&self) -> Option<&Directory> {
        None
    }

    /// What it remembers of texts, where it does.
    fn cache(&self) -> Option<CacheUse> {
        None
    }
}
