//! The JSON document of a pack: what the file's tensors mean.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Reason;
use crate::mask::Granularity;

/// The schema version that this program writes and reads.
pub const SCHEMA: u32 = 1;

/// The coding of masks that this program writes and reads: plain bitmaps.
pub const CODEC: &str = "plain";

/// The longest name and label, in bytes of UTF-8.
const MAX_NAME_BYTES: usize = 256;

/// The contents of `__metadata__.overmask`.
///
/// Fields that this version does not know are kept in [`PackDocument::extra`] and written again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackDocument {
    /// Version of the schema, [`SCHEMA`].
    pub schema: u32,
    /// The task's name.
    pub name: String,
    /// Counts up with every release of the task.
    pub revision: u64,
    /// What the head computes.
    pub kind: TaskKind,
    /// The classes, in the order of the head's rows.
    pub labels: Vec<String>,
    /// How a text becomes one vector.
    pub text: TextSettings,
    /// Identity of the base that the masks were learned on, lower-case hex.
    pub base_id: String,
    /// SHA-256 of the base's `tokenizer.json`, lower-case hex.
    pub tokenizer_sha256: String,
    /// The unit of all masks.
    pub granularity: Granularity,
    /// Coding of the masks, [`CODEC`].
    pub codec: String,
    /// The fraction of zeros over all maskable tensors of the base, masked by this pack or not.
    pub sparsity: f64,
    /// Where each mask lies in the tensor `mask`, one after the other without gaps. Filled in
    /// when a pack is written.
    #[serde(default)]
    pub masks: Vec<MaskEntry>,
    /// The texts of the golden vectors, in the order of the rows of `golden/logits`. Filled in
    /// when a pack is written.
    #[serde(default)]
    pub golden: Vec<String>,
    /// How the pack was made: tool, method, seed, settings, digests of the data.
    #[serde(default)]
    pub provenance: BTreeMap<String, Value>,
    /// What the pack reached, by name of the metric.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// Fields of other versions.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// What a task's head computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// One label of several for a text.
    Classify,
}

/// How a text becomes one vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSettings {
    /// Tokens after which a text is cut, special tokens included.
    pub max_tokens: usize,
    /// How the tokens' vectors become one.
    pub pooling: Pooling,
}

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean over all tokens, special tokens included.
    Mean,
    /// The first token's vector.
    Cls,
}

/// Where a mask lies in the tensor `mask`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskEntry {
    /// The base's tensor.
    pub tensor: String,
    /// Its rows.
    pub outputs: usize,
    /// Its columns.
    pub inputs: usize,
    /// The mask's first byte.
    pub offset: usize,
    /// The mask's bytes.
    pub length: usize,
}

impl PackDocument {
    /// Checks everything that the document alone can tell.
    pub(super) fn check(&self) -> Result<(), Reason> {
        let wrong = |field: &str, reason: String| Err(Reason::field(field, reason));
        if self.schema != SCHEMA {
            return wrong(
                "schema",
                format!("version {}, this program reads {SCHEMA}; install a newer one", self.schema),
            );
        }
        if self.codec != CODEC {
            return wrong("codec", format!("{:?}, this program reads {CODEC:?}; install a newer one", self.codec));
        }
        let named = |field: String, name: &str| check_name(name).map_err(|reason| Reason::field(field, reason));
        named("name".to_owned(), &self.name)?;
        if self.labels.is_empty() {
            return wrong("labels", "is empty".to_owned());
        }
        let mut seen = BTreeSet::new();
        for (i, label) in self.labels.iter().enumerate() {
            named(format!("labels/{i}"), label)?;
            if !seen.insert(label) {
                return wrong(&format!("labels/{i}"), format!("{label:?} comes twice"));
            }
        }
        // Two special tokens surround every text.
        if self.text.max_tokens < 3 {
            return wrong("text/max_tokens", format!("is {}, must be at least 3", self.text.max_tokens));
        }
        for (field, digest) in [("base_id", &self.base_id), ("tokenizer_sha256", &self.tokenizer_sha256)] {
            if digest.len() != 64 || !digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return wrong(field, format!("{digest:?} is not 64 lower-case hex digits"));
            }
        }
        if !(0.0..=1.0).contains(&self.sparsity) {
            return wrong("sparsity", format!("is {}, must be from 0 to 1", self.sparsity));
        }
        if let Some((name, value)) = self.metrics.iter().find(|(_, value)| !value.is_finite()) {
            return wrong(&format!("metrics/{name}"), format!("is {value}, must be a finite number"));
        }
        let mut seen = BTreeSet::new();
        for (i, entry) in self.masks.iter().enumerate() {
            named(format!("masks/{i}/tensor"), &entry.tensor)?;
            if !seen.insert(&entry.tensor) {
                return wrong(&format!("masks/{i}/tensor"), format!("{:?} comes twice", entry.tensor));
            }
        }
        Ok(())
    }
}

/// Checks the name of a task, a label or a tensor: they are printed to terminals and logs, so
/// they are short and hold no control characters.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(format!("has {} bytes, must have 1 to {MAX_NAME_BYTES}", name.len()));
    }
    match name.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("holds the control character {c:?}")),
        None => Ok(()),
    }
}
