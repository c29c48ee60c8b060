//! The packs that a command is given: single ones, whole sets, or one of a set; signed or not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use overmask::base::Base;
use overmask::engine::Engine;
use overmask::pack::{PackFile, Packs, read_file, split_name};
use overmask::store::{Generation, Store, StoreError, TaskEntry};
use overmask::trust::{Keyring, PublicKey, Verified};
use overmask_cli::{CodedError, EngineArgs, ExitCode};

use super::store::StoreDir;

const TRUST: &str = "Trust";

/// The tasks that a command computes, and what with: packs on a base, or tasks of a store.
#[derive(Debug, Args)]
pub(super) struct TaskArgs {
    /// Directory of the base bundle
    #[arg(long, value_name = "DIR", requires = "packs", conflicts_with_all = ["store", "tasks"])]
    base: Option<PathBuf>,
    /// A task's pack, a pack set, or one pack of a set (SET#NAME); give it again for more tasks
    #[arg(long = "pack", id = "packs", value_name = "FILE", requires = "base", conflicts_with_all = ["store", "tasks"])]
    packs: Vec<PathBuf>,
    /// An active task of the store; give it again for more. Without any, and without --pack: all of them
    #[arg(long = "task", id = "tasks", value_name = "NAME")]
    tasks: Vec<String>,
    #[command(flatten)]
    store: StoreDir,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// What a command runs: an engine that is started on a base, and the packs, which fit it.
pub(super) struct Opened {
    pub(super) base: Arc<Base>,
    pub(super) packs: Vec<Given>,
    pub(super) engine: Arc<dyn Engine>,
    /// What to say at the end if tasks of the store are left out, as their packs are damaged.
    pub(super) left_out: Option<CodedError>,
}

/// What is active in a store: a base and packs, and how many of them are damaged.
type Active = (Arc<Base>, Vec<Given>, usize);

impl TaskArgs {
    /// Opens the base and reads the packs, which must fit it: what can be wrong with the files is found before
    /// the engine starts, but for what only shows when masks are decoded. `check` looks at them in between.
    pub(super) fn open(&self, check: impl FnOnce(&Base, &[Given]) -> anyhow::Result<()>) -> anyhow::Result<Opened> {
        if let Some(dir) = &self.base {
            let base = Arc::new(Base::open(dir)?);
            let packs = read(&self.packs, &self.trust)?;
            packs.iter().try_for_each(|given| given.file.check_base(&base))?;
            check(&base, &packs)?;
            let engine = self.engine.start(&base)?;
            return Ok(Opened { base, packs, engine, left_out: None });
        }
        let store = self.store.open().map_err(|error| match error {
            error @ StoreError::NoStore { .. } if self.store.given().is_none() && self.tasks.is_empty() => {
                let message = format!("{error}. Or name files: --base DIR --pack FILE");
                anyhow::Error::new(CodedError { message, code: ExitCode::Usage })
            }
            error => error.into(),
        })?;
        let keyring = self.trust.keyring()?;
        let of_generation = |generation: &Generation| self.of_store(&store, generation, keyring.as_ref());
        let (base, packs, damaged) = store.open_current(of_generation)?;
        check(&base, &packs)?;
        let engine = self.engine.start_in(&base, &store.derived_dir())?;
        let message = format!("{damaged} of {} tasks are left out: their packs are damaged", packs.len() + damaged);
        let left_out = (damaged > 0).then_some(CodedError { message, code: ExitCode::CorruptFile });
        Ok(Opened { base, packs, engine, left_out })
    }

