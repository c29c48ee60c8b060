//! What is measured: texts, and ONNX Runtime's own session of the base.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::Tensor;
use overmask::base::Base;
use overmask::engine::{self, Engine, EngineOptions, TokenBatch};

/// The base's own graph with all of ONNX Runtime's optimisations; it packs the constant weights as
/// it likes.
pub(crate) struct Dense(Session);

impl Dense {
    /// A session; `profile` is where to write what each operator took, if anywhere.
    pub(crate) fn new(base: &Base, threads: usize, profile: Option<&Path>) -> Result<Self> {
        let builder = Session::builder(engine::ort::environment()?).map_err(plain)?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(plain)?;
        let mut builder = builder.with_intra_threads(threads).map_err(plain)?;
        if let Some(path) = profile {
            builder = builder.with_profiling(path).map_err(plain)?;
        }
        Ok(Dense(builder.commit_from_file(base.model_path()).map_err(plain)?))
    }

    /// A pass.
    pub(crate) fn run(&mut self, batch: &TokenBatch) -> Result<()> {
        let shape = [batch.batch, batch.sequence];
        let tensor = |values: &Vec<i64>| Tensor::from_array((shape, values.clone())).map_err(plain);
        let inputs = ort::inputs![
            "input_ids" => tensor(&batch.input_ids)?,
            "attention_mask" => tensor(&batch.attention_mask)?,
            "token_type_ids" => tensor(&batch.token_type_ids)?,
        ];
        let outputs = self.0.run(inputs).map_err(plain)?;
        ensure!(outputs.len() == 1, "not one output");
        Ok(())
    }

    /// Ends profiling; returns the file.
    pub(crate) fn end_profiling(&mut self) -> Result<String> {
        self.0.end_profiling().map_err(plain)
    }
}

/// Errors of `ort` hold what cannot be sent between threads.
fn plain<R>(error: ort::Error<R>) -> anyhow::Error {
    anyhow::anyhow!("ONNX Runtime: {error}")
}

/// An engine of ours.
pub(crate) fn start(name: &str, base: &Arc<Base>, threads: usize) -> Result<Box<dyn Engine>> {
    Ok(engine::start(name.parse()?, Arc::clone(base), &EngineOptions { threads: Some(threads) })?)
}

/// Tokens of texts of these lengths, padded to the longest.
pub(crate) fn batch(lengths: &[usize]) -> TokenBatch {
    let sequence = lengths.iter().copied().max().unwrap_or(1);
    let all = |value: &dyn Fn(usize, usize) -> i64| -> Vec<i64> {
        lengths.iter().flat_map(|length| (0..sequence).map(|i| value(*length, i)).collect::<Vec<_>>()).collect()
    };
    TokenBatch {
        batch: lengths.len(),
        sequence,
        input_ids: all(&|length, i| if i < length { 1000 + (i * 37 % 5000) as i64 } else { 0 }),
        attention_mask: all(&|length, i| i64::from(i < length)),
        token_type_ids: all(&|_, _| 0),
    }
}

/// The middle of some times.
pub(crate) fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
