//! What heads see, for every example once: of the frozen encoder, whose output never changes, and of
//! a teacher.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use overmask::base::Base;
use overmask::base::family::encoder::Encoder;
use overmask::engine::{Changes, Engine, EngineOptions, TaskId};
use overmask::pack::{Delta, NamedMask, Pooling};
use overmask::task::{self, Tokenizer, Tokens};
use overmask_graph::encoder::Padded;
use overmask_ort::OrtEngine;

use super::batch::{Examples, Inputs};
use super::session::BaseSession;
use super::{TrainError, TrainOptions, go_on};

/// Examples that run through the encoder at once.
const BATCH: usize = 32;

/// An encoder that does not train.
pub(super) struct FrozenEncoder {
    engine: OrtEngine,
    task: TaskId,
    pooling: Pooling,
}

/// What it gives for an input.
#[derive(Debug, Clone, Default)]
pub(super) struct Encoded {
    /// What a head sees: a vector for each row, or none for a word without a token.
    pub(super) rows: Vec<Option<Vec<f32>>>,
    /// A vector for each token, [tokens, width]; empty where it is not kept.
    pub(super) states: Vec<f32>,
}

impl FrozenEncoder {
    /// The base's encoder with some masks and deltas.
    pub(super) fn start(
        base: &Arc<Base>,
        masks: &[NamedMask],
        deltas: &[Delta],
        o: &TrainOptions,
    ) -> Result<Self, TrainError> {
        let options = EngineOptions::default().threads(o.threads);
        let engine = OrtEngine::new(Arc::clone(base), o.device, &options)?;
        let task = engine.add(Changes::Decoded { masks, deltas })?;
        Ok(FrozenEncoder { engine, task, pooling: o.pooling })
    }

    /// Runs every input once; keeps what it gives for each token only if `states` says so.
    pub(super) fn run(
        &self,
        tokens: &[Tokens],
        tokenizer: &Tokenizer,
        states: bool,
        stop: &AtomicBool,
    ) -> Result<Vec<Encoded>, TrainError> {
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|i| tokens[*i].len());
        let mut all = vec![Encoded::default(); tokens.len()];
        for indices in order.chunks(BATCH) {
            go_on(stop)?;
            let hidden = self.engine.encode(self.task, &tokenizer.batch(indices.iter().map(|i| &tokens[*i])))?;
            for (index, vectors) in indices.iter().zip(hidden.rows()) {
                let rows = task::pool(vectors, hidden.width(), &tokens[*index], self.pooling);
                all[*index] = Encoded { rows, states: if states { vectors.to_vec() } else { Vec::new() } };
            }
        }
        Ok(all)
    }

    /// Runs every example once: with nothing below the head training, its input never changes.
    pub(super) fn replace_tokens(
        &self,
        examples: &mut Examples,
        tokenizer: &Tokenizer,
        stop: &AtomicBool,
    ) -> Result<(), TrainError> {
        let Inputs::Tokens(tokens) = &examples.inputs else { return Ok(()) };
        let encoded = self.run(tokens, tokenizer, false, stop)?;
        let rows = |encoded: Encoded| encoded.rows.into_iter().map(Option::unwrap_or_default).collect();
        examples.inputs = Inputs::Features(encoded.into_iter().map(rows).collect());
        Ok(())
    }
}

/// Gives every example the mean of its tokens' word embeddings, times `scale` or what makes their mean square 1; returns
/// that factor, or nothing where the base's table is not known.
pub(super) fn embed(base: &Base, examples: &mut Examples, scale: Option<f32>) -> Result<Option<f32>, TrainError> {
    let Inputs::Tokens(tokens) = &examples.inputs else { return Ok(None) };
    let Ok(Encoder { embeddings, .. }) = Encoder::of_base(base.manifest()) else { return Ok(None) };
    let (_, table) = base.tensor_f32(&embeddings.words.name)?;
    let width = embeddings.width;
    let mean = |tokens: &Tokens| {
        let mut sum = vec![0f32; width];
        for id in &tokens.ids {
            let row = table.chunks_exact(width).nth(*id as usize).unwrap_or_default();
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        sum.iter_mut().for_each(|sum| *sum /= tokens.len().max(1) as f32);
        sum
    };
    let mut means: Vec<Vec<f32>> = tokens.iter().map(mean).collect();
    let squares: f64 = means.iter().flatten().map(|x| f64::from(*x).powi(2)).sum();
    let root = (squares / (means.len() * width).max(1) as f64).sqrt().max(f64::from(f32::MIN_POSITIVE));
    let scale = scale.unwrap_or((1.0 / root) as f32);
    means.iter_mut().flatten().for_each(|x| *x *= scale);
    examples.inputs = Inputs::Features(means.into_iter().map(|mean| vec![mean]).collect());
    Ok(Some(scale))
}

/// Runs the prefix once for every example and keeps what it gives.
pub(super) fn keep_prefixes(
    session: &mut BaseSession,
    examples: &mut Examples,
    tokenizer: &Tokenizer,
    width: usize,
    stop: &AtomicBool,
) -> Result<(), TrainError> {
    let Inputs::Tokens(tokens) = &examples.inputs else { return Ok(()) };
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|i| tokens[*i].len());
    let mut prefixes = vec![Vec::new(); tokens.len()];
    for indices in order.chunks(BATCH) {
        go_on(stop)?;
        let batch = Padded::from(&tokenizer.batch(indices.iter().map(|i| &tokens[*i])));
        let values = session.run(&batch, width)?;
        let rows = values.iter().flat_map(|values| values.chunks_exact(batch.sequence * width));
        for (index, row) in indices.iter().zip(rows) {
            prefixes[*index] = row[..tokens[*index].len() * width].to_vec();
        }
    }
    examples.prefixes = prefixes;
    Ok(())
}
