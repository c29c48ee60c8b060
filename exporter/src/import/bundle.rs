//! Writes a base bundle: into a directory beside its place, which is renamed when it is whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use overmask::base::{self, Architecture, Base, BaseManifest, MaskableTensor, Precision, TensorBytes, file};
use overmask::fs::{Staged, file_digest};
use overmask::task::{TaskError, Tokenizer};
use overmask_graph::proto::ModelProto;

use super::{ImportError, Origin};

/// What a bundle is made of, but for the graph.
pub(super) struct Parts<'a> {
    pub(super) architecture: Architecture,
    pub(super) maskable: Vec<MaskableTensor>,
    /// The weights, in the order in which a forward pass reads them.
    pub(super) tensors: Vec<TensorBytes<'a>>,
    /// The file with the tokenizer.
    pub(super) tokenizer: PathBuf,
    pub(super) origin: Origin,
}

/// Checks that a bundle may go to `out`.
pub(super) fn check_place(out: &Path) -> Result<(), ImportError> {
    Ok(Staged::check(out)?)
}

/// Writes the bundle; `graph` makes the model, given where in the weights' file each tensor starts.
///
/// # Errors
/// When a file cannot be written, or the bundle does not open.
pub(super) fn write(
    out: &Path,
    parts: Parts<'_>,
    graph: impl FnOnce(&BTreeMap<String, u64>) -> Result<ModelProto, ImportError>,
) -> Result<Base, ImportError> {
    let staged = Staged::new(out)?;
    let offsets = staged.file(file::WEIGHTS, |out| base::write_weights(out, &parts.tensors))?;
    staged.write(file::MODEL, &overmask_graph::encode(&graph(&offsets)?))?;
    staged.write(file::TOKENIZER, &read(&parts.tokenizer)?)?;

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
        licence: parts.origin.licence.unwrap_or_else(|| "unknown".to_owned()),
        source: parts.origin.source.unwrap_or_else(|| "unknown".to_owned()),
    };
    manifest.base_id =
        manifest.identity(parts.tensors.iter().map(|(name, shape, bytes)| ((*name).to_owned(), *shape, *bytes)));
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|source| ImportError::Config { path: at(file::MANIFEST), source })?;
    staged.write(file::MANIFEST, &text)?;

    // What was written must open before anyone sees it.
    Tokenizer::open(&Base::open(staged.dir())?).map_err(|error| {
        let source = match error {
            // Of the copy in a directory that is gone by then.
            TaskError::Tokenizer { source, .. } => source,
            other => other.into(),
        };
        ImportError::Tokenizer { path: parts.tokenizer, source }
    })?;

    staged.publish()?;
    Ok(Base::open(out)?)
}

/// A file of the checkpoint.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    fs::read(path).map_err(|source| ImportError::Read { path: path.to_owned(), source })
}
