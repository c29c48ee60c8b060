//! The time of a training step, for comparison with a peer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use overmask::base::Base;
use overmask::mask::Granularity;
use serde::Serialize;

use super::batch::{Scale, dropout};
use super::graph::{Objective, name};
use super::session::{Placement, fresh, frozen};
use super::setup::{Rates, initial, spec};
use super::step::{Backend, MicroBatch, StepSession};
use super::value::{Feed, f32_value, i64_value};
use super::{Method, TrainError, TrainOptions};

/// What was measured, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct StepBench {
    /// Median over the steps.
    pub median_ms: f64,
    /// Fastest step.
    pub min_ms: f64,
    /// Steps measured.
    pub steps: usize,
    /// Loss of the last step.
    pub loss: f32,
}

/// Times `steps` training steps on one batch of made-up tokens, after two that warm up. With `profile`, ONNX
/// Runtime writes what each operator took into a file whose name begins with that.
///
/// # Errors
/// When the step graph cannot be built or run.
pub fn bench_step(
    base: &Arc<Base>,
    options: &TrainOptions,
    tokens: usize,
    classes: usize,
    steps: usize,
    profile: Option<PathBuf>,
) -> Result<StepBench, TrainError> {
    overmask_ort::environment()?;
    let spec = spec(base, classes, options)?;
    let backend = Backend::of(options.device, false);
    let graph = backend.graph(base, &spec)?;
    let placement = Placement { device: options.device, threads: options.threads, profile: profile.clone() };
    let weights = frozen(base, &graph.frozen, &placement)?;
    let state = fresh(initial(base, &graph, options, None, Scale::ONE)?);
    let mut session = StepSession::new(backend, &graph, spec.optimizer(), state, &weights, &placement)?;
    let (scores, dense, head) = (options.learning_rate, options.dense_learning_rate, options.head_learning_rate);
    let rates = Rates { scores, dense, head };
    let (size, a) = (options.batch_size, &base.manifest().architecture);
    let shape = [size, tokens];
    let count = size * tokens;
    let mut times = Vec::with_capacity(steps);
    let mut loss = 0.0;
    for step in 0..steps + 2 {
        let ids = (0..count).map(|i| ((i * 7919 + 13) % a.vocab_size) as i64).collect();
        let mut inputs = vec![
            ("input_ids".to_owned(), i64_value(&shape, ids)?),
            ("attention_mask".to_owned(), i64_value(&shape, vec![1; count])?),
            ("token_type_ids".to_owned(), i64_value(&shape, vec![0; count])?),
            (name::TARGETS.to_owned(), i64_value(&[size], (0..size).map(|i| (i % classes) as i64).collect())?),
        ];
        // The peer's step makes its dropout and its bias corrections too.
        let started = Instant::now();
        let mask = dropout(options.dropout, options.seed, step as u64, size * a.hidden_size);
        inputs.push((name::DROPOUT.to_owned(), f32_value(&[size, a.hidden_size], mask)?));
        if options.method == Method::Mask && options.granularity != Granularity::TwoOfFour {
            inputs.push((name::THRESHOLD.to_owned(), f32_value(&[], vec![0.0])?));
        }
        loss = session.run(vec![MicroBatch { inputs, share: 1.0 }], Feed::new(), rates.at(step as u64))?.0;
        if step >= 2 {
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    if profile.is_some() {
        session.end_profiling()?;
    }
    times.sort_by(f64::total_cmp);
    Ok(StepBench { median_ms: times[times.len() / 2], min_ms: times[0], steps, loss })
}
