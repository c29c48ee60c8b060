//! What is arriving: files that are named by the digest which they will have, and go on where they stopped.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Changing, INCOMING, Store, StoreError, make_dir, names_in};
use crate::fs::hex;

/// A file that is arriving; what has come stays when it is dropped.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
    sha256: String,
    len: u64,
    have: u64,
    /// Whether some of it was there before.
    is_resumed: bool,
}

impl Store {
    fn part_path(&self, sha256: &str) -> PathBuf {
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

/// Whether a text is a SHA-256 in lower-case hex.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
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
        make_dir(&self.dir.join(INCOMING))?;
        let path = self.part_path(sha256);
        // A link or a pipe that somebody put there is not followed but replaced.
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file() || found.len() > len) {
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        let open = File::options().create(true).truncate(false).read(true).append(true).open(&path);
        let mut file = open.map_err(StoreError::io("write", &path))?;
        let (mut hash, mut buffer, mut have) = (Sha256::new(), vec![0; 1 << 18], 0);
        loop {
            match file.read(&mut buffer).map_err(StoreError::io("read", &path))? {
                0 => break,
                n => {
                    hash.update(&buffer[..n]);
                    have += n as u64;
                }
            }
        }
        Ok(Part { path, file, hash, sha256: sha256.to_owned(), len, have, is_resumed: have > 0 })
    }

    /// Removes all that has arrived and was not taken in.
    pub(super) fn clear_incoming(&self) -> Result<(), StoreError> {
        let dir = self.dir.join(INCOMING);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", dir)(error)),
            _ => Ok(()),
        }
    }
}

impl Part {
    /// Bytes that are there.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Takes in what comes next.
    ///
    /// # Errors
    /// When that is more than was announced, or it cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.have + bytes.len() as u64 > self.len {
            let reason = format!("there are more than the {} bytes that were announced", self.len);
            return Err(StoreError::Transfer { what: self.sha256.clone(), reason });
        }
        self.file.write_all(bytes).map_err(StoreError::io("write", &self.path))?;
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

    /// Ends the file, which must be whole and what its digest says, and brings it to the disk; returns where it is.
    ///
    /// # Errors
    /// When it is not that; it is removed, as it cannot be gone on with.
    pub fn finish(self, what: &str) -> Result<PathBuf, StoreError> {
        let refused = |reason: String| StoreError::Transfer { what: what.to_owned(), reason };
        if self.have < self.len {
            return Err(refused(format!("it ended after {} of {} bytes", self.have, self.len)));
        }
        let found = hex(&self.hash.finalize());
        if found != self.sha256 {
            fs::remove_file(&self.path).map_err(StoreError::io("remove", &self.path))?;
            let again = if self.is_resumed { " (what had arrived before may have been damaged)" } else { "" };
            return Err(refused(format!("its sha256 is {found}, not {}{again}", self.sha256)));
        }
        self.file.sync_all().map_err(StoreError::io("sync", &self.path))?;
        Ok(self.path)
    }
}

/// Moves a file that has arrived into its place, replacing what is there, through to the disk.
pub(super) fn settle(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io("write", to))?;
    super::sync_parent(to)
}
