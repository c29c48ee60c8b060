//! What answers: the tasks of a generation on engines that run, and the way from one generation to the next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use overmask::base::Base;
use overmask::engine::{CacheUse, Engine, EngineError, EngineInfo, EngineOptions, TaskId};
use overmask::store::{BaseEntry, Generation, Store, StoreError, TaskEntry};
use overmask::task::{Runner, Task};
use overmask::trust::Keyring;
use overmask_cli::{CodedError, EngineArgs, ExitCode, describe, engine_options_in};

use super::failure::{Code, Failure};
use crate::packs;

/// The tasks of a generation.
pub(super) struct Table {
    pub(super) generation: u64,
    /// By name.
    pub(super) tasks: BTreeMap<String, Listed>,
}

/// A task of a generation.
pub(super) struct Listed {
    pub(super) entry: TaskEntry,
    /// What answers, or why nothing does.
    pub(super) loaded: Result<Arc<Loaded>, String>,
}

/// A task that an engine has. It is removed from there with the last who holds it: a generation, or a batch that began
/// before the next one.
pub(super) struct Loaded {
    pub(super) base: Arc<RunningBase>,
    pub(super) id: TaskId,
    task: Arc<Task>,
    entry: TaskEntry,
}

/// A base with its engine.
pub(super) struct RunningBase {
    entry: BaseEntry,
    pub(super) runner: Runner,
    info: EngineInfo,
}

impl Loaded {
    /// What its pack says.
    pub(super) fn task(&self) -> &Task {
        &self.task
    }

    /// What computes it.
    pub(super) fn info(&self) -> &EngineInfo {
        &self.base.info
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Err(error) = self.base.runner.remove(self.id) {
            log::warn!("the task `{}`: {error}", self.entry.name);
        }
    }
}

impl Table {
    /// A task by its name.
    ///
    /// # Errors
    /// When it is not active, or cannot answer.
    pub(super) fn find(&self, name: &str) -> Result<&Arc<Loaded>, Failure> {
        let listed = self.tasks.get(name).ok_or_else(|| {
            let message = format!("there is no task `{name}` in generation {}", self.generation);
            Failure::new(Code::UnknownTask, message)
        })?;
        listed.loaded.as_ref().map_err(|reason| {
            Failure::new(Code::TaskUnavailable, format!("the task `{name}` cannot be used: {reason}"))
        })
    }

    /// What the engines of bases remember of texts, where they do, by the bases' ids.
    pub(super) fn caches(&self) -> BTreeMap<String, CacheUse> {
        let loaded = self.tasks.values().filter_map(|listed| listed.loaded.as_ref().ok());
        let cache = |loaded: &Arc<Loaded>| {
            let RunningBase { entry, runner, .. } = &*loaded.base;
            Some((entry.base_id.clone(), runner.engine().cache()?))
        };
        loaded.filter_map(cache).collect()
    }

    /// How many tasks cannot answer.
    pub(super) fn unavailable(&self) -> usize {
        self.tasks.values().filter(|listed| listed.loaded.is_err()).count()
    }
}

/// The generation that answers. Who asks has it for as long as needed; the next one takes its place at once.
pub(super) struct Active(Mutex<Arc<Table>>);

impl Active {
    pub(super) fn new(table: Table) -> Self {
        Active(Mutex::new(Arc::new(table)))
    }

    pub(super) fn now(&self) -> Arc<Table> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts the next generation in the place of the present one, which is returned.
    pub(super) fn switch(&self, next: Table) -> Arc<Table> {
        std::mem::replace(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), Arc::new(next))
    }
}

/// Opens what is active in a store.
pub(super) struct Opener {
    pub(super) store: Store,
    pub(super) engine: EngineArgs,
    /// How many texts the engine of each base remembers.
    pub(super) cache_texts: usize,
    /// The keys of which one must have signed each pack, if signatures are asked for.
    pub(super) keyring: Option<Keyring>,
}

impl Opener {
    /// Checks that the engine which was asked for has what was asked of it.
    ///
    /// # Errors
    /// When it has not. Where the engine is up to the base, the tasks of a base tell so.
    pub(super) fn check(&self) -> Result<(), CodedError> {
        let options = EngineOptions::default().cache_texts(self.cache_texts);
        let Some(kind) = self.engine.engine else { return Ok(()) };
        options.check(kind).map_err(|error| no_option(&error))
    }

