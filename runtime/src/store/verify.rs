//! Whether every file of a store is what it was when it was written, and what to do where one is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
#[cfg(feature = "native")]
use std::io;
use std::path::PathBuf;

use super::{
    ATTEMPTS, BACK, BASE_AGAIN, BASES, CURRENT, DERIVED, GENERATIONS, Generation, INCOMING, LOCK, PACK_AGAIN, PACKS,
    POLICY, POLICY_AGAIN, Store, StoreError, TaskEntry, base_of_store, names_in, number,
};
use crate::base::{Base, BaseError};
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
    /// Whether tasks are in danger, the active ones or those of the ways back; leftovers of a broken flash are no harm.
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

const COLLECT: &str = "`overmask store gc` removes it";
#[cfg(feature = "native")]
const AS_OWNER: &str = "run this as the store's owner";

impl Store {
    /// Looks at every byte of the store: documents, packs, bases, and the derived files, which are made anew and
    /// compared. With keys, the signatures of signed packs are checked, too. Where the store is being changed
    /// meanwhile, it is looked at again.
    ///
    /// # Errors
    /// When the store cannot be read. What is wrong with a file is a [`Finding`].
    pub fn verify(&self, keyring: Option<&Keyring>) -> Result<Verified, StoreError> {
        let mut attempt = 1;
        loop {
            let before = (self.pointer().ok(), self.numbers()?);
            let seen = self.verify_once(keyring)?;
            let is_sound = seen.findings.iter().all(|finding| !finding.is_harmful);
            if is_sound || attempt == ATTEMPTS || before == (self.pointer().ok(), self.numbers()?) {
                return Ok(seen);
            }
            attempt += 1;
        }
    }

