//! What each device of a fleet was flashed with last: a flash that was stopped goes on with those that lack it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use overmask::fs::{hex, read_at_most, write_atomically};
use overmask::store::Given;
use overmask_cli::{CodedError, ExitCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::devices::Device;

/// The version of the file.
const VERSION: u32 = 1;

/// The largest file, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// What is flashed: the sorted digests of packs' files, of their signatures, and of bases' manifests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Content {
    packs: Vec<String>,
    signatures: Vec<String>,
    bases: Vec<String>,
}

impl Content {
    /// Of packs and of manifests of bases.
    pub(super) fn new(packs: &[Given], manifests: &[Vec<u8>]) -> Self {
        let digest = |bytes: &[u8]| hex(&Sha256::digest(bytes));
        let sorted = |mut all: Vec<String>| {
            all.sort_unstable();
            all
        };
        let signatures = packs.iter().filter_map(|pack| pack.signature.as_ref());
        Content {
            packs: sorted(packs.iter().map(|pack| digest(&pack.bytes)).collect()),
            signatures: sorted(signatures.map(|signature| digest(signature.as_bytes())).collect()),
            bases: sorted(manifests.iter().map(|manifest| digest(manifest)).collect()),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    devices: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    host: String,
    store: Option<String>,
    /// The generation that became active.
    generation: u64,
    #[serde(flatten)]
    content: Content,
}

/// The file, as it is and as it becomes.
pub(super) struct State {
    path: PathBuf,
    document: Document,
}

impl State {
    /// Reads it; one that is not there is empty.
    pub(super) fn read(path: &Path) -> Result<Self, CodedError> {
        let wrong = |reason: String| {
            let message = format!("{}: {reason}; remove it to flash all devices again", path.display());
            CodedError { message, code: ExitCode::CorruptFile }
        };
        let document = match read_at_most(path, MAX_FILE) {
            Ok(Some(bytes)) => serde_json::from_slice(&bytes)
                .map_err(|error| wrong(format!("is not the state of a fleet that this program wrote: {error}")))?,
            Ok(None) => return Err(wrong(format!("has more than {MAX_FILE} bytes"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Document { version: VERSION, devices: BTreeMap::new() }
            }
            Err(error) => return Err(CodedError::input(format!("cannot read {}: {error}", path.display()))),
        };
        if document.version != VERSION {
            return Err(wrong(format!("is of version {}, this program knows {VERSION}", document.version)));
        }
        Ok(State { path: path.to_owned(), document })
    }

    /// The generation of a device that was flashed with this last.
    pub(super) fn generation(&self, device: &Device, content: &Content) -> Option<u64> {
        let is_same =
            |entry: &&Entry| entry.host == device.host && entry.store == device.store && entry.content == *content;
        self.document.devices.get(&device.name).filter(is_same).map(|entry| entry.generation)
    }

    /// A device is flashed: until that has ended, and if it fails, what it has is not known.
    pub(super) fn forget(&mut self, device: &Device) -> Result<(), CodedError> {
        match self.document.devices.remove(&device.name) {
            Some(_) => self.write(),
            None => Ok(()),
        }
    }

    /// Keeps that a device was flashed, and writes the file.
    pub(super) fn keep(&mut self, device: &Device, content: &Content, generation: u64) -> Result<(), CodedError> {
        let Device { name, host, store, .. } = device.clone();
        let entry = Entry { host, store, generation, content: content.clone() };
        self.document.devices.insert(name, entry);
        self.write()
    }

    /// Writes the file; that it can be written is known before the first device is flashed.
    pub(super) fn write(&self) -> Result<(), CodedError> {
        let write = || {
            let mut text = serde_json::to_vec_pretty(&self.document)?;
            text.push(b'\n');
            write_atomically(&self.path, |file| file.write_all(&text))
        };
        write().map_err(|error: std::io::Error| CodedError {
            message: format!("cannot write {}, which keeps what was flashed: {error}", self.path.display()),
            code: ExitCode::DeviceOrStore,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, host: &str) -> Device {
        let (program, ssh) = ("overmask".to_owned(), vec!["ssh".to_owned()]);
        Device { name: name.into(), host: host.into(), store: None, program, ssh, group: None }
    }

    fn content(packs: &[&[u8]], signature: Option<&str>) -> Content {
        let given = |bytes: &&[u8]| Given {
            name: String::new(),
            bytes: bytes.to_vec(),
            signature: signature.map(str::to_owned),
        };
        Content::new(&packs.iter().map(given).collect::<Vec<_>>(), &[b"manifest".to_vec()])
    }

    #[test]
    fn what_was_flashed_last_is_known_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.state.json");
        let (a, moved) = (device("a", "board1.example"), device("a", "board2.example"));
        let (one, two) = (content(&[b"1", b"2"], None), content(&[b"1"], None));
        assert_eq!(one, content(&[b"2", b"1"], None), "the order is of no matter");
        let mut state = State::read(&path).unwrap();
        assert_eq!(state.generation(&a, &one), None);
        state.keep(&a, &one, 3).unwrap();
        let mut state = State::read(&path).unwrap();
        assert_eq!(state.generation(&a, &one), Some(3));
        assert_eq!(state.generation(&a, &two), None);
        assert_eq!(state.generation(&a, &content(&[b"1", b"2"], Some("s"))), None);
        assert_eq!(state.generation(&moved, &one), None);
        assert_eq!(state.generation(&device("b", "board1.example"), &one), None);
        state.keep(&a, &two, 4).unwrap();
        assert_eq!(state.generation(&a, &one), None);
        state.forget(&a).unwrap();
        assert_eq!(State::read(&path).unwrap().generation(&a, &two), None);
        for wrong in ["", "{}", "[]", r#"{"version": 2, "devices": {}}"#, r#"{"version": 1, "devices": {"a": {}}}"#] {
            std::fs::write(&path, wrong).unwrap();
            let error = State::read(&path).err().unwrap();
            assert!(error.code == ExitCode::CorruptFile && error.message.contains("remove it"), "{error}");
        }
    }
}
