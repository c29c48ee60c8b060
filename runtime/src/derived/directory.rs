//! The directory of derived files: whose it is, and what is opened, made and removed in it.
//!
//! It is opened once, and all else goes through that handle by plain names. So what was checked is what is used,
//! whoever may rename directories above it.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::{self, DirBuilder, File, Metadata};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::{Contents, DerivedError, is_derived};
use crate::fs::read::check_regular;
use crate::fs::{fits, untrusted};

/// What files are called while they are written; not as other files are, which nobody locks.
const BESIDE: &str = ".derived-";

/// A file that is used is marked as used so often, at most: flash wears out.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A file that nobody has used for so long makes room when another is made.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A directory of derived files, which only its user (or root) can write to.
#[derive(Debug, Clone)]
pub struct Directory(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    handle: File,
}

impl Directory {
    /// Opens a directory, or makes one that is nobody else's to enter.
    ///
    /// # Errors
    /// When it cannot be made or opened, is a link, belongs to another user than this one or root, or others can
    /// write to it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DerivedError> {
        // With a slash at the end a link would be followed.
        let path: PathBuf = path.as_ref().components().collect();
        let refused = |reason: String| DerivedError::Untrusted { path: path.clone(), reason };
        let failed = |source| DerivedError::Io { path: path.clone(), source };
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
            return Err(refused("is a link".to_owned()));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
        let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits();
        let handle = File::options().read(true).custom_flags(flags as i32).open(&path).map_err(failed)?;
        match untrusted(&handle.metadata().map_err(failed)?) {
            Some(reason) => Err(refused(reason)),
            None => Ok(Directory(Arc::new(Opened { path, handle }))),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Opens a file of it, if there is one, and marks it as used.
    pub(super) fn find(&self, name: &str) -> io::Result<Option<File>> {
        let file = match self.at(name, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        check_regular(&found)?;
        if let Some(reason) = untrusted(&found) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        if age(found.modified()?) > DAY {
            // Root's is not ours to mark.
            let _ = file.set_modified(SystemTime::now());
        }
        Ok(Some(file))
    }

    /// Begins a file, which is there for others when it is [kept](Draft::keep).
    pub(super) fn begin(&self) -> io::Result<Draft<'_>> {
        let name = format!("{BESIDE}{:016x}", RandomState::new().build_hasher().finish());
        let file = self.at(&name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        // While it is locked, somebody writes to it. Where files cannot be locked, none is ever taken for left.
        let _ = file.try_lock();
        Ok(Draft { directory: self, file, name })
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0.handle, name, AtFlags::empty())?)
    }

    /// Opens a file, never through a link; a new one is for its user alone.
    fn at(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.0.handle, name, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::LOOP) => Err(io::Error::new(io::ErrorKind::InvalidInput, "is a link")),
            opened => Ok(opened?.into()),
        }
    }

    /// What lies in it now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn contents(&self) -> io::Result<Contents> {
        let mut contents = Contents::default();
        self.each(|_, is_draft, file| {
            let found = file.metadata()?;
            match is_draft {
                true => contents.left += u64::from(is_left(file)),
                false => {
                    contents.files += 1;
                    contents.bytes += found.len();
                }
            }
            Ok(())
        })?;
        Ok(contents)
    }

    /// Removes all derived files but those of these names, and what processes left that were ended while they wrote.
    ///
    /// # Errors
    /// When the directory cannot be read, or a file cannot be removed.
    pub fn keep_only(&self, names: &BTreeSet<String>) -> Result<(), DerivedError> {
        let failed = |source| DerivedError::Io { path: self.0.path.clone(), source };
        self.remove_those(|name, _| Ok(!names.contains(name))).map_err(failed)
    }

    /// Removes what processes left that were ended while they wrote, and files that nobody uses.
    fn sweep(&self) -> io::Result<()> {
        self.remove_those(|_, found| Ok(age(found.modified()?.max(found.accessed()?)) > UNUSED))
    }

    /// Removes the derived files that are useless, and drafts that nobody writes any more.
    fn remove_those(&self, is_useless: impl Fn(&str, &Metadata) -> io::Result<bool>) -> io::Result<()> {
        self.each(|name, is_draft, file| {
            if if is_draft { is_left(file) } else { is_useless(name, &file.metadata()?)? } {
                self.remove(name)?;
                log::info!("removed {}, which nobody uses", self.0.path.join(name).display());
            }
            Ok(())
        })
    }

    /// Goes through its derived files and the drafts of such (for which `visit` is told `true`), as far as they can be
    /// opened.
    fn each(&self, mut visit: impl FnMut(&str, bool, &File) -> io::Result<()>) -> io::Result<()> {
        for entry in Dir::read_from(&self.0.handle)? {
            let entry = entry?;
            let Some(name) = CStr::to_str(entry.file_name()).ok() else { continue };
            let is_draft = name.starts_with(BESIDE);
            if !is_draft && !is_derived(name) {
                continue;
            }
            let Ok(file) = self.at(name, OFlags::RDONLY | OFlags::NONBLOCK) else { continue };
            if file.metadata()?.is_file() {
                visit(name, is_draft, &file)?;
            }
        }
        Ok(())
    }
}

/// Whether nobody writes to a draft any more.
fn is_left(draft: &File) -> bool {
    draft.try_lock().is_ok()
}

/// How long ago it was.
fn age(time: SystemTime) -> Duration {
    time.elapsed().unwrap_or_default()
}

/// A file that is being written; dropped, it leaves nothing.
pub(super) struct Draft<'a> {
    directory: &'a Directory,
    file: File,
    name: String,
}

impl Draft<'_> {
    /// Writes the file, gives it its name, and makes room.
    pub(super) fn keep(mut self, name: &str, parts: [&[u8]; 2]) -> io::Result<()> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        fits(len)?;
        parts.iter().try_for_each(|part| self.file.write_all(part))?;
        self.file.sync_all()?;
        let Opened { handle, .. } = &*self.directory.0;
        renameat(handle, &self.name, handle, name)?;
        // What lies in its place from now on is no draft.
        self.name.clear();
        handle.sync_all()?;
        if let Err(error) = self.directory.sweep() {
            log::info!("cannot remove old files in {}: {error}", self.directory.path().display());
        }
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            let _ = self.directory.remove(&self.name);
        }
    }
}