    fn verify_once(&self, keyring: Option<&Keyring>) -> Result<Verified, StoreError> {
        let mut seen = Verified::default();
        let require_signature = match self.policy() {
            Ok(policy) => policy.require_signature,
            Err(error) => {
                seen.wrong(self.dir.join(POLICY), &error, POLICY_AGAIN);
                false
            }
        };
        seen.files += 1;
        let mut active = 0;
        match self.current() {
            Ok(current) => active = current.number,
            Err(error) => seen.wrong(self.dir.join(CURRENT), &error, BACK),
        }
        let mut generations = Vec::new();
        for number in self.numbers()? {
            seen.files += 1;
            let path = self.generation_path(number);
            match self.generation(number) {
                Ok(generation) => generations.push(generation),
                // The active one was found above.
                Err(_) if seen.findings.iter().any(|finding| finding.file == path) => {}
                Err(error) => seen.wrong(path, &error, COLLECT),
            }
        }
        let packs = self.verify_packs(&generations, keyring, require_signature, active, &mut seen);
        self.verify_bases(&generations, &packs, &mut seen)?;
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
                Err(error) => seen.wrong(path.clone(), &error, PACK_AGAIN),
            }
            if require_signature && task.signature.is_none() && number == active {
                let error = StoreError::Unsigned { pack: path.display().to_string() };
                seen.wrong(path, &error, "flash it with a signature, or `overmask store remove` its task");
            }
        }
        good
    }

    /// Checks the signature that a task's file came with, if it did and there are keys.
    pub(super) fn check_signed(&self, task: &TaskEntry, keyring: Option<&Keyring>) -> Result<(), StoreError> {
        if let (Some(signature), Some(keyring)) = (&task.signature, keyring) {
            keyring.verify(&self.pack_bytes(task)?, signature)?;
        }
        Ok(())
    }

    fn verify_bases(
        &self,
        generations: &[Generation],
        packs: &BTreeMap<(String, String), PackFile>,
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
            let checked = self.open_unchecked(entry).and_then(|base| {
                base.verify().map_err(base_of_store)?;
                Ok(base)
            });
            let base = match checked {
                Ok(base) => base,
                Err(error) => {
                    seen.wrong(dir, &error, BASE_AGAIN);
                    continue;
                }
            };
            for name in names_in(&dir)? {
                let is_known = name == crate::base::file::MANIFEST || base.manifest().digests.contains_key(&name);
                if !is_known {
                    seen.findings.push(Finding {
                        file: dir.join(name),
                        reason: "it is no file of a base".to_owned(),
                        cure: "remove it",
                        is_harmful: false,
                    });
                }
            }
            let mine: Vec<&PackFile> = packs.values().filter(|file| file.document().base_id == entry.base_id).collect();
            self.verify_derived(&base, &mine, seen);
        }
        Ok(())
    }

    /// Compares the derived files of a base and its packs with what they give now. One that is not there is no fault.
    #[cfg(feature = "native")]
    fn verify_derived(&self, base: &Base, packs: &[&PackFile], seen: &mut Verified) {
        use crate::derived::{Directory, Kept, KeptState};
        use crate::engine::native::{self, NativeEngine};
        use crate::task::{TaskError, Tokenizer};

        let path = self.derived_dir();
        let directory = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            _ => Directory::open(&path),
        };
        let directory = match directory {
            Ok(directory) => directory,
            Err(error) => {
                if seen.findings.iter().all(|finding| finding.file != path) {
                    let (reason, is_harmful) = (format!("it was not looked into: {error}"), false);
                    seen.findings.push(Finding { file: path, reason, cure: AS_OWNER, is_harmful });
                }
                return;
            }
        };
        let mut check = |name: String, look: &dyn Fn() -> Result<Option<Kept>, TaskError>| {
            let file = path.join(name);
            if file.symlink_metadata().is_err() {
                return;
            }
            seen.files += 1;
            let reason = match look().map(|kept| kept.map(|kept| kept.state)) {
                Ok(Some(KeptState::Right | KeptState::Missing)) => return,
                Ok(Some(KeptState::Useless(reason))) => reason,
                Ok(Some(KeptState::Wrong)) => "it holds other values than base and pack give".to_owned(),
                Ok(None) => "nothing is kept of what it says it is of".to_owned(),
                Err(error) => error.to_string(),
            };
            // All of them can be made again.
            let cure = match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => "delete it, and restart what runs with it",
                _ => "it was removed, and the next start makes it again; restart what runs with it",
            };
            seen.findings.push(Finding { file, reason, cure, is_harmful: true });
        };
        let directory = Some(&directory);
        check(native::derived_of_base(base), &|| Ok(Some(NativeEngine::kept_of_base(base, directory)?)));
        if let Some(name) = Tokenizer::derived_name(base) {
            check(name, &|| Tokenizer::kept(base, directory));
        }
        for file in packs {
            let name = native::derived_of_pack(base, file.digest());
            check(name, &|| Ok(Some(NativeEngine::kept_of_pack(base, file, directory)?)));
        }
    }

    #[cfg(not(feature = "native"))]
    fn verify_derived(&self, _: &Base, _: &[&PackFile], _: &mut Verified) {}

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
        names_in(&dir)?.iter().filter(|name| number(name).is_none()).for_each(|name| seen.stranger(dir.join(name)));
        // What a damaged one needs is not known.
        if generations.len() < self.numbers()?.len() {
            return Ok(());
        }
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

impl Verified {
    fn wrong(&mut self, file: PathBuf, error: &StoreError, cure: &'static str) {
        // Some errors know better which file it is.
        let (file, reason) = match error {
            StoreError::Damaged { path, reason, .. } => (path.clone(), reason.clone()),
            StoreError::Base(BaseError::Digest { path, expected, found }) => {
                (path.clone(), format!("its sha256 is {found}, not {expected}"))
            }
            StoreError::Base(error) => (error.path().to_owned(), error.to_string()),
            error => (file, error.to_string()),
        };
        self.findings.push(Finding { file, reason, cure, is_harmful: true });
    }

    fn stranger(&mut self, file: PathBuf) {
        let reason = "no generation needs it".to_owned();
        self.findings.push(Finding { file, reason, cure: COLLECT, is_harmful: false });
    }
}
