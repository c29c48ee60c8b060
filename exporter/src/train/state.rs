//! What a run has come to: its epochs, and the best state so far.

use std::collections::BTreeMap;

use overmask::pack::NamedMask;
use serde::{Deserialize, Serialize};

/// How an epoch ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// The epoch, from 1.
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
    /// Score on the dev split.
    pub(super) score: f64,
    pub(super) loss: f64,
    pub(super) kept: Kept,
}
