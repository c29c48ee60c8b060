//! The store: a device's directory of bases and packs, and which of them are active.
//!
//! ```text
//! store.json              the policy, and which generations are pinned
//! current                 which generation is active
//! generations/7           a set of tasks and bases: names, revisions, digests
//! packs/<sha256>.pack     files of packs, as they came
//! base/<base_id>/f32/     base bundles
//! derived/                derived files of bases and packs
//! incoming/               what is arriving
//! lock                    held by who changes anything
//! ```
//!
//! Nothing under a digest and no generation is ever modified: a flash adds files, brings them to the disk, and then
//! moves the pointer `current` by one rename. So whatever fails, and whenever, the pointer leads to a whole generation:
//! the old one or the new one. Who reads needs no lock; files of the last generations stay for those who still do.

mod collect;
mod document;
mod error;
mod flash;
mod incoming;
mod lock;
#[cfg(test)]
mod tests;
pub mod transport;
mod verify;

use std::fs::{self, DirBuilder};
use std::io;
use std::path::{Path, PathBuf};

pub use document::{BaseEntry, Generation, Policy, Promise, TaskEntry};
pub use error::StoreError;
pub use flash::{Flash, Flashed, Given, StartEngine, Step};
pub use incoming::Part;
pub use lock::Changing;
pub use verify::{Finding, Verified};

use document::Current;

use crate::base::{Base, Precision};
use crate::fs::open_to_others;
use crate::pack::{PackFile, Packs, read_file};
use sha2::{Digest, Sha256};

/// Where a device keeps its store, if nothing else is said.
pub const DEFAULT_STORE: &str = "/var/lib/overmask";

const POLICY: &str = "store.json";
const CURRENT: &str = "current";
const GENERATIONS: &str = "generations";
const PACKS: &str = "packs";
const BASES: &str = "base";
const DERIVED: &str = "derived";
const INCOMING: &str = "incoming";
const LOCK: &str = "lock";

/// How often a reader looks again where a generation was removed while it was being opened.
const ATTEMPTS: usize = 10;

