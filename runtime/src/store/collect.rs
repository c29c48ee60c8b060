//! Removing what no kept generation needs.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::{BASES, BESIDE, Changing, GENERATIONS, Generation, INCOMING, PACKS, StoreError, names_in, sync};

impl Changing {
    /// Removes old generations, and the packs, bases and derived files that only they needed, with all that broken
    /// flashes have left. The active generation stays, those that it replaced one after the other, as many as the
    /// policy says, and those that are pinned.
    ///
    /// # Errors
    /// When something cannot be read or removed.
    pub fn collect(&self) -> Result<(), StoreError> {
        let kept = self.kept()?;
        // The pointer may have been moved by a process that was ended before it was on the disk: what it led to until
        // then must not go before.
        sync(&self.dir)?;
        // The generations first, and to the disk: none that is there may miss a file.
        let dir = self.dir.join(GENERATIONS);
        let is_kept = |name: &str| kept.iter().any(|generation| generation.number.to_string() == name);
        if remove_others(&dir, is_kept)? {
            sync(&dir)?;
        }
        let tasks = || kept.iter().flat_map(|generation| &generation.tasks);
        let packs: BTreeSet<String> = tasks().map(|task| format!("{}.pack", task.sha256)).collect();
        remove_others(&self.dir.join(PACKS), |name| packs.contains(name))?;

        let bases: BTreeSet<_> =
            kept.iter().flat_map(|g| &g.bases).map(|base| (base.base_id.as_str(), base.variant.name())).collect();
        let dir = self.dir.join(BASES);
        remove_others(&dir, |name| bases.iter().any(|(base_id, _)| *base_id == name))?;
        for (base_id, _) in &bases {
            remove_others(&dir.join(base_id), |name| bases.contains(&(base_id, name)))?;
        }
        self.keep_arriving(|_| false)?;
        for name in names_in(&self.dir)?.iter().filter(|name| name.starts_with(BESIDE)) {
            remove(&self.dir.join(name))?;
        }
        #[cfg(feature = "native")]
        self.collect_derived(&kept)?;
        Ok(())
    }

    /// Removes what has arrived, but files whose digests are to be kept: to be gone on with.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn keep_arriving(&self, is_kept: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        remove_others(&self.dir.join(INCOMING), is_kept).map(drop)
    }

    /// The generations that are kept, the active one first.
    fn kept(&self) -> Result<Vec<Generation>, StoreError> {
        let policy = self.policy()?;
        let active = self.current()?;
        let mut next = self.before(&active)?;
        let mut kept = vec![active];
        while let Some(generation) = next.take_if(|_| kept.len() < policy.keep.max(2) as usize) {
            next = self.before(&generation)?;
            kept.push(generation);
        }
        for number in policy.pinned {
            if kept.iter().any(|generation| generation.number == number) {
                continue;
            }
            match self.generation(number) {
                Ok(generation) => kept.push(generation),
                // What it needs is not known any more.
                Err(error @ (StoreError::Unknown { .. } | StoreError::Damaged { .. })) => {
                    log::warn!("generation {number} is pinned but cannot be kept: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(kept)
    }

    #[cfg(feature = "native")]
    fn collect_derived(&self, kept: &[Generation]) -> Result<(), StoreError> {
        use crate::derived::Directory;
        use crate::engine::native::{derived_of_base, derived_of_pack};
        use crate::task::Tokenizer;

        let dir = self.derived_dir();
        if !dir.exists() {
            return Ok(());
        }
        let mut names = BTreeSet::new();
        for generation in kept {
            for entry in &generation.bases {
                // What belongs to a damaged base is not known; it stays until the base is replaced.
                let Ok(base) = self.open_base(entry) else { return Ok(()) };
                names.insert(derived_of_base(&base));
                names.extend(Tokenizer::derived_name(&base));
                for task in generation.tasks.iter().filter(|task| task.base_id == entry.base_id) {
                    // Those of a set's packs are named by the packs' own digests; a damaged set has none.
                    match task.in_set.then(|| self.open_pack(task)) {
                        None => names.insert(derived_of_pack(&base, &task.sha256)),
                        Some(Ok(file)) => names.insert(derived_of_pack(&base, file.digest())),
                        Some(Err(_)) => false,
                    };
                }
            }
        }
        Ok(Directory::open(dir)?.keep_only(&names)?)
    }
}

/// Removes all of a directory but what is to be kept; returns whether anything was removed.
fn remove_others(dir: &Path, is_kept: impl Fn(&str) -> bool) -> Result<bool, StoreError> {
    let mut removed = false;
    for name in names_in(dir)?.iter().filter(|name| !is_kept(name)) {
        remove(&dir.join(name))?;
        removed = true;
    }
    Ok(removed)
}

/// Removes a file, a link, or a directory with what is in it.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("remove", path)(error)),
    };
    let removed = if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    log::info!("removed {}", path.display());
    removed.map_err(StoreError::io("remove", path))
}
