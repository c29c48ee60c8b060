//! Writes a base bundle: into a directory beside its place, which is renamed when it is whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use overmask::base::{
    self, Architecture, Base, BaseError, BaseManifest, MaskableTensor, Pooling, Precision, TensorBytes, file,
};
use overmask::fs::{Staged, file_digest};
use overmask::task::{TaskError, Tokenizer as Opened};
use overmask_graph::proto::ModelProto;
use overmask_graph::variant;

use super::{ImportError, Origin};

/// What a bundle is made of, but for the graph.
pub(super) struct Parts<'a> {
    pub(super) architecture: Architecture,
    pub(super) maskable: Vec<MaskableTensor>,
    /// The weights, in the order in which a forward pass reads them.
    pub(super) tensors: Vec<TensorBytes<'a>>,
    /// The file that they come from, for messages.
    pub(super) weights: PathBuf,
    pub(super) tokenizer: Tokenizer,
    pub(super) pooling: Option<Pooling>,
    /// The most tokens of a text that the encoder was trained with, if that is said.
    pub(super) max_tokens: Option<usize>,
    pub(super) origin: Origin,
}

/// A tokenizer as the tokenizers library writes it.
pub(super) struct Tokenizer {
    /// The file that it comes from, for messages.
    pub(super) path: PathBuf,
    pub(super) json: Vec<u8>,
}

impl Tokenizer {
    /// That of a file.
    pub(super) fn read(path: PathBuf) -> Result<Tokenizer, ImportError> {
        match overmask::fs::read_at_most(&path, Opened::MAX_BYTES) {
            Ok(Some(json)) => Ok(Tokenizer { path, json }),
            Ok(None) => {
                let reason = format!("has more than {} MiB, more than any tokenizer", Opened::MAX_BYTES >> 20);
                Err(ImportError::Tokenizer { path, source: reason.into() })
            }
            Err(source) => Err(ImportError::Read { path, source }),
        }
    }
}

/// Checks that a bundle can go to `out`, by making and removing what it is made in.
///
/// # Errors
/// When something is there, or nothing can be written beside it.
pub fn try_place(out: &Path) -> Result<(), ImportError> {
    Staged::new(out)?;
    Ok(())
}

/// Checks that a bundle may go to `out`.
pub(super) fn check_place(out: &Path) -> Result<(), ImportError> {
    Ok(Staged::check(out)?)
}

/// Writes the bundle; `graph` makes the model, given where in the weights' file each tensor starts, and `check` tries
/// the base before anyone sees it.
///
/// # Errors
/// When a weight is no finite number, a file cannot be written, the bundle does not open, its tokenizer makes
/// what the encoder does not know, or `check` finds something.
pub(super) fn write(
    out: &Path,
    parts: Parts<'_>,
    graph: impl FnOnce(&BTreeMap<String, u64>) -> Result<ModelProto, ImportError>,
    check: impl FnOnce(&Base) -> Result<(), ImportError>,
) -> Result<Base, ImportError> {
    let not_finite = |(name, shape, bytes): &TensorBytes<'_>| {
        let (path, name) = (parts.weights.clone(), (*name).to_owned());
        Some(ImportError::NotFinite { path, name, reason: base::not_finite(shape, bytes)? })
    };
    parts.tensors.iter().find_map(not_finite).map_or(Ok(()), Err)?;

    let staged = Staged::new(out)?;
    let offsets = staged.file(file::WEIGHTS, |out| base::write_weights(out, &parts.tensors))?;
    staged.write(file::MODEL, &overmask_graph::encode(&graph(&offsets)?))?;
    staged.write(file::TOKENIZER, &parts.tokenizer.json)?;

    let at = |name: &str| staged.dir().join(name);
    let mut digests = BTreeMap::new();
    for name in [file::MODEL, file::TOKENIZER, file::WEIGHTS] {
        digests.insert(
            name.to_owned(),
            file_digest(&at(name)).map_err(|source| ImportError::Read { path: at(name), source })?,
        );
    }
    let mut manifest = BaseManifest {
        format: base::FORMAT,
        base_id: String::new(),
        maskable: parts.maskable,
        architecture: parts.architecture,
        variant: Precision::F32,
        tokenizer_sha256: digests[file::TOKENIZER].clone(),
        digests,
        pooling: parts.pooling,
        max_tokens: parts.max_tokens,
        licence: parts.origin.licence.unwrap_or_else(|| "unknown".to_owned()),
        source: parts.origin.source.unwrap_or_else(|| "unknown".to_owned()),
    };
    manifest.base_id =
        manifest.identity(parts.tensors.iter().map(|(name, shape, bytes)| ((*name).to_owned(), *shape, *bytes)));
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|source| ImportError::Config { path: at(file::MANIFEST), source })?;
    staged.write(file::MANIFEST, &text)?;

    // What was written must open, and run whatever text it is given, before anyone sees it.
    let base = Base::open(staged.dir())?;
    let checked = Opened::open(&base).and_then(|tokenizer| tokenizer.check(&base));
    checked.map_err(|error| match error {
        // Its path is one that nobody has seen.
        TaskError::Tokenizer { source, .. } => ImportError::Tokenizer { path: parts.tokenizer.path, source },
        other => ImportError::Tokenizer { path: parts.tokenizer.path, source: other.into() },
    })?;
    check(&base)?;

    staged.publish()?;
    Ok(Base::open(out)?)
}

/// Writes a base whose tensors have other values, of the same shapes: another base, with an identity of its own.
///
/// # Errors
/// As [`write`].
pub fn rewrite(
    base: &Base,
    tensors: &BTreeMap<String, Vec<f32>>,
    source: String,
    out: &Path,
) -> Result<Base, ImportError> {
    let manifest = base.manifest();
    let bytes = |values: &Vec<f32>| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let changed: BTreeMap<&str, Vec<u8>> =
        tensors.iter().map(|(name, values)| (name.as_str(), bytes(values))).collect();
    let names = base.names();
    let tensor = |name: &'_ String| {
        let (shape, bytes) = base.tensor_bytes(name)?;
        Ok((shape, changed.get(name.as_str()).map_or(bytes, Vec::as_slice)))
    };
    let values: Vec<(&[usize], &[u8])> = names.iter().map(tensor).collect::<Result<_, BaseError>>()?;
    let path = base.dir().join(file::TOKENIZER);
    let parts = Parts {
        architecture: manifest.architecture.clone(),
        maskable: manifest.maskable.clone(),
        tensors: names.iter().zip(values).map(|(name, (shape, bytes))| (name.as_str(), shape, bytes)).collect(),
        weights: base.dir().join(file::WEIGHTS),
        tokenizer: Tokenizer::read(path)?,
        pooling: manifest.pooling,
        max_tokens: manifest.max_tokens,
        origin: Origin { source: Some(source), licence: Some(manifest.licence.clone()) },
    };
    let graph = |offsets: &BTreeMap<String, u64>| {
        let mut model = overmask_graph::read_base(base)?;
        variant::store_as(&mut model, Precision::F32, offsets)?;
        Ok(model)
    };
    write(out, parts, graph, |_| Ok(()))
}

/// A file of the checkpoint.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    overmask::fs::read(path).map_err(|source| ImportError::Read { path: path.to_owned(), source })
}
