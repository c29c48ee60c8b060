//! Whether every file of a store is what it was when it was written, and what to do where one is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::flash::StartEngine;
use super::{
    BASES, CURRENT, DERIVED, GENERATIONS, Generation, INCOMING, LOCK, PACKS, POLICY, Store, StoreError, TaskEntry,
    names_in,
};
use crate::base::Base;
#[cfg(feature = "native")]
use crate::engine::native::{NativeEngine, derived_of_base, derived_of_pack};
use crate::pack::PackFile;
use crate::trust::Keyring;

/// Something that is wrong with a file of a store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub cure: &'static str,
    /// Whether the active tasks are in danger; leftovers of a broken flash are not.
    pub is_harmful: bool,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    /// Generations, bases, packs and derived files that were looked at.
    pub files: usize,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

const AGAIN: &str = "flash the pack again, or go back with `overmask store rollback`; other tasks go on";
const BASE_AGAIN: &str = "flash the base again: `overmask flash --base DIR`; until then its tasks may answer wrongly";
const COLLECT: &str = "`overmask store gc` removes it";
const BACK: &str = "`overmask store rollback --to N` goes to a whole generation";

impl Store {
    /// Looks at every byte of the store: documents, packs, bases, and the derived files, which are made anew and
    /// compared. With keys, the signatures of signed packs are checked, too. `start` starts the engine whose derived
    /// files they are.
    ///
    /// # Errors
    /// When the store cannot be read. What is wrong with a file is a [`Finding`].
    pub fn verify(&self, keyring: Option<&Keyring>, start: &StartEngine<'_>) -> Result<Verified, StoreError> {
        let mut seen = Verified::default();
        let require_signature = match self.policy() {
            Ok(policy) => policy.require_signature,
            Err(error) => {
                seen.wrong(self.dir.join(POLICY), &error, "`overmask store policy` writes it again", true);
                false
            }
        };
        seen.files += 1;
        let mut active = 0;
        match self.current() {
            Ok(current) => active = current.number,
            Err(error) => seen.wrong(self.dir.join(CURRENT), &error, BACK, true),
        }
        let mut generations = Vec::new();
        for number in self.numbers()? {
            seen.files += 1;
            match self.generation(number) {
                Ok(generation) => generations.push(generation),
                Err(error) => seen.wrong(self.generation_path(number), &error, COLLECT, number == active),
            }
        }
        let packs = self.verify_packs(&generations, keyring, require_signature, active, &mut seen);
        self.verify_bases(&generations, &packs, start, &mut seen)?;
        self.find_strangers(&generations, &mut seen)?;
        Ok(seen)
    }

    /// Checks each pack once; returns the good ones by task and digest.
    fn verify_packs(
        &self,
        generations: &[Generation],
        keyring: Option<&Keyring>,
        require_signature: bool,
        active: u64,
        seen: &mut Verified,
    ) -> BTreeMap<(String, String), PackFile> {
        let mut good = BTreeMap::new();
        let mut done = BTreeSet::new();
        for (number, task) in generations.iter().flat_map(|g| g.tasks.iter().map(move |task| (g.number, task))) {
            if !done.insert((task.name.clone(), task.sha256.clone())) {
                continue;
            }
            seen.files += 1;
            let path = self.pack_path(&task.sha256);
            match self.open_pack(task).and_then(|file| self.check_signed(task, keyring).map(|()| file)) {
                Ok(file) => {
                    good.insert((task.name.clone(), task.sha256.clone()), file);
                }
                Err(error) => seen.wrong(path.clone(), &error, AGAIN, true),
            }
            if require_signature && task.signature.is_none() && number == active {
                let error = StoreError::Unsigned { pack: path.display().to_string() };
                seen.wrong(path, &error, "flash it with a signature, or `overmask store remove` its task", true);
            }
        }
        good
    }

    fn check_signed(&self, task: &TaskEntry, keyring: Option<&Keyring>) -> Result<(), StoreError> {
        if let (Some(signature), Some(keyring)) = (&task.signature, keyring) {
            keyring.verify(&crate::pack::read_file(&self.pack_path(&task.sha256))?, signature)?;
        }
        Ok(())
    }

    fn verify_bases(
        &self,
        generations: &[Generation],
        packs: &BTreeMap<(String, String), PackFile>,
        start: &StartEngine<'_>,
        seen: &mut Verified,
    ) -> Result<(), StoreError> {
        let entries: BTreeMap<_, _> = generations
            .iter()
            .flat_map(|generation| &generation.bases)
            .map(|base| ((base.base_id.as_str(), base.manifest_sha256.as_str()), base))
            .collect();
        for entry in entries.into_values() {
            seen.files += 1;
            let dir = self.base_dir(&entry.base_id, entry.variant);
            // Anew, as one that the store has opened is taken as sound.
            let checked = self.open_base(entry).and_then(|_| Ok(Base::open(&dir)?)).and_then(|base| {
                base.verify()?;
                Ok(base)
            });
            let base = match checked {
                Ok(base) => Arc::new(base),
                Err(error) => {
                    seen.wrong(dir, &error, BASE_AGAIN, true);
                    continue;
                }
            };
            for name in names_in(&dir)? {
                let is_known = name == crate::base::file::MANIFEST || base.manifest().digests.contains_key(&name);
                if !is_known {
                    seen.stranger(dir.join(name));
                }
            }
            let mine: Vec<&PackFile> = packs.values().filter(|file| file.document().base_id == entry.base_id).collect();
            self.verify_derived(&base, &mine, start, seen)?;
        }
        Ok(())
    }