    /// Opens the active generation. What it has in common with `before` goes on as it is. A task that cannot be opened
    /// is listed with the reason, the others answer.
    ///
    /// # Errors
    /// When the store or its generation cannot be read.
    pub(super) fn open(&self, before: Option<&Table>) -> anyhow::Result<Table> {
        self.store.open_current(|generation| {
            let table = self.open_generation(generation, before);
            // Its files may be gone, as another generation is active now: then this is tried again.
            match table.tasks.values().find_map(|listed| listed.loaded.as_ref().err()) {
                Some(reason) if !self.store.is_current(generation)? => Err(anyhow::anyhow!(reason.clone())),
                _ => Ok(table),
            }
        })
    }

    fn open_generation(&self, generation: &Generation, before: Option<&Table>) -> Table {
        let mut bases: BTreeMap<&str, Result<Arc<RunningBase>, String>> = BTreeMap::new();
        let mut tasks = BTreeMap::new();
        for entry in &generation.tasks {
            let base = bases
                .entry(&entry.base_id)
                .or_insert_with(|| self.base(generation, &entry.base_id, before).map_err(|error| describe(&error)));
            let loaded = match base {
                Ok(base) => self.task(base, entry, before).map_err(|error| describe(&error)),
                Err(reason) => Err(reason.clone()),
            };
            tasks.insert(entry.name.clone(), Listed { entry: entry.clone(), loaded });
        }
        Table { generation: generation.number, tasks }
    }

    /// A base with its engine, that which runs already if there is one.
    fn base(&self, generation: &Generation, id: &str, before: Option<&Table>) -> anyhow::Result<Arc<RunningBase>> {
        let missing = || StoreError::Unknown { what: format!("base {id}"), known: "others".to_owned() };
        let entry = generation.base(id).ok_or_else(missing)?;
        let running =
            before.iter().flat_map(|table| table.tasks.values()).filter_map(|listed| listed.loaded.as_ref().ok());
        if let Some(loaded) = running.into_iter().find(|loaded| loaded.base.entry == *entry) {
            return Ok(Arc::clone(&loaded.base));
        }
        let base = Arc::new(self.store.open_base(entry)?);
        let engine = self.start(&base)?;
        let runner = Runner::new(engine, base)?;
        let info = runner.describe();
        Ok(Arc::new(RunningBase { entry: entry.clone(), runner, info }))
    }

    /// Starts the engine on a base, with the options of this command.
    fn start(&self, base: &Arc<Base>) -> anyhow::Result<Arc<dyn Engine>> {
        let (kind, threads) = (self.engine.kind(base), self.engine.threads.map(usize::from));
        let options = engine_options_in(kind, threads, &self.store.derived_dir())?.cache_texts(self.cache_texts);
        overmask_cli::start(kind, base, &options).map_err(|error| match error {
            EngineError::Option { .. } => no_option(&error).into(),
            error => error.into(),
        })
    }

    /// A task on its base; that which is loaded already if it is the same.
    fn task(&self, base: &Arc<RunningBase>, entry: &TaskEntry, before: Option<&Table>) -> anyhow::Result<Arc<Loaded>> {
        let old = before.and_then(|table| table.tasks.get(&entry.name)?.loaded.as_ref().ok());
        if let Some(old) = old.filter(|old| Arc::ptr_eq(&old.base, base) && old.entry == *entry) {
            return Ok(Arc::clone(old));
        }
        let file = self.store.open_pack(entry)?;
        let given = packs::with_signature(&self.store, entry, file, self.keyring.as_ref())?;
        let id = base.runner.add_file(given.file)?;
        let task = base.runner.task(id)?;
        Ok(Arc::new(Loaded { base: Arc::clone(base), id, task, entry: entry.clone() }))
    }
}

/// An engine lacks what this command's own options ask of it.
fn no_option(error: &EngineError) -> CodedError {
    CodedError { message: format!("--cache-texts: {error}"), code: ExitCode::Usage }
}
