//! The time of a training step, for comparison with a peer.

use std::sync::Arc;
use std::time::Instant;

use overmask::base::Base;
use serde::Serialize;

use super::batch::dropout;
use super::graph::{self, Encoder, Spec, name};
use super::run::{initial, rates};
use super::session::{Placement, StepSession, f32_value, frozen, i64_value};
use super::{TrainError, TrainOptions};

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

/// Times `steps` training steps on one batch of made-up tokens, after two that warm up.
///
/// # Errors
/// When the step graph cannot be built or run.
pub fn bench_step(
    base: &Arc<Base>,
    options: &TrainOptions,
    tokens: usize,
    classes: usize,
    steps: usize,
) -> Result<StepBench, TrainError> {
    overmask::engine::ort::environment()?;
    let encoder = Encoder::Masked { granularity: options.granularity, from_layer: options.from_layer };
    let spec = Spec { encoder, pooling: options.pooling, classes, clip_norm: options.clip_norm as f32 };
    let graph = graph::step(base, &spec)?;
    let placement = Placement { device: options.device, threads: options.threads, profile: None };
    let weights = frozen(base, &graph.frozen)?;
    let initial = initial(base, &graph, options)?;
    let mut session = StepSession::new(&graph, &initial, &weights, &placement)?;
    let (size, a) = (options.batch_size, &base.manifest().architecture);
    let shape = [size, tokens];
    let count = size * tokens;
    let mut times = Vec::with_capacity(steps);
    let mut loss = 0.0;
    for step in 0..steps + 2 {
        let ids = (0..count).map(|i| ((i * 7919 + 13) % a.vocab_size) as i64).collect();
        let mut inputs = vec![
            ("input_ids", i64_value(&shape, ids)?),
            ("attention_mask", i64_value(&shape, vec![1; count])?),
            ("token_type_ids", i64_value(&shape, vec![0; count])?),
            (name::TARGETS, i64_value(&[size], (0..size).map(|i| (i % classes) as i64).collect())?),
        ];
        // The peer's step makes its dropout and its bias corrections too.
        let started = Instant::now();
        let mask = dropout(options.dropout, options.seed, step as u64, size * a.hidden_size);
        inputs.push((name::DROPOUT, f32_value(&[size, a.hidden_size], mask)?));
        inputs.extend(rates(options.learning_rate, options.head_learning_rate, step as u64)?);
        loss = session.run(inputs)?.0;
        if step >= 2 {
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(StepBench { median_ms: times[times.len() / 2], min_ms: times[0], steps, loss })
}
