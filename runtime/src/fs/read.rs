//! Reading regular files, and no more of one than it may have.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::Path;

/// Opens a regular file to be read. Nothing else is opened: a pipe may never end, and a device may act on being
/// opened.
///
/// # Errors
/// What the file system reports; where the path leads to a directory, a pipe, a device or a socket.
pub fn open(path: &Path) -> io::Result<File> {
    check_regular(&fs::metadata(path)?)?;
    let mut options = File::options();
    options.read(true);
    // What was a file a moment ago may be a pipe now: nobody waits for its other end.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path)?;
    check_regular(&file.metadata()?)?;
    Ok(file)
}

/// The bytes of a regular file.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of a regular file.
///
/// # Errors
/// As [`open`]; where it is not UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    io::read_to_string(open(path)?)
}

/// The bytes of a regular file, or `None` when there are more than `limit`; no more than that are read.
///
/// # Errors
/// As [`open`].
pub fn read_at_most(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// Says what is there instead of a regular file.
pub(crate) fn check_regular(found: &Metadata) -> io::Result<()> {
    if found.is_file() {
        return Ok(());
    }
    if found.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory; name a file"));
    }
    #[cfg(unix)]
    if std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type()) {
        let reason = "is a pipe; write what comes out of it to a file and name that";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "is a device or a socket; name a regular file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_a_file_may_have() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"four").unwrap();
        assert_eq!(read_at_most(&path, 4).unwrap().unwrap(), b"four");
        assert_eq!(read_at_most(&path, 3).unwrap(), None);
        assert_eq!(read(&path).unwrap(), b"four");
        assert_eq!(read_to_string(&path).unwrap(), "four");
        assert!(read_at_most(&dir.path().join("b"), 3).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_and_links_to_them_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link, pipe, socket] = ["file", "link", "pipe", "socket"].map(|name| dir.path().join(name));
        std::fs::write(&file, b"bytes").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert_eq!(read(&link).unwrap(), b"bytes");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let others = [
            (dir.path(), "a directory"),
            (&pipe, "a pipe"),
            (&socket, "a device or a socket"),
            (Path::new("/dev/zero"), "a device or a socket"),
        ];
        for (path, what) in others {
            for error in [open(path).unwrap_err(), super::super::file_digest(path).unwrap_err()] {
                assert!(error.to_string().contains(what), "{}: {error}", path.display());
            }
            assert!(super::super::map::map(path).is_err());
        }
    }
}
