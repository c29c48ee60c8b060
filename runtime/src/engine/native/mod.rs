//! The native engine: encoders of known families on kernels of our own, in which a mask costs next
//! to nothing.
//!
//! The base's weights are packed once into the order in which the kernels read them, and shared by
//! all tasks; a task is its masks in the same order. Texts of a batch run side by side without
//! padding: every product is over the tokens that there are.
//!
//! Weights are multiplied as the base stores them. Those of int8 are multiplied with activations that are int8 codes,
//! too, each row with a scale of its own; everything between the products is f32.

/// Something for the element that the weights of a base of a precision are stored as.
macro_rules! by_precision {
    ($precision:expr, $element:ident => $body:expr) => {
        match $precision {
            $crate::base::Precision::F32 => {
                type $element = f32;
                $body
            }
            $crate::base::Precision::Bf16 => {
                type $element = half::bf16;
                $body
            }
            $crate::base::Precision::Int8 => {
                type $element = i8;
                $body
            }
        }
    };
}

mod attention;
mod budget;
mod cache;
mod distances;
mod forward;
mod kept;
mod masks;
mod model;
mod norm;
mod packed;
mod pass;
mod places;
mod pool;
mod rotary;
mod schedule;
mod softmax;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

pub use overmask_kernels::Isa;
use overmask_kernels::PanelMask;

pub use self::budget::{Budget, Stage};
use self::cache::Cache;
use self::masks::TaskMasks;
use self::model::Model;
use self::pass::Pass;
use self::pool::Pool;
use self::schedule::Asked;
use self::task::Task;
use super::{
    CacheUse, Changes, Engine, EngineError, EngineInfo, EngineKind, EngineOptions, Hidden, Plan, Sharing, TaskId,
    TaskIds, TokenBatch,
};
use crate::base::Base;
use crate::derived::Directory;
use crate::pack::{NamedMask, PackFile};

/// An encoder on our own kernels.
pub struct NativeEngine {
    base: Arc<Base>,
    model: Arc<Model>,
    isa: Isa,
    pool: Pool,
    tasks: RwLock<BTreeMap<TaskId, Arc<Task>>>,
    ids: TaskIds,
    /// Classes of steps that tasks have had so far; the base's own are 0.
    classes: AtomicU64,
    /// Where derived files are, if they are kept.
    directory: Option<Directory>,
    /// Prefixes of texts that came before, if they are kept.
    cache: Option<Cache>,
}

impl NativeEngine {
    /// Maps the base's packed weights, or packs them.
    ///
    /// # Errors
    /// When the base is no encoder that this engine knows, or its threads cannot be made.
    pub fn new(base: Arc<Base>, options: &EngineOptions) -> Result<Self, EngineError> {
        let isa = options.isa.unwrap_or_else(Isa::best);
        let directory = options.derived.clone();
        let model = Arc::new(Model::new(&base, directory.as_ref())?);
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or_else(all).max(1);
        let no_threads = |error| unavailable(format!("{threads} threads cannot be started: {error}; ask for fewer"));
        let pool = Pool::new(threads).map_err(no_threads)?;
        log::debug!("native engine: {isa}, {threads} threads");
        Ok(NativeEngine {
            base,
            model,
            isa,
            pool,
            tasks: RwLock::default(),
            ids: TaskIds::default(),
            classes: AtomicU64::new(0),
            directory,
            cache: Cache::new(options.cache_texts),
        })
    }

    /// Whether this engine runs a base's encoder.
    pub fn knows(base: &Base) -> bool {
        crate::base::family::encoder::Encoder::of_base(base.manifest()).is_ok()
    }

    /// Runs the encoder as [`Engine::encode`] does, and adds up where the time goes.
    ///
    /// # Errors
    /// As for [`Engine::encode`].
    pub fn encode_timed(&self, task: TaskId, texts: &TokenBatch, budget: &Budget) -> Result<Hidden, EngineError> {
        self.run_timed(&Plan::single(texts.clone(), task), Some(budget)).map(|mut found| found.swap_remove(0))
    }

