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

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::path::{Path, PathBuf};

pub use document::{BaseEntry, Generation, Policy, Promise, TaskEntry};
pub use error::StoreError;
pub use flash::{Flash, Flashed, Given, StartEngine, Step};
pub use incoming::Part;
pub use lock::Changing;
pub use verify::{Finding, Verified};

use document::Current;

use crate::base::{Base, BaseError, Precision};
use crate::fs::{file_digest, hex, is_sha256, open_to_others};
use crate::pack::{PackError, PackFile, Packs, read_file};
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

/// What files are called while they are written in place of others; see [`crate::fs::write_atomically`].
const BESIDE: &str = ".overmask-";

/// How often a reader looks again where another generation became the active one while it was being opened.
const ATTEMPTS: usize = 10;

/// What to do where the policy is damaged.
const POLICY_AGAIN: &str = "write it again, saying what is to hold: `overmask store policy --require-signature BOOL`";

/// What to do where a generation, or the pointer to it, is damaged.
const BACK: &str = "`overmask store rollback` goes back to a whole generation, if there is one";

/// What to do where a pack is damaged.
const PACK_AGAIN: &str = "flash the pack again, or go back with `overmask store rollback`; other tasks go on";

/// What to do where a base is damaged.
const BASE_AGAIN: &str = "flash the base again: `overmask flash --base DIR`; until then its tasks may answer wrongly";

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
        if fs::metadata(dir).is_ok_and(|found| !found.is_dir()) {
            return Err(StoreError::NoDirectory { path: dir.to_owned() });
        }
        // What an `init` has left that was ended half way is in nobody's way.
        if !names_in(dir)?.iter().all(|name| name.starts_with(BESIDE) || name == CURRENT) {
            return Err(StoreError::NotEmpty { path: dir.to_owned() });
        }
        let above: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
        make_dir(dir)?;
        for made in above.into_iter().filter(|dir| !dir.as_os_str().is_empty()).chain([dir]) {
            sync_parent(made)?;
        }
        document::write(&store.dir.join(CURRENT), &Current { number: 0, last: 0, sha256: String::new() })?;
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
        let whole = fs::metadata(dir).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::NoStore { path: dir.to_owned() },
            _ => StoreError::io("read", dir)(error),
        })?;
        if !whole.is_dir() {
            return Err(StoreError::NoDirectory { path: dir.to_owned() });
        }
        for name in [POLICY, CURRENT, GENERATIONS, PACKS, BASES, DERIVED, INCOMING, LOCK] {
            let path = dir.join(name);
            match fs::symlink_metadata(&path) {
                Ok(found) => {
                    if let Some(reason) = untrusted_part(&found, &whole) {
                        return Err(StoreError::Owner { path, reason });
                    }
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("read", path)(error));
                }
                Err(_) if name == POLICY => return Err(StoreError::NoStore { path: dir.to_owned() }),
                Err(_) => {}
            }
        }
        match open_to_others(&whole) {
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
        let found = document::read(&self.dir.join(POLICY), POLICY_AGAIN)?.map(|(policy, _)| policy);
        found.ok_or_else(|| StoreError::NoStore { path: self.dir.clone() })
    }

    /// The active generation; that of a store in which nothing was flashed yet has the number 0 and no tasks.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn current(&self) -> Result<Generation, StoreError> {
        let mut pointer = self.pointer()?;
        for _ in 0..ATTEMPTS {
            if pointer.number == 0 {
                return Ok(Generation::empty());
            }
            match self.generation_with(pointer.number, Some(&pointer.sha256)) {
                Err(StoreError::Unknown { .. }) => {}
                found => return found,
            }
            // It may have been removed by flashes since the pointer was read: then the pointer is another now.
            let now = self.pointer()?;
            if now == pointer {
                let (path, reason) = (self.generation_path(pointer.number), "it is missing".to_owned());
                return Err(StoreError::Damaged { path, reason, cure: BACK });
            }
            pointer = now;
        }
        Err(StoreError::Locked { path: self.dir.clone() })
    }

    /// Opens something of the active generation; what fails is tried again where another generation became the active
    /// one meanwhile, as the files of the old one may be gone.
    ///
    /// # Errors
    /// As [`Store::current`]; what `open` returns.
    pub fn open_current<T, E: From<StoreError>>(
        &self,
        mut open: impl FnMut(&Generation) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut attempt = 1;
        loop {
            let generation = self.current()?;
            let opened = open(&generation);
            if opened.is_ok() || attempt == ATTEMPTS || self.is_current(&generation)? {
                return opened;
            }
            attempt += 1;
        }
    }

    /// Whether a generation still is the active one.
    ///
    /// # Errors
    /// As [`Store::current`].
    pub fn is_current(&self, generation: &Generation) -> Result<bool, StoreError> {
        Ok(self.pointer()?.number == generation.number)
    }

    fn pointer(&self) -> Result<Current, StoreError> {
        let path = self.dir.join(CURRENT);
        match document::read(&path, BACK)? {
            Some((current, _)) => Ok(current),
            None => Err(StoreError::Damaged { path, reason: "it is missing".to_owned(), cure: BACK }),
        }
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
        let Some((generation, bytes)) = document::read::<Generation>(&path, BACK)? else {
            let known = join(self.numbers()?.iter());
            return Err(StoreError::Unknown { what: format!("generation {number}"), known });
        };
        let is_named = sha256.is_none_or(|sha256| hex(&Sha256::digest(&bytes)) == sha256);
        if generation.number != number || !is_named {
            let reason = "it is another generation than its name or `current` says".to_owned();
            return Err(StoreError::Damaged { path, reason, cure: BACK });
        }
        Ok(generation)
    }

    /// The numbers of all generations that are kept, in rising order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let names = names_in(&self.dir.join(GENERATIONS))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The generation that comes before another on the way back: that which it replaced; where that one is missing or
    /// damaged, the newest older one that is whole. `None` where there is none.
    fn before(&self, generation: &Generation) -> Result<Option<Generation>, StoreError> {
        match generation.replaces {
            0 => Ok(None),
            replaced => match self.generation(replaced) {
                Ok(found) if replaced < generation.number => Ok(Some(found)),
                Ok(_) | Err(StoreError::Unknown { .. } | StoreError::Damaged { .. }) => {
                    self.newest_below(generation.number)
                }
                Err(error) => Err(error),
            },
        }
    }

    /// The newest generation with a smaller number that is whole, as far as its own file goes.
    fn newest_below(&self, number: u64) -> Result<Option<Generation>, StoreError> {
        for older in self.numbers()?.into_iter().rev().filter(|older| *older < number) {
            match self.generation(older) {
                Err(StoreError::Unknown { .. } | StoreError::Damaged { .. }) => {}
                found => return found.map(Some),
            }
        }
        Ok(None)
    }

    /// Opens a base of a generation.
    ///
    /// # Errors
    /// When it is missing or damaged, as far as that shows without reading all of it.
    pub fn open_base(&self, entry: &BaseEntry) -> Result<Base, StoreError> {
        let base = self.open_unchecked(entry)?;
        // It was when it was taken in; `store verify` looks again.
        base.taken_as_sound();
        Ok(base)
    }

    /// The same, but nothing of it is taken as sound.
    fn open_unchecked(&self, entry: &BaseEntry) -> Result<Base, StoreError> {
        let dir = self.base_dir(&entry.base_id, entry.variant);
        let path = dir.join(crate::base::file::MANIFEST);
        let found = file_digest(&path).map_err(|source| base_of_store(BaseError::Io { path: path.clone(), source }))?;
        if found != entry.manifest_sha256 {
            let reason = "it is not the one that was flashed".to_owned();
            return Err(StoreError::Damaged { path, reason, cure: BASE_AGAIN });
        }
        Base::open(&dir).map_err(base_of_store)
    }

    /// Reads a task's pack; its digest is checked.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn open_pack(&self, task: &TaskEntry) -> Result<PackFile, StoreError> {
        let path = self.pack_path(&task.sha256);
        let bytes = self.pack_bytes(task)?;
        let name = task.in_set.then_some(task.name.as_str());
        Ok(Packs::from_bytes(&path, &bytes, name)?.into_vec().swap_remove(0))
    }

    /// The bytes of the file that a task came in; their digest is checked.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn pack_bytes(&self, task: &TaskEntry) -> Result<Vec<u8>, StoreError> {
        let path = self.pack_path(&task.sha256);
        let damaged =
            |reason: &str| StoreError::Damaged { path: path.clone(), reason: reason.to_owned(), cure: PACK_AGAIN };
        let bytes = read_file(&path).map_err(|error| match error {
            PackError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => damaged("it is missing"),
            PackError::Read { source, .. } => StoreError::io("read", &path)(source),
            error => error.into(),
        })?;
        if hex(&Sha256::digest(&bytes)) != task.sha256 {
            return Err(damaged("its digest is not the one that its name says"));
        }
        Ok(bytes)
    }

    /// Where a task's pack is, or the set that it is in.
    pub fn path_of(&self, task: &TaskEntry) -> PathBuf {
        self.pack_path(&task.sha256)
    }

    /// Where a file of packs with this digest is, if the store has it and it is whole.
    pub fn kept_pack(&self, sha256: &str) -> Option<PathBuf> {
        let path = self.pack_path(sha256);
        (is_sha256(sha256) && file_digest(&path).is_ok_and(|found| found == sha256)).then_some(path)
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

/// What a part of a store must not be, in words that go on after its path: a link, another user's than the store, or
/// for others to write to.
#[cfg_attr(not(unix), allow(unused_variables))]
fn untrusted_part(found: &Metadata, store: &Metadata) -> Option<String> {
    if found.is_symlink() {
        return Some("is a link; put what it leads to in its place, or remove it".to_owned());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if found.uid() != store.uid() {
            let (other, owner) = (found.uid(), store.uid());
            return Some(format!("belongs to user {other} and not to the store's owner, {owner}; `chown` ends that"));
        }
    }
    open_to_others(found)
}

/// What is wrong with a base of the store, and what to do.
fn base_of_store(error: BaseError) -> StoreError {
    match error {
        BaseError::Io { path, source } if source.kind() == io::ErrorKind::NotFound => {
            StoreError::Damaged { path, reason: "it is missing".to_owned(), cure: BASE_AGAIN }
        }
        BaseError::Io { path, source } => StoreError::io("read", path)(source),
        error => error.into(),
    }
}

/// The number of a generation whose file has this name, if it is one.
fn number(name: &str) -> Option<u64> {
    name.parse().ok().filter(|number: &u64| number.to_string() == name)
}

/// Makes a directory that others may read, and those above it.
fn make_dir(dir: &Path) -> Result<(), StoreError> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o755);
    builder.recursive(true).create(dir).map_err(StoreError::io("make", dir))
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
