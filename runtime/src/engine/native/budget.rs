//! Where the time of a pass goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A stage of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Looking tokens up, and copying the result out.
    Embedding,
    /// Products with weights, with bias and residual.
    Linears,
    /// GELU.
    Gelu,
    /// Products of queries, keys and values.
    Attention,
    /// Scaling, masking and softmax of attention scores.
    Softmax,
    /// Layer norms.
    Norms,
}

impl Stage {
    /// All stages.
    pub const ALL: [Stage; 6] =
        [Self::Embedding, Self::Linears, Self::Gelu, Self::Attention, Self::Softmax, Self::Norms];

    /// A word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Linears => "linears",
            Self::Gelu => "GELU",
            Self::Attention => "attention",
            Self::Softmax => "softmax",
            Self::Norms => "norms",
        }
    }
}

/// The time that passes took, by stage, over all threads.
#[derive(Debug, Default)]
pub struct Budget([AtomicU64; Stage::ALL.len()]);

impl Budget {
    /// The time of a stage, summed over threads.
    pub fn spent(&self, stage: Stage) -> Duration {
        Duration::from_nanos(self.0[stage as usize].load(Ordering::Relaxed))
    }

    pub(super) fn timed<R>(&self, stage: Stage, run: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = run();
        // A pass of 500 years is not expected.
        self.0[stage as usize].fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }
}
