//! Tests of what two ends say to each other: a link that is cut goes on, and a hostile end gets nothing.

use std::cell::Cell;
use std::fs;
use std::io::{self, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::wire::{Outcome, receive, send};
use super::*;
use crate::base::family::Family;
use crate::base::tests::{bundle, write_manifest};
use crate::base::{Base, BaseError};
use crate::error::ErrorKind;
use crate::fs::hex;
use crate::store::{Changing, Given, Policy, Store, StoreError};

struct Ends {
    dir: tempfile::TempDir,
    store: Store,
    offer: Offer,
    /// Bytes of the base's files.
    bytes: u64,
}

/// A store, and a base that it does not have.
fn ends() -> Ends {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    fs::create_dir(&base).unwrap();
    let manifest = bundle(&base);
    let store = Store::init(&dir.path().join("store"), &Policy::default()).unwrap();
    let bytes = manifest.digests.keys().map(|name| fs::metadata(base.join(name)).unwrap().len()).sum();
    Ends { dir, store, offer: Offer { bases: vec![base], ..Offer::default() }, bytes }
}

/// A stream that breaks after so many bytes.
struct Cut<T>(T, u64);

impl<T: Write> Write for Cut<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = bytes.len().min(self.1 as usize);
        if most == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = self.0.write(&bytes[..most])?;
        self.1 -= n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

type Received = Result<crate::store::Flashed, StoreError>;

impl Ends {
    fn change(&self) -> Changing {
        self.store.change(|| false).unwrap()
    }

    /// A flash over two pipes, of which the one to the store breaks after so many bytes.
    fn flash(&self, cut: u64) -> (Result<Outcome, StoreError>, Received) {
        self.with_store(|from, to| {
            send(&self.offer, "board", &mut BufReader::new(from), &mut Cut(to, cut), &mut |_, _, _| (), &mut |_| ())
        })
    }

    /// Whatever says something to the store.
    fn with_store<T: Send>(&self, other: impl FnOnce(PipeReader, PipeWriter) -> T + Send) -> (T, Received) {
        let ((from, mut to), (other_from, other_to)) = {
            let ((a, b), (c, d)) = (pipe().unwrap(), pipe().unwrap());
            ((a, d), (c, b))
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| other(other_from, other_to));
            let start = |_: &_, _: &Path| unreachable!("no pack, no engine");
            let received = receive(&self.change(), None, &start, &mut BufReader::new(from), &mut to);
            drop(to);
            (other.join().unwrap(), received)
        })
    }

    /// What the store answers to a hello that is not waited for and these bytes, and what it thinks of them.
    fn told(&self, bytes: &[u8]) -> (ErrorKind, String) {
        let bytes = bytes.to_owned();
        let (heard, received) = self.with_store(move |mut from, mut to| {
            // It may hang up before all is written.
            let _ = to.write_all(&bytes);
            drop(to);
            let mut heard = String::new();
            from.read_to_string(&mut heard).unwrap();
            heard
        });
        let error = received.unwrap_err();
        let last: Value = serde_json::from_str(heard.lines().last().unwrap()).unwrap();
        assert_eq!(last["failed"]["message"], error.to_string().as_str(), "{heard}");
        (error.kind(), error.to_string())
    }

    /// A line that offers this.
    fn offer(&self, bases: Value, packs: Value) -> Vec<u8> {
        let offer = json!({
            "offer": 1, "bases": bases, "packs": packs, "allow_downgrade": false, "allow_worse": false,
        });
        format!("{offer}\n").into_bytes()
    }
}

#[test]
fn a_base_arrives_once() {
    let ends = ends();
    let (sent, received) = ends.flash(u64::MAX);
    let sent = sent.unwrap();
    assert_eq!((sent.generation, sent.is_new, sent.sent), (1, true, ends.bytes));
    let generation = received.unwrap().generation;
    assert_eq!(ends.store.current().unwrap(), generation);
    assert_eq!(ends.store.verify(None).unwrap().findings, []);
    let sent = ends.flash(u64::MAX).0.unwrap();
    assert_eq!((sent.generation, sent.is_new, sent.sent), (1, false, 0));
}

#[test]
fn a_link_that_is_cut_goes_on_where_it_was() {
    // Each file, and what stands before it, is cut somewhere.
    let all = { ends().bytes };
    for cut in (0..all + 3000).step_by(all as usize / 40) {
        let ends = ends();
        let (sent, received) = ends.flash(cut);
        let there: u64 = ends.store.arriving().unwrap().into_iter().map(|(_, bytes)| bytes).sum();
        if let Ok(sent) = sent {
            assert!(received.is_ok() && sent.sent == all, "{cut}");
            continue;
        }
        assert!(matches!(received, Err(StoreError::Transfer { .. })), "{cut}: {received:?}");
        assert_eq!(ends.store.current().unwrap().number, 0);
        let sent = ends.flash(u64::MAX).0.unwrap();
        assert_eq!(sent.sent, all - there, "{cut}: the rest only");
        assert_eq!(ends.store.verify(None).unwrap().findings, []);
        assert_eq!(ends.store.arriving().unwrap(), []);
    }
}

