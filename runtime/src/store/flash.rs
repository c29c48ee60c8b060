//! A flash: bases and packs are taken in, checked on this very device, and made the active generation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::collect::remove;
use super::incoming::settle;
use super::{
    BaseEntry, Changing, Generation, INCOMING, PACKS, Promise, StoreError, TaskEntry, base_of_store, document,
    make_dir, sync,
};
use crate::base::{Base, BaseError, BaseManifest, file};
use crate::engine::Engine;
use crate::fs::{file_digest, hex};
use crate::pack::{PackError, PackFile, Packs, Patch, read_file};
use crate::task::Runner;
use crate::trust::Keyring;

/// Bytes that the store's own documents may take, and the file system around all files.
const SLACK: u64 = 1 << 20;

/// A pack, a set of packs, or a patch of a pack that the store has, as it came.
#[derive(Debug, Clone)]
pub struct Given {
    /// What it is called in messages.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its signature, as minisign writes it.
    pub signature: Option<String>,
}

impl Given {
    /// The patch that it is, if it is one.
    ///
    /// # Errors
    /// When it is one that cannot be used.
    pub(super) fn patch(&self) -> Result<Option<Patch>, PackError> {
        Patch::find(&self.bytes).map_err(|error| in_file(&self.name, error))
    }
}

/// Tells of which file an error is.
fn in_file(name: &str, error: PackError) -> PackError {
    match error {
        PackError::Bytes(reason) => PackError::Invalid { path: PathBuf::from(name), reason },
        error => error,
    }
}

/// Starts the engine that will serve a base, with its derived files in a directory.
pub type StartEngine<'a> = dyn Fn(&Arc<Base>, &Path) -> Result<Arc<dyn Engine>, StoreError> + 'a;

/// What is flashed, and what is asked of it.
pub struct Flash<'a> {
    /// Bases that were taken in ([`Changing::take_base`]).
    pub bases: Vec<BaseEntry>,
    /// Packs and sets of packs.
    pub packs: Vec<Given>,
    /// The keys that may sign, where signatures are looked at. Where the policy asks for signatures there must be one.
    pub keyring: Option<&'a Keyring>,
    /// Takes a pack that is older than the active one.
    pub allow_downgrade: bool,
    /// Takes a pack that promises less than the active one.
    pub allow_worse: bool,
    /// Starts the engine.
    pub start: &'a StartEngine<'a>,
    /// Is told of each step when it is done.
    pub report: &'a mut dyn FnMut(&Step),
}

/// A part of a flash that is done.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Step {
    /// What was done: `receive`, `signature`, `base`, `quality`, `derived`, `golden`, `write`, `activate`, `collect`.
    pub step: &'static str,
    /// How long it took, in milliseconds.
    pub ms: f64,
    /// Bytes that it wrote.
    pub bytes: u64,
}

/// What a flash did.
#[derive(Debug, Clone)]
pub struct Flashed {
    /// The active generation.
    pub generation: Generation,
    /// Whether it is a new one; it is not if all that was flashed is active already.
    pub is_new: bool,
}

/// A task of what was given.
struct New<'g> {
    given: &'g Given,
    file: PackFile,
    entry: TaskEntry,
}

/// Tells the steps and how long they take.
struct Clock<'a> {
    last: Instant,
    report: &'a mut dyn FnMut(&Step),
}

impl Clock<'_> {
    fn done(&mut self, step: &'static str, bytes: u64) {
        let now = Instant::now();
        (self.report)(&Step { step, ms: (now - self.last).as_secs_f64() * 1e3, bytes });
        self.last = now;
    }
}

