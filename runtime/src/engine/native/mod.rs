//! The native engine: encoders of the BERT kind on kernels of our own, in which a mask costs next
//! to nothing.
//!
//! The base's weights are packed once into the order in which the kernels read them, and shared by
//! all tasks; a task is its masks in the same order. Texts of a batch run side by side without
//! padding: every product is over the tokens that there are.

mod forward;
mod model;
mod packed;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use self::forward::{Memory, Workspace};
use self::model::Model;
use super::{Engine, EngineError, EngineInfo, EngineKind, EngineOptions, Hidden, TaskId, TokenBatch};
use crate::base::Base;
use crate::kernels::{Isa, PanelMask};
use crate::pack::NamedMask;

/// An encoder on our own kernels.
pub struct NativeEngine {
    base: Arc<Base>,
    model: Model,
    isa: Isa,
    /// None for a single thread, which needs nobody to hand work to.
    pool: Option<rayon::ThreadPool>,
    /// Memory of each thread.
    memory: Vec<Mutex<Memory>>,
    /// The masks of each task, in the order of the base's maskable tensors.
    tasks: BTreeMap<TaskId, Vec<PanelMask>>,
    last_task: TaskId,
    workspace: Workspace,
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
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("native-{i}"));
        let pool = (threads > 1).then(|| pool.build().map_err(unavailable)).transpose()?;
        let memory = (0..threads).map(|_| Mutex::default()).collect();
        log::debug!("native engine: {isa}, {threads} threads");
        let (tasks, last_task, workspace) = (BTreeMap::new(), TaskId::NONE, Workspace::default());
        Ok(NativeEngine { base, model, isa, pool, memory, tasks, last_task, workspace })
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

    fn encode(&mut self, task: TaskId, batch: &TokenBatch) -> Result<Hidden, EngineError> {
        let masks = self.tasks.get(&task).ok_or(EngineError::NoTask(task))?;
        batch.check(&self.base)?;
        let Self { base, model, isa, pool, memory, workspace, .. } = self;
        let mut run = || forward::run(model, base, masks, *isa, memory, batch, workspace);
        let data = match pool {
            Some(pool) => pool.install(run),
            None => run(),
        }?;
        Ok(Hidden { batch: batch.batch, sequence: batch.sequence, hidden: self.model.width, data })
    }
}

fn unavailable(error: impl std::fmt::Display) -> EngineError {
    EngineError::Unavailable { engine: EngineKind::Native.to_string(), reason: error.to_string() }
}
