//! Writes a base bundle: into a directory beside its place, which is renamed when it is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use overmask::base::{self, Architecture, Base, BaseManifest, MaskableTensor, TensorBytes, file};
use overmask::onnx;
use overmask::onnx::proto::ModelProto;

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
    if out.exists() && fs::read_dir(out).map_err(unwritable(out))?.next().is_some() {
        return Err(ImportError::Exists { path: out.to_owned() });
    }
    Ok(())
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
    check_place(out)?;
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(unwritable(parent))?;
    let beside = tempfile::Builder::new().prefix(".import-").tempdir_in(parent).map_err(unwritable(parent))?;
    // Unlike the temporary directory around it, it is not private to its owner.
    let staged = beside.path().join("base");
    fs::create_dir(&staged).map_err(unwritable(&staged))?;
    let at = |name: &str| staged.join(name);

    let weights = at(file::WEIGHTS);
    let offsets = (|| -> std::io::Result<BTreeMap<String, u64>> {
        let mut out = BufWriter::new(File::create(&weights)?);
        let offsets = base::write_weights(&mut out, &parts.tensors)?;
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        Ok(offsets)
    })()
    .map_err(unwritable(&weights))?;
    write_file(&at(file::MODEL), &onnx::encode(&graph(&offsets)?))?;
    write_file(&at(file::TOKENIZER), &read(&parts.tokenizer)?)?;

    let mut digests = BTreeMap::new();
    for name in [file::MODEL, file::TOKENIZER, file::WEIGHTS] {
        digests.insert(name.to_owned(), base::file_digest(&at(name))?);
    }
    let mut manifest = BaseManifest {
        format: base::FORMAT,
        base_id: String::new(),
        maskable: parts.maskable,
        architecture: parts.architecture,
        variant: "f32".to_owned(),
        tokenizer_sha256: digests[file::TOKENIZER].clone(),
        digests,
        licence: parts.origin.licence.unwrap_or_else(|| "unknown".to_owned()),
        source: parts.origin.source.unwrap_or_else(|| "unknown".to_owned()),
    };
    manifest.base_id =
        manifest.identity(parts.tensors.iter().map(|(name, shape, bytes)| ((*name).to_owned(), *shape, *bytes)));
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|source| ImportError::Config { path: at(file::MANIFEST), source })?;
    write_file(&at(file::MANIFEST), &text)?;

    // What was written must open before anyone sees it.
    overmask::task::Tokenizer::open(&Base::open(&staged)?)
        .map_err(|e| ImportError::Tokenizer { path: parts.tokenizer, reason: e.to_string() })?;

    // An empty directory may be in the way of the rename.
    if out.exists() {
        fs::remove_dir(out).map_err(unwritable(out))?;
    }
    fs::rename(&staged, out).map_err(unwritable(out))?;
    Ok(Base::open(out)?)
}

/// A file of the checkpoint.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    fs::read(path).map_err(|source| ImportError::Read { path: path.to_owned(), source })
}

fn unwritable(path: &Path) -> impl FnOnce(std::io::Error) -> ImportError + use<> {
    let path = path.to_owned();
    move |source| ImportError::Write { path, source }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ImportError> {
    let attempt = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    attempt().map_err(unwritable(path))
}