/// A store, opened to be read; [`Store::change`] gives it to one process to be changed.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Makes an empty store in a directory that is empty or not there yet.
    ///
    /// # Errors
    /// When something is in the directory, or it cannot be written.
    pub fn init(dir: &Path, policy: &Policy) -> Result<Store, StoreError> {
        let store = Store { dir: dir.to_owned() };
        match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(StoreError::NotEmpty { path: dir.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_dir(dir)?,
            Err(error) => return Err(StoreError::io("read", dir)(error)),
        }
        // The policy last: what has one is a store.
        document::write(&store.dir.join(POLICY), policy)?;
        Ok(store)
    }

    /// Opens a store.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or others than its owner could have changed it.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let store = Store { dir: dir.to_owned() };
        let found = match fs::metadata(dir.join(POLICY)).and_then(|_| fs::metadata(dir)) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NoStore { path: dir.to_owned() });
            }
            Err(error) => return Err(StoreError::io("read", dir)(error)),
        };
        match open_to_others(&found) {
            Some(reason) => Err(StoreError::Owner { path: dir.to_owned(), reason }),
            None => Ok(store),
        }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its policy.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn policy(&self) -> Result<Policy, StoreError> {
        let path = self.dir.join(POLICY);
        let found = document::read(&path)?.map(|(policy, _)| policy);
        found.ok_or_else(|| StoreError::NoStore { path: self.dir.clone() })
    }

    /// The active generation; that of a store in which nothing was flashed yet has the number 0 and no tasks.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn current(&self) -> Result<Generation, StoreError> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let Some(current) = self.pointer()? else { return Ok(Generation::empty()) };
            match self.generation_with(current.number, Some(&current.sha256)) {
                // Many flashes since the pointer was read: look again.
                Err(StoreError::Unknown { .. }) if self.pointer()?.as_ref() != Some(&current) => continue,
                Err(error @ StoreError::Unknown { .. }) => last = Some(error),
                found => return found,
            }
        }
        Err(last.unwrap_or_else(|| StoreError::Locked { path: self.dir.clone() }))
    }

    fn pointer(&self) -> Result<Option<Current>, StoreError> {
        Ok(document::read::<Current>(&self.dir.join(CURRENT))?.map(|(current, _)| current))
    }

    /// A generation by its number.
    ///
    /// # Errors
    /// When there is none, or it cannot be read or is damaged.
    pub fn generation(&self, number: u64) -> Result<Generation, StoreError> {
        self.generation_with(number, None)
    }

    fn generation_with(&self, number: u64, sha256: Option<&str>) -> Result<Generation, StoreError> {
        let path = self.generation_path(number);
        let Some((generation, bytes)) = document::read::<Generation>(&path)? else {
            let known = join(self.numbers()?.iter());
            return Err(StoreError::Unknown { what: format!("generation {number}"), known });
        };
        let is_named = sha256.is_none_or(|sha256| crate::fs::hex(&Sha256::digest(&bytes)) == sha256);
        if generation.number != number || !is_named {
            let reason = "it is another generation than its name or `current` says".to_owned();
            let cure = "`overmask store rollback` goes back to a whole one";
            return Err(StoreError::Damaged { path, reason, cure });
        }
        Ok(generation)
    }

    /// The numbers of all generations that are kept, in rising order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let names = names_in(&self.dir.join(GENERATIONS))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Opens a base of a generation.
    ///
    /// # Errors
    /// When it is missing or damaged, as far as that shows without reading all of it.
    pub fn open_base(&self, entry: &BaseEntry) -> Result<Base, StoreError> {
        let dir = self.base_dir(&entry.base_id, entry.variant);
        let base = Base::open(&dir)?;
        let found =
            crate::fs::file_digest(&dir.join(crate::base::file::MANIFEST)).map_err(StoreError::io("read", &dir))?;
        if base.base_id() != entry.base_id || found != entry.manifest_sha256 {
            return Err(StoreError::Damaged {
                path: dir.join(crate::base::file::MANIFEST),
                reason: "it is not the one that was flashed".to_owned(),
                cure: "flash the base again",
            });
        }
        // It was when it was taken in; `store verify` looks again.
        base.taken_as_sound();
        Ok(base)
    }

    /// Reads a task's pack; its digest is checked.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn open_pack(&self, task: &TaskEntry) -> Result<PackFile, StoreError> {
        let path = self.pack_path(&task.sha256);
        let bytes = read_file(&path)?;
        if crate::fs::hex(&Sha256::digest(&bytes)) != task.sha256 {
            return Err(StoreError::Damaged {
                path,
                reason: "its digest is not the one that its name says".to_owned(),
                cure: "flash the pack again, or go back with `overmask store rollback`; other tasks go on",
            });
        }
        let name = task.in_set.then_some(task.name.as_str());
        Ok(Packs::from_bytes(&path, &bytes, name)?.into_vec().swap_remove(0))
    }

    /// Where a task's pack is, or the set that it is in.
    pub fn path_of(&self, task: &TaskEntry) -> PathBuf {
        self.pack_path(&task.sha256)
    }

    /// Where derived files are.
    pub fn derived_dir(&self) -> PathBuf {
        self.dir.join(DERIVED)
    }

    fn base_dir(&self, base_id: &str, variant: Precision) -> PathBuf {
        self.dir.join(BASES).join(base_id).join(variant.name())
    }

    fn pack_path(&self, sha256: &str) -> PathBuf {
        self.dir.join(PACKS).join(format!("{sha256}.pack"))
    }

    fn generation_path(&self, number: u64) -> PathBuf {
        self.dir.join(GENERATIONS).join(number.to_string())
    }
}

/// Makes a directory that others may read, and those above it, through to the disk.
fn make_dir(dir: &Path) -> Result<(), StoreError> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o755);
    match builder.create(dir) {
        Ok(()) => sync_parent(dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            make_dir(parent.ok_or_else(|| StoreError::io("make", dir)(error))?)?;
            builder.create(dir).map_err(StoreError::io("make", dir))?;
            sync_parent(dir)
        }
        Err(error) => Err(StoreError::io("make", dir)(error)),
    }
}

/// Brings the name of a file or directory to the disk.
fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync(parent)
}

/// Brings a file, or the names in a directory, to the disk.
fn sync(path: &Path) -> Result<(), StoreError> {
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(StoreError::io("sync", path))
}

/// The names in a directory, sorted; none where there is no such directory.
fn names_in(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("read", dir)(error)),
    };
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    let mut names = entries.map(name).collect::<io::Result<Vec<_>>>().map_err(StoreError::io("read", dir))?;
    names.sort();
    Ok(names)
}

/// A list for a message.
fn join<T: ToString>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}
