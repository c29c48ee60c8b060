//! The pack: everything that a task adds to a base, in one file.
//!
//! A pack is a valid safetensors file; `docs/pack-format.md` is its specification. Masks are
//! coded given the base, so a file is read in two steps: [`PackFile::open`] checks everything
//! that the file alone can tell, [`PackFile::decode`] turns it into a [`Pack`] on a base.

mod container;
mod document;
mod file;
mod fit;
mod float;
mod guess;
mod input;
mod patch;
mod read;
mod set;
mod write;

use std::path::{Path, PathBuf};

pub use container::MAX_BYTES;
pub use document::{Codec, MaskEntry, PackDocument, SCHEMA, TaskKind, TextSettings, check_name};
pub use file::{PackFile, Sizes};
pub use float::FloatType;
pub use input::Input;
pub use patch::Patch;
pub use read::file as read_file;
pub use set::{PackSet, Packs, split_name};
pub use write::file as write_file;

pub use crate::base::Pooling;
use crate::base::{Base, BaseError};
use crate::codec::CodecError;
use crate::error::ErrorKind;
use crate::fs::OverBudget;
use crate::mask::Mask;

/// The key of the document in the safetensors metadata.
const METADATA_KEY: &str = "overmask";

/// The same of a set.
const SET_KEY: &str = "overmask-set";

/// The same of a patch.
const PATCH_KEY: &str = "overmask-patch";

/// Names of a pack's tensors.
pub mod tensor {
    /// All coded masks, U8.
    pub const MASK: &str = "mask";
    /// The head's matrix, [labels, hidden], F16, BF16 or F32.
    pub const HEAD_WEIGHT: &str = "head/weight";
    /// The head's bias, `[labels]`, of the matrix's type.
    pub const HEAD_BIAS: &str = "head/bias";
    /// What the names of replaced tensors of the base begin with.
    pub const DELTA: &str = "delta/";
    /// The golden logits, F32 [rows, labels].
    pub const GOLDEN: &str = "golden/logits";
    /// SHA-256 of all bytes of the file before it, U8 `[32]`; the file's end.
    pub const CHECKSUM: &str = "sha256";
}

/// What can be wrong with a pack.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
        #[source]
        reason: Reason,
    },
    /// Bytes that came from no file are no pack that this program can use.
    #[error("not a usable pack: {0}")]
    Bytes(#[from] Reason),
    /// The pack was made for another base.
    #[error(
        "the pack {pack} does not fit the base {base}: field `{field}`: {reason}; use the base that it was made for"
    )]
    OtherBase {
        /// The pack's file, or the task's name.
        pack: String,
        /// The base's directory.
        base: PathBuf,
        /// The field of the pack.
        field: String,
        /// What does not fit.
        reason: String,
    },
    /// The coding of the masks needs the base, and there is none.
    #[error("the pack {pack}: its masks cannot be used or coded as `ranked` without the base; name it with --base")]
    NeedsBase {
        /// The pack's file, or the task's name.
        pack: String,
    },
    /// A set has no pack of that name.
    #[error("{path} holds no pack `{name}`, only {names}")]
    NoSuchPack {
        /// The file.
        path: PathBuf,
        /// The name that was asked for.
        name: String,
        /// Those that there are.
        names: String,
    },
    /// One pack is wanted, and a set is given.
    #[error("{path} is a set of the packs {names}; name one of them as {path}#NAME")]
    Several {
        /// The file.
        path: PathBuf,
        /// The names of its packs.
        names: String,
    },
    /// Two packs of a set would have the same name.
    #[error("{path}: another pack has the name `{name}`, too; train one of them again with another --name")]
    SameName {
        /// The second one's file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// The base cannot be used.
    #[error(transparent)]
    Base(#[from] BaseError),
}

impl PackError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } | Self::NoSuchPack { .. } | Self::Several { .. } | Self::SameName { .. } => {
                ErrorKind::InputData
            }
            Self::Write { .. } => ErrorKind::DeviceOrStore,
            Self::Invalid { .. } | Self::Bytes(_) => ErrorKind::CorruptFile,
            Self::OtherBase { .. } => ErrorKind::BaseMismatch,
            Self::NeedsBase { .. } => ErrorKind::Usage,
            Self::Base(error) => error.kind(),
        }
    }
}

/// What is wrong with the contents of a pack, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Not the beginning of a pack.
    #[error("is no pack but {found}; name a file that `overmask-export` wrote as a pack")]
    NotAPack {
        /// What it looks like.
        found: &'static str,
    },
    /// More bytes than any pack has.
    #[error("the {part} has more than {} MiB, more than that of any pack", .limit >> 20)]
    TooLarge {
        /// The file, or its header.
        part: &'static str,
        /// The most bytes.
        limit: u64,
    },
    /// Header and document hold more values than any pack.
    #[error("{0}, more than that of any pack")]
    Json(#[from] OverBudget),
    /// No safetensors file.
    #[error("not a safetensors file, or damaged: {0}; copy or export the pack again")]
    Container(#[from] safetensors::SafeTensorError),
    /// The bytes are not those that were written.
    #[error("damaged: the bytes have not the SHA-256 with which they end; copy or export the pack again")]
    Damaged,
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
        /// The coded mask's first byte.
        offset: usize,
        /// What is wrong.
        source: CodecError,
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

/// A tensor of the base that a task replaces.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// The base's tensor.
    pub tensor: String,
    /// Its shape, as the base has it.
    pub shape: Vec<usize>,
    /// The new values, row by row.
    pub values: Vec<f32>,
    /// How they are stored.
    pub dtype: FloatType,
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
    /// How weight and bias are stored.
    pub dtype: FloatType,
}

/// An input with the logits that it had when the pack was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    /// The input.
    pub input: Input,
    /// One value a label, for each of its words where the task tags words.
    pub logits: Vec<f32>,
}

