//! What a sender and a store say to each other over any pair of streams: lines of JSON, and files as they are.
//!
//! ```text
//! store    {"hello": 1, "bases": [...], "packs": [...]}                          what is active
//! sender   {"offer": 1, "bases": [...], "packs": [...], ...}, then the manifests of the bases
//! store    {"wants": [{"sha256": ..., "from": 0}, ...]}                          what it lacks, and from where
//! sender   these files from there on, one after the other
//! store    {"wants": [...]} once more, for files whose beginnings were not what they should have been
//! store    {"step": "golden", "ms": 61.0, "bytes": 0} ..., at last {"done": {...}} or {"failed": {...}}
//! ```
//!
//! Either side may be of another version, or hostile: a line has a limit, a file has the length that was announced and
//! for which there is room, and nothing has a name but by its digest. A file that breaks off goes on where it stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::{Changing, Flash, Flashed, Given, PACKS, Part, StartEngine, Step, StoreError};
use crate::base::{Base, BaseManifest, file};
use crate::error::ErrorKind;
use crate::fs::{JsonBudget, file_digest, hex, is_sha256};
use crate::pack::{Patch, read_file};
use crate::trust::Keyring;

/// The version of what is said.
const VERSION: u32 = 1;

/// The longest line, and the most files of an offer.
const MAX_LINE: u64 = 4 << 20;
const MAX_FILES: usize = 4096;

/// What reading a line may take in memory.
const MAX_JSON: u64 = 64 << 20;

/// What the manifests of all bases of an offer may have together, and all packs: they are read into memory.
const MAX_MANIFESTS: u64 = 8 << 20;
const MAX_PACKS: u64 = crate::pack::MAX_BYTES;

/// The most steps that a store may tell, and how often it may ask for a file each time that it was offered.
const MAX_STEPS: usize = 10_000;
const MAX_ASKED: usize = 2;

/// What is to be flashed somewhere else.
#[derive(Debug, Default)]
pub struct Offer {
    /// Bases, by directory.
    pub bases: Vec<PathBuf>,
    /// Packs, sets of packs, and patches for stores that have the pack that these start from.
    pub packs: Vec<Given>,
    /// Takes packs that are older than the active ones.
    pub allow_downgrade: bool,
    /// Takes packs that promise less than the active ones.
    pub allow_worse: bool,
}

/// What a flash somewhere else did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The number of the active generation.
    pub generation: u64,
    /// Whether it is a new one.
    pub is_new: bool,
    /// Bytes of files that were sent.
    #[serde(default)]
    pub sent: u64,
}

#[derive(Serialize, Deserialize)]
struct Hello {
    hello: u32,
    /// Identities of the bases that are active.
    bases: Vec<String>,
    /// Digests of the packs that are active.
    packs: Vec<String>,
}

/// What a store says first: one that is damaged has no more to say.
#[derive(Deserialize)]
#[serde(untagged)]
enum First {
    Hello(Hello),
    Failed { failed: Failed },
}

#[derive(Serialize, Deserialize)]
struct Offered {
    offer: u32,
    bases: Vec<OfferedBase>,
    packs: Vec<OfferedPack>,
    allow_downgrade: bool,
    allow_worse: bool,
}

#[derive(Serialize, Deserialize)]
struct OfferedBase {
    manifest_bytes: u64,
    files: Vec<OfferedFile>,
}

