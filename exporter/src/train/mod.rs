//! Training: a base, labelled texts and a method become a pack.

mod adapt;
mod baselines;
mod batch;
mod bench;
mod check;
mod checkpoint;
mod course;
mod dev;
mod features;
mod folds;
pub mod graph;
mod head;
mod learner;
mod loader;
mod loss_scale;
mod losses;
mod measure;
mod options;
mod packing;
mod placement;
mod recipe;
mod run;
pub mod schedule;
pub mod scores;
mod sealed;
mod select;
mod session;
mod setup;
mod sparsity;
mod speaker;
mod state;
mod step;
mod teacher;
#[cfg(test)]
mod tests;
mod texts;
mod trial;
mod value;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

pub use adapt::{AdaptOptions, AdaptProgress, Adapted, Distances, adapt};
pub use baselines::baselines;
pub use bench::{StepBench, bench_step};
pub use folds::Folds;
pub use graph::Precision;
pub use learner::{Part, Progress};
pub use options::{CheckpointOptions, Init, Keep, Method, Sampling, Split, Teacher, TeacherOptions, TrainOptions, Try};
pub use recipe::{Amount, Effort, Given, Recipe};
pub use run::{HeadAlone, Outcome, run};
pub use select::{Layers, Selection, Tune};
pub use state::{Attempt, Epoch};
pub use texts::Data;
pub use trial::Trial;

use overmask::engine::EngineError;
use overmask::error::ErrorKind;
use overmask::mask::Granularity;

use crate::autodiff::AutodiffError;
use crate::data::DataError;

/// Fails when the run is to stop and there is nothing to keep yet.
fn go_on(stop: &AtomicBool) -> Result<(), TrainError> {
    if stop.load(Ordering::Relaxed) { Err(TrainError::Stopped) } else { Ok(()) }
}

/// What can go wrong in training.
///
/// Messages name fields of [`TrainOptions`] or [`AdaptOptions`], as `teacher.weight` for one of [`TeacherOptions`], and of [`Data`] as
/// `data.dev`; [`TrainError::field`] says which one a message begins with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The texts.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The base.
    #[error(transparent)]
    Base(#[from] overmask::base::BaseError),
    /// The base's graph.
    #[error(transparent)]
    Onnx(#[from] overmask_graph::OnnxError),
    /// The base's graph cannot be differentiated.
    #[error(transparent)]
    Autodiff(#[from] AutodiffError),
    /// The inference engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Tokenizer or head.
    #[error(transparent)]
    Task(#[from] overmask::task::TaskError),
    /// A mask.
    #[error(transparent)]
    Mask(#[from] overmask::mask::MaskError),
    /// The pack.
    #[error(transparent)]
    Pack(#[from] overmask::pack::PackError),
    /// The evaluation at the end.
    #[error(transparent)]
    Evaluate(#[from] crate::evaluate::EvaluateError),
    /// A tensor does not divide into whole blocks.
    #[error("tensor `{tensor}` [{outputs}, {inputs}] does not divide into {granularity}; use `weight` or a divisor")]
    Indivisible {
        /// The tensor.
        tensor: String,
        /// Its rows.
        outputs: usize,
        /// Its columns.
        inputs: usize,
        /// The granularity asked for.
        granularity: Granularity,
    },
    /// A teacher that does not fit.
    #[error("teacher {}: {reason}", path.display())]
    Teacher {
        /// Its pack.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A checkpoint that this run cannot go on from.
    #[error("checkpoint {}: {reason}; remove the file to start anew", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A checkpoint that nobody can go on from.
    #[error("checkpoint {}: is damaged, or no checkpoint: {reason}; remove the file to start anew", path.display())]
    DamagedCheckpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An option that cannot be.
    #[error("{field}: {reason}")]
    Option {
        /// The field.
        field: &'static str,
        /// What is wrong with it; other fields have backticks around them.
        reason: String,
    },
    /// A module that the base does not have.
    #[error("modules: the base has no `{module}`, only {known}")]
    Module {
        /// The module.
        module: String,
        /// Those that it has.
        known: String,
    },
    /// Something is no number any more.
    #[error("at step {step} {what}; {advice}")]
    Diverged {
        /// The step, from 1.
        step: u64,
        /// What it is.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// Nodes that the device should run are elsewhere.
    #[error(
        "{} nodes of the step graph ran outside the device: {}; `check_placement = false` lets them",
        .nodes.len(),
        .nodes.join(", ")
    )]
    Placement {
        /// Node, operator and provider.
        nodes: Vec<String>,
    },
    /// It was stopped before anything was learnt.
    #[error("stopped before the first step: nothing was learnt")]
    Stopped,
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// ONNX Runtime refused something.
    #[error("ONNX Runtime: {0}")]
    Runtime(String),
}

impl<R> From<ort::Error<R>> for TrainError {
    fn from(error: ort::Error<R>) -> Self {
        TrainError::Runtime(error.to_string())
    }
}

impl TrainError {
    /// The field of the options that it is about, with whose name the message begins.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Option { field, .. } => Some(field),
            Self::Module { .. } => Some("modules"),
            Self::Teacher { .. } => Some("teacher"),
            Self::Checkpoint { .. } | Self::DamagedCheckpoint { .. } => Some("checkpoint"),
            _ => None,
        }
    }

    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Data(e) => e.kind(),
            Self::Base(e) => e.kind(),
            Self::Onnx(e) => e.kind(),
            Self::Engine(e) => e.kind(),
            Self::Task(e) => e.kind(),
            Self::Mask(e) => e.kind(),
            Self::Pack(e) => e.kind(),
            Self::Evaluate(e) => e.kind(),
            Self::Indivisible { .. } | Self::Option { .. } | Self::Module { .. } => ErrorKind::Usage,
            Self::Teacher { .. } | Self::Checkpoint { .. } | Self::Read { .. } => ErrorKind::InputData,
            Self::DamagedCheckpoint { .. } => ErrorKind::CorruptFile,
            Self::Write { .. } => ErrorKind::DeviceOrStore,
            Self::Placement { .. } => ErrorKind::EngineUnavailable,
            Self::Autodiff(_) | Self::Diverged { .. } | Self::Stopped | Self::Runtime(_) => ErrorKind::Other,
        }
    }
}
