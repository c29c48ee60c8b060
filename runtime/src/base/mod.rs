//! The base bundle: a frozen encoder that all tasks of a device share.
//!
//! A bundle is a directory: `base.json` (the [manifest](BaseManifest)), `model.onnx` (the
//! graph), `model.safetensors` (the weights, mapped into memory and never copied) and
//! `tokenizer.json`.

mod architecture;
pub mod family;
mod identity;
mod manifest;
mod pooling;
mod precision;
mod weights;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use architecture::{Architecture, GraphHints, MAX_LAYERS, MAX_POSITIONS};
pub use identity::{base_id, graph_base_id};
pub use manifest::{BaseManifest, FORMAT, MaskableTensor};
pub use pooling::Pooling;
pub use precision::{Int8Tensor, Precision};
pub use weights::{Stored, TensorBytes, not_finite, scales_name, write_variant, write_weights};

use family::bert;
use family::encoder::{Encoder, Table};
use sha2::{Digest, Sha256};
use weights::Weights;

use crate::error::ErrorKind;
use crate::fs::{OverBudget, file_digest, hex, read_at_most};

/// File names inside a bundle.
pub mod file {
    /// The manifest.
    pub const MANIFEST: &str = "base.json";
    /// The graph.
    pub const MODEL: &str = "model.onnx";
    /// The weights.
    pub const WEIGHTS: &str = "model.safetensors";
    /// The tokenizer.
    pub const TOKENIZER: &str = "tokenizer.json";
}

/// What reading the JSON of one of a base's files may take in memory, but for the tokenizer.
const MAX_JSON: u64 = 64 << 20;

/// Inputs of a tensor of int8 codes, at most: sums of more products would not fit into 32 bits.
const MAX_INT8_INPUTS: usize = 30_000;

/// What can be wrong with a base bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}; `overmask-export import` writes a base bundle")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is larger than any of its kind.
    #[error("{path} has more than {} MiB, more than any base; import the base again", .limit >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// A file's JSON holds more values than that of any base.
    #[error("{path}: {source}, more than that of any base; import the base again")]
    Json {
        /// The file.
        path: PathBuf,
        /// How much it may take.
        source: OverBudget,
    },
    /// `base.json` is not what the format asks for.
    #[error("{path}: {source}; import the base again")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// A field holds something that cannot be.
    #[error("{path}: field `{field}`: {reason}; import the base again")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field or tensor.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// The weights are no safetensors file.
    #[error("{path}: {source}; import the base again")]
    Weights {
        /// The file.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// A tensor is not there.
    #[error("{path}: no tensor `{name}`; import the base again")]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
    },
    /// A file's digest is not the one that the manifest records.
    #[error(
        "{path}: sha256 is {found}, the manifest says {expected}; the file was changed or damaged: copy the base again"
    )]
    Digest {
        /// The file.
        path: PathBuf,
        /// From the manifest.
        expected: String,
        /// Computed.
        found: String,
    },
}

impl BaseError {
    /// The file that it is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::TooLarge { path, .. }
            | Self::Json { path, .. }
            | Self::Manifest { path, .. }
            | Self::Field { path, .. }
            | Self::Weights { path, .. }
            | Self::NoTensor { path, .. }
            | Self::Digest { path, .. } => path,
        }
    }

    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::InputData,
            _ => ErrorKind::CorruptFile,
        }
    }
}

/// An opened base bundle; the weights are mapped, not read.
#[derive(Debug)]
pub struct Base {
    dir: PathBuf,
    manifest: BaseManifest,
    weights: Weights,
    segments: Option<usize>,
    /// Set when every digest was found right.
    verified: OnceLock<()>,
}

