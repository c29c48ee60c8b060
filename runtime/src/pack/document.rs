//! The JSON document of a pack: what the file's tensors mean.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Input, Reason};
use crate::base::Pooling;
use crate::mask::Granularity;

/// The schema version that this program writes and reads.
pub const SCHEMA: u32 = 1;

/// What a pack may ask of its reader in [`PackDocument::requires`]: in this version, nothing.
pub(super) const FEATURES: [&str; 0] = [];

/// The most weights that a pack's masks may cover: sums over them never overflow.
const MAX_WEIGHTS: u64 = 1 << 48;

/// The longest name and label, in bytes of UTF-8.
const MAX_NAME_BYTES: usize = 256;

/// The contents of `__metadata__.overmask`.
///
/// Fields that this version does not know are kept in [`PackDocument::extra`] and written again;
/// what a reader must not ignore is named in [`PackDocument::requires`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackDocument {
    /// Version of the schema, [`SCHEMA`].
    pub schema: u32,
    /// What a reader must know to use the pack, beyond what the schema says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// The task's name.
    pub name: String,
    /// Counts up with every release of the task.
    pub revision: u64,
    /// What the head computes.
    pub kind: TaskKind,
    /// The classes, in the order of the head's rows; the name of the number that a regression gives.
    pub labels: Vec<String>,
    /// What a task reads, and how it becomes vectors.
    pub text: TextSettings,
    /// Identity of the base that the masks were learned on, lower-case hex.
    pub base_id: String,
    /// SHA-256 of the base's `tokenizer.json`, lower-case hex.
    pub tokenizer_sha256: String,
    /// The unit of all masks.
    pub granularity: Granularity,
    /// Coding of the masks.
    pub codec: Codec,
    /// The fraction of zeros over all maskable tensors of the base, masked by this pack or not.
    pub sparsity: f64,
    /// The coded masks, in the order in which they lie in the tensor `mask`. Only a
    /// [`PackFile`](super::PackFile) has them here; a [`Pack`](super::Pack) has them decoded.
    #[serde(default)]
    pub masks: Vec<MaskEntry>,
    /// The inputs of the golden vectors, in the order of the rows of `golden/logits`: one row each,
    /// or one for each of its words. Likewise.
    #[serde(default)]
    pub golden: Vec<Input>,
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
    /// One label of several.
    Classify,
    /// Any number of the labels.
    Multilabel,
    /// A number.
    Regress,
    /// One label for each word.
    Tag,
}

impl TaskKind {
    /// Its name in packs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Multilabel => "multilabel",
            Self::Regress => "regress",
            Self::Tag => "tag",
        }
    }

    /// The name of the metric by which tasks of this kind are judged; the larger the better.
    pub fn metric(self) -> &'static str {
        match self {
            Self::Classify => "accuracy",
            Self::Multilabel => "micro_f1",
            Self::Regress => "pearson",
            Self::Tag => "span_f1",
        }
    }
}

impl std::fmt::Display for TaskKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for TaskKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::Classify, Self::Multilabel, Self::Regress, Self::Tag];
        let known = all.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| {
            format!("`{name}` is no kind of task; there are `classify`, `multilabel`, `regress` and `tag`")
        })
    }
}

/// How masks are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Codec {
    /// Bitmaps; needs no base to be read.
    Plain,
    /// As few bytes as possible, given the ranks of the base's weights; see [`crate::codec`].
    Ranked,
}

impl Codec {
    /// Its name in packs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Ranked => "ranked",
        }
    }
}

impl std::str::FromStr for Codec {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = [Self::Plain, Self::Ranked].into_iter().find(|codec| codec.name() == name);
        known.ok_or_else(|| {
            format!("field `codec`: {name:?}, this program reads \"plain\" and \"ranked\"; install a newer one")
        })
    }
}

impl TryFrom<String> for Codec {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<Codec> for String {
    fn from(codec: Codec) -> String {
        codec.name().to_owned()
    }
}

/// What a task reads, and how it becomes vectors. No setting can be ignored, so none may be unknown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSettings {
    /// Tokens after which a text is cut, special tokens included.
    pub max_tokens: usize,
    /// How the tokens' vectors become those that the head sees.
    pub pooling: Pooling,
    /// Whether it reads two texts at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pair: bool,
}

