//! The store under faults, on the real program and a tiny base: whatever happens to a flash, and whenever, the device
//! has what it had, or what is new. What a test does in seconds here it does to the end with `--ignored`.
#![cfg(target_os = "linux")]

mod bytes;
mod disk;
mod hostile;
mod kills;
mod link;
mod patches;
mod power;
mod refused;
mod registry;
mod rights;
mod together;
mod trace;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use overmask::base::Base;
use overmask::engine::native::{derived_of_base, derived_of_pack};
use overmask::pack::{Golden, Input};
use overmask::store::Store;
use overmask::task::Runner;
use overmask_exporter::import::hf;
use overmask_tests::{Ran, Recipe, json_lines, program, ran};
use tempfile::TempDir;

/// A folder with a tiny base, packs for it, and room for stores.
pub(crate) struct Device {
    dir: TempDir,
    pub(crate) base: Arc<Base>,
}

impl Device {
    pub(crate) fn new() -> Device {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-bert");
        let base = hf::import(&fixture, &dir.path().join("base"), &hf::Origin::default()).unwrap().base;
        Device { dir, base: Arc::new(base) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn base_dir(&self) -> PathBuf {
        self.path("base")
    }

    /// A pack of a task, with golden vectors; its labels tell its revision.
    pub(crate) fn pack(&self, name: &'static str, revision: u64) -> PathBuf {
        let path = self.path(&format!("{name}-{revision}.pack"));
        if path.exists() {
            return path;
        }
        self.write(&path, &Recipe { name, seed: revision, ..Default::default() }, revision);
        path
    }

    /// Writes a pack with golden vectors; its labels tell its revision.
    pub(crate) fn write(&self, path: &Path, recipe: &Recipe, revision: u64) {
        let recipe = Recipe { labels: 2, max_tokens: 16, ..recipe.clone() };
        let name = recipe.name;
        let engine = overmask_tests::engine("native", &self.base);
        let runner = Runner::new(engine, Arc::clone(&self.base)).unwrap();
        let task = runner.add_pack(recipe.pack(&self.base)).unwrap();
        let inputs = ["a b c", "the quick brown fox"].map(Input::from);
        let rows = runner.logits(task, &inputs).unwrap();
        let golden = inputs
            .into_iter()
            .zip(rows)
            .map(|(input, row)| Golden { input, logits: row.into_iter().flatten().flatten().collect() });
        let mut pack = recipe.pack_with(&self.base, golden.collect());
        pack.document.revision = revision;
        pack.document.labels = (0..2).map(|i| format!("{name} {revision} {i}")).collect();
        pack.write(path, Some(&self.base)).unwrap();
    }

    /// The packs of both tasks, `a` and `b`.
    pub(crate) fn packs(&self, revision: u64) -> [PathBuf; 2] {
        ["a", "b"].map(|name| self.pack(name, revision))
    }

    /// A store in which nothing was flashed.
    pub(crate) fn empty(&self, name: &str) -> PathBuf {
        let store = self.path(name);
        done(ran(overmask("store", &store).args(["init", "--keep", "2"])));
        store
    }

    /// A store with two generations, of the revisions 1 and 2 of both tasks.
    pub(crate) fn full(&self, name: &str) -> PathBuf {
        let store = self.empty(name);
        done(ran(flash(&store, self.packs(1)).arg("--base").arg(self.base_dir())));
        done(ran(&mut flash(&store, self.packs(2))));
        store
    }

    /// What a store may hold after a flash; other files, and directories with nothing in them, are litter.
    fn litter(&self, store: &Path) -> Vec<PathBuf> {
        let opened = Store::open(store).unwrap();
        let mut known: BTreeSet<PathBuf> = ["store.json", "current", "lock", "incoming", "derived", "packs"]
            .into_iter()
            .chain(["generations", "base"])
            .map(|name| store.join(name))
            .collect();
        for number in opened.numbers().unwrap() {
            known.insert(store.join("generations").join(number.to_string()));
            let generation = opened.generation(number).unwrap();
            for base in &generation.bases {
                let dir = store.join("base").join(&base.base_id).join(base.variant.name());
                known.extend(self.base.manifest().digests.keys().map(|name| dir.join(name)));
                known.extend([dir.join("base.json"), dir.parent().unwrap().to_owned(), dir]);
                known.insert(opened.derived_dir().join(derived_of_base(&self.base)));
            }
            for task in &generation.tasks {
                known.insert(opened.path_of(task));
                known.insert(opened.derived_dir().join(derived_of_pack(&self.base, &task.sha256)));
            }
        }
        files(store).into_iter().filter(|path| !known.contains(path)).collect()
    }

    /// What must hold after any fault: the store opens, at one of these; it is whole; the next flash works, and leaves
    /// nothing else. Each of `before` is what the tasks answer with, as [`seen`] tells.
    #[track_caller]
    pub(crate) fn check(&self, store: &Path, before: &[&str], fault: &str) {
        let verified = ran(&mut verify(store));
        assert_eq!(verified.code, 0, "{fault}: {verified:?}");
        let found = seen(store);
        assert!(before.contains(&found.as_str()), "{fault}: {found:?}, and not one of {before:?}");
        self.goes_on(store, fault);
    }

    /// The next flash works, and leaves nothing else.
    #[track_caller]
    fn goes_on(&self, store: &Path, fault: &str) {
        let next = ran(flash(store, self.packs(9)).arg("--base").arg(self.base_dir()));
        assert_eq!(next.code, 0, "{fault}: {next:?}");
        assert_eq!(seen(store), "a 9, b 9", "{fault}");
        let verified = ran(&mut verify(store));
        assert_eq!((verified.code, verified.stdout.lines().count()), (0, 1), "{fault}: {verified:?}");
        assert_eq!(self.litter(store), [] as [PathBuf; 0], "{fault}");
    }
}

/// A command of the program on a store; its derived files have no place but that store.
pub(crate) fn overmask(command: &str, store: &Path) -> Command {
    let mut overmask = program("overmask");
    overmask.arg(command);
    overmask.env("OVERMASK_STORE", store).env("OVERMASK_CACHE", "").env("RAYON_NUM_THREADS", "1");
    overmask
}

pub(crate) fn flash<P: AsRef<OsStr>>(store: &Path, packs: impl IntoIterator<Item = P>) -> Command {
    let mut command = overmask("flash", store);
    command.args(["--threads", "1"]).args(packs);
    command
}

pub(crate) fn verify(store: &Path) -> Command {
    let mut command = overmask("store", store);
    command.arg("verify");
    command
}

/// One text for all tasks of a store.
pub(crate) fn run(store: &Path) -> Command {
    let mut command = overmask("run", store);
    command.args(["--threads", "1", "--json", "a b c"]);
    command
}

/// The tasks that answer, with their revisions: `a 2, b 2`; `nothing` where nothing was flashed.
fn seen(store: &Path) -> String {
    answered(&ran(&mut run(store)))
}

fn answered(got: &Ran) -> String {
    if got.code == 3 && got.stderr.contains("has no tasks;") {
        return "nothing".to_owned();
    }
    assert_eq!((got.code, got.stderr.as_str()), (0, ""), "{got:?}");
    let rows = json_lines(got);
    let label = |row: &serde_json::Value| row["label"].as_str().unwrap().rsplit_once(' ').unwrap().0.to_owned();
    rows.iter().map(label).collect::<Vec<_>>().join(", ")
}

#[track_caller]
pub(crate) fn done(got: Ran) -> Ran {
    assert_eq!((got.code, got.stderr.as_str()), (0, ""), "{got:?}");
    got
}

/// All that is in a directory, at any depth.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path));
        }
        found.insert(path);
    }
    found
}

