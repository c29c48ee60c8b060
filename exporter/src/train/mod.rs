//! Training: a base, labelled texts and a method become a pack.

mod batch;
mod features;
mod gelu;
pub mod graph;
mod placement;
mod run;
pub mod schedule;
pub mod scores;
mod session;
mod step_bench;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

pub use run::{Outcome, Progress, run};
pub use step_bench::{StepBench, bench_step};

use overmask::engine::{Device, EngineError};
use overmask::error::ExitCode;
use overmask::mask::Granularity;
use overmask::pack::{FloatType, Pooling};
use serde::{Deserialize, Serialize};

use crate::autodiff::AutodiffError;
use crate::data::DataError;

/// How a task is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The encoder stays as it is; only the head trains: the baseline.
    Head,
    /// Scores decide which weights are zero; they and the head train together.
    Mask,
}

/// Everything that decides a training run.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Name of the task.
    pub name: String,
    /// Method.
    pub method: Method,
    /// Unit of the masks.
    pub granularity: Granularity,
    /// Passes over the training texts.
    pub epochs: u32,
    /// Texts a step.
    pub batch_size: usize,
    /// Learning rate of the scores.
    pub learning_rate: f64,
    /// Learning rate of the head.
    pub head_learning_rate: f64,
    /// Part of all steps in which the rates rise from zero.
    pub warmup: f64,
    /// Part of the pooled outputs that dropout zeroes.
    pub dropout: f64,
    /// Largest norm of all gradients together.
    pub clip_norm: f64,
    /// Fraction of units that start as zeros.
    pub initial_sparsity: f64,
    /// First layer that is masked.
    pub from_layer: usize,
    /// Decides splits, order, dropout and the head's start.
    pub seed: u64,
    /// Longest text, in tokens with the special ones; longer texts are cut.
    pub max_tokens: usize,
    /// How token outputs become one vector.
    pub pooling: Pooling,
    /// Part of the training texts that chooses the checkpoint.
    pub dev_fraction: f64,
    /// Where the step graph runs.
    pub device: Device,
    /// Threads of a CPU run.
    pub threads: usize,
    /// End after so many steps.
    pub max_steps: Option<u64>,
    /// File for the loss of every step, one JSON object a line.
    pub log_losses: Option<PathBuf>,
    /// Check that the device runs every node of the step graph, and fail if not.
    pub check_placement: bool,
    /// The pack's revision.
    pub revision: u64,
    /// How the pack stores the head.
    pub head_dtype: FloatType,
}

/// Fails when the run is to stop and there is nothing to keep yet.
fn go_on(stop: &AtomicBool) -> Result<(), TrainError> {
    if stop.load(Ordering::Relaxed) { Err(TrainError::Stopped) } else { Ok(()) }
}

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The texts.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The base.
    #[error(transparent)]
    Base(#[from] overmask::base::BaseError),
    /// The base's graph.
    #[error(transparent)]
    Onnx(#[from] overmask::onnx::OnnxError),
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
    /// An option that cannot be.
    #[error("{option}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The loss is no number any more.
    #[error("the loss is {loss} at step {step}; lower --learning-rate or --head-learning-rate")]
    Diverged {
        /// The step, from 1.
        step: u64,
        /// The loss.
        loss: f32,
    },
    /// Nodes that the device should run are elsewhere.
    #[error("{} nodes of the step graph ran outside the device: {}", .nodes.len(), .nodes.join(", "))]
    Placement {
        /// Node, operator and provider.
        nodes: Vec<String>,
    },
    /// It was stopped before anything was learnt.
    #[error("stopped before the first step: nothing was learnt")]
    Stopped,
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
    /// The program's exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Data(e) => e.exit_code(),
            Self::Base(e) => e.exit_code(),
            Self::Onnx(e) => e.exit_code(),
            Self::Engine(e) => e.exit_code(),
            Self::Task(e) => e.exit_code(),
            Self::Mask(e) => e.exit_code(),
            Self::Pack(e) => e.exit_code(),
            Self::Evaluate(e) => e.exit_code(),
            Self::Indivisible { .. } | Self::Option { .. } => ExitCode::Usage,
            Self::Write { .. } => ExitCode::DeviceOrStore,
            Self::Placement { .. } => ExitCode::EngineUnavailable,
            Self::Autodiff(_) | Self::Diverged { .. } | Self::Stopped | Self::Runtime(_) => ExitCode::Other,
        }
    }
}