impl Changing {
    /// Takes a base in from a directory, unless the store has it.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or cannot be written.
    pub fn take_base(&self, dir: &Path) -> Result<BaseEntry, StoreError> {
        let base = Base::open(dir)?;
        let manifest = base.read_manifest()?;
        if let Some(entry) = self.has_base(&manifest)? {
            return Ok(entry);
        }
        // What a flash has left that was ended half way takes room, and may not be what it should.
        self.keep_arriving(|_| false)?;
        let digests = &base.manifest().digests;
        let sizes = digests.keys().map(|name| {
            let path = dir.join(name);
            fs::metadata(&path).map(|found| found.len()).map_err(StoreError::io("read", path))
        });
        self.check_space(sizes.sum::<Result<u64, _>>()? + manifest.len() as u64)?;
        for (name, sha256) in digests {
            let path = dir.join(name);
            let mut from = crate::fs::open(&path).map_err(StoreError::io("read", &path))?;
            let len = from.metadata().map_err(StoreError::io("read", &path))?.len();
            let mut part = self.arrive(sha256, len)?;
            std::io::Seek::seek(&mut from, std::io::SeekFrom::Start(part.have()))
                .map_err(StoreError::io("read", &path))?;
            let what = path.display().to_string();
            part.take(&mut from, &what)?;
            let found = part.found();
            if found != *sha256 {
                part.restart()?;
                return Err(BaseError::Digest { path, expected: sha256.clone(), found }.into());
            }
            part.finish(&what)?;
        }
        self.settle_base(&manifest)
    }

    /// The entry of the base that a manifest (the bytes of a `base.json`) names, if the store has it, whole and on the
    /// disk.
    ///
    /// # Errors
    /// When the manifest cannot be used, or the disk fails.
    pub fn has_base(&self, manifest: &[u8]) -> Result<Option<BaseEntry>, StoreError> {
        let parsed = BaseManifest::parse(Path::new(file::MANIFEST), manifest)?;
        let dir = self.base_dir(&parsed.base_id, parsed.variant);
        if !dir.exists() {
            return Ok(None);
        }
        let whole = self.base_entry(&dir).and_then(|entry| {
            self.open_unchecked(&entry)?.verify().map_err(base_of_store)?;
            Ok(entry)
        });
        match whole {
            Ok(entry) => {
                let weights = self.open_unchecked(&entry)?.manifest().digests.get(file::WEIGHTS).cloned();
                if weights.as_ref() != parsed.digests.get(file::WEIGHTS) {
                    // Only of the f32 base the identity says what the weights are.
                    let (base_id, variant) = (parsed.base_id, parsed.variant);
                    return Err(StoreError::OtherVariant { base_id, variant });
                }
                if entry.manifest_sha256 != hex(&Sha256::digest(manifest)) {
                    let base_id = &parsed.base_id;
                    log::warn!("the store has the base {base_id} with another manifest or graph, and keeps that one");
                }
                self.sync_base(&dir)?;
                Ok(Some(entry))
            }
            Err(error) => {
                log::warn!("{error}; the base is taken in anew");
                Ok(None)
            }
        }
    }

    /// Brings the names that lead to a base's files to the disk.
    fn sync_base(&self, dir: &Path) -> Result<(), StoreError> {
        dir.ancestors().take_while(|dir| *dir != self.dir).try_for_each(sync)
    }

    fn base_entry(&self, dir: &Path) -> Result<BaseEntry, StoreError> {
        let base = Base::open(dir).map_err(base_of_store)?;
        let mut bytes = 0;
        for name in base.manifest().digests.keys().map(String::as_str).chain([file::MANIFEST]) {
            let path = dir.join(name);
            bytes += fs::metadata(&path).map_err(StoreError::io("read", &path))?.len();
        }
        let path = dir.join(file::MANIFEST);
        let manifest_sha256 = file_digest(&path).map_err(StoreError::io("read", path))?;
        let manifest = base.manifest();
        Ok(BaseEntry { base_id: manifest.base_id.clone(), variant: manifest.variant, manifest_sha256, bytes })
    }

