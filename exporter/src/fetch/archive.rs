//! Taking named files out of zip and tar.gz archives.
//!
//! Nothing of an archive decides where a file goes or how long it may get: names come from the
//! manifest, and copying stops at the size that the manifest says.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use zip::ZipArchive;
use zip::result::ZipError;

use super::FetchError;
use super::manifest::Wanted;
use crate::data::hex;

/// The longest archive within an archive that is unpacked.
const LONGEST_INNER: u64 = 1 << 30;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Zip,
    TarGz,
}

fn packing(name: &str) -> Option<Packing> {
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

/// Takes the wanted files out of the archive and puts them into `into`, digests checked.
///
/// `inside` is the way to them, see [`super::manifest::Source::inside`]; `scratch` is a
/// directory for archives within the archive.
pub(super) fn extract(
    archive: &Path,
    inside: &[String],
    wanted: &[&Wanted],
    scratch: &Path,
    into: &Path,
) -> Result<(), FetchError> {
    let (folder, outer) = match inside.split_last() {
        Some((folder, outer)) => (folder.trim_matches('/'), outer),
        None => ("", inside),
    };
    if let Some((first, deeper)) = outer.split_first() {
        let name = first.rsplit('/').next().unwrap_or(first);
        let inner = scratch.join(format!("inner-{}-{name}", deeper.len()));
        each(archive, &[first], &mut |_, reader| copy_at_most(reader, &inner, LONGEST_INNER))?;
        return extract(&inner, &inside[1..], wanted, scratch, into);
    }
    let paths: Vec<String> = wanted
        .iter()
        .map(|w| if folder.is_empty() { w.name.clone() } else { format!("{folder}/{}", w.name) })
        .collect();
    let names: Vec<&str> = paths.iter().map(String::as_str).collect();
    each(archive, &names, &mut |i, reader| place(reader, wanted[i], &archive.display().to_string(), into))
}

/// Copies what `reader` gives into `into` under the wanted name, and checks size and digest.
pub(super) fn place(reader: &mut dyn Read, wanted: &Wanted, origin: &str, into: &Path) -> Result<(), FetchError> {
    let path = into.join(&wanted.name);
    let io = |source| FetchError::Io { path: path.clone(), source };
    let mut out = File::create(&path).map_err(io)?;
    let mut hasher = Sha256::new();
    let mut left = wanted.size;
    let mut buffer = vec![0; 1 << 16];
    let mut longer = false;
    loop {
        let n = reader.read(&mut buffer).map_err(io)?;
        if n == 0 {
            break;
        }
        match left.checked_sub(n as u64) {
            Some(rest) => left = rest,
            None => {
                longer = true;
                break;
            }
        }
        hasher.update(&buffer[..n]);
        out.write_all(&buffer[..n]).map_err(io)?;
    }
    if longer || left > 0 {
        return Err(FetchError::Size { name: wanted.name.clone(), origin: origin.to_owned(), expected: wanted.size });
    }
    out.sync_all().map_err(io)?;
    let found = hex(&hasher.finalize());
    if found != wanted.sha256 {
        return Err(FetchError::Digest {
            name: wanted.name.clone(),
            origin: origin.to_owned(),
            found,
            expected: wanted.sha256.clone(),
        });
    }
    Ok(())
}

fn copy_at_most(reader: &mut dyn Read, to: &Path, most: u64) -> Result<(), FetchError> {
    let io = |source| FetchError::Io { path: to.to_owned(), source };
    let mut out = File::create(to).map_err(io)?;
    let copied = std::io::copy(&mut reader.take(most), &mut out).map_err(io)?;
    if copied == most {
        return Err(FetchError::Archive { path: to.to_owned(), reason: format!("longer than {most} bytes") });
    }
    Ok(())
}

/// What is done with a file: its place in the list of names, and its content.
type Visit<'a> = &'a mut dyn FnMut(usize, &mut dyn Read) -> Result<(), FetchError>;

/// Hands each of the named files to `visit`, in any order.
fn each(archive: &Path, names: &[&str], visit: Visit) -> Result<(), FetchError> {
    let file = File::open(archive).map_err(|source| FetchError::Io { path: archive.to_owned(), source })?;
    let reader = BufReader::new(file);
    match packing(&archive.to_string_lossy()) {
        Some(Packing::Zip) => each_in_zip(archive, reader, names, visit),
        Some(Packing::TarGz) => each_in_tar(archive, reader, names, visit),
        None => Err(broken(archive, &"is no archive that we read (.whl, .zip, .tar.gz, .tgz)")),
    }
}

fn each_in_zip(archive: &Path, reader: BufReader<File>, names: &[&str], visit: Visit) -> Result<(), FetchError> {
    let mut zip = ZipArchive::new(reader).map_err(|e| broken(archive, &e))?;
    for (i, name) in names.iter().enumerate() {
        let mut entry = zip.by_name(name).map_err(|e| match e {
            ZipError::FileNotFound => absent(archive, name),
            e => broken(archive, &e),
        })?;
        visit(i, &mut entry)?;
    }
    Ok(())
}

fn each_in_tar(archive: &Path, reader: BufReader<File>, names: &[&str], visit: Visit) -> Result<(), FetchError> {
    let mut tar = tar::Archive::new(GzDecoder::new(reader));
    let mut found = vec![false; names.len()];
    for entry in tar.entries().map_err(|e| broken(archive, &e))? {
        let mut entry = entry.map_err(|e| broken(archive, &e))?;
        let path = entry.path().map_err(|e| broken(archive, &e))?.into_owned();
        let place = names.iter().position(|n| Path::new(n) == path);
        if let Some(i) = place.filter(|&i| !found[i]) {
            visit(i, &mut entry)?;
            found[i] = true;
            if found.iter().all(|f| *f) {
                return Ok(());
            }
        }
    }
    match names.iter().zip(&found).find(|(_, found)| !**found) {
        Some((name, _)) => Err(absent(archive, name)),
        None => Ok(()),
    }
}

fn broken(archive: &Path, reason: &dyn std::fmt::Display) -> FetchError {
    FetchError::Archive { path: archive.to_owned(), reason: reason.to_string() }
}

fn absent(archive: &Path, name: &str) -> FetchError {
    FetchError::Absent { place: archive.to_owned(), name: name.to_owned() }
}
