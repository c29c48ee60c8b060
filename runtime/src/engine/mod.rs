//! What runs the encoder: one trait, and one folder for each engine.
//!
//! | engine | how a mask is applied |
//! | --- | --- |
//! | `native` (our own kernels; BERT-type encoders on a CPU) | in the matrix kernels, while weights are read |
//! | `ort` (ONNX Runtime; CPU or CUDA) | weights are session inputs; a small graph masks them on the device when a task is loaded |
//! | `tract` (pure Rust) | masked weights are constants of the plan |
//!
//! An engine that was asked for and cannot start is an error; nothing falls back to another one.

mod batch;
mod kind;
#[cfg(feature = "native")]
pub mod native;
#[cfg(feature = "ort")]
pub mod ort;
#[cfg(feature = "tract")]
pub mod tract;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub use batch::{Hidden, TokenBatch};
pub use kind::{Device, EngineKind, ParseEngineError};

use crate::base::{Base, BaseError};
use crate::error::ExitCode;
use crate::onnx::OnnxError;
use crate::pack::{Delta, NamedMask, PackFile};

/// What can go wrong in an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine cannot start.
    #[error("the engine `{engine}` is not available: {reason}")]
    Unavailable {
        /// The engine that was asked for.
        engine: String,
        /// What is missing, and how to get it.
        reason: String,
    },
    /// The engine started but cannot do this.
    #[error("the engine `{engine}` failed: {reason}")]
    Failed {
        /// The engine.
        engine: String,
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
    /// The base's graph cannot be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
}

impl EngineError {
    /// The program's exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unavailable { .. } => ExitCode::EngineUnavailable,
            Self::Failed { .. } | Self::NoTask(_) => ExitCode::Other,
            Self::Mask { .. } | Self::Delta { .. } => ExitCode::BaseMismatch,
            Self::Batch(_) => ExitCode::InputData,
            Self::Base(error) => error.exit_code(),
            Self::Onnx(error) => error.exit_code(),
        }
    }
}

/// Says what made a result.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct EngineInfo {
    /// The engine and its device, as [`EngineKind`] writes them.
    pub engine: String,
    /// Precision of weights and activations: `f32`.
    pub precision: String,
    /// What computes: the instruction set of our own kernels, or the library.
    pub kernels: String,
}

/// A task that is loaded into an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(u64);

impl TaskId {
    /// The identifier after this one.
    #[cfg(any(feature = "native", feature = "ort", feature = "tract"))]
    fn bump(&mut self) -> TaskId {
        self.0 += 1;
        *self
    }

    /// Before the first task.
    #[cfg(any(feature = "native", feature = "ort", feature = "tract"))]
    const NONE: TaskId = TaskId(0);
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Runs one base's encoder for any number of tasks, on any number of threads at once.
///
/// Threads that run `native` do not wait for each other; those of `ort` take turns.
pub trait Engine: Send + Sync {
    /// What the engine is.
    fn describe(&self) -> EngineInfo;

    /// Makes a task resident: afterwards [`Engine::encode`] can run it, and switching between
    /// resident tasks costs nothing.
    ///
    /// A tensor without a mask or a delta keeps the base's values.
    ///
    /// # Errors
    /// When a mask or a delta does not fit the base, or the engine fails.
    fn load(&mut self, masks: &[NamedMask], deltas: &[Delta]) -> Result<TaskId, EngineError>;

    /// Makes a pack's task resident without its masks being decoded, if the engine has kept what
    /// it made of them before. The pack must fit the base.
    fn recall(&mut self, _pack: &PackFile) -> Option<TaskId> {
        None
    }

    /// Keeps what was made of a pack's masks for [`Engine::recall`], in this process and others; an
    /// engine that keeps nothing does nothing.
    fn keep(&mut self, _task: TaskId, _pack: &PackFile) {}

    /// What our own kernels do with a task's masks in products of so many rows; `None` for an
    /// engine that has others, or a task that is not loaded.
    fn mask_kernel(&self, _task: TaskId, _rows: usize) -> Option<&'static str> {
        None
    }

    /// Lets a task go.
    ///
    /// # Errors
    /// When there is no such task.
    fn unload(&mut self, task: TaskId) -> Result<(), EngineError>;

    /// Runs the encoder on a batch of tokens with a task's weights.
    ///
    /// The vectors at padded positions are not specified.
    ///
    /// # Errors
    /// When there is no such task, the batch does not fit the base, or the engine fails.
    fn encode(&self, task: TaskId, batch: &TokenBatch) -> Result<Hidden, EngineError>;
}

