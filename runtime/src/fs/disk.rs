//! What a directory has room for, and whether its files can be mapped.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::map::map_file;

/// What a file system has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process's user may still write.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// Whether nothing can be written there at all.
    pub read_only: bool,
}

/// What the file system of a path has room for.
///
/// # Errors
/// What the system reports; everywhere but on Unix.
#[cfg(unix)]
pub fn space(path: &Path) -> io::Result<Space> {
    use rustix::fs::{StatVfsMountFlags, statvfs};

    let found = statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    let read_only = found.f_flag.contains(StatVfsMountFlags::RDONLY);
    Ok(Space { free: bytes(found.f_bavail), total: bytes(found.f_blocks), read_only })
}

/// Elsewhere nobody asks.
#[cfg(not(unix))]
pub fn space(_: &Path) -> io::Result<Space> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether files of a directory can be mapped.
#[derive(Debug)]
pub enum Mapping {
    /// A file was written there, mapped, and seen to hold what was written.
    Works,
    /// No file can be written there, so none was mapped.
    NotTried(io::Error),
    /// A file was written there and cannot be mapped.
    Fails(io::Error),
}

/// Bytes of the file that is mapped: more than one of the largest pages that Linux has by default.
const TRIED: usize = (64 << 10) + 4096;

/// Maps a small file in a directory and compares what it shows with what was written. Nothing is left of the file.
pub fn try_map(dir: &Path) -> Mapping {
    // No two pages are alike.
    let bytes: Vec<u8> = (0..TRIED).map(|i| (i % 251) as u8).collect();
    let written = tempfile::tempfile_in(dir).and_then(|mut file| file.write_all(&bytes).map(|()| file));
    match written.map(|file| shows(&file, &bytes)) {
        Err(error) => Mapping::NotTried(error),
        Ok(Err(error)) => Mapping::Fails(error),
        Ok(Ok(())) => Mapping::Works,
    }
}

fn shows(file: &File, bytes: &[u8]) -> io::Result<()> {
    match map_file(file)?[..] == *bytes {
        true => Ok(()),
        false => Err(io::Error::other("a map shows something else than what was written")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn there_is_room_where_tests_write() {
        let dir = tempfile::tempdir().unwrap();
        let found = space(dir.path()).unwrap();
        assert!(!found.read_only && found.free > 0 && found.free <= found.total, "{found:?}");
        assert!(space(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn a_map_is_tried_and_nothing_left_of_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(try_map(dir.path()), Mapping::Works));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(matches!(try_map(&dir.path().join("absent")), Mapping::NotTried(_)));
        let other = tempfile::tempfile().unwrap();
        assert!(shows(&other, b"bytes").is_err());
    }
}
