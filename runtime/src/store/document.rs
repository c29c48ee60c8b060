//! The store's own documents: its policy, its generations, and the pointer to the active one.
//!
//! Each is sealed: it holds a digest of its own contents, and is what this program would write, byte for byte. So
//! no byte of it can change unseen.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::StoreError;
use crate::base::Precision;
use crate::fs::{JsonBudget, fits, hex, read_at_most, write_shared};
use crate::pack::PackDocument;

/// The version of all of them that this program reads and writes.
pub(super) const FORMAT: u32 = 1;

/// The largest document that is read; a task has some 500 bytes.
const MAX_BYTES: u64 = 16 << 20;

/// What reading one may take in memory.
const MAX_JSON: u64 = 64 << 20;

/// What a store takes, and what it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Whether every pack must be signed by a key of the device's keyring.
    pub require_signature: bool,
    /// How many generations are kept, the active one included: at least two, for a way back.
    pub keep: u32,
    /// Generations that are kept beyond that, in rising order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pinned: Vec<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { require_signature: false, keep: 3, pinned: Vec::new() }
    }
}

/// A set of active tasks, with the bases that there are for them. Once written it never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Counts up from 1 and is never used again.
    pub number: u64,
    /// The generation that was active before it; 0 if none was. The way back leads there.
    pub replaces: u64,
    /// When it was made, in seconds since 1970 by the device's clock.
    pub made: u64,
    /// The bases, by identity.
    pub bases: Vec<BaseEntry>,
    /// The tasks, by name.
    pub tasks: Vec<TaskEntry>,
}

/// A base of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseEntry {
    /// Its identity.
    pub base_id: String,
    /// The form of its weights.
    pub variant: Precision,
    /// SHA-256 of its `base.json`, which has the digests of its other files.
    pub manifest_sha256: String,
    /// Bytes of all its files.
    pub bytes: u64,
}

/// A task of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskEntry {
    /// Its name.
    pub name: String,
    /// Its pack's revision.
    pub revision: u64,
    /// SHA-256 of the file that it came in: a pack, or a set of packs.
    pub sha256: String,
    /// Whether that file is a set, in which the task is the one of its name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_set: bool,
    /// The file's bytes.
    pub bytes: u64,
    /// The base that it needs.
    pub base_id: String,
    /// The file's signature, as minisign writes it, if it came with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// What its pack says that it can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise: Option<Promise>,
}

/// What a pack promises: how good it was on texts that training never saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// The metric's name.
    pub metric: String,
    /// Its value, in decimal digits; the larger the better.
    pub value: String,
    /// The same of the head alone, on the frozen encoder, if that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// Number of texts.
    pub texts: u64,
    /// SHA-256 of the texts and labels.
    pub data_sha256: String,
}

impl Promise {
    /// What a pack's document promises.
    pub fn of(document: &PackDocument) -> Option<Promise> {
        let metrics = &document.metrics;
        let metric = document.kind.metric();
        let value = metrics.get(&format!("eval_{metric}"))?;
        let texts = metrics.get("eval_texts").filter(|texts| **texts >= 1.0 && **texts < 9e15)?;
        let data = document.provenance.get("eval_sha256")?.as_str()?;
        let baseline = metrics.get(&format!("eval_head_{metric}"));
        Some(Promise {
            metric: metric.to_owned(),
            value: value.to_string(),
            baseline: baseline.map(f64::to_string),
            texts: *texts as u64,
            data_sha256: data.to_owned(),
        })
    }

    /// The value as a number.
    pub fn number(&self) -> Option<f64> {
        self.value.parse().ok().filter(|value: &f64| value.is_finite())
    }

    /// Whether it is less than another promises, on the very same texts.
    pub(super) fn is_worse_than(&self, other: &Promise) -> bool {
        let same = self.metric == other.metric && self.data_sha256 == other.data_sha256;
        same && self.number().zip(other.number()).is_some_and(|(this, that)| this < that)
    }
}

impl std::fmt::Display for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.number() {
            Some(value) => write!(f, "{} {value:.4} on {} texts", self.metric, self.texts),
            None => write!(f, "{} {} on {} texts", self.metric, self.value, self.texts),
        }
    }
}

impl Generation {
    /// The one before the first: nothing.
    pub(super) fn empty() -> Self {
        Generation { number: 0, replaces: 0, made: 0, bases: Vec::new(), tasks: Vec::new() }
    }

    /// A task by its name.
    pub fn task(&self, name: &str) -> Option<&TaskEntry> {
        self.tasks.iter().find(|task| task.name == name)
    }

