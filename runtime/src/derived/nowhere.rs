//! The directory of derived files on a system whose files have no owner that we could check: there is none.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::path::Path;

use super::{Contents, DerivedError};

/// A directory of derived files, which only its user (or root) can write to; on this system there is none.
#[derive(Debug, Clone)]
pub struct Directory(Infallible);

/// A file that is being written.
pub(super) struct Draft<'a>(&'a Infallible);

impl Directory {
    /// Opens a directory.
    ///
    /// # Errors
    /// Always, on this system.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DerivedError> {
        let reason = "has no owner that could be checked on this system".to_owned();
        Err(DerivedError::Untrusted { path: path.as_ref().to_owned(), reason })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self.0 {}
    }

    /// What lies in it.
    ///
    /// # Errors
    /// Never: there is none.
    pub fn contents(&self) -> io::Result<Contents> {
        match self.0 {}
    }

    /// Removes all derived files but those of these names.
    ///
    /// # Errors
    /// None.
    pub fn keep_only(&self, _: &std::collections::BTreeSet<String>) -> Result<(), DerivedError> {
        match self.0 {}
    }

    pub(super) fn find(&self, _: &str) -> io::Result<Option<File>> {
        match self.0 {}
    }

    pub(super) fn begin(&self) -> io::Result<Draft<'_>> {
        match self.0 {}
    }

    pub(super) fn remove(&self, _: &str) -> io::Result<()> {
        match self.0 {}
    }
}

impl Draft<'_> {
    pub(super) fn keep(self, _: &str, _: [&[u8]; 2]) -> io::Result<()> {
        match *self.0 {}
    }
}
