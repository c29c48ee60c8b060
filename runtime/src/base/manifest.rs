//! `base.json`: what a base is, which of its tensors a mask may touch, and its digests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::family::Family;
use super::{Architecture, BaseError, MAX_JSON, Pooling, Precision, base_id, file, graph_base_id};
use crate::fs::{JsonBudget, is_sha256};

/// The version of the bundle format that this program writes and reads.
pub const FORMAT: u32 = 1;

/// The largest `base.json` that is read.
const MAX_BYTES: u64 = 8 << 20;

/// The contents of `base.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseManifest {
    /// Version of the format, [`FORMAT`].
    pub format: u32,
    /// Identity of the base, lower-case hex; see [`super::base_id`].
    pub base_id: String,
    /// Kind and sizes of the encoder.
    pub architecture: Architecture,
    /// The tensors that a mask may touch; the order is part of the format.
    pub maskable: Vec<MaskableTensor>,
    /// Precision of the weights.
    pub variant: Precision,
    /// SHA-256 of each other file of the bundle, by file name.
    pub digests: BTreeMap<String, String>,
    /// SHA-256 of `tokenizer.json`.
    pub tokenizer_sha256: String,
    /// The pooling that the encoder was trained with, where its checkpoint says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// The most tokens of a text that the encoder was trained with, where its checkpoint says so and that is fewer
    /// than it has positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Licence of the weights, as far as it is known.
    pub licence: String,
    /// Where the weights came from.
    pub source: String,
}

/// A 2-D linear weight that a mask may touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskableTensor {
    /// Name, as in the checkpoint.
    pub name: String,
    /// Rows.
    pub outputs: usize,
    /// Columns.
    pub inputs: usize,
    /// The encoder layer that it belongs to, from 0.
    pub layer: usize,
}

impl BaseManifest {
    /// The identity that architecture, tokenizer and tensors give, and the graph where it alone says
    /// what the encoder computes; see [`super::base_id`] and [`super::graph_base_id`].
    pub fn identity<'a>(&self, tensors: impl IntoIterator<Item = (String, &'a [usize], &'a [u8])>) -> String {
        let weights = base_id(&self.architecture, &self.tokenizer_sha256, tensors);
        match self.digests.get(file::MODEL) {
            Some(graph) if matches!(self.architecture.family, Family::Onnx(_)) => graph_base_id(&weights, graph),
            _ => weights,
        }
    }

    pub(super) fn read(path: &Path) -> Result<Self, BaseError> {
        Self::parse(path, &Self::bytes(path)?)
    }

    /// The bytes of a manifest's file, if they are no more than one may have.
    pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, BaseError> {
        crate::fs::read_at_most(path, MAX_BYTES)
            .map_err(|source| BaseError::Io { path: path.into(), source })?
            .ok_or_else(|| BaseError::TooLarge { path: path.into(), limit: MAX_BYTES })
    }

    /// Checks the bytes of a manifest; `path` is for messages.
    ///
    /// # Errors
    /// When they are no manifest that this program knows.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, BaseError> {
        if text.len() as u64 > MAX_BYTES {
            return Err(BaseError::TooLarge { path: path.into(), limit: MAX_BYTES });
        }
        JsonBudget::new(MAX_JSON).take(text).map_err(|source| BaseError::Json { path: path.into(), source })?;
        let manifest: BaseManifest =
            serde_json::from_slice(text).map_err(|source| BaseError::Manifest { path: path.into(), source })?;
        manifest.check().map_err(|(field, reason)| BaseError::Field { path: path.into(), field, reason })?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |field: &str, reason: String| Err((field.to_owned(), reason));
        if self.format != FORMAT {
            return wrong("format", format!("version {}, this program reads {FORMAT}", self.format));
        }
        self.architecture.check()?;
        let mut names = BTreeSet::new();
        for t in &self.maskable {
            if !names.insert(&t.name) {
                return wrong(&format!("maskable/{}", t.name), "comes twice".to_owned());
            }
            if t.layer >= self.architecture.layers {
                return wrong(
                    &format!("maskable/{}", t.name),
                    format!("layer {} of {}", t.layer, self.architecture.layers),
                );
            }
        }
        for name in [file::MODEL, file::WEIGHTS, file::TOKENIZER] {
            if !self.digests.contains_key(name) {
                return wrong("digests", format!("`{name}` is missing"));
            }
        }
        // Packs are checked against the one, files against the other.
        if self.digests[file::TOKENIZER] != self.tokenizer_sha256 {
            let digest = &self.digests[file::TOKENIZER];
            return wrong("tokenizer_sha256", format!("is {}, but `digests` has {digest}", self.tokenizer_sha256));
        }
        // A store names files and directories by them.
        let digests = self.digests.iter().map(|(name, sha256)| (format!("digests/{name}"), sha256));
        for (field, sha256) in digests.chain([("base_id".to_owned(), &self.base_id)]) {
            if !is_sha256(sha256) {
                return wrong(&field, format!("{sha256:?} is not 64 lower-case hex digits"));
            }
        }
        // Digest keys become paths: only plain file names of this format may appear.
        match self.digests.keys().find(|n| ![file::MODEL, file::WEIGHTS, file::TOKENIZER].contains(&n.as_str())) {
            Some(other) => wrong("digests", format!("`{other}` is no file of a bundle")),
            None => Ok(()),
        }
    }
}