/// A task's artifact, its masks decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Pack {
    /// Names, settings, provenance. Its `masks` and `golden` are empty: see the fields below.
    pub document: PackDocument,
    /// The masks; a maskable tensor of the base that is not named is left as it is.
    pub masks: Vec<NamedMask>,
    /// Tensors that are replaced, sorted by name; none of them has a mask.
    pub deltas: Vec<Delta>,
    /// The classifier.
    pub head: Head,
    /// Inputs with recorded logits.
    pub golden: Vec<Golden>,
}

impl Pack {
    /// Puts a pack together, with the same checks as reading one. The head's values become
    /// those that its type can store, so that what is computed with them is what a device
    /// computes.
    ///
    /// # Errors
    /// When the parts do not fit each other, or a value cannot be stored; the field is named.
    pub fn new(
        document: PackDocument,
        masks: Vec<NamedMask>,
        head: Head,
        golden: Vec<Golden>,
    ) -> Result<Pack, PackError> {
        let document = PackDocument { masks: Vec::new(), golden: Vec::new(), ..document };
        let mut pack = Pack { document, masks, deltas: Vec::new(), head, golden };
        write::check(&pack)?;
        let Head { weight, bias, dtype, .. } = &mut pack.head;
        weight.iter_mut().chain(bias).for_each(|value| *value = dtype.round(*value));
        Ok(pack)
    }

    /// The pack with these tensors replaced. As with the head, their values become those that their
    /// types can store.
    ///
    /// # Errors
    /// When a tensor comes twice or has a mask, or a value cannot be stored; the tensor is named.
    pub fn with_deltas(mut self, mut deltas: Vec<Delta>) -> Result<Pack, PackError> {
        deltas.sort_by(|a, b| a.tensor.cmp(&b.tensor));
        self.deltas = deltas;
        write::check(&self)?;
        for Delta { values, dtype, .. } in &mut self.deltas {
            values.iter_mut().for_each(|value| *value = dtype.round(*value));
        }
        Ok(self)
    }

    /// The pack with these recorded inputs.
    ///
    /// # Errors
    /// As [`Pack::new`]: when an input is not of the pack's form, or has not as many logits as it has rows and
    /// the pack labels.
    pub fn with_golden(mut self, golden: Vec<Golden>) -> Result<Pack, PackError> {
        self.golden = golden;
        write::check(&self)?;
        Ok(self)
    }

    /// Reads, checks and decodes a pack file for a base.
    ///
    /// # Errors
    /// As [`PackFile::open`] and [`PackFile::decode`].
    pub fn open(path: &Path, base: &Base) -> Result<Pack, PackError> {
        PackFile::open(path)?.decode(Some(base))
    }

    /// Checks that the pack was made for a base: identities, tokenizer, shapes, lengths.
    ///
    /// # Errors
    /// [`PackError::OtherBase`], naming the pack's field.
    pub fn check_base(&self, base: &Base) -> Result<(), PackError> {
        let shapes = self.masks.iter().map(|NamedMask { tensor, mask }| fit::MaskShape {
            tensor,
            outputs: mask.outputs(),
            inputs: mask.inputs(),
        });
        fit::check(&format!("`{}`", self.document.name), &self.document, self.head.hidden, shapes, &self.deltas, base)
    }

    /// The bytes of the pack's file; equal packs have equal bytes. The base may be left out
    /// for [`Codec::Plain`].
    ///
    /// # Errors
    /// When the parts do not fit each other (the field is named), the pack is not for this
    /// base, or a base is needed.
    pub fn to_bytes(&self, base: Option<&Base>) -> Result<Vec<u8>, PackError> {
        base.map_or(Ok(()), |base| self.check_base(base))?;
        write::bytes(self, base)
    }

    /// Writes the pack's file beside its place and renames it, so that it appears as a whole.
    ///
    /// # Errors
    /// As [`Pack::to_bytes`], or when the file cannot be written.
    pub fn write(&self, path: &Path, base: Option<&Base>) -> Result<(), PackError> {
        write_file(path, &self.to_bytes(base)?)
    }

    /// The number of weights that the pack zeroes.
    pub fn zero_weights(&self) -> u64 {
        self.masks.iter().map(|m| m.mask.zero_weights()).sum()
    }
}

#[cfg(test)]
mod tests;
