//! The native engine: encoders of the BERT kind on kernels of our own, in which a mask costs next
//! to nothing.
//!
//! The base's weights are packed once into the order in which the kernels read them, and shared by
//! all tasks; a task is its masks in the same order. Texts of a batch run side by side without
//! padding: every product is over the tokens that there are.

mod attention;
mod budget;
mod derived;
mod forward;
mod masks;
mod model;
mod norm;
mod packed;
mod pool;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use self::budget::{Budget, Part};
use self::forward::Pass;
use self::masks::TaskMasks;
use self::model::Model;
use self::pool::Pool;
use super::{Engine, EngineError, EngineInfo, EngineKind, EngineOptions, Hidden, TaskId, TokenBatch};
use crate::base::Base;
use crate::kernels::{Isa, PanelMask};
use crate::pack::{Delta, NamedMask, PackFile};

/// An encoder on our own kernels.
pub struct NativeEngine {
    base: Arc<Base>,
    model: Arc<Model>,
    isa: Isa,
    pool: Pool,
    tasks: BTreeMap<TaskId, Task>,
    last_task: TaskId,
    /// Where derived files are, if they are kept.
    directory: Option<PathBuf>,
}

/// What a task changes.
struct Task {
    masks: TaskMasks,
    /// The engine's own, where the task replaces nothing.
    model: Arc<Model>,
}

impl NativeEngine {
    /// Maps the base's packed weights, or packs them.
    ///
    /// # Errors
    /// When the base is no encoder that this engine knows, or the processor lacks the instructions
    /// that `OVERMASK_ISA` names.
    pub fn new(base: Arc<Base>, options: &EngineOptions) -> Result<Self, EngineError> {
        let isa = Isa::choose().map_err(unavailable)?;
        let directory = derived::directory();
        let model = Model::new(&base, directory.as_deref())?;
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or_else(all).max(1);
        let pool = Pool::new(threads).map_err(unavailable)?;
        log::debug!("native engine: {isa}, {threads} threads");
        let model = Arc::new(model);
        Ok(NativeEngine { base, model, isa, pool, tasks: BTreeMap::new(), last_task: TaskId::NONE, directory })
    }

    /// Runs the encoder as [`Engine::encode`] does, and adds up where the time goes.
    ///
    /// # Errors
    /// As for [`Engine::encode`].
    pub fn encode_timed(&self, task: TaskId, batch: &TokenBatch, budget: &Budget) -> Result<Hidden, EngineError> {
        self.run(task, batch, Some(budget))
    }

    fn add(&mut self, masks: TaskMasks, deltas: &[Delta]) -> Result<TaskId, EngineError> {
        let model = match deltas {
            [] => Arc::clone(&self.model),
            deltas => Arc::new(self.model.with(&self.base, deltas)?),
        };
        let task = self.last_task.bump();
        self.tasks.insert(task, Task { masks, model });
        Ok(task)
    }

    fn run(&self, task: TaskId, batch: &TokenBatch, budget: Option<&Budget>) -> Result<Hidden, EngineError> {
        let Task { masks, model } = self.tasks.get(&task).ok_or(EngineError::NoTask(task))?;
        let Self { base, isa, pool, .. } = self;
        batch.check(base)?;
        let pass = Pass { model, base, masks, isa: *isa, threads: pool.threads(), budget };
        let data = pool.run(|| pass.run(batch))?;
        Ok(Hidden { batch: batch.batch, sequence: batch.sequence, hidden: model.width, data })
    }
}

impl Engine for NativeEngine {
    fn describe(&self) -> EngineInfo {
        EngineInfo {
            engine: EngineKind::Native.to_string(),
            precision: "f32".to_owned(),
            kernels: self.isa.to_string(),
        }
    }

    fn load(&mut self, masks: &[NamedMask], deltas: &[Delta]) -> Result<TaskId, EngineError> {
        super::check_changes(&self.base, masks, deltas)?;
        self.add(TaskMasks::new(&self.base, masks), deltas)
    }

    fn recall(&mut self, pack: &PackFile) -> Option<TaskId> {
        let masks = TaskMasks::recall(&self.base, self.model.packed.key(), self.directory.as_deref(), pack)?;
        self.add(masks, pack.deltas()).ok()
    }

    fn keep(&mut self, task: TaskId, pack: &PackFile) {
        // Masks are decoded with the base's weights.
        if let Some(task) = self.tasks.get_mut(&task).filter(|_| is_sound(&self.base)) {
            task.masks.keep(self.model.packed.key(), self.directory.as_deref(), pack);
        }
    }

    fn mask_kernel(&self, task: TaskId, rows: usize) -> Option<&'static str> {
        let Task { masks, .. } = self.tasks.get(&task)?;
        // All masks of a task are of one granularity; some tensors may have none.
        let tensors = 0..self.base.manifest().maskable.len();
        let mask = tensors.map(|index| masks.of(index)).find(|mask| *mask != PanelMask::Dense);
        Some(self.isa.form(mask.unwrap_or(PanelMask::Dense), rows))
    }

    fn unload(&mut self, task: TaskId) -> Result<(), EngineError> {
        self.tasks.remove(&task).map(drop).ok_or(EngineError::NoTask(task))
    }

    fn encode(&self, task: TaskId, batch: &TokenBatch) -> Result<Hidden, EngineError> {
        self.run(task, batch, None)
    }
}

/// Whether a base is what its manifest says, so that what is made of it may be kept.
fn is_sound(base: &Base) -> bool {
    let found = base.verify();
    if let Err(error) = &found {
        log::warn!("{error}; what is made of this base is not kept");
    }
    found.is_ok()
}

/// Whether this engine runs a base's encoder.
pub(super) fn knows(base: &Base) -> bool {
    model::prefix(base).is_ok()
}

fn unavailable(error: impl std::fmt::Display) -> EngineError {
    EngineError::Unavailable { engine: EngineKind::Native.to_string(), reason: error.to_string() }
}
