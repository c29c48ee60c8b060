//! Texts become the inputs of a step.

use ort::value::DynValue;
use overmask::task::Tokenizer;

use super::TrainError;
use super::graph::name;
use super::session::{f32_value, i64_value};
use crate::data::{Dataset, LabelSet, rng};

/// What the seed is XORed with before it goes to functions of [`crate::data`], which draw from
/// streams of their own: the run's splits are not those of whoever splits the data with the same
/// seed, `--eval-fraction` for one. Figures depend on these numbers: never change one.
pub(super) mod salt {
    /// Which training texts choose the checkpoint (stream `SPLIT`).
    pub(in crate::train) const DEV: u64 = 1;
    /// Order of the texts (stream `EPOCH`).
    pub(in crate::train) const ORDER: u64 = 2;
}

/// Streams of the random generator for what training draws itself; [`crate::data`] has 1 and 2,
/// `metrics::bootstrap` 5.
pub(super) mod stream {
    /// Dropout masks.
    pub(in crate::train) const DROPOUT: u64 = 3;
    /// The head's first weights.
    pub(in crate::train) const HEAD: u64 = 4;
}

/// What a text is to the step graph.
pub(super) enum Inputs {
    /// Token ids, one list a text.
    Tokens(Vec<Vec<i64>>),
    /// Pooled outputs of the frozen encoder, [texts, width].
    Features {
        /// Values.
        values: Vec<f32>,
        /// Values a text.
        width: usize,
    },
}

/// Texts with their classes, ready for batches.
pub(super) struct Texts {
    pub(super) inputs: Inputs,
    pub(super) targets: Vec<i64>,
    /// Cost of each text, by which batches are made of similar ones.
    pub(super) lengths: Vec<usize>,
}

impl Texts {
    /// Tokenizes a data set.
    pub(super) fn tokenize(
        data: &Dataset,
        labels: &LabelSet,
        tokenizer: &Tokenizer,
        max_tokens: usize,
    ) -> Result<Self, TrainError> {
        let targets = labels.targets(data)?.into_iter().map(|t| t as i64).collect();
        let tokens = data
            .examples
            .iter()
            .map(|e| tokenizer.encode(&e.text, max_tokens))
            .collect::<Result<Vec<Vec<i64>>, _>>()?;
        let lengths = tokens.iter().map(Vec::len).collect();
        Ok(Texts { inputs: Inputs::Tokens(tokens), targets, lengths })
    }

    pub(super) fn len(&self) -> usize {
        self.targets.len()
    }

    /// The step inputs for the texts with these indices; `dropout` is [batch, width].
    pub(super) fn batch(
        &self,
        tokenizer: &Tokenizer,
        indices: &[usize],
        dropout: Vec<f32>,
    ) -> Result<Vec<(&'static str, DynValue)>, TrainError> {
        let size = indices.len();
        let width = dropout.len() / size;
        let mut all = vec![(name::DROPOUT, f32_value(&[size, width], dropout)?)];
        match &self.inputs {
            Inputs::Tokens(tokens) => {
                let rows: Vec<&[i64]> = indices.iter().map(|i| tokens[*i].as_slice()).collect();
                let batch = tokenizer.pad(&rows);
                let shape = [batch.batch, batch.sequence];
                all.push(("input_ids", i64_value(&shape, batch.input_ids)?));
                all.push(("attention_mask", i64_value(&shape, batch.attention_mask)?));
                all.push(("token_type_ids", i64_value(&shape, batch.token_type_ids)?));
            }
            Inputs::Features { values, width } => {
                let rows = indices.iter().flat_map(|i| &values[i * width..(i + 1) * width]).copied().collect();
                all.push((name::FEATURES, f32_value(&[size, *width], rows)?));
            }
        }
        Ok(all)
    }

    /// The classes of the texts with these indices, as a step input.
    pub(super) fn targets(&self, indices: &[usize]) -> Result<(&'static str, DynValue), TrainError> {
        let targets = indices.iter().map(|i| self.targets[*i]).collect();
        Ok((name::TARGETS, i64_value(&[indices.len()], targets)?))
    }
}

/// What pooled outputs are multiplied by at a step: 0 with probability `rate`, else 1 / (1 - rate).
pub(super) fn dropout(rate: f64, seed: u64, step: u64, count: usize) -> Vec<f32> {
    if rate == 0.0 {
        return vec![1.0; count];
    }
    let kept = (1.0 / (1.0 - rate)) as f32;
    let drop = |u: f32| if f64::from(u) < rate { 0.0 } else { kept };
    rng::uniform(seed, stream::DROPOUT, step, count).into_iter().map(drop).collect()
}