#[derive(Clone, Serialize, Deserialize)]
struct OfferedFile {
    sha256: String,
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct OfferedPack {
    name: String,
    #[serde(flatten)]
    file: OfferedFile,
    signature: Option<String>,
    /// What may come in its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    patches: Vec<OfferedPatch>,
}

#[derive(Serialize, Deserialize)]
struct OfferedPatch {
    /// The pack that it starts from.
    of: String,
    #[serde(flatten)]
    file: OfferedFile,
}

#[derive(Serialize, Deserialize)]
struct Want {
    sha256: String,
    from: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    Wants(Vec<Want>),
    Step(SaidStep),
    Done(Outcome),
    Failed(Failed),
}

#[derive(Serialize, Deserialize)]
struct Failed {
    message: String,
    kind: String,
}

impl Failed {
    /// The error that it is for whom it is said to.
    fn of(self, peer: &str) -> StoreError {
        let Failed { message, kind } = self;
        StoreError::Remote { peer: peer.to_owned(), message, kind: ErrorKind::from_name(&kind) }
    }
}

#[derive(Serialize, Deserialize)]
struct SaidStep {
    name: String,
    ms: f64,
    bytes: u64,
}

/// A step of a flash somewhere else: its name, milliseconds, bytes.
pub type Report<'a> = &'a mut dyn FnMut(&str, f64, u64);

/// Sends what a store lacks, and waits until it is active there. `sent` is told of every piece of a file.
///
/// # Errors
/// When a file cannot be read, the streams end, or the store refuses; [`StoreError::Remote`] is what it says.
pub fn send(
    offer: &Offer,
    peer: &str,
    from: &mut impl BufRead,
    to: &mut impl Write,
    report: Report<'_>,
    sent: &mut dyn FnMut(u64),
) -> Result<Outcome, StoreError> {
    let failed = |reason: String| StoreError::Transfer { what: peer.to_owned(), reason };
    let broken = |error: io::Error| failed(format!("the connection broke: {error}"));
    let hello = match said(from, peer)? {
        First::Hello(hello) => hello,
        First::Failed { failed } => return Err(failed.of(peer)),
    };
    if hello.hello != VERSION {
        return Err(failed(format!(
            "it speaks version {}, this program speaks {VERSION}; update the older",
            hello.hello
        )));
    }
    // What may be sent, by digest, and how often.
    let (mut bases, mut manifests, mut sources) = (Vec::new(), Vec::new(), BTreeMap::new());
    for dir in &offer.bases {
        let base = Base::open(dir)?;
        let manifest = base.read_manifest()?;
        let mut files = Vec::new();
        for (name, sha256) in &base.manifest().digests {
            let path = dir.join(name);
            let bytes = std::fs::metadata(&path).map_err(StoreError::io("read", &path))?.len();
            files.push(OfferedFile { sha256: sha256.clone(), bytes });
            sources.entry(sha256.clone()).or_insert((Source::File(path), 0)).1 += MAX_ASKED;
        }
        bases.push(OfferedBase { manifest_bytes: manifest.len() as u64, files });
        manifests.push(manifest);
    }
    let file = |bytes: &[u8]| OfferedFile { sha256: hex(&Sha256::digest(bytes)), bytes: bytes.len() as u64 };
    for given in &offer.packs {
        sources.entry(file(&given.bytes).sha256).or_insert((Source::Bytes(&given.bytes), 0)).1 += MAX_ASKED;
    }
    // A patch of a pack that is offered, too, may come in its place, if it is smaller.
    let (mut patches, mut whole) = (Vec::new(), Vec::new());
    for given in &offer.packs {
        match given.patch()? {
            Some(patch) => patches.push((patch, given)),
            None => whole.push(given),
        }
    }
    let digests: BTreeSet<String> = whole.iter().map(|given| file(&given.bytes).sha256).collect();
    let pack = |given: &Given| {
        let of_pack = file(&given.bytes);
        let is_smaller = |(patch, bytes): &&(Patch, &Given)| {
            patch.to() == of_pack.sha256 && (bytes.bytes.len() as u64) < of_pack.bytes
        };
        let offered =
            |(patch, given): &(Patch, &Given)| OfferedPatch { of: patch.from().to_owned(), file: file(&given.bytes) };
        let patches = patches.iter().filter(is_smaller).map(offered).collect();
        OfferedPack { name: given.name.clone(), file: of_pack, signature: given.signature.clone(), patches }
    };
    let alone = patches.iter().filter(|(patch, _)| !digests.contains(patch.to())).map(|(_, given)| *given);
    let packs: Vec<OfferedPack> = whole.iter().copied().chain(alone).map(pack).collect();
    let Offer { allow_downgrade, allow_worse, .. } = *offer;
    say(to, &Offered { offer: VERSION, bases, packs, allow_downgrade, allow_worse }).map_err(broken)?;
    manifests.iter().try_for_each(|manifest| to.write_all(manifest)).and_then(|()| to.flush()).map_err(broken)?;

    let (mut total, mut steps) = (0, 0);
    loop {
        match said(from, peer)? {
            Said::Wants(wants) => {
                for want in wants {
                    let source = sources.get_mut(&want.sha256).filter(|(_, left)| *left > 0);
                    let source = source.ok_or_else(|| failed("it asks for what was not offered, or again".to_owned()));
                    let (source, left) = source?;
                    *left -= 1;
                    total += source.send(want.from, to, sent, &broken)?;
                }
                to.flush().map_err(broken)?;
            }
            Said::Step(_) if steps == MAX_STEPS => return Err(failed("it tells steps without end".to_owned())),
            Said::Step(SaidStep { name, ms, bytes }) => {
                steps += 1;
                report(&name, ms, bytes);
            }
            Said::Done(outcome) => return Ok(Outcome { sent: total, ..outcome }),
            Said::Failed(failed) => return Err(failed.of(peer)),
        }
    }
}

/// Where a file's bytes are.
enum Source<'a> {
    File(PathBuf),
    Bytes(&'a [u8]),
}

impl Source<'_> {
    /// Sends it from a place on; returns how many bytes that were.
    fn send(
        &self,
        start: u64,
        to: &mut impl Write,
        sent: &mut dyn FnMut(u64),
        broken: &impl Fn(io::Error) -> StoreError,
    ) -> Result<u64, StoreError> {
        match self {
            Source::Bytes(bytes) => {
                let rest = usize::try_from(start).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
                to.write_all(rest).map_err(broken)?;
                sent(rest.len() as u64);
                Ok(rest.len() as u64)
            }
            Source::File(path) => {
                let mut file = crate::fs::open(path).map_err(StoreError::io("read", path))?;
                file.seek(SeekFrom::Start(start)).map_err(StoreError::io("read", path))?;
                let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
                loop {
                    let n = file.read(&mut buffer).map_err(StoreError::io("read", path))?;
                    if n == 0 {
                        return Ok(total);
                    }
                    to.write_all(&buffer[..n]).map_err(broken)?;
                    total += n as u64;
                    sent(n as u64);
                }
            }
        }
    }
}