/// Settings of an engine.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// Threads to compute with; without it the engine decides. `tract` computes with one.
    pub threads: Option<usize>,
}

/// The engine for a base when none is named: the first that this build has and that knows the base
/// of `native`, `ort` on the CPU, and `tract`.
pub fn default_for(base: &Base) -> EngineKind {
    #[cfg(feature = "native")]
    if native::knows(base) {
        return EngineKind::Native;
    }
    let _ = base;
    match (cfg!(feature = "ort"), cfg!(feature = "tract")) {
        (true, _) => EngineKind::Ort(Device::Cpu),
        (false, true) => EngineKind::Tract,
        // Who starts it learns what is wrong.
        (false, false) => EngineKind::Native,
    }
}

/// The inputs of a base's graph before weights become inputs, too: which of
/// [`TokenBatch`]'s fields it reads.
///
/// # Errors
/// When it reads something else.
#[cfg(any(feature = "ort", feature = "tract"))]
fn token_inputs(model: &crate::onnx::proto::ModelProto) -> Result<Vec<String>, String> {
    let known = ["input_ids", "attention_mask", "token_type_ids"];
    let names = crate::onnx::inputs(model);
    match names.iter().find(|name| !known.contains(name)) {
        Some(other) => Err(format!("the base's graph reads `{other}`, which no text has; import the base again")),
        None => Ok(names.into_iter().map(str::to_owned).collect()),
    }
}

/// Starts an engine on a base.
///
/// # Errors
/// When the engine is not available on this machine or in this build, or the base cannot be
/// read.
pub fn start(kind: EngineKind, base: Arc<Base>, options: &EngineOptions) -> Result<Box<dyn Engine>, EngineError> {
    match kind {
        #[cfg(feature = "native")]
        EngineKind::Native => Ok(Box::new(native::NativeEngine::new(base, options)?)),
        #[cfg(feature = "ort")]
        EngineKind::Ort(device) => Ok(Box::new(ort::OrtEngine::new(base, device, options)?)),
        #[cfg(feature = "tract")]
        EngineKind::Tract => Ok(Box::new(tract::TractEngine::new(base, options)?)),
        #[allow(unreachable_patterns)]
        _ => {
            let _ = (base, options);
            Err(not_built(kind))
        }
    }
}

/// The error for an engine that this build leaves out.
fn not_built(kind: EngineKind) -> EngineError {
    let feature = match kind {
        EngineKind::Native => "native",
        EngineKind::Ort(_) => "ort",
        EngineKind::Tract => "tract",
    };
    EngineError::Unavailable {
        engine: kind.to_string(),
        reason: format!("this program was built without it; build with `--features {feature}`"),
    }
}

/// Checks that each mask belongs to a maskable tensor of the base, each delta to any tensor, and at
/// most one of both to each; every engine does so before it loads a task.
///
/// # Errors
/// [`EngineError::Mask`] or [`EngineError::Delta`], naming the tensor.
pub fn check_changes(base: &Base, masks: &[NamedMask], deltas: &[Delta]) -> Result<(), EngineError> {
    let mut seen = BTreeSet::new();
    for NamedMask { tensor, mask } in masks {
        let wrong = |reason: String| Err(EngineError::Mask { tensor: tensor.clone(), reason });
        let Some(expected) = base.maskable(tensor) else {
            return wrong("the base has no such maskable tensor".to_owned());
        };
        if (mask.outputs(), mask.inputs()) != (expected.outputs, expected.inputs) {
            let found = format!("[{}, {}]", mask.outputs(), mask.inputs());
            return wrong(format!("is {found}, the tensor is [{}, {}]", expected.outputs, expected.inputs));
        }
        if !seen.insert(tensor) {
            return wrong("comes twice".to_owned());
        }
    }
    for Delta { tensor, shape, values, .. } in deltas {
        let wrong = |reason: String| Err(EngineError::Delta { tensor: tensor.clone(), reason });
        let Ok((expected, _)) = base.tensor_f32(tensor) else {
            return wrong("the base has no such tensor".to_owned());
        };
        if shape != expected || values.len() != expected.iter().product::<usize>() {
            return wrong(format!("is {shape:?} with {} values, the tensor is {expected:?}", values.len()));
        }
        if !seen.insert(tensor) {
            return wrong("comes twice, or has a mask, too".to_owned());
        }
    }
    Ok(())
}