    /// A base by its identity.
    pub fn base(&self, base_id: &str) -> Option<&BaseEntry> {
        self.bases.iter().find(|base| base.base_id == base_id)
    }

    /// Takes a task in, in place of the one of its name.
    pub(super) fn put_task(&mut self, entry: TaskEntry) {
        self.tasks.retain(|task| task.name != entry.name);
        self.tasks.push(entry);
        self.tasks.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Takes a base in, in place of the one of its identity.
    pub(super) fn put_base(&mut self, entry: BaseEntry) {
        self.bases.retain(|base| base.base_id != entry.base_id);
        self.bases.push(entry);
        self.bases.sort_by(|a, b| a.base_id.cmp(&b.base_id));
    }

    /// Whether both have the same tasks and bases.
    pub(super) fn is_same(&self, other: &Generation) -> bool {
        self.tasks == other.tasks && self.bases == other.bases
    }
}

/// Which generation is active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Current {
    /// Its number; 0 where nothing was flashed yet.
    pub(super) number: u64,
    /// The largest number that was ever given to one: it may have been removed since.
    pub(super) last: u64,
    /// SHA-256 of its file.
    pub(super) sha256: String,
}

/// A document with its version and its digest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<T> {
    format: u32,
    content: T,
    /// SHA-256 of `content` as compact JSON.
    sha256: String,
}

/// The bytes of a document.
pub(super) fn encode<T: Serialize>(content: &T) -> Result<Vec<u8>, serde_json::Error> {
    let sha256 = hex(&Sha256::digest(serde_json::to_vec(content)?));
    let mut bytes = serde_json::to_vec_pretty(&Sealed { format: FORMAT, content, sha256 })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads a document; `None` where there is no such file. `cure` says what to do where it is damaged.
///
/// # Errors
/// When it cannot be read, is of another version, or is not as it was written.
pub(super) fn read<T: Serialize + DeserializeOwned>(
    path: &Path,
    cure: &'static str,
) -> Result<Option<(T, Vec<u8>)>, StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason, cure };
    let bytes = match read_at_most(path, MAX_BYTES) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(damaged(format!("it has more than {} MiB", MAX_BYTES >> 20))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    };
    JsonBudget::new(MAX_JSON).take(&bytes).map_err(|error| damaged(error.to_string()))?;
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let Version { format: found } = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if found != FORMAT {
        return Err(StoreError::Version { path: path.to_owned(), found, known: FORMAT });
    }
    let sealed: Sealed<T> = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if encode(&sealed.content).map_err(|error| damaged(error.to_string()))? != bytes {
        return Err(damaged("its digest is not that of its contents".to_owned()));
    }
    Ok(Some((sealed.content, bytes)))
}

/// Writes a document in the place of the old one, through to the disk; returns its bytes' SHA-256.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write<T: Serialize>(path: &Path, content: &T) -> Result<String, StoreError> {
    let bytes = encode(content).map_err(|error| StoreError::io("write", path)(error.into()))?;
    put(path, &bytes)?;
    Ok(hex(&Sha256::digest(&bytes)))
}

/// Writes a small file in the place of the old one, through to the disk.
///
/// # Errors
/// When it cannot be written.
pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let written = fits(bytes.len() as u64).and_then(|()| write_shared(path, bytes));
    written.map_err(StoreError::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_of_a_document_changes_unseen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy");
        let policy = Policy { pinned: vec![3, 7], ..Policy::default() };
        write(&path, &policy).unwrap();
        let (read_back, bytes) = read::<Policy>(&path, "").unwrap().unwrap();
        assert_eq!(read_back, policy);
        for at in 0..bytes.len() {
            for bit in [1, 0x20] {
                let mut changed = bytes.clone();
                changed[at] ^= bit;
                std::fs::write(&path, &changed).unwrap();
                let error = read::<Policy>(&path, "").unwrap_err();
                assert!(matches!(error, StoreError::Damaged { .. } | StoreError::Version { .. }), "{at}: {error}");
            }
        }
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(read::<Policy>(&path, "").is_err(), "{len}");
        }
        assert!(read::<Policy>(&dir.path().join("nothing"), "").unwrap().is_none());
    }

    #[test]
    fn promises_compare_on_the_same_texts_only() {
        let promise = |value: &str, data: &str| Promise {
            metric: "accuracy".into(),
            value: value.into(),
            baseline: None,
            texts: 600,
            data_sha256: data.into(),
        };
        assert!(promise("0.9", "a").is_worse_than(&promise("0.91", "a")));
        assert!(!promise("0.91", "a").is_worse_than(&promise("0.91", "a")));
        assert!(!promise("0.9", "b").is_worse_than(&promise("0.91", "a")));
    }
}