/// A copy of a directory, in the place of what is there.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// A command run by others: `strace ...`, `setpriv ...`.
fn under<S: AsRef<OsStr>>(wrapper: impl IntoIterator<Item = S>, command: &Command) -> Command {
    let mut wrapper = wrapper.into_iter();
    let mut wrapped = Command::new(wrapper.next().unwrap());
    wrapped.args(wrapper).arg(command.get_program()).args(command.get_args());
    wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapped.stdin(std::process::Stdio::null());
    wrapped
}

/// Whether a tool of the system is there; a test that needs it fails without.
pub(crate) fn tool(name: &str, package: &str) -> &'static str {
    let found = Command::new(name).arg("--version").output();
    assert!(found.is_ok(), "`{name}` is missing; install the package `{package}` of Debian");
    Box::leak(name.to_owned().into_boxed_str())
}

#[test]
fn a_flash_is_what_runs_and_the_way_back_leads_to_what_ran() {
    let device = Device::new();
    let store = device.full("store");
    assert_eq!(seen(&store), "a 2, b 2");
    done(ran(&mut verify(&store)));
    assert_eq!(device.litter(&store), [] as [PathBuf; 0]);
    done(ran(overmask("store", &store).arg("rollback")));
    assert_eq!(seen(&store), "a 1, b 1");
    device.check(&store, &["a 1, b 1"], "none");
}
