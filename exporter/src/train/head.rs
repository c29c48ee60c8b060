//! The head alone, on the frozen encoder: what masks have to beat, and of few examples start from.
//!
//! A head that has learnt first sends gradients that mean something into the encoder from the first step on (Kumar
//! et al., *Fine-tuning can distort pretrained features and underperform out-of-distribution*, ICLR 2022).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use overmask::base::Base;

use super::course::Learnt;
use super::learner::Learner;
use super::state::{Best, Epoch, Mark};
use super::texts::Texts;
use super::{Method, TrainError, TrainOptions};
use crate::data::LabelSet;

/// Steps after which a head hardly gets better, ...
const STEPS: usize = 6_000;
/// ... the fewest passes that it takes all the same, ...
const LEAST_EPOCHS: usize = 4;
/// ... and the most.
const MOST_EPOCHS: usize = 100;
/// From so many examples on, masks start from a new head: the two learn together well, and what a head that has
/// learnt leaves to the mask is less. On movie (8,570) that cost a point.
pub(super) const MANY: usize = 2_000;

/// A head that has learnt.
pub(super) struct Start {
    /// Its last state.
    pub(super) best: Best,
    /// How it was at the end, as epoch 0.
    pub(super) epoch: Epoch,
    /// Whether it may be what a run keeps.
    pub(super) counts: bool,
}

impl Start {
    /// How good it is.
    pub(super) fn mark(&self) -> Mark {
        self.best.mark
    }
}

/// Learns the head that the masks of a run start from.
///
/// # Errors
/// When the encoder cannot be run, or the run is to stop before the first step.
pub(super) fn learn(
    base: &Arc<Base>,
    texts: &Texts,
    labels: &LabelSet,
    o: &TrainOptions,
    stop: &AtomicBool,
) -> Result<Start, TrainError> {
    let learnt = alone(base, texts.for_head(o.seed), labels, o, stop)?;
    let mark = Mark { attempt: 0, epoch: 0, ..learnt.best.mark };
    let loss = learnt.attempts.iter().flat_map(|attempt| &attempt.curve).next_back().map_or(0.0, |last| last.loss);
    let epoch = Epoch { epoch: 0, step: 0, loss, dev: mark.score, dev_loss: mark.loss, sparsity: 0.0 };
    let counts = o.may_be_head_alone();
    log::info!("head alone: dev {} {:.4}, dev loss {:.4}", o.form.kind.metric(), mark.score, mark.loss);
    Ok(Start { best: Best { mark, ..learnt.best }, epoch, counts })
}

/// Learns a head on what does not train: the frozen encoder's output for tokens, or features as they are.
pub(super) fn alone(
    base: &Arc<Base>,
    texts: Texts,
    labels: &LabelSet,
    o: &TrainOptions,
    stop: &AtomicBool,
) -> Result<Learnt, TrainError> {
    let usual = TrainOptions::new(o.name.clone(), Method::Head);
    let epochs = (STEPS / texts.train.len().div_ceil(usual.batch_size)).clamp(LEAST_EPOCHS, MOST_EPOCHS);
    let options = TrainOptions {
        form: o.form,
        pooling: o.pooling,
        seed: o.seed,
        max_tokens: o.max_tokens,
        device: o.device,
        threads: o.threads,
        epochs: epochs as u32,
        ..usual
    };
    let mut learner = Learner::new(base, texts, labels, None, &options, stop)?;
    // At its end alone: the best of many states would flatter it on a small dev split.
    learner.judged = options.epochs;
    learner.learn(&BTreeMap::new(), None, stop, &mut |_| ())
}
