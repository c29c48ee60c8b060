//! What a run has come to: its tries and their epochs, and the best state so far.

use std::collections::BTreeMap;
use std::time::Duration;

use overmask::pack::NamedMask;
use serde::{Deserialize, Serialize};

use super::options::Keep;

/// How an epoch ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// The epoch, from 1; 0 is the head alone, from which masks start.
    pub epoch: u32,
    /// Steps done.
    pub step: u64,
    /// Running mean of the loss.
    pub loss: f32,
    /// Score on the dev split, by the main metric of the task's kind.
    pub dev: f64,
    /// Loss on the dev split.
    pub dev_loss: f64,
    /// Fraction of the masked tensors' weights that are zero.
    pub sparsity: f64,
}

/// A rate and a length that are tried, and how that went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The learning rate of the scores.
    pub learning_rate: f64,
    /// Passes over the training examples.
    pub epochs: u32,
    /// Its epochs.
    pub curve: Vec<Epoch>,
}

impl Attempt {
    /// The score on the dev split of the state that counts: the best of its own epochs, without that of the head alone, or
    /// the last one's.
    pub fn dev(&self, keep: Keep) -> Option<f64> {
        let mut own = self.curve.iter().filter(|epoch| epoch.epoch > 0).map(|epoch| epoch.dev);
        if keep == Keep::Last { own.next_back() } else { own.reduce(f64::max) }
    }
}

/// What a pack keeps of a state.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) masks: Vec<NamedMask>,
    /// The base's own tensors that train, and the head, by name.
    pub(super) tensors: BTreeMap<String, Vec<f32>>,
}

/// The best state so far.
#[derive(Debug, Clone)]
pub(super) struct Best {
    pub(super) mark: Mark,
    pub(super) kept: Kept,
}

/// How good a state is, and where it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Score and mean loss on the dev split.
    pub(super) score: f64,
    pub(super) loss: f64,
    /// The try, from 0, and its epoch.
    pub(super) attempt: usize,
    pub(super) epoch: u32,
}

impl Mark {
    /// Whether it is better than another: equal scores are common on small dev splits, and then the lower loss is
    /// better.
    pub(super) fn beats(&self, other: &Mark) -> bool {
        (self.score, -self.loss) > (other.score, -other.loss)
    }
}

/// How far a run is.
pub(super) struct Course {
    /// Steps of the try that is under way: those done, and all.
    pub(super) step: u64,
    pub(super) steps: u64,
    /// Steps of the tries before it.
    pub(super) before: u64,
    /// Running mean of the loss.
    pub(super) loss: f32,
    /// Epochs of this try.
    pub(super) curve: Vec<Epoch>,
    /// The tries before.
    pub(super) attempts: Vec<Attempt>,
    /// The best state with what trains below the head.
    pub(super) best: Option<Best>,
    /// Time spent before it was cut off, and how much of it in waiting for batches.
    pub(super) time: [Duration; 2],
}