#[test]
fn a_beginning_that_was_damaged_is_sent_again_at_once() {
    let ends = ends();
    drop(ends.flash(ends.bytes / 2));
    let arriving = ends.store.arriving().unwrap();
    let (name, have) = arriving.iter().max_by_key(|(_, bytes)| *bytes).unwrap();
    assert!(*have > 1000, "{arriving:?}");
    let path = ends.store.dir().join("incoming").join(name);
    fs::write(&path, vec![0; *have as usize]).unwrap();
    let sent = ends.flash(u64::MAX).0.unwrap();
    assert!(sent.is_new && sent.sent > ends.bytes / 2, "{sent:?}");
    assert_eq!(ends.store.verify(None).unwrap().findings, []);
}

#[test]
fn two_bases_may_share_files() {
    let mut ends = ends();
    let second = ends.dir.path().join("second");
    fs::create_dir(&second).unwrap();
    let mut manifest = bundle(&second);
    // The same files, but another encoder; what its identity is, the error tells.
    if let Family::Bert(sizes) = &mut manifest.architecture.family {
        sizes.heads = 4;
    }
    write_manifest(&second, &manifest);
    let Err(BaseError::Digest { found, .. }) = Base::open(&second).unwrap().verify() else { panic!("the same") };
    manifest.base_id = found;
    write_manifest(&second, &manifest);
    ends.offer.bases.push(second);
    let sent = ends.flash(u64::MAX).0.unwrap();
    assert_eq!(sent.sent, 2 * ends.bytes);
    assert_eq!(ends.store.current().unwrap().bases.len(), 2);
    assert_eq!(ends.store.verify(None).unwrap().findings, []);
}

