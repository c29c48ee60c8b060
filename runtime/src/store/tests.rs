//! Tests of the store that need no engine: generations and the ways between them, and what is collected.

use std::collections::BTreeMap;

use super::*;
use crate::base::tests::bundle;
use crate::error::ErrorKind;
use crate::mask::Granularity;
use crate::pack::{Codec, FloatType, Head, Pack, PackDocument, Pooling, SCHEMA, TaskKind, TextSettings};

mod arriving;

/// A store in a directory of its own.
struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::init(&dir.path().join("store"), &Policy::default()).unwrap();
    Place { dir, store }
}

impl Place {
    fn change(&self) -> Changing {
        self.store.change(|| false).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.store.dir().join(name)
    }

    /// The store's files and directories, with what is in the files.
    fn content(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found)
                } else {
                    drop(found.insert(path.clone(), fs::read(&path).unwrap()))
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.store.dir(), &mut found);
        found
    }

    /// Makes a generation with these tasks the active one.
    fn activate(&self, tasks: &[TaskEntry]) -> Generation {
        let change = self.change();
        let generation = Generation { tasks: tasks.to_vec(), ..change.current().unwrap() };
        change.activate(generation).unwrap()
    }

    /// A pack in the store, of a task with this name and revision.
    fn task(&self, name: &str, revision: u64) -> TaskEntry {
        let bytes = pack(name, revision);
        let sha256 = hex(&Sha256::digest(&bytes));
        let change = self.change();
        let mut part = change.arrive(&sha256, bytes.len() as u64).unwrap();
        part.write(&bytes).unwrap();
        make_dir(&self.path(PACKS)).unwrap();
        incoming::settle(&part.finish("").unwrap(), &self.store.pack_path(&sha256)).unwrap();
        TaskEntry {
            name: name.to_owned(),
            revision,
            sha256,
            in_set: false,
            bytes: bytes.len() as u64,
            base_id: "ab".repeat(32),
            signature: None,
            promise: None,
        }
    }
}

/// A pack without masks.
fn pack(name: &str, revision: u64) -> Vec<u8> {
    let document = PackDocument {
        schema: SCHEMA,
        requires: Vec::new(),
        name: name.to_owned(),
        revision,
        kind: TaskKind::Classify,
        labels: vec!["A".into(), "B".into()],
        text: TextSettings { max_tokens: 16, pooling: Pooling::Mean, pair: false },
        base_id: "ab".repeat(32),
        tokenizer_sha256: "01".repeat(32),
        granularity: Granularity::Weight,
        codec: Codec::Plain,
        sparsity: 0.0,
        masks: Vec::new(),
        golden: Vec::new(),
        provenance: Default::default(),
        metrics: Default::default(),
        extra: Default::default(),
    };
    let head = Head { weight: vec![0.0; 8], bias: vec![0.0; 2], labels: 2, hidden: 4, dtype: FloatType::F16 };
    Pack::new(document, Vec::new(), head, Vec::new()).unwrap().to_bytes(None).unwrap()
}

fn kind_of<T: std::fmt::Debug>(result: Result<T, StoreError>) -> (ErrorKind, String) {
    let error = result.unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn a_store_is_made_where_nothing_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/store");
    let (kind, said) = kind_of(Store::open(&path));
    assert!(kind == ErrorKind::DeviceOrStore && said.contains("store init"), "{said}");
    let policy = Policy { keep: 7, ..Policy::default() };
    let store = Store::init(&path, &policy).unwrap();
    assert_eq!(Store::open(&path).unwrap().policy().unwrap(), policy);
    assert_eq!(store.current().unwrap(), Generation::empty());
    assert!(store.is_current(&Generation::empty()).unwrap());
    assert!(kind_of(Store::init(&path, &policy)).1.contains("not empty"));
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    for refused in [Store::init(&file, &policy), Store::open(&file)] {
        let (kind, said) = kind_of(refused);
        assert!(kind == ErrorKind::DeviceOrStore && said.contains("file is no directory"), "{said}");
    }
    // What is no store is none; one that was not made whole is made now.
    let half = dir.path().join("half");
    fs::create_dir(&half).unwrap();
    fs::write(half.join(".overmask-x1"), b"{").unwrap();
    fs::copy(path.join(CURRENT), half.join(CURRENT)).unwrap();
    assert!(kind_of(Store::open(&half)).1.contains("no store.json"));
    Store::init(&half, &policy).unwrap();
    Store::open(&half).unwrap().change(|| false).unwrap().collect().unwrap();
    assert_eq!(names_in(&half).unwrap(), ["current", "lock", "store.json"]);
}

