//! The pack: everything that a task adds to a base, in one file.
//!
//! A pack is a valid safetensors file. `docs/pack-format.md` is its specification; [`Pack::open`]
//! reads strictly, so what it returns is consistent in itself. Whether it fits a base is for
//! [`crate::task`] to check.

mod document;
mod read;
mod write;

use std::path::{Path, PathBuf};

pub use document::{CODEC, MaskEntry, PackDocument, Pooling, SCHEMA, TaskKind, TextSettings, check_name};

use crate::error::ExitCode;
use crate::mask::{Mask, MaskError};

/// The key of the document in the safetensors metadata.
pub const METADATA_KEY: &str = "overmask";

/// Names of a pack's tensors.
pub mod tensor {
    /// All coded masks, U8.
    pub const MASK: &str = "mask";
    /// The head's matrix, F32 [labels, hidden].
    pub const HEAD_WEIGHT: &str = "head/weight";
    /// The head's bias, F32 `[labels]`.
    pub const HEAD_BIAS: &str = "head/bias";
    /// The golden logits, F32 [texts, labels].
    pub const GOLDEN: &str = "golden/logits";
}

/// What can be wrong with a pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The file cannot be read.
    #[error("cannot read the pack {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the pack {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bytes are no pack that this program can use.
    #[error("{path}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        reason: Reason,
    },
    /// Bytes that came from no file are no pack that this program can use.
    #[error("not a usable pack: {0}")]
    Bytes(#[from] Reason),
}

impl PackError {
    /// The program's exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Read { .. } => ExitCode::InputData,
            Self::Write { .. } => ExitCode::DeviceOrStore,
            Self::Invalid { .. } | Self::Bytes(_) => ExitCode::CorruptFile,
        }
    }
}

/// What is wrong with the contents of a pack, and where.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// More bytes than any pack has.
    #[error("has more than {} MiB, more than any pack", read::MAX_BYTES >> 20)]
    TooLarge,
    /// No safetensors file.
    #[error("not a safetensors file, or damaged: {0}; copy or export the pack again")]
    Container(#[from] safetensors::SafeTensorError),
    /// A safetensors file of another kind.
    #[error("a safetensors file without `{METADATA_KEY}` in its metadata: not a pack")]
    NotAPack,
    /// The document is not what the schema says.
    #[error("metadata `{METADATA_KEY}`: {0}")]
    Document(#[from] serde_json::Error),
    /// A field or tensor holds something that cannot be.
    #[error("field `{field}`: {reason}")]
    Field {
        /// The field of the document, or the tensor.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A mask cannot be read.
    #[error("mask of `{tensor}` at byte {offset} of tensor `mask`: {source}")]
    Mask {
        /// The base's tensor.
        tensor: String,
        /// The mask's first byte.
        offset: usize,
        /// What is wrong.
        source: MaskError,
    },
}

impl Reason {
    fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Reason::Field { field: field.into(), reason: reason.into() }
    }
}

/// The mask of one of the base's tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedMask {
    /// The base's tensor.
    pub tensor: String,
    /// Its mask.
    pub mask: Mask,
}

/// The classifier on top of the encoder: logits = weight · pooled + bias.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// [labels, hidden], row by row.
    pub weight: Vec<f32>,
    /// One value a label.
    pub bias: Vec<f32>,
    /// Number of labels.
    pub labels: usize,
    /// Width of the encoder.
    pub hidden: usize,
}

/// A text with the logits that it had when the pack was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    /// The text.
    pub text: String,
    /// One value a label.
    pub logits: Vec<f32>,
}

/// A task's artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct Pack {
    /// Names, settings, provenance. Its `masks` and `golden` mirror the fields below.
    pub document: PackDocument,
    /// The masks; a maskable tensor of the base that is not named is left as it is.
    pub masks: Vec<NamedMask>,
    /// The classifier.
    pub head: Head,
    /// Texts with recorded logits.
    pub golden: Vec<Golden>,
    digest: String,
    file_bytes: u64,
}

impl Pack {
    /// Puts a pack together, with the same checks as reading one.
    ///
    /// The document's `masks` and `golden` are filled in from the arguments.
    ///
    /// # Errors
    /// When the parts do not fit each other; the field is named.
    pub fn new(
        document: PackDocument,
        masks: Vec<NamedMask>,
        head: Head,
        golden: Vec<Golden>,
    ) -> Result<Pack, PackError> {
        let pack = Pack { document, masks, head, golden, digest: String::new(), file_bytes: 0 };
        Self::from_bytes(&pack.to_bytes()?)
    }

    /// Reads and checks a pack file.
    ///
    /// # Errors
    /// When the file cannot be read or is no usable pack.
    pub fn open(path: &Path) -> Result<Pack, PackError> {
        let bytes = read::file(path).map_err(|source| PackError::Read { path: path.into(), source })?;
        read::pack(&bytes).map_err(|reason| PackError::Invalid { path: path.into(), reason })
    }

    /// Reads and checks a pack.
    ///
    /// # Errors
    /// When the bytes are no usable pack.
    pub fn from_bytes(bytes: &[u8]) -> Result<Pack, PackError> {
        Ok(read::pack(bytes)?)
    }

    /// The bytes of the pack's file; equal packs have equal bytes.
    ///
    /// # Errors
    /// When the parts do not fit each other; the field is named.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PackError> {
        Ok(write::bytes(self)?)
    }

    /// Writes the pack's file beside its place and renames it, so that it appears as a whole.
    ///
    /// # Errors
    /// When the parts do not fit each other, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PackError> {
        let bytes = self.to_bytes()?;
        crate::fs::write_atomically(path, |file| std::io::Write::write_all(file, &bytes))
            .map_err(|source| PackError::Write { path: path.into(), source })
    }

    /// SHA-256 of the file that the pack was read from (for [`Pack::new`]: of the file that it
    /// makes), lower-case hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Size in bytes of the file that [`Pack::digest`] is of.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The number of weights that the pack zeroes.
    pub fn zero_weights(&self) -> u64 {
        self.masks.iter().map(|m| m.mask.zero_weights()).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
