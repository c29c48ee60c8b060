//! Taking named files out of zip and tar.gz archives.
//!
//! Nothing of an archive decides where a file goes or how long it may get: names come from the
//! manifest, and copying stops at the size that the manifest says.

use std::cell::Cell;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use flate2::read::GzDecoder;
use overmask::fs::hex;
use sha2::{Digest, Sha256};
use zip::ZipArchive;
use zip::result::ZipError;

use super::manifest::Wanted;
use super::packing::{Packing, packing};
use super::{FetchError, unreadable, unwritable};

/// The longest archive within an archive that is unpacked.
const LONGEST_INNER: u64 = 1 << 30;

/// The most bytes that a zip file's list of its files may take, and the names before a file of a tar file: libraries
/// hold them in memory, and a packed MB unpacks to a thousand.
const LONGEST_LIST: u64 = 16 << 20;
const LONGEST_NAMES: u64 = 1 << 20;

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
        let within = scratch.join(format!("inner-{}-{name}", deeper.len()));
        join([(archive, first.as_str())], &within)?;
        return extract(&within, &inside[1..], wanted, scratch, into);
    }
    let paths: Vec<String> = wanted
        .iter()
        .map(|w| if folder.is_empty() { w.name.clone() } else { format!("{folder}/{}", w.name) })
        .collect();
    let names: Vec<&str> = paths.iter().map(String::as_str).collect();
    each(archive, &names, &mut |i, reader| place(reader, wanted[i], archive, into))
}

/// Copies what `reader` gives of `origin` into `into` under the wanted name, and checks size and
/// digest.
pub(super) fn place(reader: &mut dyn Read, wanted: &Wanted, origin: &Path, into: &Path) -> Result<(), FetchError> {
    let mut hasher = Sha256::new();
    let to = into.join(&wanted.name);
    let mut out = File::create(&to).map_err(unwritable(&to))?;
    let copied = copy(reader, origin, (&mut out, &to), wanted.size, &mut |bytes| hasher.update(bytes))?;
    let (name, origin) = (wanted.name.clone(), origin.display().to_string());
    if copied != Some(wanted.size) {
        return Err(FetchError::Size { name, origin, expected: wanted.size });
    }
    let found = hex(&hasher.finalize());
    if found != wanted.sha256 {
        return Err(FetchError::Digest { name, origin, found, expected: wanted.sha256.clone() });
    }
    Ok(())
}

/// An archive within an archive, or a part of one.
fn inner(reader: &mut dyn Read, origin: &Path, to: (&mut File, &Path)) -> Result<(), FetchError> {
    match copy(reader, origin, to, LONGEST_INNER, &mut |_| ())? {
        Some(_) => Ok(()),
        None => Err(broken(origin, format!("an archive in it is longer than {LONGEST_INNER} bytes"))),
    }
}

/// Makes an archive of its parts, which lie in these archives, in this order.
pub(super) fn join<'a>(parts: impl IntoIterator<Item = (&'a Path, &'a str)>, to: &Path) -> Result<(), FetchError> {
    let mut out = File::create(to).map_err(unwritable(to))?;
    for (archive, name) in parts {
        each(archive, &[name], &mut |_, reader| inner(reader, archive, (&mut out, to)))?;
    }
    Ok(())
}

/// Appends what `reader` gives of `origin` to a file, and shows it to `see`. Returns the
/// length, or nothing when there are more than `most` bytes: then it stops.
fn copy(
    reader: &mut dyn Read,
    origin: &Path,
    (out, to): (&mut File, &Path),
    most: u64,
    see: &mut dyn FnMut(&[u8]),
) -> Result<Option<u64>, FetchError> {
    let mut buffer = vec![0; 1 << 16];
    let mut copied = 0;
    loop {
        let bytes = match reader.read(&mut buffer).map_err(|e| broken(origin, e))? {
            0 => break,
            n => &buffer[..n],
        };
        copied += bytes.len() as u64;
        if copied > most {
            return Ok(None);
        }
        see(bytes);
        out.write_all(bytes).map_err(unwritable(to))?;
    }
    out.sync_all().map_err(unwritable(to))?;
    Ok(Some(copied))
}

/// Reads no more than its owner allows at the time.
struct Metered<'a, R> {
    inner: R,
    /// Bytes that may still be read.
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left.get()).unwrap_or(usize::MAX));
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the names of its files are longer than any"));
        }
        let read = self.inner.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - read as u64);
        Ok(read)
    }
}

impl<R: Seek> Seek for Metered<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// What is done with a file: its place in the list of names, and its content.
type Visit<'a> = &'a mut dyn FnMut(usize, &mut dyn Read) -> Result<(), FetchError>;

/// Hands each of the named files to `visit`, in any order.
fn each(archive: &Path, names: &[&str], visit: Visit) -> Result<(), FetchError> {
    let file = overmask::fs::open(archive).map_err(unreadable(archive))?;
    let reader = BufReader::new(file);
    match packing(&archive.to_string_lossy()) {
        Some(Packing::Zip) => each_in_zip(archive, reader, names, visit),
        Some(Packing::TarGz) => each_in_tar(archive, reader, names, visit),
        None => Err(broken(archive, "is no archive that we read (.whl, .zip, .tar.gz, .tgz)")),
    }
}

fn each_in_zip(archive: &Path, reader: BufReader<File>, names: &[&str], visit: Visit) -> Result<(), FetchError> {
    let left = Cell::new(LONGEST_LIST);
    let mut zip = ZipArchive::new(Metered { inner: reader, left: &left }).map_err(|e| broken(archive, e))?;
    left.set(u64::MAX);
    for (i, name) in names.iter().enumerate() {
        let mut entry = zip.by_name(name).map_err(|e| match e {
            ZipError::FileNotFound => absent(archive, name),
            e => broken(archive, e),
        })?;
        visit(i, &mut entry)?;
    }
    Ok(())
}

fn each_in_tar(archive: &Path, reader: BufReader<File>, names: &[&str], visit: Visit) -> Result<(), FetchError> {
    let left = Cell::new(LONGEST_NAMES);
    let mut tar = tar::Archive::new(Metered { inner: GzDecoder::new(reader), left: &left });
    let mut found = vec![false; names.len()];
    let mut entries = tar.entries().map_err(|e| broken(archive, e))?;
    loop {
        left.set(LONGEST_NAMES);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(|e| broken(archive, e))?;
        left.set(u64::MAX);
        let path = entry.path().map_err(|e| broken(archive, e))?.into_owned();
        let place = names.iter().position(|n| Path::new(n) == path);
        if let Some(i) = place.filter(|&i| !found[i]) {
            visit(i, &mut entry)?;
            found[i] = true;
            if found.iter().all(|f| *f) {
                return Ok(());
            }
        }
        // Else the library would skip the rest of the file on its way to the next names.
        io::copy(&mut entry, &mut io::sink()).map_err(|e| broken(archive, e))?;
    }
    match names.iter().zip(&found).find(|(_, found)| !**found) {
        Some((name, _)) => Err(absent(archive, name)),
        None => Ok(()),
    }
}

fn broken(archive: &Path, reason: impl Into<Box<dyn Error + Send + Sync>>) -> FetchError {
    FetchError::Archive { path: archive.to_owned(), source: reason.into() }
}

fn absent(archive: &Path, name: &str) -> FetchError {
    FetchError::Absent { place: archive.to_owned(), name: name.to_owned() }
}