#[cfg(unix)]
#[test]
fn what_others_could_have_changed_is_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let place = place();
    place.activate(&[place.task("a", 1)]);
    let open = || Store::open(place.store.dir());
    open().unwrap();
    for name in ["", PACKS, GENERATIONS, CURRENT, POLICY, LOCK, INCOMING] {
        let path = place.path(name);
        let before = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        let (kind, said) = kind_of(open());
        assert!(kind == ErrorKind::DeviceOrStore && said.contains("by others"), "{name}: {said}");
        assert!(said.contains(path.to_str().unwrap().trim_end_matches('/')), "{said}");
        fs::set_permissions(&path, before).unwrap();
    }
    for name in [PACKS, CURRENT, LOCK] {
        let (path, aside) = (place.path(name), place.dir.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        symlink(&aside, &path).unwrap();
        assert!(kind_of(open()).1.contains("is a link"), "{name}");
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    open().unwrap().current().unwrap();
    // The store itself may be reached by a link.
    let link = place.dir.path().join("link");
    symlink(place.store.dir(), &link).unwrap();
    Store::open(&link).unwrap();
    // Whoever can open the lock can hold it.
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(LOCK), mode(PACKS), mode(CURRENT) & 0o22), (0o600, 0o755, 0));
}

#[test]
fn one_process_changes_a_store() {
    let place = place();
    let held = place.change();
    let again = Store::open(place.store.dir()).unwrap();
    let (kind, said) = kind_of(again.change(|| false));
    assert!(kind == ErrorKind::DeviceOrStore && said.contains("another process"), "{said}");
    let (asked, waits) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| again.change(|| asked.send(()).is_ok()).map(drop));
        waits.recv().unwrap();
        drop(held);
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn generations_count_up_and_no_number_comes_again() {
    let place = place();
    let numbers = || place.store.numbers().unwrap();
    for number in 1..=4 {
        let generation = place.activate(&[place.task("a", number)]);
        assert_eq!((generation.number, generation.replaces), (number, number - 1));
        assert_eq!(place.store.current().unwrap(), generation);
    }
    let change = place.change();
    assert_eq!(change.rollback(None, None).unwrap().number, 3);
    assert_eq!(change.rollback(Some(2), None).unwrap().number, 2);
    assert_eq!(numbers(), [1, 2, 3, 4], "going back writes nothing but the pointer");
    change.collect().unwrap();
    assert_eq!(numbers(), [1, 2]);
    drop(change);
    let generation = place.activate(&[place.task("a", 9)]);
    assert_eq!((generation.number, generation.replaces), (5, 2), "3 and 4 were others");
    // Names that are no numbers, or too large ones, are none.
    fs::write(place.path("generations/007"), b"").unwrap();
    assert_eq!(numbers(), [1, 2, 5]);
    fs::write(place.path(&format!("generations/{}", u64::MAX)), b"").unwrap();
    let (_, said) = kind_of(place.change().activate(generation.clone()));
    assert!(said.contains("remove it"), "{said}");
    assert_eq!(place.store.current().unwrap(), generation);
}

