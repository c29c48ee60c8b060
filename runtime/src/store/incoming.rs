//! What is arriving: files that are named by the digest which they will have, and go on where they stopped.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::collect::remove;
use super::{Changing, INCOMING, Store, StoreError, make_dir, names_in};
use crate::fs::{fits, hex, is_sha256};

/// A file that is arriving; what has come stays when it is dropped.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    /// Opened when something is written to it: there may be many.
    file: Option<File>,
    hash: Sha256,
    sha256: String,
    len: u64,
    have: u64,
    is_resumed: bool,
}

impl Store {
    /// Where a file is while it arrives.
    pub(super) fn part_path(&self, sha256: &str) -> PathBuf {
        self.dir.join(INCOMING).join(sha256)
    }

    /// How much of each file has arrived that is not whole yet: its digest and its bytes so far.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn arriving(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let dir = self.dir.join(INCOMING);
        let names = names_in(&dir)?.into_iter().filter(|name| is_sha256(name));
        let size = |name: String| fs::metadata(dir.join(&name)).map(|found| (name, found.len()));
        names.map(size).collect::<io::Result<_>>().map_err(StoreError::io("read", &dir))
    }
}

impl Changing {
    /// Begins a file of so many bytes that has this digest, or goes on with it: [`Part::have`] says from where.
    ///
    /// # Errors
    /// When the digest is none, or the file cannot be written.
    pub fn arrive(&self, sha256: &str, len: u64) -> Result<Part, StoreError> {
        if !is_sha256(sha256) {
            let reason = "its digest is not 64 lower-case hex digits".to_owned();
            return Err(StoreError::Transfer { what: format!("{sha256:?}"), reason });
        }
        let path = self.part_path(sha256);
        fits(len).map_err(StoreError::io("write", &path))?;
        make_dir(&self.dir.join(INCOMING))?;
        let mut part =
            Part { path, file: None, hash: Sha256::new(), sha256: sha256.to_owned(), len, have: 0, is_resumed: false };
        match fs::symlink_metadata(&part.path) {
            Ok(found) if found.is_file() && found.len() <= len => part.read_on()?,
            // A link or a pipe that somebody put there is not followed but replaced.
            Ok(_) => remove(&part.path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("read", &part.path)(error)),
        }
        // Nothing would come that could mend it.
        if part.have == len && part.found() != part.sha256 {
            part.restart()?;
        }
        Ok(part)
    }
}

impl Part {
    /// Reads what is there.
    fn read_on(&mut self) -> Result<(), StoreError> {
        let mut file = crate::fs::open(&self.path).map_err(StoreError::io("read", &self.path))?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer).map_err(StoreError::io("read", &self.path))? {
                0 => break,
                n => {
                    self.hash.update(&buffer[..n]);
                    self.have += n as u64;
                }
            }
        }
        self.is_resumed = self.have > 0;
        Ok(())
    }

    /// The digest of what is there.
    pub(super) fn found(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// The file, opened to be written at its end.
    fn open(&mut self) -> Result<&mut File, StoreError> {
        let mut options = File::options();
        options.create(true).append(true);
        // Nobody else is to write to it, whatever the umask says.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o644);
        let file = match self.file.take() {
            Some(file) => file,
            None => options.open(&self.path).map_err(StoreError::io("write", &self.path))?,
        };
        Ok(self.file.insert(file))
    }

    /// Bytes that are there.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Whether some of them were there before, from another time.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Begins again, with nothing.
    ///
    /// # Errors
    /// When what is there cannot be removed.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        remove(&self.path)?;
        (self.file, self.hash, self.have, self.is_resumed) = (None, Sha256::new(), 0, false);
        Ok(())
    }

    /// Takes in what comes next.
    ///
    /// # Errors
    /// When that is more than was announced, or it cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if bytes.len() as u64 > self.len - self.have {
            let reason = format!("there are more than the {} bytes that were announced", self.len);
            return Err(StoreError::Transfer { what: self.sha256.clone(), reason });
        }
        self.open()?.write_all(bytes).map_err(StoreError::io("write", &self.path))?;
        self.hash.update(bytes);
        self.have += bytes.len() as u64;
        Ok(())
    }

    /// Takes in the rest from a reader that stands where the part does; no more is read than is missing.
    ///
    /// # Errors
    /// As [`Part::write`]; when the reader fails.
    pub fn take(&mut self, from: &mut impl Read, what: &str) -> Result<(), StoreError> {
        let mut buffer = vec![0; 1 << 18];
        while self.have < self.len {
            let most = usize::try_from(self.len - self.have).unwrap_or(usize::MAX).min(buffer.len());
            match from.read(&mut buffer[..most]) {
                Ok(0) => {
                    let reason = format!("it ended after {} of {} bytes", self.have, self.len);
                    return Err(StoreError::Transfer { what: what.to_owned(), reason });
                }
                Ok(n) => self.write(&buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::Transfer { what: what.to_owned(), reason: error.to_string() }),
            }
        }
        Ok(())
    }

    /// Ends the file, which must be whole and what its digest says, and brings its bytes to the disk; returns where
    /// it is.
    ///
    /// # Errors
    /// When it is not that; it is removed, as it cannot be gone on with.
    pub fn finish(mut self, what: &str) -> Result<PathBuf, StoreError> {
        let refused = |reason: String| StoreError::Transfer { what: what.to_owned(), reason };
        if self.have < self.len {
            return Err(refused(format!("it ended after {} of {} bytes", self.have, self.len)));
        }
        let found = self.found();
        if found != self.sha256 {
            remove(&self.path)?;
            let again = if self.is_resumed { " (what had arrived before may have been damaged)" } else { "" };
            return Err(refused(format!("its sha256 is {found}, not {}{again}", self.sha256)));
        }
        self.open()?.sync_all().map_err(StoreError::io("sync", &self.path))?;
        Ok(self.path)
    }
}

/// Moves a file that has arrived into its place, replacing what is there.
pub(super) fn settle(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io("write", to))
}
