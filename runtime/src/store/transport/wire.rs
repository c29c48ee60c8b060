//! What a sender and a store say to each other over any pair of streams: lines of JSON, and files as they are.
//!
//! ```text
//! store    {"hello": 1, "bases": [...], "packs": [...], "arriving": [...]}      what it has
//! sender   {"offer": 1, "bases": [...], "packs": [...], ...}, then the manifests of the bases
//! store    {"wants": [{"sha256": ..., "from": 0}, ...]}                          what it lacks, and from where
//! sender   these files from there on, one after the other
//! store    {"step": "golden", "ms": 61.0, "bytes": 0} ..., at last {"done": {...}} or {"failed": {...}}
//! ```
//!
//! Either side may be of another version, or hostile: a line has a limit, a file has the length that was announced and
//! for which there is room, and nothing has a name but by its digest. A file that breaks off goes on where it stopped.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::{Changing, Flash, Flashed, Given, PACKS, StartEngine, Step, StoreError};
use crate::base::{Base, BaseManifest, file};
use crate::error::ErrorKind;
use crate::fs::{JsonBudget, hex};
use crate::pack::read_file;
use crate::trust::Keyring;

/// The version of what is said.
const VERSION: u32 = 1;

/// The longest line, and the most files of an offer.
const MAX_LINE: u64 = 4 << 20;
const MAX_FILES: usize = 4096;

/// What reading a line may take in memory.
const MAX_JSON: u64 = 64 << 20;

/// The largest manifest of a base, and the largest pack.
const MAX_MANIFEST: u64 = 8 << 20;
const MAX_PACK: u64 = 1 << 30;

/// What is to be flashed somewhere else.
#[derive(Debug, Default)]
pub struct Offer {
    /// Bases, by directory.
    pub bases: Vec<PathBuf>,
    /// Packs and sets of packs.
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
    Failed { message: String, kind: String },
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
    let hello: Hello = said(from, peer)?;
    if hello.hello != VERSION {
        return Err(failed(format!(
            "it speaks version {}, this program speaks {VERSION}; update the older",
            hello.hello
        )));
    }
    let (mut bases, mut manifests, mut sources) = (Vec::new(), Vec::new(), Vec::new());
    for dir in &offer.bases {
        let base = Base::open(dir)?;
        let manifest = base.read_manifest()?;
        let mut files = Vec::new();
        for (name, sha256) in &base.manifest().digests {
            let path = dir.join(name);
            let bytes = std::fs::metadata(&path).map_err(StoreError::io("read", &path))?.len();
            files.push(OfferedFile { sha256: sha256.clone(), bytes });
            sources.push((sha256.clone(), Source::File(path)));
        }
        bases.push(OfferedBase { manifest_bytes: manifest.len() as u64, files });
        manifests.push(manifest);
    }
    let pack = |given: &Given| OfferedPack {
        name: given.name.clone(),
        file: OfferedFile { sha256: hex(&Sha256::digest(&given.bytes)), bytes: given.bytes.len() as u64 },
        signature: given.signature.clone(),
    };
    let packs: Vec<OfferedPack> = offer.packs.iter().map(pack).collect();
    let bytes = packs.iter().zip(&offer.packs);
    sources.extend(bytes.map(|(pack, given)| (pack.file.sha256.clone(), Source::Bytes(&given.bytes))));
    let Offer { allow_downgrade, allow_worse, .. } = *offer;
    say(to, &Offered { offer: VERSION, bases, packs, allow_downgrade, allow_worse }).map_err(broken)?;
    manifests.iter().try_for_each(|manifest| to.write_all(manifest)).and_then(|()| to.flush()).map_err(broken)?;

