//! Batches, made ahead on a thread of their own, so that a step does not wait for them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use overmask::task::Tokenizer;

use super::TrainError;
use super::batch::{Examples, dropout};
use super::sparsity::Noise;
use super::step::MicroBatch;
use super::value::Feed;

/// Batches that are ready or being made while a step runs.
const AHEAD: usize = 2;

/// What batches are made of.
pub(super) struct Source {
    pub(super) examples: Arc<Examples>,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Values of a pooled output.
    pub(super) width: usize,
    /// Rate of dropout, and the seed of its masks.
    pub(super) dropout: f64,
    pub(super) seed: u64,
    /// Examples that run at once.
    pub(super) micro_batch: usize,
    /// What scores are compared with, if it changes from step to step.
    pub(super) noise: Option<Noise>,
}

/// What a step reads of its own.
pub(super) struct Batch {
    /// One part, or several if the examples do not fit into one.
    pub(super) parts: Vec<MicroBatch>,
    /// What scores are compared with, in all parts; empty if that does not change.
    pub(super) noise: Feed,
}

impl Source {
    /// A batch for a step.
    fn batch(&self, indices: &[usize], step: u64) -> Result<Batch, TrainError> {
        let rows = self.examples.rows(indices);
        // Of the whole batch, so that how it is divided does not matter.
        let mut mask = dropout(self.dropout, self.seed, step, rows * self.width);
        let mut parts = Vec::with_capacity(indices.len().div_ceil(self.micro_batch));
        for indices in indices.chunks(self.micro_batch) {
            let own = self.examples.rows(indices);
            let rest = mask.split_off(own * self.width);
            let mut inputs = self.examples.batch(&self.tokenizer, indices, std::mem::replace(&mut mask, rest))?;
            inputs.extend(self.examples.targets(indices)?);
            parts.push(MicroBatch { inputs, share: own as f32 / rows as f32 });
        }
        let noise = self.noise.as_ref().map_or(Ok(Feed::new()), |noise| noise.feed(step))?;
        Ok(Batch { parts, noise })
    }
}

/// The batches of an epoch, in order.
pub(super) struct Loader {
    batches: Receiver<Result<Batch, TrainError>>,
    waited: Duration,
}

impl Loader {
    /// Starts making batches of the examples with these numbers; the first is for the step `first`.
    pub(super) fn start(source: Arc<Source>, batches: Vec<Vec<usize>>, first: u64) -> Self {
        let (sender, receiver) = sync_channel(AHEAD - 1);
        // Where no thread can be started, the channel ends, and `next` says so.
        let _ = std::thread::Builder::new().spawn(move || {
            for (step, indices) in (first..).zip(batches) {
                // Nobody waits any more once the loader is gone.
                if sender.send(source.batch(&indices, step)).is_err() {
                    break;
                }
            }
        });
        Loader { batches: receiver, waited: Duration::ZERO }
    }

    /// The next batch.
    pub(super) fn next(&mut self) -> Result<Batch, TrainError> {
        let started = Instant::now();
        let batch = self.batches.recv();
        self.waited += started.elapsed();
        batch.map_err(|_| {
            TrainError::Runtime("the thread that makes batches has ended or could not be started".to_owned())
        })?
    }

    /// The time that was spent in waiting for batches.
    pub(super) fn waited(&self) -> Duration {
        self.waited
    }
}