#[test]
fn the_way_back_passes_over_what_is_damaged() {
    let place = place();
    let tasks: Vec<TaskEntry> = (1..=4).map(|revision| place.task("a", revision)).collect();
    tasks.iter().for_each(|task| drop(place.activate(std::slice::from_ref(task))));
    let damage = |name: &str| {
        let before = fs::read(place.path(name)).unwrap();
        let mut bytes = before.clone();
        bytes[40] ^= 1;
        fs::write(place.path(name), bytes).unwrap();
        before
    };
    // One between: what comes next is the older one, and that is kept.
    let third = damage("generations/3");
    let change = place.change();
    change.collect().unwrap();
    assert_eq!(change.numbers().unwrap(), [1, 2, 4]);
    assert_eq!(change.rollback(None, None).unwrap().number, 2);
    fs::write(place.path("generations/3"), &third).unwrap();
    assert!(matches!(change.open_pack(&tasks[2]), Err(StoreError::Damaged { .. })), "it is gone");
    let (kind, said) = kind_of(change.rollback(Some(3), None));
    assert!(kind == ErrorKind::CorruptFile && said.contains("it is missing; flash the pack again"), "{said}");
    assert_eq!(change.current().unwrap().number, 2);

    // The active one, or the pointer to it.
    change.rollback(Some(4), None).unwrap();
    fs::remove_file(place.path("generations/3")).unwrap();
    for name in ["generations/4", CURRENT] {
        let before = damage(name);
        let (kind, said) = kind_of(change.current());
        assert!(kind == ErrorKind::CorruptFile && said.contains("store rollback"), "{said}");
        assert!(change.collect().is_err(), "what is active is not known");
        assert_eq!(change.numbers().unwrap(), [1, 2, 4]);
        let to = change.rollback(None, None).unwrap().number;
        assert_eq!(to, if name == CURRENT { 4 } else { 2 });
        if name != CURRENT {
            fs::write(place.path(name), before).unwrap();
            change.rollback(Some(4), None).unwrap();
        }
    }
    fs::remove_file(place.path("generations/4")).unwrap();
    assert!(kind_of(change.current()).1.contains("it is missing"));
    assert_eq!(change.rollback(None, None).unwrap().number, 2);
    drop(change);
    assert_eq!(place.activate(&[]).number, 5);
}

#[test]
fn going_back_needs_whole_packs_and_signed_ones_where_the_policy_says_so() {
    let place = place();
    let change = || place.change();
    assert!(kind_of(change().rollback(None, None)).1.contains("no whole generation before the active one"));
    let (a, b) = (place.task("a", 1), place.task("b", 1));
    place.activate(std::slice::from_ref(&a));
    assert!(kind_of(change().rollback(None, None)).1.contains("it has 1"), "there is nothing before the first");
    place.activate(std::slice::from_ref(&b));
    assert!(kind_of(change().rollback(Some(9), None)).1.contains("no generation 9; it has 1, 2"));
    let path = place.store.path_of(&a);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[1..]).unwrap();
    let (kind, said) = kind_of(change().rollback(None, None));
    assert!(kind == ErrorKind::CorruptFile && said.contains(path.to_str().unwrap()), "{said}");
    fs::write(&path, &bytes).unwrap();
    change().set_policy(&Policy { require_signature: true, ..Policy::default() }).unwrap();
    let (kind, said) = kind_of(change().rollback(None, None));
    assert!(kind == ErrorKind::Signature && said.contains("`a`"), "{said}");
    assert_eq!(place.store.current().unwrap().tasks, [b]);
}