    /// Makes a base of a manifest and of the files that [have arrived](Changing::arrive) whole.
    ///
    /// # Errors
    /// When a file is missing, the base is not what its identity says, or cannot be written.
    pub fn settle_base(&self, manifest: &[u8]) -> Result<BaseEntry, StoreError> {
        let parsed = BaseManifest::parse(Path::new(file::MANIFEST), manifest)?;
        let to = self.base_dir(&parsed.base_id, parsed.variant);
        let staged = self.dir.join(INCOMING).join(format!("base-{}", parsed.base_id));
        remove(&staged)?;
        make_dir(&staged)?;
        for (name, sha256) in &parsed.digests {
            settle(&self.dir.join(INCOMING).join(sha256), &staged.join(name))?;
        }
        document::put(&staged.join(file::MANIFEST), manifest)?;
        let checked = Base::open(&staged).and_then(|base| base.verify());
        if let Err(error) = checked {
            remove(&staged)?;
            return Err(base_of_store(error));
        }
        if let Some(parent) = to.parent() {
            make_dir(parent)?;
        }
        exchange(&staged, &to)?;
        self.sync_base(&to)?;
        self.base_entry(&to)
    }

    /// Checks packs, has the engine that will serve them compute their golden vectors, and makes a generation with them
    /// and with the bases the active one. In this order: room, signatures, bases, quality, derived files, golden
    /// vectors; only then anything is written but derived files, and the pointer comes last.
    ///
    /// # Errors
    /// When anything is wrong with a pack; when nothing can be written. The active generation is then the one that it
    /// was.
    pub fn flash(&self, flash: Flash<'_>) -> Result<Flashed, StoreError> {
        let Flash { bases, packs, keyring, allow_downgrade, allow_worse, start, report } = flash;
        let mut clock = Clock { last: Instant::now(), report };
        let active = self.current()?;
        let policy = self.policy()?;
        let packs = self.patched(packs, &active)?;
        let bytes: u64 = packs.iter().map(|given| given.bytes.len() as u64).sum();
        self.check_space(2 * bytes)?;

        let mut new = Vec::new();
        for given in &packs {
            check_signature(given, keyring, policy.require_signature)?;
            new.extend(tasks_of(given)?);
        }
        check_names(&new)?;
        clock.done("signature", 0);

        let mut generation = active.clone();
        let changed: Vec<String> = bases
            .iter()
            .filter(|base| active.base(&base.base_id) != Some(base))
            .map(|base| base.base_id.clone())
            .collect();
        bases.into_iter().for_each(|base| generation.put_base(base));
        let mut opened = BTreeMap::new();
        for New { given, file, entry } in &new {
            let missing = || StoreError::NoBase { pack: given.name.clone(), base_id: entry.base_id.clone() };
            let base = generation.base(&entry.base_id).ok_or_else(missing)?;
            if !opened.contains_key(&base.base_id) {
                opened.insert(base.base_id.clone(), Arc::new(self.open_base(base)?));
            }
            file.check_base(&opened[&base.base_id])?;
        }
        clock.done("base", 0);

        for New { given, entry, .. } in &new {
            check_quality(given, entry, active.task(&entry.name), allow_downgrade, allow_worse)?;
        }
        clock.done("quality", 0);

        // Whoever runs on a base that changed is checked again.
        let stale = active.tasks.iter().filter(|task| changed.contains(&task.base_id));
        let stale = stale.filter(|task| new.iter().all(|new| new.entry.name != task.name));
        let mut to_check: Vec<(&str, PackFile)> = Vec::new();
        for task in stale {
            if let Some(base) = generation.base(&task.base_id).filter(|base| !opened.contains_key(&base.base_id)) {
                opened.insert(base.base_id.clone(), Arc::new(self.open_base(base)?));
            }
            to_check.push((&task.name, self.open_pack(task)?));
        }
        to_check.extend(new.iter().map(|new| (new.given.name.as_str(), new.file.clone())));
        for (base_id, base) in &opened {
            let mine: Vec<_> = to_check.iter().filter(|(_, file)| file.document().base_id == *base_id).collect();
            let runner = Runner::new(start(base, &self.derived_dir())?, Arc::clone(base))?;
            let ids = mine.iter().map(|(_, file)| runner.add_file(file.clone())).collect::<Result<Vec<_>, _>>()?;
            clock.done("derived", 0);
            for ((name, _), id) in mine.into_iter().zip(ids) {
                let golden = runner.check_golden(id)?;
                if !golden.is_ok() {
                    return Err(StoreError::Golden {
                        pack: (*name).to_owned(),
                        engine: runner.describe().engine.to_string(),
                        difference: golden.max_difference,
                        tolerance: golden.tolerance,
                    });
                }
            }
            clock.done("golden", 0);
        }

        for given in &packs {
            self.keep_pack(given)?;
        }
        if !packs.is_empty() {
            // Those that were there, too: who brought them may have been ended before this.
            sync(&self.dir.join(PACKS))?;
        }
        clock.done("write", bytes);
        new.into_iter().for_each(|new| generation.put_task(new.entry));
        let is_new = !generation.is_same(&active);
        let generation = if is_new { self.activate(generation)? } else { active };
        clock.done("activate", 0);
        // What was flashed is there; room that cannot be made is no reason to say otherwise.
        if let Err(error) = self.collect() {
            log::warn!("{error}");
        }
        clock.done("collect", 0);
        Ok(Flashed { generation, is_new })
    }

