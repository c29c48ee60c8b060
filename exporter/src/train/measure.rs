//! How good a pack is, through the code that a device runs.

use std::sync::Arc;

use overmask::base::Base;
use overmask::engine::{Device, Engine, EngineOptions};
use overmask::pack::{Golden, Input, Pack};
use overmask::task::Runner;
use overmask_ort::OrtEngine;

use super::{TrainError, TrainOptions};
use crate::data::Dataset;
use crate::evaluate::{self, Mistake};
use crate::score::Card;

/// What measures the packs of a run.
pub(super) struct Meter<'a> {
    runner: Runner,
    dev: &'a Dataset,
    eval: Option<&'a Dataset>,
}

/// A pack, and how good it is as it is stored: not the score of the training loop, whose head and deltas are not
/// rounded yet.
pub(super) struct Measured {
    pub(super) pack: Pack,
    pub(super) dev: Card,
    pub(super) eval: Option<Card>,
    /// The surest mistakes on the latter, else on the former.
    pub(super) mistakes: Vec<Mistake>,
}

impl<'a> Meter<'a> {
    pub(super) fn start(
        base: &Arc<Base>,
        dev: &'a Dataset,
        eval: Option<&'a Dataset>,
        o: &TrainOptions,
    ) -> Result<Self, TrainError> {
        let engine = OrtEngine::new(Arc::clone(base), Device::Cpu, &EngineOptions::default().threads(o.threads))?;
        let engine: Arc<dyn Engine> = Arc::new(engine);
        Ok(Meter { runner: Runner::new(engine, Arc::clone(base))?, dev, eval })
    }

    pub(super) fn measure(&self, pack: Pack) -> Result<Measured, TrainError> {
        let of = |data| evaluate::measure(&self.runner, pack.clone(), data, &mut |_| ());
        let (dev, eval) = (of(self.dev)?, self.eval.map(of).transpose()?);
        let mistakes = eval.as_ref().unwrap_or(&dev).mistakes.clone();
        Ok(Measured { pack, dev: dev.card, eval: eval.map(|eval| eval.card), mistakes })
    }

    /// The pack with these inputs and their logits.
    pub(super) fn with_golden(&self, pack: Pack, inputs: Vec<Input>) -> Result<Pack, TrainError> {
        let task = self.runner.add_pack(pack.clone())?;
        let mut golden = Vec::with_capacity(inputs.len());
        // One by one, as a device checks them: no padding, whatever the other inputs.
        for input in inputs {
            let rows = self.runner.logits(task, std::slice::from_ref(&input))?;
            let logits = rows.into_iter().flatten().flatten().flatten().collect();
            golden.push(Golden { input, logits });
        }
        Ok(pack.with_golden(golden)?)
    }
}
