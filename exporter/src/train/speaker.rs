//! What somebody who has learnt a task says of examples, as others learn it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use overmask::base::Base;
use overmask::pack::{Delta, Head, NamedMask, TaskKind};
use overmask::task::{self, Tokenizer};

use super::batch::{Examples, Inputs, Lesson, Scale};
use super::features::{Encoded, FrozenEncoder};
use super::options::TeacherOptions;
use super::{TrainError, TrainOptions};
use crate::score::Said;

/// Somebody who has learnt the task.
pub(super) struct Speaker<'a> {
    pub(super) masks: &'a [NamedMask],
    pub(super) deltas: &'a [Delta],
    pub(super) head: &'a Head,
}

/// What one says of an example.
pub(super) struct Answer {
    /// For each row; none for a word without a token.
    pub(super) logits: Vec<Option<Vec<f32>>>,
    /// What the head sees, one vector for each row that has any.
    features: Vec<f32>,
    states: Vec<f32>,
}

impl Speaker<'_> {
    /// What it says of some examples; features and states only where they are taught.
    pub(super) fn ask(
        &self,
        base: &Arc<Base>,
        examples: &Examples,
        tokenizer: &Tokenizer,
        o: &TrainOptions,
        stop: &AtomicBool,
    ) -> Result<Vec<Answer>, TrainError> {
        let Inputs::Tokens(tokens) = &examples.inputs else { return Ok(Vec::new()) };
        let taught = |weight: fn(&TeacherOptions) -> f64| o.teacher.as_ref().is_some_and(|t| weight(t) > 0.0);
        let (features, states) = (taught(|teacher| teacher.features), taught(|teacher| teacher.states));
        let encoder = FrozenEncoder::start(base, self.masks, self.deltas, o)?;
        let answer = |Encoded { rows, states }: Encoded| Answer {
            logits: rows.iter().map(|row| row.as_ref().map(|pooled| task::logits(self.head, pooled))).collect(),
            features: if features { rows.into_iter().flatten().flatten().collect() } else { Vec::new() },
            states,
        };
        Ok(encoder.run(tokens, tokenizer, states, stop)?.into_iter().map(answer).collect())
    }
}

impl Answer {
    /// What is learnt of it.
    pub(super) fn lesson(self, examples: &Examples, options: &TeacherOptions) -> Lesson {
        let rows = self.logits.iter().flatten();
        let answers = rows.flat_map(|row| answers(examples.kind, row, options.temperature, examples.scale)).collect();
        Lesson { answers, features: self.features, states: self.states, alone: false }
    }

    /// What it means.
    pub(super) fn said(&self, kind: TaskKind) -> Said {
        Said::of_logits(kind, &self.logits.iter().map(Option::as_deref).collect::<Vec<_>>())
    }
}

/// What logits mean to the loss: probabilities, or the scaled number.
fn answers(kind: TaskKind, logits: &[f32], temperature: f64, scale: Scale) -> Vec<f32> {
    match kind {
        TaskKind::Classify | TaskKind::Tag => softened(logits, temperature),
        TaskKind::Multilabel => logits.iter().copied().map(task::sigmoid).collect(),
        TaskKind::Regress => logits.iter().map(|value| scale.apply(f64::from(*value))).collect(),
    }
}

/// Probabilities at a temperature.
pub(super) fn softened(logits: &[f32], temperature: f64) -> Vec<f32> {
    task::softmax(&logits.iter().map(|logit| logit / temperature as f32).collect::<Vec<_>>())
}