    /// What the kernels do with a task's masks in products of so many rows.
    ///
    /// # Errors
    /// When there is no such task.
    pub fn mask_kernel(&self, task: TaskId, rows: usize) -> Result<&'static str, EngineError> {
        let task = self.task(task)?;
        // All masks of a task are of one granularity; some tensors may have none.
        let tensors = 0..self.base.manifest().maskable.len();
        let mask = tensors.map(|index| task.masks.of(index)).find(|mask| *mask != PanelMask::Dense);
        let mask = mask.unwrap_or(PanelMask::Dense);
        Ok(by_precision!(self.base.precision(), E => self.isa.form::<E>(mask, rows)))
    }

    /// A panic leaves nothing half done in the table.
    fn tasks(&self) -> RwLockReadGuard<'_, BTreeMap<TaskId, Arc<Task>>> {
        self.tasks.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task, which stays as it is for whoever has it, removed or not.
    fn task(&self, task: TaskId) -> Result<Arc<Task>, EngineError> {
        self.tasks().get(&task).cloned().ok_or(EngineError::NoTask(task))
    }

    /// Compares the derived file of the base, if it has one, with what the base gives now; returns whether it has.
    ///
    /// # Errors
    /// When it is not the same: it was changed on purpose, as damage is found when it is mapped. The file is removed,
    /// and this engine should not be used any more.
    pub fn verify_base(&self) -> Result<bool, EngineError> {
        self.model.packed.verify(&self.base)
    }

    /// The same for the derived file of a pack, with its masks decoded for the base.
    ///
    /// # Errors
    /// The same.
    pub fn verify_pack(&self, file: &PackFile, masks: &[NamedMask]) -> Result<bool, EngineError> {
        let Some(directory) = &self.directory else { return Ok(false) };
        Ok(masks::verify(&self.base, masks, &masks::kept(&self.base, directory, self.model.packed.key(), file))?)
    }

    /// The derived file of the base, if such are kept, be it there or not.
    pub fn derived_of_base(&self) -> Option<PathBuf> {
        self.model.packed.path()
    }

    /// The derived file of a pack, likewise.
    pub fn derived_of_pack(&self, file: &PackFile) -> Option<PathBuf> {
        let directory = self.directory.as_ref()?;
        Some(masks::kept(&self.base, directory, self.model.packed.key(), file).path())
    }

    /// A task's masks: as an earlier process has kept them, or packed anew, and kept where they come from a
    /// file.
    fn masks(&self, changes: Changes<'_>) -> Result<TaskMasks, EngineError> {
        let decode = |is_kept| {
            if is_kept {
                // Masks are decoded with the base's weights: only those of a sound one outlive this process.
                self.base.verify_once()?;
            }
            let masks = changes.masks(&self.base)?;
            super::check_changes(&self.base, &masks, changes.deltas())?;
            Ok::<_, EngineError>(masks)
        };
        let (Changes::File(file), Some(directory)) = (changes, &self.directory) else {
            return Ok(TaskMasks::new(&self.base, &decode(false)?));
        };
        // What was kept is of a pack that fitted this base.
        file.check_base(&self.base)?;
        TaskMasks::find_or_make(
            &self.base,
            file,
            &masks::kept(&self.base, directory, self.model.packed.key(), file),
            decode,
        )
    }

    fn run_timed(&self, plan: &Plan, budget: Option<&Budget>) -> Result<Vec<Hidden>, EngineError> {
        let Self { base, isa, pool, .. } = self;
        let texts = plan.texts();
        texts.check(base)?;
        let tasks = plan.tasks().iter().map(|(task, _)| self.task(*task)).collect::<Result<Vec<_>, _>>()?;
        let asked = tasks.iter().zip(plan.tasks());
        let asked: Vec<Asked<'_>> = asked.map(|(task, (_, texts))| Asked { classes: &task.classes, texts }).collect();
        let pass = Pass { base, tasks: &tasks, isa: *isa, pool, cache: self.cache.as_ref(), budget };
        let found = pool.run(|| pass.run(texts, &asked))?;
        let of = |((_, of), data): (&(_, Vec<usize>), _)| Hidden::of_texts(texts, of, self.model.width, data);
        Ok(plan.tasks().iter().zip(found).map(of).collect())
    }
}

impl Engine for NativeEngine {
    fn describe(&self) -> EngineInfo {
        EngineInfo::new(EngineKind::Native, self.base.precision(), self.isa.to_string())
    }

    fn add(&self, changes: Changes<'_>) -> Result<TaskId, EngineError> {
        let masks = self.masks(changes)?;
        let model = match changes.deltas() {
            [] => Arc::clone(&self.model),
            deltas => Arc::new(self.model.with(&self.base, deltas)?),
        };
        let others: Vec<Arc<Task>> = self.tasks().values().cloned().collect();
        let base = Task::base(&self.base, &self.model);
        let next = || self.classes.fetch_add(1, Ordering::Relaxed) + 1;
        let task = Task::new(masks, model, &base, &others, next);
        let id = self.ids.next();
        self.tasks.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::new(task));
        Ok(id)
    }

    fn remove(&self, task: TaskId) -> Result<(), EngineError> {
        let removed = self.tasks.write().unwrap_or_else(PoisonError::into_inner).remove(&task);
        removed.map(drop).ok_or(EngineError::NoTask(task))
    }

    fn encode(&self, task: TaskId, texts: &TokenBatch) -> Result<Hidden, EngineError> {
        self.run(&Plan::single(texts.clone(), task)).map(|mut found| found.swap_remove(0))
    }

    fn run(&self, plan: &Plan) -> Result<Vec<Hidden>, EngineError> {
        self.run_timed(plan, None)
    }

    fn pads(&self) -> bool {
        false
    }

    fn sharing(&self, tasks: &[TaskId]) -> Result<Option<Sharing>, EngineError> {
        let found = tasks.iter().map(|task| self.task(*task)).collect::<Result<Vec<_>, _>>()?;
        let classes: Vec<&[u64]> = found.iter().map(|task| &task.classes[..]).collect();
        Ok(Some(Sharing::new(tasks, &classes)))
    }

    fn derived(&self) -> Option<&Directory> {
        self.directory.as_ref()
    }

    fn cache(&self) -> Option<CacheUse> {
        self.cache.as_ref().map(Cache::used)
    }
}

/// The name of the derived file that the engine keeps of a base.
pub fn derived_of_base(base: &Base) -> String {
    packed::name(base)
}

/// The name of the derived file that the engine keeps of a pack with this SHA-256 (lower-case hex).
pub fn derived_of_pack(base: &Base, sha256: &str) -> String {
    masks::name(base, sha256)
}

fn unavailable(error: impl std::fmt::Display) -> EngineError {
    EngineError::Unavailable { engine: EngineKind::Native, reason: error.to_string() }
}