    let mut total = 0;
    loop {
        match said(from, peer)? {
            Said::Wants(wants) => {
                for want in wants {
                    let source = sources.iter().find(|(sha256, _)| *sha256 == want.sha256);
                    let (_, source) = source.ok_or_else(|| failed("it asks for what was not offered".to_owned()))?;
                    total += source.send(want.from, to, sent, &broken)?;
                }
                to.flush().map_err(broken)?;
            }
            Said::Step(SaidStep { name, ms, bytes }) => report(&name, ms, bytes),
            Said::Done(outcome) => return Ok(Outcome { sent: total, ..outcome }),
            Said::Failed { message, kind } => {
                return Err(StoreError::Remote { peer: peer.to_owned(), message, kind: ErrorKind::from_name(&kind) });
            }
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
/// As [`Changing::flash`]; when the streams end. What has arrived stays, to be gone on with.
pub fn receive(
    store: &Changing,
    keyring: Option<&Keyring>,
    start: &StartEngine<'_>,
    from: &mut impl BufRead,
    to: &mut impl Write,
) -> Result<Flashed, StoreError> {
    let taken = take(store, keyring, start, from, to);
    let last = match &taken {
        Ok(flashed) => {
            let Flashed { generation, is_new } = flashed;
            Said::Done(Outcome { generation: generation.number, is_new: *is_new, sent: 0 })
        }
        Err(error) => Said::Failed { message: error.to_string(), kind: error.kind().name().to_owned() },
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
    const SENDER: &str = "the sender";
    let failed = |reason: String| StoreError::Transfer { what: SENDER.to_owned(), reason };
    let broken = |error: io::Error| failed(format!("the connection broke: {error}"));
    let active = store.current()?;
    let bases = active.bases.iter().map(|base| base.base_id.clone()).collect();
    let packs = active.tasks.iter().map(|task| task.sha256.clone()).collect();
    say(to, &Hello { hello: VERSION, bases, packs }).map_err(broken)?;
    let offered: Offered = said(from, SENDER)?;
    if offered.offer != VERSION {
        return Err(failed(format!("it speaks version {}, this program speaks {VERSION}", offered.offer)));
    }
    if offered.bases.iter().map(|base| base.files.len()).sum::<usize>() + offered.packs.len() > MAX_FILES {
        return Err(failed(format!("it offers more than {MAX_FILES} files")));
    }
    // The bases that are not here, and the files that they and the packs lack.
    let (mut new_bases, mut entries, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for base in offered.bases {
        if base.manifest_bytes > MAX_MANIFEST {
            return Err(failed(format!("its base has a manifest of {} bytes", base.manifest_bytes)));
        }
        let mut manifest = Vec::new();
        from.take(base.manifest_bytes).read_to_end(&mut manifest).map_err(broken)?;
        let parsed = BaseManifest::parse(std::path::Path::new(file::MANIFEST), &manifest)?;
        match store.has_base(&manifest)? {
            Some(entry) => entries.push(entry),
            None => {
                let named: BTreeSet<&str> = parsed.digests.values().map(String::as_str).collect();
                let given: BTreeSet<&str> = base.files.iter().map(|file| file.sha256.as_str()).collect();
                if named != given {
                    return Err(failed("the files of its base are not those of the manifest".to_owned()));
                }
                files.extend(base.files);
                new_bases.push(manifest);
            }
        }
    }
    let mut given = Vec::new();
    for OfferedPack { name, file, signature } in offered.packs {
        if file.bytes > MAX_PACK {
            return Err(failed(format!("{name} has {} bytes, more than any pack", file.bytes)));
        }
        let here = store.dir().join(PACKS).join(format!("{}.pack", file.sha256));
        let is_here = crate::fs::file_digest(&here).is_ok_and(|found| found == file.sha256);
        if !is_here && !files.iter().any(|other: &OfferedFile| other.sha256 == file.sha256) {
            files.push(file.clone());
        }
        given.push((name, file.sha256, signature, is_here.then_some(here)));
    }
    let mut parts = Vec::new();
    for OfferedFile { sha256, bytes } in &files {
        parts.push(store.arrive(sha256, *bytes)?);
    }
    let lacking: u64 = files.iter().zip(&parts).map(|(file, part)| file.bytes - part.have()).sum();
    store.check_space(lacking)?;
    let want =
        |(file, part): (&OfferedFile, &super::super::Part)| Want { sha256: file.sha256.clone(), from: part.have() };
    let wants = files.iter().zip(&parts).map(want).collect();
    say(to, &Said::Wants(wants)).map_err(broken)?;
    let begin = std::time::Instant::now();
    let mut arrived = Vec::new();
    for (file, mut part) in files.iter().zip(parts) {
        part.take(from, SENDER)?;
        arrived.push((file.sha256.clone(), part.finish(SENDER)?));
    }
    let mut report = |step: &Step| {
        let said = SaidStep { name: step.step.to_owned(), ms: step.ms, bytes: step.bytes };
        // That nobody listens is no reason to stop half way.
        let _ = say(to, &Said::Step(said));
    };
    report(&Step { step: "receive", ms: begin.elapsed().as_secs_f64() * 1e3, bytes: lacking });
    let mut packs = Vec::new();
    for (name, sha256, signature, here) in given {
        let path = here.or_else(|| arrived.iter().find(|(named, _)| *named == sha256).map(|(_, path)| path.clone()));
        let bytes = read_file(&path.ok_or_else(|| failed(format!("{name} did not arrive")))?)?;
        packs.push(Given { name: crate::text::printable(&name), bytes, signature });
    }
    for manifest in &new_bases {
        entries.push(store.settle_base(manifest)?);
    }
    let Offered { allow_downgrade, allow_worse, .. } = offered;
    store.flash(Flash { bases: entries, packs, keyring, allow_downgrade, allow_worse, start, report: &mut report })
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
