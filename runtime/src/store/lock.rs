//! Changing a store: one process at a time, and only its owner.

use std::fs::{File, TryLockError};
use std::ops::Deref;
use std::time::{SystemTime, UNIX_EPOCH};

use super::document::{self, Current};
use super::{CURRENT, GENERATIONS, Generation, LOCK, POLICY, Policy, Store, StoreError, join, make_dir, sync};
use crate::trust::Keyring;

/// A store that nobody else is changing; the lock goes with it, also when the process is killed.
#[derive(Debug)]
pub struct Changing {
    store: Store,
    _lock: Lock,
}

/// A file that is locked, until this is dropped. Closing it would not do: a child that another thread starts meanwhile
/// has it open, too, for a moment.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // It goes with the process anyway.
        let _ = self.0.unlock();
    }
}

impl Deref for Changing {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Store {
    /// Locks the store to be changed. Where another process changes it, `wait` is asked whether to wait for that.
    ///
    /// # Errors
    /// When the store belongs to another user, cannot be written, or is being changed and nobody is to wait.
    pub fn change(&self, wait: impl FnOnce() -> bool) -> Result<Changing, StoreError> {
        self.check_owner()?;
        let path = self.dir.join(LOCK);
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        // For its owner alone: whoever can open it can hold it.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let lock = options.open(&path).map_err(StoreError::io("write", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if wait() => lock.lock().map_err(StoreError::io("lock", &path))?,
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { path: self.dir.clone() }),
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
        }
        Ok(Changing { store: self.clone(), _lock: Lock(lock) })
    }

    /// What another user wrote into it, its owner could neither change nor remove.
    #[cfg(unix)]
    fn check_owner(&self) -> Result<(), StoreError> {
        use std::os::unix::fs::MetadataExt;
        let owner = std::fs::metadata(&self.dir).map_err(StoreError::io("read", &self.dir))?.uid();
        let user = rustix::process::geteuid().as_raw();
        if owner == user {
            return Ok(());
        }
        let reason = format!(
            "belongs to user {owner}, and user {user} must not change it; run this as its owner \
             (`sudo -u '#{owner}' overmask ...`)"
        );
        Err(StoreError::Owner { path: self.dir.clone(), reason })
    }

    #[cfg(not(unix))]
    fn check_owner(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Changing {
    /// Makes a generation the active one: writes it and moves the pointer to it. What it names must be on the disk.
    ///
    /// # Errors
    /// When it cannot be written; the pointer is then where it was.
    pub(super) fn activate(&self, mut generation: Generation) -> Result<Generation, StoreError> {
        make_dir(&self.dir.join(GENERATIONS))?;
        let pointer = self.pointer()?;
        generation.replaces = pointer.number;
        let given = self.numbers()?.last().copied().unwrap_or(0).max(pointer.last);
        let number = given.checked_add(1).ok_or_else(|| {
            let (path, reason) = (self.generation_path(u64::MAX), "no generation can have this number".to_owned());
            StoreError::Damaged { path, reason, cure: "remove it" }
        })?;
        generation.number = number;
        generation.made = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // The directories that are new, of packs for example: the pointer must not be on the disk before them.
        sync(&self.dir)?;
        let sha256 = document::write(&self.generation_path(number), &generation)?;
        document::write(&self.dir.join(CURRENT), &Current { number, last: number, sha256 })?;
        Ok(generation)
    }

    /// Goes back to a generation that is kept: the one before the active one, or the one of this number. Where the
    /// active one is damaged, the one before it is the newest that is whole. Nothing is written but the pointer.
    ///
    /// With keys, every signature is checked anew: a key may have left the keyring since.
    ///
    /// # Errors
    /// When there is none, it or one of its packs is missing or damaged, a signature is of none of the keys, or it
    /// holds unsigned packs and the policy no longer takes them.
    pub fn rollback(&self, to: Option<u64>, keyring: Option<&Keyring>) -> Result<Generation, StoreError> {
        // A damaged pointer tells nothing, and is written anew.
        let pointer = match self.pointer() {
            Err(StoreError::Damaged { .. }) => None,
            found => Some(found?),
        };
        let found = match (to, self.current()) {
            (Some(number), _) => Some(self.generation(number)?),
            (None, Ok(active)) => self.before(&active)?,
            (None, Err(StoreError::Damaged { .. })) => {
                self.newest_below(pointer.as_ref().map_or(u64::MAX, |current| current.number))?
            }
            (None, Err(error)) => return Err(error),
        };
        let numbers = self.numbers()?;
        let generation = found.ok_or_else(|| {
            let what = "whole generation before the active one".to_owned();
            StoreError::Unknown { what, known: join(numbers.iter()) }
        })?;
        let require_signature = self.policy()?.require_signature;
        for task in &generation.tasks {
            self.open_pack(task)?;
            self.check_signed(task, keyring)?;
            if require_signature && task.signature.is_none() {
                return Err(StoreError::Unsigned { pack: format!("the pack of the task `{}` of then", task.name) });
            }
        }
        generation.bases.iter().try_for_each(|base| self.open_base(base).map(drop))?;
        let bytes = document::encode(&generation).map_err(|error| StoreError::io("read", &self.dir)(error.into()))?;
        let sha256 = crate::fs::hex(&<sha2::Sha256 as sha2::Digest>::digest(bytes));
        let number = generation.number;
        let last = numbers.last().copied().max(pointer.map(|current| current.last)).unwrap_or(number);
        document::write(&self.dir.join(CURRENT), &Current { number, last, sha256 })?;
        Ok(generation)
    }

    /// Makes a generation without some tasks, or bases that no task needs, the active one.
    ///
    /// # Errors
    /// When there is no such task or base, a base is needed, or the generation cannot be written.
    pub fn remove(&self, names: &[String]) -> Result<Generation, StoreError> {
        let mut generation = self.current()?;
        for name in names {
            let before = (generation.tasks.len(), generation.bases.len());
            generation.tasks.retain(|task| task.name != *name);
            // A base's identity is long: its beginning will do, from eight digits on.
            let is_named = |base_id: &str| name.len() >= 8 && base_id.starts_with(name.as_str());
            generation.bases.retain(|base| !is_named(&base.base_id));
            if before == (generation.tasks.len(), generation.bases.len()) {
                let tasks = generation.tasks.iter().map(|task| &task.name);
                let known = join(tasks.chain(generation.bases.iter().map(|base| &base.base_id)));
                return Err(StoreError::Unknown { what: format!("task or base `{name}`"), known });
            }
        }
        if let Some(task) = generation.tasks.iter().find(|task| generation.base(&task.base_id).is_none()) {
            let by = format!("the task `{}` runs on it; remove that too", task.name);
            return Err(StoreError::InUse { what: format!("base {}", task.base_id), by });
        }
        self.activate(generation)
    }

    /// Keeps a generation until it is let go again, or lets it go.
    ///
    /// # Errors
    /// When there is no such generation to keep, or the policy cannot be written.
    pub fn pin(&self, number: u64, keep: bool) -> Result<(), StoreError> {
        if keep {
            self.generation(number)?;
        }
        let mut policy = self.policy()?;
        policy.pinned.retain(|pinned| *pinned != number);
        if keep {
            policy.pinned.push(number);
            policy.pinned.sort_unstable();
        }
        self.set_policy(&policy)
    }

    /// Writes another policy.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_policy(&self, policy: &Policy) -> Result<(), StoreError> {
        document::write(&self.dir.join(POLICY), policy).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_lock_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::init(dir.path(), &Policy::default()).unwrap();
        let held = store.change(|| false).unwrap();
        // As a child of this process has one.
        let copy = held._lock.0.try_clone().unwrap();
        assert!(matches!(store.change(|| false), Err(StoreError::Locked { .. })));
        drop(held);
        store.change(|| false).unwrap();
        drop(copy);
    }
}