    /// The packs that were given, or that patches make of those that are here; a patch beside its pack is not needed.
    fn patched(&self, given: Vec<Given>, active: &Generation) -> Result<Vec<Given>, StoreError> {
        let (mut patches, mut packs) = (Vec::new(), Vec::new());
        for given in given {
            match given.patch()? {
                Some(patch) => patches.push((given.name, patch)),
                None => packs.push(given),
            }
        }
        let digests = |packs: &[Given]| packs.iter().map(|given| hex(&Sha256::digest(&given.bytes))).collect();
        let whole: BTreeSet<String> = if patches.is_empty() { BTreeSet::new() } else { digests(&packs) };
        for (name, patch) in patches.into_iter().filter(|(_, patch)| !whole.contains(patch.to())) {
            packs.push(self.made_by(name, &patch, active)?);
        }
        Ok(packs)
    }

    /// The pack that a patch makes.
    fn made_by(&self, name: String, patch: &Patch, active: &Generation) -> Result<Given, StoreError> {
        let in_file = |error| in_file(&name, error);
        let no_base = || StoreError::NoBase { pack: name.clone(), base_id: patch.base_id().to_owned() };
        let base = self.open_base(active.base(patch.base_id()).ok_or_else(no_base)?)?;
        let path = self.pack_path(patch.from());
        let old = match read_file(&path) {
            Err(PackError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::NoOld { patch: name, sha256: patch.from().to_owned() });
            }
            read => PackFile::from_bytes(&read?).map_err(in_file)?,
        };
        let bytes = patch.apply(&old, &base).map_err(in_file)?;
        let signature = patch.signature().map(str::to_owned);
        Ok(Given { name, bytes, signature })
    }

    /// Writes a pack under its digest, its bytes through to the disk, unless it is there.
    fn keep_pack(&self, given: &Given) -> Result<(), StoreError> {
        let sha256 = hex(&Sha256::digest(&given.bytes));
        let path = self.pack_path(&sha256);
        if file_digest(&path).is_ok_and(|found| found == sha256) {
            return Ok(());
        }
        make_dir(&self.dir.join(PACKS))?;
        let mut part = self.arrive(&sha256, given.bytes.len() as u64)?;
        if part.have() < given.bytes.len() as u64 {
            // A beginning that a flash has left which was ended half way may be none of it.
            part.restart()?;
            part.write(&given.bytes)?;
        }
        settle(&part.finish(&given.name)?, &path)
    }

    /// Checks that so many bytes can be written.
    ///
    /// # Errors
    /// When they cannot.
    pub fn check_space(&self, bytes: u64) -> Result<(), StoreError> {
        #[cfg(unix)]
        {
            let found =
                rustix::fs::statvfs(&self.dir).map_err(|error| StoreError::io("read", &self.dir)(error.into()))?;
            let (needed, available) = (bytes.saturating_add(SLACK), found.f_bavail.saturating_mul(found.f_frsize));
            if needed > available {
                return Err(StoreError::Space { path: self.dir.clone(), needed, available });
            }
        }
        Ok(())
    }
}