/// Takes what a sender offers, and flashes it; what goes wrong is said to the sender, too.
///
/// # Errors
/// As [`Changing::flash`]; when the streams end: then what has arrived stays, to be gone on with.
pub fn receive(
    store: &Changing,
    keyring: Option<&Keyring>,
    start: &StartEngine<'_>,
    from: &mut impl BufRead,
    to: &mut impl Write,
) -> Result<Flashed, StoreError> {
    let taken = take(store, keyring, start, from, to);
    // What a broken connection leaves is gone on with when the sender comes again; of all else nothing stays.
    let is_refused = taken.as_ref().is_err_and(|error| !matches!(error, StoreError::Transfer { .. }));
    if is_refused && let Err(error) = store.collect() {
        log::warn!("{error}");
    }
    let last = match &taken {
        Ok(flashed) => {
            let Flashed { generation, is_new } = flashed;
            Said::Done(Outcome { generation: generation.number, is_new: *is_new, sent: 0 })
        }
        Err(error) => Said::Failed(Failed { message: error.to_string(), kind: error.kind().name().to_owned() }),
    };
    // Whoever hung up learns nothing more; what was done is done.
    if let Err(error) = say(to, &last) {
        log::warn!("the sender does not listen any more: {error}");
    }
    taken
}

fn take(
    store: &Changing,
    keyring: Option<&Keyring>,
    start: &StartEngine<'_>,
    from: &mut impl BufRead,
    to: &mut impl Write,
) -> Result<Flashed, StoreError> {
    let active = store.current()?;
    let bases = active.bases.iter().map(|base| base.base_id.clone()).collect();
    let packs = active.tasks.iter().map(|task| task.sha256.clone()).collect();
    say(to, &Hello { hello: VERSION, bases, packs }).map_err(broken)?;
    let offered: Offered = said(from, SENDER)?;
    if offered.offer != VERSION {
        return Err(failed(format!("it speaks version {}, this program speaks {VERSION}", offered.offer)));
    }
    let Offered { bases: offered_bases, packs: offered_packs, allow_downgrade, allow_worse, .. } = offered;
    let offered_files = offered_bases.iter().map(|base| base.files.len()).sum::<usize>();
    let offered_patches = offered_packs.iter().map(|pack| pack.patches.len()).sum::<usize>();
    if offered_files + offered_packs.len() + offered_patches > MAX_FILES {
        return Err(failed(format!("it offers more than {MAX_FILES} files")));
    }
    let manifest_bytes = offered_bases.iter().fold(0u64, |sum, base| sum.saturating_add(base.manifest_bytes));
    let files = offered_packs.iter().flat_map(|pack| pack.patches.iter().map(|patch| &patch.file).chain([&pack.file]));
    let pack_bytes = files.fold(0u64, |sum, file| sum.saturating_add(file.bytes));
    if manifest_bytes > MAX_MANIFESTS || pack_bytes > MAX_PACKS {
        let most = format!("a flash may have {MAX_MANIFESTS} and {MAX_PACKS}");
        return Err(failed(format!("its manifests have {manifest_bytes} bytes and its packs {pack_bytes}; {most}")));
    }
    // The bases that are not here.
    let (mut entries, mut new_bases) = (Vec::new(), Vec::new());
    for base in offered_bases {
        let mut manifest = Vec::new();
        from.take(base.manifest_bytes).read_to_end(&mut manifest).map_err(broken)?;
        if (manifest.len() as u64) < base.manifest_bytes {
            return Err(failed("it hung up".to_owned()));
        }
        let parsed = BaseManifest::parse(Path::new(file::MANIFEST), &manifest)?;
        match store.has_base(&manifest)? {
            Some(entry) => entries.push(entry),
            None => {
                let named: BTreeSet<&str> = parsed.digests.values().map(String::as_str).collect();
                let given: BTreeSet<&str> = base.files.iter().map(|file| file.sha256.as_str()).collect();
                if named != given {
                    return Err(failed("the files of its base are not those of the manifest".to_owned()));
                }
                new_bases.push((manifest, base.files));
            }
        }
    }
    // The files of packs that are not here, and where those are that are.
    let (mut files, mut given) = (Vec::new(), Vec::new());
    for OfferedPack { name, mut file, signature, patches } in offered_packs {
        let digests = patches.iter().flat_map(|patch| [&patch.of, &patch.file.sha256]).chain([&file.sha256]);
        if digests.into_iter().any(|digest| !is_sha256(digest)) {
            return Err(failed(format!("a digest of {name} is not 64 lower-case hex digits")));
        }
        let place = |sha256: &str| store.dir().join(PACKS).join(format!("{sha256}.pack"));
        let has = |sha256: &str| file_digest(&place(sha256)).is_ok_and(|found| found == sha256);
        let here = place(&file.sha256);
        let is_here = has(&file.sha256);
        if !is_here && let Some(patch) = patches.into_iter().find(|patch| has(&patch.of)) {
            file = patch.file;
        }
        given.push((name, file.sha256.clone(), signature, is_here.then_some(here)));
        if !is_here {
            files.push(file);
        }
    }
    // What other senders have left would never be asked for again, and takes room.
    let asked = new_bases.iter().flat_map(|(_, files)| files).chain(&files);
    let asked: BTreeSet<&str> = asked.map(|file| file.sha256.as_str()).collect();
    store.keep_arriving(|name| asked.contains(name))?;
    let begin = Instant::now();
    let mut bytes = 0;
    for (manifest, files) in &new_bases {
        bytes += fetch(store, files, from, to)?;
        entries.push(store.settle_base(manifest)?);
    }
    bytes += fetch(store, &files, from, to)?;
    let mut report = |step: &Step| {
        let said = SaidStep { name: step.step.to_owned(), ms: step.ms, bytes: step.bytes };
        // That nobody listens is no reason to stop half way.
        let _ = say(to, &Said::Step(said));
    };
    report(&Step { step: "receive", ms: begin.elapsed().as_secs_f64() * 1e3, bytes });
    let mut packs = Vec::new();
    for (name, sha256, signature, here) in given {
        let bytes = read_file(&here.unwrap_or_else(|| store.part_path(&sha256)))?;
        packs.push(Given { name: crate::text::printable(&name), bytes, signature });
    }
    store.flash(Flash { bases: entries, packs, keyring, allow_downgrade, allow_worse, start, report: &mut report })
}