    /// The base and the packs of a store's active tasks. Where none was named, those that are damaged are left out.
    fn of_store(&self, store: &Store, generation: &Generation, keyring: Option<&Keyring>) -> anyhow::Result<Active> {
        let known = || generation.tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>().join(", ");
        let dir = store.dir().display();
        let no_tasks = || format!("the store {dir} has no tasks; `overmask flash` brings some");
        let named = |name: &String| {
            let unknown = || match generation.tasks.is_empty() {
                true => no_tasks(),
                false => format!("{dir}: no active task `{name}`; there are: {}", known()),
            };
            generation.task(name).ok_or_else(|| CodedError::input(unknown()))
        };
        let tasks = match self.tasks.is_empty() {
            true => generation.tasks.iter().collect(),
            false => self.tasks.iter().map(named).collect::<Result<Vec<_>, _>>()?,
        };
        let [first, ..] = &tasks[..] else { return Err(CodedError::input(no_tasks()).into()) };
        if let Some(other) = tasks.iter().find(|task| task.base_id != first.base_id) {
            let (a, b) = (&first.name, &other.name);
            let message = format!("the tasks `{a}` and `{b}` have different bases; choose those of one with --task");
            return Err(CodedError { message, code: ExitCode::Usage }.into());
        }
        let entry = generation.base(&first.base_id);
        let entry =
            entry.ok_or_else(|| CodedError::input(format!("the base of the task `{}` is missing", first.name)))?;
        let base = Arc::new(store.open_base(entry)?);
        let (mut packs, mut damaged) = (Vec::new(), Vec::new());
        for task in tasks {
            let file = match store.open_pack(task) {
                Err(error @ StoreError::Damaged { .. }) if self.tasks.is_empty() => {
                    damaged.push((&task.name, error));
                    continue;
                }
                opened => opened?,
            };
            packs.push(with_signature(store, task, file, keyring)?);
        }
        match damaged.pop() {
            // Or they are gone, as another generation is active now.
            Some((_, error)) if packs.is_empty() || !store.is_current(generation)? => return Err(error.into()),
            last => damaged.extend(last),
        }
        damaged.iter().for_each(|(name, error)| log::error!("the task `{name}` is left out: {error}"));
        Ok((base, packs, damaged.len()))
    }
}

/// A pack of the store, with a signature of one of these keys if there are any to be asked for.
pub(super) fn with_signature(
    store: &Store,
    task: &TaskEntry,
    file: PackFile,
    keyring: Option<&Keyring>,
) -> anyhow::Result<Given> {
    let path = store.path_of(task).display().to_string();
    let signed = match (keyring, &task.signature) {
        (None, _) => None,
        (Some(keyring), Some(signature)) => Some(keyring.verify(&store.pack_bytes(task)?, signature)?),
        (Some(_), None) => return Err(StoreError::Unsigned { pack: path }.into()),
    };
    Ok(Given { path, file, signed })
}

/// Whose packs are taken.
#[derive(Debug, Args)]
pub(super) struct TrustArgs {
    /// Take only packs with a signature of this public key (FILE.minisig beside FILE)
    #[arg(long, value_name = "FILE", conflicts_with = "keyring", help_heading = TRUST)]
    key: Option<PathBuf>,
    /// Take only packs with a signature of one of the keys (*.pub) in this directory
    #[arg(long, value_name = "DIR", help_heading = TRUST)]
    keyring: Option<PathBuf>,
    /// Take only packs with a signature; without --key and --keyring, of the keys in the directory
    /// that OVERMASK_KEYRING names, else in /etc/overmask/keys
    #[arg(long, help_heading = TRUST)]
    require_signature: bool,
}

impl TrustArgs {
    /// The keys of which one must have signed; none if unsigned packs are taken.
    pub(super) fn keyring(&self) -> anyhow::Result<Option<Keyring>> {
        Ok(match (&self.key, &self.keyring) {
            (Some(key), _) => Some(Keyring::from_keys(vec![PublicKey::read(key)?])),
            (None, Some(dir)) => Some(Keyring::open(dir)?),
            (None, None) if self.require_signature => Some(Keyring::open(&overmask_cli::keyring_directory())?),
            (None, None) => None,
        })
    }
}

/// A pack with the path that the user gave, and who signed its file.
pub(super) struct Given {
    pub(super) path: String,
    pub(super) file: PackFile,
    pub(super) signed: Option<Verified>,
}

/// Reads the packs of some files. A file may be a set, which gives all its packs, or a set with
/// `#` and the name of one of them.
pub(super) fn read(paths: &[PathBuf], trust: &TrustArgs) -> anyhow::Result<Vec<Given>> {
    let keyring = trust.keyring()?;
    let mut all = Vec::new();
    for given in paths {
        all.extend(read_one(given, keyring.as_ref())?);
    }
    Ok(all)
}

/// Reads the packs of one file, with a signature of one of these keys if there are any to be asked for.
pub(super) fn read_one(given: &Path, keyring: Option<&Keyring>) -> anyhow::Result<Vec<Given>> {
    let (path, name) = split_name(given);
    // Read once: the bytes whose signature is checked are those that are used.
    let bytes = read_file(&path)?;
    let signed = keyring.map(|keys| keys.verify_file_bytes(&path, &bytes)).transpose()?;
    let packs = Packs::from_bytes(&path, &bytes, name.as_deref())?.into_vec();
    let given = packs.into_iter().map(|file| {
        let path = file.origin().unwrap_or(&path).display().to_string();
        Given { path, file, signed: signed.clone() }
    });
    Ok(given.collect())
}
