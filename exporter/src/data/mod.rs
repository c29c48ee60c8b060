//! Labelled texts: reading them from files, splitting them, cutting them into batches.
//!
//! Whatever happens here is a function of the file's bytes and a seed, so that a split or an
//! order of batches is the same on every platform and in every version: figures that were
//! measured on it stay comparable. [`rng`] says where the randomness comes from.

mod batches;
mod error;
mod labels;
mod read;
pub mod rng;
mod split;

use std::io::{self, Write};
use std::path::PathBuf;

use overmask::base::hex;
use serde::Serialize;
use sha2::{Digest, Sha256};

pub use batches::epoch_batches;
pub use error::DataError;
pub use labels::LabelSet;
pub use read::read;
pub use split::{duplicates, normalise, repetitions, split, split_indices};

/// A text and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The text, as in the file.
    pub text: String,
    /// The label, as in the file (a number is kept as it was written).
    pub label: String,
    /// The line of the file on which the example starts, from 1.
    #[serde(skip)]
    pub line: usize,
}

/// The labelled texts of one file, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Where they come from, for messages.
    pub path: PathBuf,
    /// The texts.
    pub examples: Vec<Example>,
}

impl Dataset {
    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there is none. What [`read`] returns is never empty.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// The texts alone.
    pub fn texts(&self) -> Vec<&str> {
        self.examples.iter().map(|e| e.text.as_str()).collect()
    }

    /// Writes the canonical form: one JSON object a line, `text` before `label`, no spaces
    /// between tokens, LF line ends.
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
        let examples = examples
            .iter()
            .enumerate()
            .map(|(i, (text, label))| Example { text: (*text).to_owned(), label: (*label).to_owned(), line: i + 1 })
            .collect();
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
