//! A directory that appears whole or not at all: it is filled beside its place, and renamed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::ErrorKind;

/// Why a directory cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StagedError {
    /// The directory, or something in it, cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something is already there.
    #[error("{} exists and is not an empty directory; name another place or remove it", path.display())]
    Exists {
        /// The place.
        path: PathBuf,
    },
}

impl StagedError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Write { .. } => ErrorKind::DeviceOrStore,
            Self::Exists { .. } => ErrorKind::InputData,
        }
    }
}

/// A directory under construction; dropped, it leaves nothing.
#[derive(Debug)]
pub struct Staged {
    out: PathBuf,
    dir: PathBuf,
    /// Around `dir`; unlike that it is private to its owner.
    _beside: TempDir,
}

impl Staged {
    /// Checks that a directory may go to `out`: nothing is there, or an empty one.
    ///
    /// # Errors
    /// When something else is there, or it cannot be looked at.
    pub fn check(out: &Path) -> Result<(), StagedError> {
        if out.exists() && fs::read_dir(out).map_err(unwritable(out))?.next().is_some() {
            return Err(StagedError::Exists { path: out.to_owned() });
        }
        Ok(())
    }

    /// Begins a directory that will be `out`.
    ///
    /// # Errors
    /// As [`Staged::check`], and when nothing can be written beside it.
    pub fn new(out: &Path) -> Result<Self, StagedError> {
        Self::check(out)?;
        let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(unwritable(parent))?;
        let beside = tempfile::Builder::new().prefix(".overmask-").tempdir_in(parent).map_err(unwritable(parent))?;
        let dir = beside.path().join("new");
        fs::create_dir(&dir).map_err(unwritable(&dir))?;
        Ok(Staged { out: out.to_owned(), dir, _beside: beside })
    }

    /// Where it is being filled.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file of it.
    ///
    /// # Errors
    /// When it cannot be written; the file is named.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StagedError> {
        self.file(name, |out| out.write_all(bytes))
    }

    /// Writes a file of it with a function, and brings it to the disk.
    ///
    /// # Errors
    /// What the function or the file system reports; the file is named.
    pub fn file<T>(
        &self,
        name: &str,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<T>,
    ) -> Result<T, StagedError> {
        let path = self.dir.join(name);
        let attempt = || {
            let mut out = BufWriter::new(File::create(&path)?);
            let written = write(&mut out)?;
            out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
            Ok(written)
        };
        attempt().map_err(unwritable(&path))
    }

    /// Puts the directory in its place.
    ///
    /// # Errors
    /// When it cannot be moved there.
    pub fn publish(self) -> Result<(), StagedError> {
        let out = &self.out;
        // An empty directory may be in the way of the rename.
        if out.exists() {
            fs::remove_dir(out).map_err(unwritable(out))?;
        }
        fs::rename(&self.dir, out).map_err(unwritable(out))
    }
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> StagedError + use<> {
    let path = path.to_owned();
    move |source| StagedError::Write { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_appears_when_it_is_published_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        let staged = Staged::new(&out).unwrap();
        staged.write("file", b"bytes").unwrap();
        assert!(!out.exists());
        drop(staged);
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 0);

        fs::create_dir(&out).unwrap();
        let staged = Staged::new(&out).unwrap();
        staged.write("file", b"bytes").unwrap();
        staged.publish().unwrap();
        assert_eq!(fs::read(out.join("file")).unwrap(), b"bytes");
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_in_the_way_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"mine").unwrap();
        let error = Staged::new(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InputData);
        assert!(error.to_string().contains("not an empty directory"), "{error}");
        for out in [file.clone(), file.join("out")] {
            assert_eq!(Staged::new(&out).unwrap_err().kind(), ErrorKind::DeviceOrStore);
        }
        assert_eq!(fs::read(&file).unwrap(), b"mine");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