impl Base {
    /// Opens a bundle and checks that every maskable tensor is there in its shape, and that the
    /// embeddings of a BERT encoder have a row for each token and position.
    ///
    /// Digests are not computed here (that reads every byte): see [`Base::verify`].
    ///
    /// # Errors
    /// When a file is missing or malformed, or manifest and weights disagree.
    pub fn open(dir: &Path) -> Result<Base, BaseError> {
        let manifest = BaseManifest::read(&dir.join(file::MANIFEST))?;
        let weights = Weights::open(&dir.join(file::WEIGHTS))?;
        weights.check_scales()?;
        for tensor in &manifest.maskable {
            let (shape, stored) = weights.stored(&tensor.name)?;
            let wrong = |reason| {
                let (path, field) = (dir.join(file::MANIFEST), format!("maskable/{}", tensor.name));
                Err(BaseError::Field { path, field, reason })
            };
            if shape != [tensor.outputs, tensor.inputs] {
                return wrong(format!("[{}, {}], but the weights have {shape:?}", tensor.outputs, tensor.inputs));
            }
            if manifest.variant == Precision::Int8 && tensor.inputs > MAX_INT8_INPUTS {
                return wrong(format!("has {} inputs; int8 has room for {MAX_INT8_INPUTS}", tensor.inputs));
            }
            if stored.precision() != manifest.variant {
                return wrong(format!(
                    "`variant` is `{}`, but the weights are {}",
                    manifest.variant,
                    stored.precision()
                ));
            }
        }
        let a = &manifest.architecture;
        let encoder = Encoder::new(a, "");
        // The native engine looks tokens and positions up without a check of its own. The others,
        // which alone run encoders of other families, check every index.
        let embeddings = encoder.as_ref().map(|encoder| &encoder.embeddings);
        let words = embeddings.map(|of| ("vocab_size", &of.words));
        let positions = embeddings.and_then(|of| of.positions.as_ref()).map(|table| ("max_positions", table));
        for (size, Table { name, rows }) in words.into_iter().chain(positions) {
            let width = embeddings.map_or(a.hidden_size, |of| of.width);
            let (name, shape) = weights.only(name)?;
            if shape != [*rows, width] {
                return Err(BaseError::Field {
                    path: dir.join(file::MANIFEST),
                    field: format!("architecture/{size}"),
                    reason: format!("{rows} of width {width}, but `{name}` is {shape:?}"),
                });
            }
        }
        // Where there is no such table, texts are of one segment, or only the graph knows.
        let types = weights.only(bert::Table::Segments.name()).ok().and_then(|(_, shape)| shape.first().copied());
        let segments = types.or(encoder.map(|_| 1)).map(|types| types.max(1));
        Ok(Base { dir: dir.to_owned(), manifest, weights, segments, verified: OnceLock::new() })
    }