/// Puts a directory in the place of another, if there is one, in one step; the other is then where it was.
fn exchange(from: &Path, to: &Path) -> Result<(), StoreError> {
    #[cfg(target_os = "linux")]
    if to.exists() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        return renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE)
            .map_err(|error| StoreError::io("replace", to)(error.into()));
    }
    #[cfg(not(target_os = "linux"))]
    if to.exists() {
        fs::remove_dir_all(to).map_err(StoreError::io("replace", to))?;
    }
    fs::rename(from, to).map_err(StoreError::io("write", to))
}

fn check_signature(given: &Given, keyring: Option<&Keyring>, is_required: bool) -> Result<(), StoreError> {
    match (&given.signature, keyring) {
        (Some(signature), Some(keyring)) => {
            let signed = keyring.verify(&given.bytes, signature)?;
            log::info!("{} is signed by the key {}: {}", given.name, signed.key_id, signed.trusted_comment);
            Ok(())
        }
        (None, Some(_)) => Err(StoreError::Unsigned { pack: given.name.clone() }),
        (_, None) if is_required => Err(StoreError::Unsigned { pack: given.name.clone() }),
        (_, None) => Ok(()),
    }
}

/// The tasks of a pack or set.
fn tasks_of(given: &Given) -> Result<Vec<New<'_>>, StoreError> {
    let sha256 = hex(&Sha256::digest(&given.bytes));
    let packs = Packs::from_bytes(&PathBuf::from(&given.name), &given.bytes, None)?;
    let in_set = matches!(packs, Packs::Set(_));
    let task = |file: PackFile| {
        let document = file.document();
        let entry = TaskEntry {
            name: document.name.clone(),
            revision: document.revision,
            sha256: sha256.clone(),
            in_set,
            bytes: given.bytes.len() as u64,
            base_id: document.base_id.clone(),
            signature: given.signature.clone(),
            promise: Promise::of(document),
        };
        New { given, file, entry }
    };
    Ok(packs.into_vec().into_iter().map(task).collect())
}

fn check_names(new: &[New<'_>]) -> Result<(), StoreError> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for New { given, entry, .. } in new {
        if let Some(first) = seen.insert(&entry.name, &given.name) {
            let (first, second) = (first.to_owned(), given.name.clone());
            return Err(StoreError::Twice { task: entry.name.clone(), first, second });
        }
    }
    Ok(())
}

fn check_quality(
    given: &Given,
    entry: &TaskEntry,
    active: Option<&TaskEntry>,
    allow_downgrade: bool,
    allow_worse: bool,
) -> Result<(), StoreError> {
    let Some(active) = active else { return Ok(()) };
    let (pack, task) = (given.name.clone(), entry.name.clone());
    if entry.revision < active.revision && !allow_downgrade {
        return Err(StoreError::Downgrade { pack, task, given: entry.revision, active: active.revision });
    }
    match (&entry.promise, &active.promise) {
        (Some(new), Some(old)) if new.is_worse_than(old) && !allow_worse => {
            Err(StoreError::Worse { pack, task, reason: format!("{new}, not {old}") })
        }
        (None, Some(old)) => {
            log::warn!("{pack} promises nothing; the active pack of the task `{task}` promises {old}");
            Ok(())
        }
        _ => Ok(()),
    }
}
