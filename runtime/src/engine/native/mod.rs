//! The native engine: encoders of the BERT kind on kernels of our own, in which a mask costs next
//! to nothing.
//!
//! The base's weights are packed once into the order in which the kernels read them, and shared by
//! all tasks; a task is its masks in the same order. Texts of a batch run side by side without
//! padding: every product is over the tokens that there are.

mod attention;
mod budget;
mod forward;
mod model;
mod norm;
mod packed;
mod pool;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::budget::{Budget, Part};
use self::forward::Pass;
use self::model::Model;
use self::pool::Pool;
use super::{Engine, EngineError, EngineInfo, EngineKind, EngineOptions, Hidden, TaskId, TokenBatch};
use crate::base::Base;
use crate::kernels::{Isa, PanelMask};
use crate::pack::NamedMask;

/// An encoder on our own kernels.
pub struct NativeEngine {
    base: Arc<Base>,
    model: Model,
    isa: Isa,
    pool: Pool,
    /// The masks of each task, in the order of the base's maskable tensors.
    tasks: BTreeMap<TaskId, Vec<PanelMask>>,
    last_task: TaskId,
}

impl NativeEngine {
    /// Maps the base's packed weights, or packs them.
    ///
    /// # Errors
    /// When the base is no encoder that this engine knows, or the processor lacks the instructions
    /// that `OVERMASK_ISA` names.
    pub fn new(base: Arc<Base>, options: &EngineOptions) -> Result<Self, EngineError> {
        let isa = Isa::choose().map_err(unavailable)?;
        let model = Model::new(&base)?;
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or_else(all).max(1);
        let pool = Pool::new(threads).map_err(unavailable)?;
        log::debug!("native engine: {isa}, {threads} threads");
        Ok(NativeEngine { base, model, isa, pool, tasks: BTreeMap::new(), last_task: TaskId::NONE })
    }

    /// Runs the encoder as [`Engine::encode`] does, and adds up where the time goes.
    ///
    /// # Errors
    /// As for [`Engine::encode`].
    pub fn encode_timed(&self, task: TaskId, batch: &TokenBatch, budget: &Budget) -> Result<Hidden, EngineError> {
        self.run(task, batch, Some(budget))
    }

    fn run(&self, task: TaskId, batch: &TokenBatch, budget: Option<&Budget>) -> Result<Hidden, EngineError> {
        let masks = self.tasks.get(&task).ok_or(EngineError::NoTask(task))?;
        let Self { base, model, isa, pool, .. } = self;
        batch.check(base)?;
        let pass = Pass { model, base, masks, isa: *isa, threads: pool.threads(), budget };
        let data = pool.run(|| pass.run(batch))?;
        Ok(Hidden { batch: batch.batch, sequence: batch.sequence, hidden: model.width, data })
    }
}

impl Engine for NativeEngine {
    fn describe(&self) -> EngineInfo {
        EngineInfo { engine: EngineKind::Native.to_string(), precision: "f32".to_owned() }
    }

    fn load(&mut self, masks: &[NamedMask]) -> Result<TaskId, EngineError> {
        super::check_masks(&self.base, masks)?;
        let of_tensor = |name: &str| masks.iter().find(|named| named.tensor == name);
        let tensors = &self.base.manifest().maskable;
        let panels = tensors.iter().map(|tensor| match of_tensor(&tensor.name) {
            Some(named) => PanelMask::new(&named.mask),
            None => PanelMask::Dense,
        });
        let task = self.last_task.bump();
        self.tasks.insert(task, panels.collect());
        Ok(task)
    }

    fn unload(&mut self, task: TaskId) -> Result<(), EngineError> {
        self.tasks.remove(&task).map(drop).ok_or(EngineError::NoTask(task))
    }

    fn encode(&self, task: TaskId, batch: &TokenBatch) -> Result<Hidden, EngineError> {
        self.run(task, batch, None)
    }
}

fn unavailable(error: impl std::fmt::Display) -> EngineError {
    EngineError::Unavailable { engine: EngineKind::Native.to_string(), reason: error.to_string() }
}
