//! Labelled texts: reading them from files, splitting them, cutting them into batches.
//!
//! Whatever happens here is a function of the file's bytes and a seed, so that a split or an
//! order of batches is the same on every platform and in every version: figures that were
//! measured on it stay comparable. [`rng`] says where the randomness comes from.

mod batches;
mod conll;
mod encoding;
mod error;
pub mod glue;
mod labels;
mod options;
mod read;
mod record;
pub mod rng;
mod soft;
mod split;
mod summary;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;

use overmask::fs::hex;
use overmask::pack::{Input, TaskKind};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use sha2::{Digest, Sha256};

pub use batches::epoch_batches;
pub use conll::parse as parse_conll;
pub use error::DataError;
pub use labels::{Gold, LabelSet, VALUE, doubts};
pub use options::{Delimiter, ReadOptions};
pub use read::{read, read_unlabelled, read_with};
pub use soft::{Scale, Soft};
pub use split::{duplicates, folds, key, normalise, repetitions, sample, split, split_indices, split_stratified};
pub use summary::{Lengths, Summary};

/// What the examples of a data set are: it decides which fields a file must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// What a task learns from them.
    pub kind: TaskKind,
    /// Whether each has two texts.
    pub pair: bool,
}

impl Form {
    /// One text, one label.
    pub const CLASSIFY: Form = Form { kind: TaskKind::Classify, pair: false };

    /// The fields that an example has, in the order in which they are written.
    pub fn fields(self) -> &'static [&'static str] {
        match (self.kind, self.pair) {
            (TaskKind::Classify, false) => &["text", "label"],
            (TaskKind::Classify, true) => &["text", "text_pair", "label"],
            (TaskKind::Multilabel, false) => &["text", "labels"],
            (TaskKind::Multilabel, true) => &["text", "text_pair", "labels"],
            (TaskKind::Regress, false) => &["text", "value"],
            (TaskKind::Regress, true) => &["text", "text_pair", "value"],
            (TaskKind::Tag, _) => &["tokens", "tags"],
        }
    }

    /// Those of its input: all but the last.
    pub(crate) fn inputs(self) -> &'static [&'static str] {
        self.fields().split_last().map_or(&[], |(_, inputs)| inputs)
    }
}

/// What an example is.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// One label, without white space around it.
    Label(String),
    /// Any number of labels, none twice.
    Labels(Vec<String>),
    /// A finite number.
    Value(f64),
    /// A tag for each word.
    Tags(Vec<String>),
}

/// An input and what it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Text, two texts, or words, as in the file.
    pub input: Input,
    /// What it is; where only `soft` says so, the likeliest label.
    pub target: Target,
    /// What somebody holds likely of it, if the file says so.
    pub soft: Option<Soft>,
    /// The line of the file on which the example starts, from 1.
    pub line: usize,
}

impl Example {
    /// A text and its label.
    pub fn labelled(text: impl Into<String>, label: impl Into<String>, line: usize) -> Self {
        Example { input: Input::Text(text.into()), target: Target::Label(label.into()), soft: None, line }
    }
}

impl Serialize for Example {
    /// The fields of a line of JSONL, in the order of [`Form::fields`].
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        input_fields(&mut map, &self.input)?;
        match &self.target {
            Target::Label(_) if self.soft.as_ref().is_some_and(|soft| soft.alone) => {}
            Target::Label(label) => map.serialize_entry("label", label)?,
            Target::Labels(labels) => map.serialize_entry("labels", labels)?,
            Target::Value(value) => map.serialize_entry("value", value)?,
            Target::Tags(tags) => map.serialize_entry("tags", tags)?,
        }
        if let Some(soft) = &self.soft {
            map.serialize_entry(soft.scale.field(), &soft.scores)?;
        }
        map.end()
    }
}

/// The fields of an input.
fn input_fields<M: SerializeMap>(map: &mut M, input: &Input) -> Result<(), M::Error> {
    match input {
        Input::Text(text) => map.serialize_entry("text", text),
        Input::Pair(first, second) => {
            map.serialize_entry("text", first)?;
            map.serialize_entry("text_pair", second)
        }
        Input::Words { words } => map.serialize_entry("tokens", words),
    }
}

