//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes a file beside its place, brings it to the disk, and renames it into place.
///
/// A reader sees the old file or the new one, never a part; when anything fails the old file
/// is still there and nothing else is left. A link stays one: the file that it names is replaced.
///
/// # Errors
/// What `write` returns, or what the file system reports; where a device, a pipe or a directory is in
/// the way.
pub fn write_atomically<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    // As others are: for all whom the process's umask lets read.
    replace(&place(path)?, 0o666, write)
}

/// The same for bytes that nobody else may write to, whatever the umask says; a link is replaced.
///
/// # Errors
/// What the file system reports.
pub fn write_shared(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, 0o644, |file| file.write_all(bytes))
}

fn replace<E: From<io::Error>>(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let (mut beside, dir) = beside(path, mode)?;
    write(beside.as_file_mut())?;
    beside.as_file().sync_all()?;
    beside.persist(path).map_err(|e| e.error)?;
    sync_dir(dir)?;
    Ok(())
}

/// Whether this process may write a file of so many bytes: beyond its limit a write does not fail but ends the process.
///
/// # Errors
/// When it may not.
#[cfg(unix)]
pub fn fits(len: u64) -> io::Result<()> {
    use rustix::process::{Resource, getrlimit};

    match getrlimit(Resource::Fsize).current {
        Some(limit) if limit < len => {
            let reason = format!("it has {len} bytes, and this process may write files of {limit} (`ulimit -f`)");
            Err(io::Error::new(io::ErrorKind::FileTooLarge, reason))
        }
        _ => Ok(()),
    }
}

/// Where there are no such limits, it may.
#[cfg(not(unix))]
pub fn fits(_: u64) -> io::Result<()> {
    Ok(())
}

/// Where a file of this name goes: to where a link leads, else there.
///
/// # Errors
/// When something is there that a rename must not replace: a device, a pipe, a directory, a link to nothing.
pub fn place(path: &Path) -> io::Result<PathBuf> {
    let refused = |kind, reason| Err(io::Error::new(kind, reason));
    match (fs::symlink_metadata(path), fs::metadata(path)) {
        (_, Ok(found)) if found.is_dir() => refused(io::ErrorKind::IsADirectory, "is a directory; name a file"),
        (_, Ok(found)) if !found.is_file() => refused(io::ErrorKind::InvalidInput, "is no regular file; name another"),
        (Ok(found), Ok(_)) if found.is_symlink() => fs::canonicalize(path),
        (Ok(_), Err(_)) => refused(io::ErrorKind::InvalidInput, "is a link to nothing that is there; remove it"),
        _ => Ok(path.to_owned()),
    }
}

/// Writes a file that must not be there yet, whole or not at all; a private one is for nobody
/// else to read, from its first byte on.
///
/// # Errors
/// `AlreadyExists` when there is such a file, or what the file system reports.
pub fn write_new(path: &Path, bytes: &[u8], private: bool) -> io::Result<()> {
    let (mut beside, dir) = beside(path, if private { 0o600 } else { 0o666 })?;
    beside.write_all(bytes)?;
    beside.as_file().sync_all()?;
    beside.persist_noclobber(path).map_err(|e| e.error)?;
    sync_dir(dir)
}

/// An empty file beside a place, with the permissions that the umask leaves of `mode`, and the
/// directory of both.
#[cfg_attr(not(unix), allow(unused_variables))]
fn beside(path: &Path, mode: u32) -> io::Result<(tempfile::NamedTempFile, &Path)> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".overmask-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    Ok((builder.tempfile_in(dir)?, dir))
}

/// A rename is on the disk only when its directory is.
#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomically::<io::Error>(&path, |f| f.write_all(b"old")).unwrap();
        let failed = write_atomically(&path, |f| {
            f.write_all(b"half of the new")?;
            Err(io::Error::other("power cut"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "power cut");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        write_atomically::<io::Error>(&path, |f| f.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[cfg(unix)]
    #[test]
    fn only_files_are_replaced_and_links_stay() {
        use std::os::unix::fs::{FileTypeExt, symlink};

        let dir = tempfile::tempdir().unwrap();
        let [real, link, broken, pipe] = ["real", "link", "broken", "pipe"].map(|name| dir.path().join(name));
        std::fs::write(&real, b"old").unwrap();
        symlink("real", &link).unwrap();
        symlink("nothing", &broken).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        write_atomically::<io::Error>(&link, |f| f.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&real).unwrap(), b"new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        for (path, said) in
            [(&broken, "link to nothing"), (&pipe, "no regular file"), (&dir.path().to_owned(), "directory")]
        {
            let error = write_atomically::<io::Error>(path, |f| f.write_all(b"new")).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
    }

    /// Run twice: as it is, and by itself in a process with another umask.
    #[cfg(unix)]
    #[test]
    fn a_written_file_has_the_permissions_of_any_other() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let [ours, other] = ["ours", "other"].map(|name| dir.path().join(name));
        write_atomically::<io::Error>(&ours, |f| f.write_all(b"x")).unwrap();
        std::fs::write(&other, b"x").unwrap();
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&other));

        if crate::again::is_inside("umask 027") {
            assert_eq!(mode(&ours) & 0o777, 0o640);
        }
    }

    #[test]
    fn a_new_file_is_not_written_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_new(&path, b"secret", true).unwrap();
        let error = write_new(&path, b"other", false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write_atomically::<io::Error>(&dir.path().join("no/a"), |_| Ok(())).is_err());
    }
}
