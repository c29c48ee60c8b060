//! How archives are packed.

use std::path::Path;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Zip,
    TarGz,
}

/// By its name; none if it is no archive that we can read.
pub(super) fn packing(name: &str) -> Option<Packing> {
    let name = name.to_ascii_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|e| name.ends_with(e));
    if ends(&[".whl", ".zip"]) {
        Some(Packing::Zip)
    } else if ends(&[".tar.gz", ".tgz"]) {
        Some(Packing::TarGz)
    } else {
        None
    }
}

/// Whether the file's name is that of an archive that we can read.
pub(super) fn is_archive(path: &Path) -> bool {
    packing(&path.to_string_lossy()).is_some()
}