/// The texts of one file, of which nobody has said what they are, in the file's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Unlabelled {
    /// Where they come from, for messages.
    pub path: PathBuf,
    /// The inputs, all of one form, each with the line on which it starts.
    pub inputs: Vec<(Input, usize)>,
}

impl Unlabelled {
    /// SHA-256 over their canonical form, which is that of examples ([`digest`]) without what they are.
    pub fn digest(&self) -> String {
        struct Fields<'a>(&'a Input);
        impl Serialize for Fields<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(None)?;
                input_fields(&mut map, self.0)?;
                map.end()
            }
        }
        let mut hasher = HashWriter(Sha256::new());
        for (input, _) in &self.inputs {
            // A hasher takes everything and strings always serialise.
            let written = serde_json::to_writer(&mut hasher, &Fields(input));
            debug_assert!(written.is_ok());
            hasher.0.update(b"\n");
        }
        hex(&hasher.0.finalize())
    }

    /// How many of them are in a data set, too, after [`normalise`].
    pub fn shared_with(&self, dataset: &Dataset) -> usize {
        let keys: std::collections::HashSet<String> = dataset.examples.iter().map(|e| key(&e.input)).collect();
        self.inputs.iter().filter(|(input, _)| keys.contains(&key(input))).count()
    }
}

/// The examples of one file, in the file's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Where they come from, for messages.
    pub path: PathBuf,
    /// The examples, all of one form.
    pub examples: Vec<Example>,
}

impl Dataset {
    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there is none. What [`read()`] returns is never empty.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// How many of them have soft labels.
    pub fn soft(&self) -> usize {
        self.examples.iter().filter(|example| example.soft.is_some()).count()
    }

    /// The inputs alone.
    pub fn inputs(&self) -> Vec<Input> {
        self.examples.iter().map(|e| e.input.clone()).collect()
    }

    /// Writes the canonical form: one JSON object a line, fields in the order of [`Form::fields`],
    /// no spaces between tokens, LF line ends.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn write_jsonl(&self, out: &mut dyn Write) -> io::Result<()> {
        for example in &self.examples {
            serde_json::to_writer(&mut *out, example)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

/// SHA-256 over the canonical form ([`Dataset::write_jsonl`]), in hex: two files with the same
/// texts and labels in the same order have the same digest, whatever their format.
pub fn digest(dataset: &Dataset) -> String {
    let mut hasher = HashWriter(Sha256::new());
    // A hasher takes everything and strings always serialise.
    let written = dataset.write_jsonl(&mut hasher);
    debug_assert!(written.is_ok());
    hex(&hasher.0.finalize())
}

/// Feeds what is written to a digest.
struct HashWriter(Sha256);

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A data set of (text, label) pairs.
    pub(crate) fn dataset(examples: &[(&str, &str)]) -> Dataset {
        let examples =
            examples.iter().enumerate().map(|(i, (text, label))| Example::labelled(*text, *label, i + 1)).collect();
        Dataset { path: PathBuf::from("test.jsonl"), examples }
    }

    #[test]
    fn the_digest_is_that_of_the_canonical_file() {
        let data = dataset(&[("a \"quoted\" text", "x"), ("ümlaut\u{2028}", "y")]);
        let mut file = Vec::new();
        data.write_jsonl(&mut file).ok();
        assert_eq!(
            String::from_utf8_lossy(&file),
            "{\"text\":\"a \\\"quoted\\\" text\",\"label\":\"x\"}\n{\"text\":\"ümlaut\u{2028}\",\"label\":\"y\"}\n"
        );
        assert_eq!(digest(&data), hex(&Sha256::digest(&file)));
    }

    #[test]
    fn the_digest_sees_order_and_labels() {
        let a = digest(&dataset(&[("a", "x"), ("b", "y")]));
        assert_ne!(a, digest(&dataset(&[("b", "y"), ("a", "x")])));
        assert_ne!(a, digest(&dataset(&[("a", "y"), ("b", "x")])));
    }
}