    /// Compares the derived files of a base and its packs with what they give now. One that is not there is no fault.
    #[cfg(feature = "native")]
    fn verify_derived(
        &self,
        base: &Arc<Base>,
        packs: &[&PackFile],
        start: &StartEngine<'_>,
        seen: &mut Verified,
    ) -> Result<(), StoreError> {
        let dir = self.derived_dir();
        let there = |name: String| Some(dir.join(name)).filter(|path| path.exists());
        let of_base = there(derived_of_base(base));
        let of_packs = packs.iter().map(|file| there(derived_of_pack(base, file.digest()))).collect::<Vec<_>>();
        if of_base.is_none() && of_packs.iter().all(Option::is_none) {
            return Ok(());
        }
        let before = fs::metadata(of_base.as_deref().unwrap_or(&dir)).and_then(|found| found.modified()).ok();
        let engine = start(base, &dir)?;
        let any: &dyn std::any::Any = &*engine;
        let Some(native) = any.downcast_ref::<NativeEngine>() else { return Ok(()) };
        let mut check = |path: &Path, checked: Result<bool, StoreError>| {
            seen.files += 1;
            match checked {
                Ok(true) => {}
                Ok(false) => seen.damaged_derived(path),
                Err(error) => seen.wrong(path.to_owned(), &error, REMADE, true),
            }
        };
        if let Some(path) = &of_base {
            // A damaged one was replaced when the engine started.
            let is_old = fs::metadata(path).and_then(|found| found.modified()).ok() == before;
            check(path, native.verify_base().map(|is_kept| is_kept && is_old).map_err(StoreError::from));
        }
        for (path, file) in of_packs.iter().zip(packs) {
            let Some(path) = path else { continue };
            let verified = file.masks(Some(base)).map_err(StoreError::from);
            check(path, verified.and_then(|masks| Ok(native.verify_pack(file, &masks)?)));
        }
        Ok(())
    }

    #[cfg(not(feature = "native"))]
    fn verify_derived(
        &self,
        _: &Arc<Base>,
        _: &[&PackFile],
        _: &StartEngine<'_>,
        _: &mut Verified,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    /// Finds what no generation names.
    fn find_strangers(&self, generations: &[Generation], seen: &mut Verified) -> Result<(), StoreError> {
        let known = [POLICY, CURRENT, GENERATIONS, PACKS, BASES, DERIVED, LOCK];
        // What is arriving may be gone on with.
        let names = names_in(&self.dir)?.into_iter().filter(|name| !known.contains(&&**name) && name != INCOMING);
        names.for_each(|name| seen.stranger(self.dir.join(name)));
        let lock = self.dir.join(LOCK);
        if fs::metadata(&lock).is_ok_and(|found| found.len() > 0) {
            seen.stranger(lock);
        }
        let dir = self.dir.join(GENERATIONS);
        let is_number = |name: &str| name.parse::<u64>().is_ok_and(|number| number.to_string() == name);
        names_in(&dir)?.iter().filter(|name| !is_number(name)).for_each(|name| seen.stranger(dir.join(name)));
        let dir = self.dir.join(PACKS);
        let packs: BTreeSet<String> =
            generations.iter().flat_map(|g| &g.tasks).map(|task| format!("{}.pack", task.sha256)).collect();
        names_in(&dir)?.iter().filter(|name| !packs.contains(*name)).for_each(|name| seen.stranger(dir.join(name)));
        let dir = self.dir.join(BASES);
        for name in names_in(&dir)? {
            let variants = generations.iter().flat_map(|g| g.base(&name)).map(|base| base.variant.name());
            let variants: BTreeSet<&str> = variants.collect();
            if variants.is_empty() {
                seen.stranger(dir.join(&name));
                continue;
            }
            for variant in names_in(&dir.join(&name))?.iter().filter(|variant| !variants.contains(variant.as_str())) {
                seen.stranger(dir.join(&name).join(variant));
            }
        }
        Ok(())
    }
}

#[cfg(feature = "native")]
const REMADE: &str = "it was removed, and the next start makes it again; restart what runs with it";

impl Verified {
    fn wrong(&mut self, file: PathBuf, error: &StoreError, cure: &'static str, is_harmful: bool) {
        // A damaged file of the store brings its own advice along.
        let (file, reason, cure) = match error {
            StoreError::Damaged { path, reason, cure } => (path.clone(), reason.clone(), *cure),
            error => (file, error.to_string(), cure),
        };
        self.findings.push(Finding { file, reason, cure, is_harmful });
    }

    fn stranger(&mut self, file: PathBuf) {
        let reason = "no generation needs it".to_owned();
        self.findings.push(Finding { file, reason, cure: COLLECT, is_harmful: false });
    }

    /// Notes a derived file that is damaged; it is removed, as all of them can be made again.
    #[cfg(feature = "native")]
    fn damaged_derived(&mut self, path: &Path) {
        let _ = fs::remove_file(path);
        let reason = "it is damaged".to_owned();
        self.findings.push(Finding { file: path.to_owned(), reason, cure: REMADE, is_harmful: true });
    }
}
