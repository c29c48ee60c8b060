//! How good a state is on the dev split, with the parameters as they are in training.

use overmask::task;

use super::TrainError;
use super::course::STEADIER;
use super::learner::Learner;
use crate::data::Gold;
use crate::score::{self, Said};

impl Learner<'_> {
    /// Score and mean loss on the dev split.
    pub(super) fn evaluate_dev(&mut self, step: u64) -> Result<(f64, f64), TrainError> {
        let mut order: Vec<usize> = (0..self.dev.len()).collect();
        order.sort_by_key(|i| self.dev.lengths[*i]);
        let kind = self.options.form.kind;
        let labels = self.labels.len();
        let mut said: Vec<Option<Said>> = vec![None; self.dev.len()];
        let (mut loss, mut rows) = (0f64, 0usize);
        for indices in order.chunks(self.options.batch_size) {
            let ones = vec![1.0; self.dev.rows(indices) * self.width()];
            let mut inputs = self.dev.batch(&self.tokenizer, indices, ones)?;
            inputs.extend(self.threshold()?);
            let mut logits = self.forward.logits(|name| self.step.parameter(name), inputs)?;
            if let Some(value) = logits.iter().find(|l| !l.is_finite()) {
                let what = format!("the head says {value} of an example of the dev split");
                return Err(TrainError::Diverged { step, what, advice: STEADIER });
            }
            let mut each = logits.chunks_exact_mut(labels);
            for index in indices {
                let counted = self.dev.counted(*index);
                let mut these: Vec<Option<&[f32]>> = Vec::with_capacity(counted.len());
                for counts in counted {
                    these.push(if counts { each.next().map(|row| &*row) } else { None });
                }
                let gold = &self.dev.gold[*index];
                loss += loss_of(gold, &these, |value| self.dev.scale.apply(value));
                rows += these.iter().flatten().count();
                said[*index] = Some(match Said::of_logits(kind, &these) {
                    Said::Value(value) => Said::Value(f64::from(self.dev.scale.undo(value as f32))),
                    other => other,
                });
            }
        }
        let said: Vec<Said> = said.into_iter().flatten().collect();
        let score = score::main_score(kind, self.labels.names(), &self.dev.gold, &said);
        Ok((score, loss / rows.max(1) as f64))
    }
}

/// The summed loss of an example's rows; `scale` is what numbers go through.
fn loss_of(gold: &Gold, rows: &[Option<&[f32]>], scale: impl Fn(f64) -> f32) -> f64 {
    let cross_entropy = |row: &[f32], class: usize| -f64::from(task::softmax(row)[class].max(f32::MIN_POSITIVE)).ln();
    let first = rows.first().copied().flatten().unwrap_or_default();
    match gold {
        Gold::Class(class) => cross_entropy(first, *class),
        Gold::Tags(tags) => {
            tags.iter().zip(rows).filter_map(|(tag, row)| row.map(|row| cross_entropy(row, *tag))).sum()
        }
        Gold::Set(set) => {
            let of = |(has, logit): (&bool, &f32)| {
                let x = f64::from(if *has { -*logit } else { *logit });
                x.max(0.0) + (-x.abs()).exp().ln_1p()
            };
            set.iter().zip(first).map(of).sum::<f64>() / set.len().max(1) as f64
        }
        Gold::Value(value) => f64::from(first.first().copied().unwrap_or(0.0) - scale(*value)).powi(2),
    }
}
