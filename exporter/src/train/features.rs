//! Texts as features: with nothing below the head training, the encoder runs once for each text.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use overmask::base::Base;
use overmask::engine::{self, EngineKind, EngineOptions};
use overmask::pack::Pooling;
use overmask::task::{self, Tokenizer};

use super::batch::{Inputs, Texts};
use super::{TrainError, TrainOptions, go_on};

/// The frozen encoder of `--method head`.
pub(super) struct FrozenEncoder {
    engine: Box<dyn engine::Engine>,
    task: engine::TaskId,
    width: usize,
    pooling: Pooling,
}

impl FrozenEncoder {
    pub(super) fn start(base: &Arc<Base>, o: &TrainOptions) -> Result<Self, TrainError> {
        let mut engine =
            engine::start(EngineKind::Ort(o.device), Arc::clone(base), &EngineOptions { threads: Some(o.threads) })?;
        let task = engine.load(&[])?;
        Ok(FrozenEncoder { engine, task, width: base.manifest().architecture.hidden_size, pooling: o.pooling })
    }

    /// Runs every text once: with nothing below the head training, its input never changes.
    pub(super) fn replace_tokens(
        &mut self,
        texts: &mut Texts,
        tokenizer: &Tokenizer,
        stop: &AtomicBool,
    ) -> Result<(), TrainError> {
        let Inputs::Tokens(tokens) = &texts.inputs else { return Ok(()) };
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|i| tokens[*i].len());
        let mut values = vec![0.0; tokens.len() * self.width];
        for indices in order.chunks(32) {
            go_on(stop)?;
            let rows: Vec<&[i64]> = indices.iter().map(|i| tokens[*i].as_slice()).collect();
            let batch = tokenizer.pad(&rows);
            let hidden = self.engine.encode(self.task, &batch)?;
            let pooled = task::pool(&hidden, &batch, self.pooling);
            for (index, row) in indices.iter().zip(&pooled) {
                values[index * self.width..(index + 1) * self.width].copy_from_slice(row);
            }
        }
        texts.inputs = Inputs::Features { values, width: self.width };
        Ok(())
    }
}