/// Whatever it says, it is refused, says so to its sender, and the store stays as it was.
#[test]
fn a_hostile_sender_gets_nothing() {
    let ends = ends();
    let manifest = fs::read(ends.offer.bases[0].join("base.json")).unwrap();
    let parsed: Value = serde_json::from_slice(&manifest).unwrap();
    let sha = "ab".repeat(32);
    let file = |sha: &str, bytes: u64| json!({"sha256": sha, "bytes": bytes});
    let pack =
        |name: &str, sha: &str, bytes: u64| json!([{"name": name, "sha256": sha, "bytes": bytes, "signature": null}]);
    let base = |bytes: u64, files: Value| json!([{"manifest_bytes": bytes, "files": files}]);
    let files = |bytes: u64| {
        let digests = parsed["digests"].as_object().unwrap().values();
        Value::from_iter(digests.map(|sha| file(sha.as_str().unwrap(), bytes)))
    };
    let elsewhere = ends.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let mut tricky = parsed.clone();
    tricky["base_id"] = format!("x/../../../../..{}", elsewhere.display()).into();
    let tricky = tricky.to_string().into_bytes();
    let size = manifest.len() as u64;
    let cases: Vec<(Vec<u8>, ErrorKind, &str)> = vec![
        (b"".to_vec(), ErrorKind::InputData, "it hung up"),
        (b"{\"offer\": 1".to_vec(), ErrorKind::InputData, "it hung up"),
        (b"hello\n".to_vec(), ErrorKind::InputData, "not understood"),
        (b"{}\n".to_vec(), ErrorKind::InputData, "not understood"),
        (vec![b' '; (4 << 20) + 10], ErrorKind::InputData, "line without end"),
        ([vec![b'['; 4 << 18], vec![b'\n']].concat(), ErrorKind::InputData, "MiB of memory"),
        (ends.offer(json!([]), pack("p", "../../current", 3)), ErrorKind::InputData, "64 lower-case hex digits"),
        (ends.offer(json!([]), pack("p", &sha, 2 << 30)), ErrorKind::InputData, "its packs 2147483648"),
        (
            ends.offer(json!([]), Value::from_iter(vec![pack("p", &sha, u64::MAX)[0].clone(); 2])),
            ErrorKind::InputData,
            "its packs 18446744073709551615",
        ),
        (
            ends.offer(json!([]), Value::from_iter(vec![pack("p", &sha, 1)[0].clone(); 5000])),
            ErrorKind::InputData,
            "more than 4096 files",
        ),
        (
            ends.offer(base(u64::MAX, json!([])), json!([])),
            ErrorKind::InputData,
            "its manifests have 18446744073709551615",
        ),
        (ends.offer(base(1000, json!([])), json!([])), ErrorKind::InputData, "it hung up"),
        ([ends.offer(base(2, json!([])), json!([])), b"{}".to_vec()].concat(), ErrorKind::CorruptFile, "base.json"),
        (
            [ends.offer(base(tricky.len() as u64, files(9)), json!([])), tricky].concat(),
            ErrorKind::CorruptFile,
            "`base_id`",
        ),
        (
            [ends.offer(base(size, json!([file(&sha, 3)])), json!([])), manifest.clone()].concat(),
            ErrorKind::InputData,
            "not those of the manifest",
        ),
        (
            [ends.offer(base(size, files(u64::MAX)), json!([])), manifest.clone()].concat(),
            ErrorKind::DeviceOrStore,
            "make room",
        ),
        (
            [ends.offer(base(size, files(1)), json!([])), manifest.clone(), b"xyz".to_vec()].concat(),
            ErrorKind::InputData,
            "its sha256 is",
        ),
        (
            [ends.offer(json!([]), pack("p", &sha, 3)), b"xyz and what nobody asked for".repeat(1000)].concat(),
            ErrorKind::InputData,
            "its sha256 is",
        ),
        (
            [ends.offer(json!([]), pack("p", &hex(&Sha256::digest(b"xyz")), 3)), b"xyz".to_vec()].concat(),
            ErrorKind::CorruptFile,
            "p: ",
        ),
        (ends.offer(json!([]), pack("p", &sha, 1 << 29)), ErrorKind::InputData, "it ended after 0 of 536870912"),
    ];
    for (bytes, kind, said) in cases {
        let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        let found = ends.told(&bytes);
        assert!(found.0 == kind && found.1.contains(said), "{begin}: {found:?}");
        assert_eq!(ends.store.current().unwrap().number, 0);
        assert!(!ends.store.dir().join("packs").exists(), "{begin}");
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    // Other offers do not pile up.
    drop(ends.flash(ends.bytes / 2));
    assert_ne!(ends.store.arriving().unwrap(), []);
    ends.told(&[ends.offer(json!([]), pack("p", &sha, 3)), b"x".to_vec()].concat());
    assert_eq!(ends.store.arriving().unwrap(), [(sha, 1)]);
    assert!(ends.flash(u64::MAX).0.unwrap().is_new);
    assert_eq!(ends.store.arriving().unwrap(), []);
}

/// A store that says these lines; what the sender thinks of it, how many bytes it sent, and how many steps it told.
fn to_hostile(offer: &Offer, lines: &[u8]) -> (StoreError, u64, usize) {
    let (sent, steps) = (Cell::new(0), Cell::new(0));
    let mut count = |bytes: u64| sent.set(sent.get() + bytes);
    let mut report = |_: &str, _: f64, _: u64| steps.set(steps.get() + 1);
    let found = send(offer, "board", &mut &*lines, &mut io::sink(), &mut report, &mut count);
    (found.unwrap_err(), sent.get(), steps.get())
}

#[test]
fn a_hostile_store_gets_no_more_than_was_offered() {
    let given = Given { name: "p".into(), bytes: vec![7; 1000], signature: None };
    let offer = Offer { packs: vec![given], ..Offer::default() };
    let sha = hex(&Sha256::digest(vec![7; 1000]));
    let hello = "{\"hello\":1,\"bases\":[],\"packs\":[]}\n".to_owned();
    let wants = |sha: &str, from: u64| json!({"wants": [{"sha256": sha, "from": from}]}).to_string() + "\n";
    let step = "{\"step\":{\"name\":\"x\",\"ms\":1.0,\"bytes\":0}}\n";
    let failed = "{\"failed\":{\"message\":\"no room\",\"kind\":\"device_or_store\"}}\n";
    let cases = [
        ("".to_owned(), ErrorKind::InputData, "it hung up", 0),
        ("Welcome to Ubuntu\n".to_owned(), ErrorKind::InputData, "not understood", 0),
        (hello.replace('1', "2"), ErrorKind::InputData, "version 2, this program speaks 1", 0),
        (hello.clone(), ErrorKind::InputData, "it hung up", 0),
        (hello.clone() + &wants("../../../etc/passwd", 0), ErrorKind::InputData, "not offered", 0),
        (hello.clone() + &wants(&sha, 0).repeat(50), ErrorKind::InputData, "or again", 2000),
        (hello.clone() + &wants(&sha, 999) + &wants(&sha, u64::MAX), ErrorKind::InputData, "it hung up", 1),
        (hello.clone() + &step.repeat(20_000), ErrorKind::InputData, "steps without end", 0),
        (hello.clone() + &" ".repeat(5 << 20), ErrorKind::InputData, "line without end", 0),
        (failed.to_owned(), ErrorKind::DeviceOrStore, "board: no room", 0),
        (hello.clone() + failed, ErrorKind::DeviceOrStore, "board: no room", 0),
        (hello + &failed.replace("device_or_store", "something new"), ErrorKind::Other, "no room", 0),
    ];
    for (lines, kind, said, bytes) in cases {
        let (error, sent, steps) = to_hostile(&offer, lines.as_bytes());
        assert!(error.kind() == kind && error.to_string().contains(said), "{error}");
        assert_eq!(sent, bytes, "{error}");
        assert!(steps <= 10_000);
    }
}
