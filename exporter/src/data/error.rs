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
    /// A directory where a file is to be.
    #[error("{} is a directory, not a data file; {files}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Which data files are in it.
        files: String,
    },
    /// The name says nothing of the format.
    #[error(
        "{}: the name says no format that is read here; name the file .jsonl (one object a line), \
         .csv or .tsv (with a header), or .conll (a word and its tag a line); where labels are not looked at, .txt \
         (a text a line) will do, too",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// An option that is not for such a file.
    #[error("{}: `{option}` is for {of}", path.display())]
    Option {
        /// The file.
        path: PathBuf,
        /// The field of `ReadOptions`.
        option: &'static str,
        /// What it is for.
        of: &'static str,
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
    /// Bytes of another kind.
    #[error("{} is {what}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do about it.
        what: &'static str,
    },
    /// A byte that is no text.
    #[error("{}:{line}: byte {offset} of the file (0x{byte:02x}) is not UTF-8; {advice}", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The byte's place in the file, from 0.
        offset: usize,
        /// The byte.
        byte: u8,
        /// What to do.
        advice: &'static str,
    },
    /// The header names no such column.
    #[error("{}:1: the header has no column `{field}`; it has: {found}; {advice}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// What is missing.
        field: String,
        /// What is there.
        found: String,
        /// What to do.
        advice: String,
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
        field: String,
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
    #[error("{}: every {what}; there is nothing to learn", path.display())]
    Alike {
        /// The file.
        path: PathBuf,
        /// What every example, or word, is.
        what: String,
    },
    /// Hardly two examples, or words, have the same label.
    #[error(
        "{}: {labels} labels for {of}, so that most have one of their own; if that is an id or a text, say which \
         column holds the labels with `label_column`; numbers are learnt as such by a task of the kind `regress`",
        path.display()
    )]
    ManyLabels {
        /// The file.
        path: PathBuf,
        /// How many labels there are.
        labels: usize,
        /// How many examples, or words, have one.
        of: String,
    },
}

impl DataError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Option { .. } => ErrorKind::Usage,
            _ => ErrorKind::InputData,
        }
    }
}