impl TextSettings {
    /// Whether an input is of the form that a task of this kind reads.
    pub fn takes(&self, kind: TaskKind, input: &Input) -> bool {
        match input {
            Input::Words { .. } => kind == TaskKind::Tag,
            Input::Pair(..) => self.pair,
            Input::Text(_) => kind != TaskKind::Tag && !self.pair,
        }
    }
}

/// A coded mask: an array `[tensor, outputs, inputs, length]` in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(String, usize, usize, usize)", into = "(String, usize, usize, usize)")]
pub struct MaskEntry {
    /// The base's tensor.
    pub tensor: String,
    /// Its rows.
    pub outputs: usize,
    /// Its columns.
    pub inputs: usize,
    /// The coded mask's bytes.
    pub length: usize,
}

impl From<(String, usize, usize, usize)> for MaskEntry {
    fn from((tensor, outputs, inputs, length): (String, usize, usize, usize)) -> Self {
        MaskEntry { tensor, outputs, inputs, length }
    }
}

impl From<MaskEntry> for (String, usize, usize, usize) {
    fn from(entry: MaskEntry) -> Self {
        (entry.tensor, entry.outputs, entry.inputs, entry.length)
    }
}

impl PackDocument {
    /// Checks everything that the document alone can tell.
    pub(super) fn check(&self) -> Result<(), Reason> {
        let wrong = |field: &str, reason: String| Err(Reason::field(field, reason));
        version(self.schema, &self.requires)?;
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
        if self.kind == TaskKind::Regress && self.labels.len() != 1 {
            return wrong("labels", format!("are {}, a regression has one", self.labels.len()));
        }
        if (self.kind == TaskKind::Tag) != (self.text.pooling == Pooling::First) {
            return wrong("text/pooling", "must be `first` for the kind `tag`, and for no other".to_owned());
        }
        if self.kind == TaskKind::Tag && self.text.pair {
            return wrong("text/pair", "is true, but a tagger reads words".to_owned());
        }
        if let Some((i, input)) = self.golden.iter().enumerate().find(|(_, input)| !self.text.takes(self.kind, input)) {
            return wrong(&format!("golden/{i}"), format!("is {}, which the task does not read", input.what()));
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
        let (mut seen, mut weights) = (BTreeSet::new(), 0u64);
        for (i, entry) in self.masks.iter().enumerate() {
            named(format!("masks/{i}"), &entry.tensor)?;
            if !seen.insert(&entry.tensor) {
                return wrong(&format!("masks/{i}"), format!("{:?} comes twice", entry.tensor));
            }
            if entry.outputs == 0 || entry.inputs == 0 {
                return wrong(&format!("masks/{i}"), format!("is [{}, {}]", entry.outputs, entry.inputs));
            }
            // Few bytes can cover many weights, where the blocks are large.
            weights = weights.saturating_add((entry.outputs as u64).saturating_mul(entry.inputs as u64));
            if weights > MAX_WEIGHTS {
                let reason = format!("the masks up to this one cover {weights} weights, more than any base has");
                return wrong(&format!("masks/{i}"), reason);
            }
        }
        Ok(())
    }
}

/// Checks the name of a task, a label or a tensor: they are printed to terminals and logs, so
/// they are short and hold no characters that drive a terminal or turn the text's direction.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(format!("has {} bytes, must have 1 to {MAX_NAME_BYTES}", name.len()));
    }
    match name.chars().find(|c| crate::text::is_unprintable(*c)) {
        Some(c) => Err(format!("holds the control character {c:?}")),
        None => Ok(()),
    }
}

/// Checks that this program knows a schema and the features that a file asks for.
pub(super) fn version(schema: u32, requires: &[String]) -> Result<(), Reason> {
    if schema != SCHEMA {
        let reason = format!("version {schema}, this program reads {}; install a newer one", SCHEMA);
        return Err(Reason::field("schema", reason));
    }
    match requires.iter().find(|feature| !FEATURES.contains(&feature.as_str())) {
        Some(feature) => {
            let reason = format!("{feature:?}, which this program does not know; install a newer one");
            Err(Reason::field("requires", reason))
        }
        None => Ok(()),
    }
}