#[test]
fn tasks_and_bases_are_removed_by_name() {
    let place = place();
    let base = place.dir.path().join("base");
    fs::create_dir(&base).unwrap();
    bundle(&base);
    let entry = place.change().take_base(&base).unwrap();
    let on = TaskEntry { base_id: entry.base_id.clone(), ..place.task("a", 1) };
    let generation = Generation { bases: vec![entry.clone()], tasks: vec![on], ..Generation::empty() };
    place.change().activate(generation).unwrap();
    let remove = |names: &[&str]| place.change().remove(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
    let (kind, said) = kind_of(remove(&["b"]));
    assert!(kind == ErrorKind::InputData && said.contains("`b`; it has a, "), "{said}");
    let (kind, said) = kind_of(remove(&[&entry.base_id[..8]]));
    assert!(kind == ErrorKind::DeviceOrStore && said.contains("`a` runs on it"), "{said}");
    assert!(kind_of(remove(&[&entry.base_id[..7]])).1.contains("no task or base"), "too short");
    let left = remove(&["a", &entry.base_id]).unwrap();
    assert!(left.number == 2 && left.tasks.is_empty() && left.bases.is_empty());
    assert!(place.store.base_dir(&entry.base_id, entry.variant).exists(), "generation 1 has it");
}

#[test]
fn what_no_kept_generation_needs_is_collected() {
    let place = place();
    let change = || place.change();
    for revision in 1..=6 {
        place.activate(&[place.task("a", revision), place.task("b", 1)]);
        if revision == 2 {
            change().pin(2, true).unwrap();
        }
    }
    assert!(kind_of(change().pin(9, true)).1.contains("no generation 9"));
    fs::write(place.path("packs/other"), b"").unwrap();
    fs::write(place.path(".overmask-left"), b"").unwrap();
    fs::create_dir_all(place.path("base/some/f32")).unwrap();
    fs::create_dir_all(place.path("incoming/base-x")).unwrap();
    change().collect().unwrap();
    assert_eq!(place.store.numbers().unwrap(), [2, 4, 5, 6], "three, and the pinned one");
    let packs = || names_in(&place.path(PACKS)).unwrap().len();
    assert_eq!(packs(), 5);
    assert_eq!(place.store.verify(None).unwrap().findings, []);
    assert_eq!(names_in(&place.path(BASES)).unwrap(), [] as [&str; 0]);
    assert_eq!(names_in(&place.path(INCOMING)).unwrap(), [] as [&str; 0]);
    let content = place.content();
    change().collect().unwrap();
    assert_eq!(place.content(), content);
    // A pinned generation that is gone or damaged holds nothing up, and can be let go.
    fs::write(place.path("generations/2"), b"{}").unwrap();
    change().collect().unwrap();
    assert_eq!((place.store.numbers().unwrap(), packs()), (vec![4, 5, 6], 4));
    change().pin(2, false).unwrap();
    assert_eq!(place.store.policy().unwrap().pinned, [] as [u64; 0]);
    // After a way back, what was replaced leads on.
    change().rollback(Some(4), None).unwrap();
    place.activate(&[]);
    change().collect().unwrap();
    assert_eq!(place.store.numbers().unwrap(), [4, 7]);
    assert_eq!(change().rollback(None, None).unwrap().number, 4);
}

#[test]
fn verify_names_each_file_that_is_not_as_it_was() {
    let place = place();
    let base = place.dir.path().join("base");
    fs::create_dir(&base).unwrap();
    bundle(&base);
    let entry = place.change().take_base(&base).unwrap();
    let generation = Generation { bases: vec![entry], ..Generation::empty() };
    place.change().activate(generation).unwrap();
    place.activate(&[place.task("a", 1)]);
    place.change().collect().unwrap();
    let verify = || place.store.verify(None).unwrap().findings;
    assert_eq!(verify(), []);
    for (path, bytes) in place.content() {
        let places = (0..bytes.len()).step_by(bytes.len() / 7 + 1);
        for at in places {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            fs::write(&path, changed).unwrap();
            let found = verify();
            assert!(found.iter().any(|f| f.file == path && f.is_harmful), "{} at {at}: {found:?}", path.display());
        }
        fs::remove_file(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        // An old generation that is not there is one that was collected.
        let is_missed = ![LOCK, "1"].contains(&name);
        let found = place.store.verify(None).unwrap().findings;
        assert_eq!(found.iter().any(|f| f.is_harmful), is_missed, "{}: {found:?}", path.display());
        fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(verify(), []);
    fs::write(place.path(LOCK), b"x").unwrap();
    fs::write(place.path("packs/x"), b"x").unwrap();
    let found: Vec<PathBuf> = verify().into_iter().map(|finding| finding.file).collect();
    assert_eq!(found, [place.path(LOCK), place.path("packs/x")]);
}

#[test]
fn going_back_needs_signatures_of_keys_that_are_still_trusted() {
    use crate::trust::{Keyring, tests as keys};

    let place = place();
    let (old, new) = (keys::pair(), keys::pair());
    let signed = |revision| {
        let task = place.task("a", revision);
        let signature = keys::sign(&old, &place.store.pack_bytes(&task).unwrap(), "released");
        TaskEntry { signature: Some(signature), ..task }
    };
    for revision in [1, 2] {
        place.activate(&[signed(revision)]);
    }
    let (kind, said) = kind_of(place.change().rollback(None, Some(&Keyring::from_keys(vec![keys::public(&new)]))));
    assert_eq!(kind, ErrorKind::Signature, "{said}");
    assert_eq!(place.store.current().unwrap().number, 2);
    let both = Keyring::from_keys([&old, &new].map(keys::public).to_vec());
    assert_eq!(place.change().rollback(None, Some(&both)).unwrap().number, 1);
}