    /// The bytes of one of its smaller files, if they are those that the manifest names: one wrong byte in a graph or a
    /// tokenizer may well be another one, which gives other answers without a word.
    ///
    /// # Errors
    /// When it cannot be read, has more than `limit` bytes, or was changed or damaged.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, BaseError> {
        let path = self.dir.join(name);
        let bytes = match read_at_most(&path, limit) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(BaseError::TooLarge { path, limit }),
            Err(source) => return Err(BaseError::Io { path, source }),
        };
        self.check_digest(name, path, hex(&Sha256::digest(&bytes)))?;
        Ok(bytes)
    }

    fn check_digest(&self, name: &str, path: PathBuf, found: String) -> Result<(), BaseError> {
        match self.manifest.digests.get(name) {
            Some(expected) if *expected != found => Err(BaseError::Digest { path, expected: expected.clone(), found }),
            _ => Ok(()),
        }
    }

    /// Checks every file's digest, the base's identity, and that every weight is a finite number. The identity is
    /// computed from the values of the f32 base; of another variant its manifest is believed.
    ///
    /// # Errors
    /// When a file was changed or damaged, with the digest expected and found; at the first weight that is no
    /// finite number.
    pub fn verify(&self) -> Result<(), BaseError> {
        for name in self.manifest.digests.keys() {
            let path = self.dir.join(name);
            let found = file_digest(&path).map_err(|source| BaseError::Io { path: path.clone(), source })?;
            self.check_digest(name, path, found)?;
        }
        // What it is computed from, other variants do not have.
        if self.precision() == Precision::F32 {
            let found = self.manifest.identity(self.weights.iter_f32());
            if found != self.manifest.base_id {
                let path = self.dir.join(file::MANIFEST);
                return Err(BaseError::Digest { path, expected: self.manifest.base_id.clone(), found });
            }
        }
        self.weights.check_values()?;
        self.verified.get_or_init(|| ());
        Ok(())
    }

    /// The same, where it has not been done yet.
    ///
    /// # Errors
    /// As [`Base::verify`].
    pub fn verify_once(&self) -> Result<(), BaseError> {
        if self.verified.get().is_some() { Ok(()) } else { self.verify() }
    }

    /// Takes the base as verified, where it was when its files came to the place in which nobody changes them.
    pub(crate) fn taken_as_sound(&self) {
        self.verified.get_or_init(|| ());
    }

    /// The bytes of the manifest's file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_manifest(&self) -> Result<Vec<u8>, BaseError> {
        BaseManifest::bytes(&self.dir.join(file::MANIFEST))
    }

    /// The manifest.
    pub fn manifest(&self) -> &BaseManifest {
        &self.manifest
    }

    /// How its weights are stored.
    pub fn precision(&self) -> Precision {
        self.manifest.variant
    }

    /// The identity that packs refer to.
    pub fn base_id(&self) -> &str {
        &self.manifest.base_id
    }

    /// How many segments a text may have: two where the base tells the texts of a pair apart; none where
    /// only its graph knows, which reads no segments or checks them.
    pub fn segments(&self) -> Option<usize> {
        self.segments
    }

    /// The bundle's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The graph's file.
    pub fn model_path(&self) -> PathBuf {
        self.dir.join(file::MODEL)
    }

    /// The tokenizer's file.
    pub fn tokenizer_path(&self) -> PathBuf {
        self.dir.join(file::TOKENIZER)
    }

    /// The int8 form of a maskable tensor: the same for every variant of the base.
    ///
    /// # Errors
    /// When the base has no such tensor.
    pub fn int8(&self, tensor: &MaskableTensor) -> Result<Int8Tensor, BaseError> {
        Ok(match self.stored(&tensor.name)?.1 {
            Stored::Int8 { codes, scales, inputs } => Int8Tensor::stored(codes, scales, inputs),
            others => Int8Tensor::quantize(&others.widened(), tensor.inputs),
        })
    }

    /// The manifest's entry for a maskable tensor.
    pub fn maskable(&self, name: &str) -> Option<&MaskableTensor> {
        self.manifest.maskable.iter().find(|t| t.name == name)
    }

    /// The names of its tensors, as they lie one after the other.
    pub fn names(&self) -> Vec<String> {
        self.weights.names()
    }

    /// A tensor's shape.
    ///
    /// # Errors
    /// When there is no tensor of that name.
    pub fn shape(&self, name: &str) -> Result<&[usize], BaseError> {
        self.weights.shape(name)
    }

    /// A tensor's shape and its values as they are stored, views into the memory map.
    ///
    /// # Errors
    /// When there is no tensor of that name, or of none of the precisions.
    pub fn stored(&self, name: &str) -> Result<(&[usize], Stored<'_>), BaseError> {
        self.weights.stored(name)
    }

    /// A tensor's shape and its values as f32, whatever they are stored as.
    ///
    /// # Errors
    /// The same.
    pub fn values(&self, name: &str) -> Result<(&[usize], Cow<'_, [f32]>), BaseError> {
        self.stored(name).map(|(shape, stored)| (shape, stored.widened()))
    }

    /// A tensor's shape and its values, a view into the memory map.
    ///
    /// # Errors
    /// When there is no f32 tensor of that name.
    pub fn tensor_f32(&self, name: &str) -> Result<(&[usize], &[f32]), BaseError> {
        self.weights.tensor_f32(name)
    }

    /// A tensor's shape and its values as the file has them, little-endian: what a copy of the tensor
    /// is written from.
    ///
    /// # Errors
    /// When there is no f32 tensor of that name.
    pub fn tensor_bytes(&self, name: &str) -> Result<(&[usize], &[u8]), BaseError> {
        self.weights.tensor_bytes(name)
    }
}

#[cfg(test)]
pub(crate) mod tests;
