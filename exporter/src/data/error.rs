//! What can be wrong with a data file.

use std::path::PathBuf;

use overmask::error::ErrorKind;
use overmask::pack::TaskKind;

/// What can be wrong with a data file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The name says nothing of the format.
    #[error(
        "{}: `{extension}` is not a data format we read; name the file .jsonl (one object a line), \
         .csv or .tsv (with a header), or .conll (a word and its tag a line)",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What its name ends in.
        extension: String,
    },
    /// A file of words and tags, for a task of another kind.
    #[error("{}: words with tags are for `--task tag`, not for `{kind}`", path.display())]
    NotTags {
        /// The file.
        path: PathBuf,
        /// The kind of task that was asked for.
        kind: TaskKind,
    },
    /// There is no example in the file.
    #[error("{} holds no example; it needs at least one", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A byte that is no text.
    #[error(
        "{}:{line}: byte {offset} of the file (0x{byte:02x}) is not UTF-8; convert it first, for \
         example with `iconv -f LATIN1 -t UTF-8`",
        path.display()
    )]
    Encoding {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The byte's place in the file, from 0.
        offset: usize,
        /// The byte.
        byte: u8,
    },
    /// The header names no such column.
    #[error("{}:1: the header has no column `{field}`; it has: {found}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// What is missing.
        field: &'static str,
        /// What is there.
        found: String,
    },
    /// A line is not what its format wants.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A field of a line is missing, empty or of the wrong kind.
    #[error("{}:{line}: field `{field}` {reason}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A label that training never saw.
    #[error("{}:{line}: label `{label}` was never seen in training; known labels: {known}", path.display())]
    UnknownLabel {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The label.
        label: String,
        /// The labels that there are.
        known: String,
    },
    /// Nothing to tell apart.
    #[error("{}: every example is the same, `{label}`; there is nothing to learn", path.display())]
    OneLabel {
        /// The file.
        path: PathBuf,
        /// The only label.
        label: String,
    },
}

impl DataError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::InputData
    }
}