/// Has files sent, each from where it stopped, until all are whole; returns how many bytes came.
fn fetch(
    store: &Changing,
    files: &[OfferedFile],
    from: &mut impl BufRead,
    to: &mut impl Write,
) -> Result<u64, StoreError> {
    let mut files: BTreeMap<&str, u64> = files.iter().map(|file| (file.sha256.as_str(), file.bytes)).collect();
    let mut bytes = 0;
    while !files.is_empty() {
        let parts = files.iter().map(|(sha256, len)| store.arrive(sha256, *len)).collect::<Result<Vec<_>, _>>()?;
        let lacking = files.values().zip(&parts).fold(0u64, |sum, (len, part)| sum.saturating_add(len - part.have()));
        store.check_space(lacking)?;
        let want = |(sha256, part): (&&str, &Part)| Want { sha256: (*sha256).to_owned(), from: part.have() };
        let wants = files.keys().zip(&parts).map(want).collect();
        say(to, &Said::Wants(wants)).map_err(broken)?;
        let mut again = BTreeMap::new();
        for ((sha256, len), mut part) in files.into_iter().zip(parts) {
            let (is_resumed, have) = (part.is_resumed(), part.have());
            part.take(from, SENDER)?;
            bytes += len - have;
            match part.finish(SENDER) {
                // Its beginning was damaged, by a power cut for example: it is gone now.
                Err(StoreError::Transfer { .. }) if is_resumed => drop(again.insert(sha256, len)),
                finished => drop(finished?),
            }
        }
        files = again;
    }
    Ok(bytes)
}

/// What a store calls who sends.
const SENDER: &str = "the sender";

fn failed(reason: String) -> StoreError {
    StoreError::Transfer { what: SENDER.to_owned(), reason }
}

fn broken(error: io::Error) -> StoreError {
    failed(format!("the connection broke: {error}"))
}

/// Says a line.
fn say(to: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Hears a line.
fn said<T: DeserializeOwned>(from: &mut impl BufRead, peer: &str) -> Result<T, StoreError> {
    let failed = |reason: String| StoreError::Transfer { what: peer.to_owned(), reason };
    let mut line = Vec::new();
    let read = from.take(MAX_LINE + 1).read_until(b'\n', &mut line);
    read.map_err(|error| failed(format!("the connection broke: {error}")))?;
    if line.last() != Some(&b'\n') {
        let long = line.len() as u64 > MAX_LINE;
        return Err(failed(if long { "it says a line without end" } else { "it hung up" }.to_owned()));
    }
    JsonBudget::new(MAX_JSON).take(&line).map_err(|error| failed(format!("what it says is refused: {error}")))?;
    serde_json::from_slice(&line).map_err(|error| failed(format!("what it says is not understood: {error}")))
}
