//! Derived files: what takes time to make of a base or a pack and is the same for every process, made once
//! and mapped. The page cache then holds one copy for everybody.
//!
//! They are believed like code, so they are kept only where nobody but their user (or root) can write
//! ([`Directory`]). Against damage each has a checksum of its values, which are read from the first to the last
//! before they are used: as fast as memory is, and the first pass would read them anyway.
//!
//! They may be deleted at any time; where nothing can be written, what they would hold stays in memory.

#[cfg(unix)]
mod directory;
#[cfg(not(unix))]
#[path = "nowhere.rs"]
mod directory;
mod kept;
mod sum;

use std::io;
use std::ops::Deref;
use std::path::PathBuf;

use memmap2::Mmap;

pub use self::directory::Directory;
use self::directory::Draft;
pub use self::kept::{Kept, KeptState};
use self::sum::checksum;
use crate::error::ErrorKind;
use crate::fs::{Number, hex, map};

const MAGIC: &[u8; 8] = b"OVDRIVE2";

/// Header: magic, key, checksum of the values, zeros up to a whole cache line.
const HEADER: usize = 128;

/// What can be wrong with derived files and their directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DerivedError {
    /// The directory cannot be made or opened.
    #[error("cannot use {} for derived files: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What lies in the directory cannot be believed.
    #[error(
        "cannot use {} for derived files: it {reason}; they are believed like code and need a directory of their \
         user's own that nobody else can write to (mode 0700)",
        path.display()
    )]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// Whose it is, or what it is.
        reason: String,
    },
    /// A file holds something else than what it is made from gives, and says that it is whole.
    #[error("{} holds other values than its base and pack give, so what ran with it may be wrong; {cure}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What was done about it, or is to do.
        cure: String,
    },
}

impl DerivedError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } | Self::Untrusted { .. } => ErrorKind::DeviceOrStore,
            Self::Wrong { .. } => ErrorKind::CorruptFile,
        }
    }
}

/// Values of a derived file, or such as would be in one.
#[derive(Debug)]
pub enum Derived<T> {
    /// In this process's own memory.
    Memory(Vec<T>),
    /// In a file, behind its header.
    Mapped(Mmap),
}

impl<T: Number> Deref for Derived<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Memory(values) => values,
            // That it is aligned and of whole values was seen when it was mapped.
            Self::Mapped(map) => map::numbers(&map[HEADER..]).unwrap_or_default(),
        }
    }
}

/// A file of a [`Directory`], there or not, and what it is made from.
#[derive(Debug)]
pub struct DerivedFile {
    directory: Directory,
    name: String,
    key: [u8; 32],
}

impl DerivedFile {
    /// A file of a kind, made from what has this digest.
    pub fn new(directory: &Directory, kind: &str, key: [u8; 32]) -> Self {
        DerivedFile { directory: directory.clone(), name: name(kind, &key), key }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join(&self.name)
    }

    /// The file's values, if it is there, whole, made from the same, and nobody else's to write; every byte is
    /// looked at.
    ///
    /// What is none of that is said and not used.
    pub fn find<T: Number>(&self, len: usize) -> Option<Derived<T>> {
        self.find_of(|values| values.len() == len)
    }

    /// The same for a file that says itself how long it is: its values are those that `is_whole` says are.
    pub(crate) fn find_of<T: Number>(&self, is_whole: impl Fn(&[T]) -> bool) -> Option<Derived<T>> {
        self.look(is_whole).unwrap_or_else(|useless| {
            // After an update there is nothing to warn of.
            let level = if matches!(useless, Useless::Version) { log::Level::Info } else { log::Level::Warn };
            log::log!(level, "{} {useless}; it is not used but made again", self.path().display());
            None
        })
    }

    /// The same, and why a file that is there is not to be used.
    pub(crate) fn look<T: Number>(&self, is_whole: impl Fn(&[T]) -> bool) -> Result<Option<Derived<T>>, Useless> {
        let Some(file) = self.directory.find(&self.name)? else { return Ok(None) };
        let map = map::map_file(&file)?;
        if !map.starts_with(MAGIC) {
            return Err(Useless::Version);
        }
        let values = map.get(HEADER..).filter(|bytes| map::numbers(bytes).is_some_and(&is_whole));
        match values {
            Some(values) if map[..HEADER] == self.header(values) => Ok(Some(Derived::Mapped(map))),
            _ => Err(Useless::Damaged),
        }
    }

    /// Bytes of the file with so many values.
    pub(crate) fn size<T: Number>(len: usize) -> u64 {
        (HEADER + size_of::<T>() * len) as u64
    }

    /// The file's values, or those that `make` gives, which are written and mapped, and stay in memory where that
    /// cannot be. `make` is told whether what it gives is going to outlive this process.
    ///
    /// # Errors
    /// What `make` returns.
    pub fn find_or_make<T: Number, E>(
        &self,
        len: usize,
        make: impl FnOnce(bool) -> Result<Vec<T>, E>,
    ) -> Result<Derived<T>, E> {
        if let Some(found) = self.find(len) {
            return Ok(found);
        }
        let draft = self.begin();
        let values = make(draft.is_some())?;
        Ok(self.keep(draft, values))
    }

    /// Writes the values and maps them; they stay in memory where that cannot be.
    pub(crate) fn make<T: Number>(&self, values: Vec<T>) -> Derived<T> {
        self.keep(self.begin(), values)
    }

    /// Compares the values that the file held with those that are made now.
    ///
    /// # Errors
    /// When they are not the same, bit by bit; the file is removed, if it can be.
    pub fn verify<T: Number>(&self, held: &[T], made: &[T]) -> Result<(), DerivedError> {
        if map::bytes(held) == map::bytes(made) {
            return Ok(());
        }
        let cure = match self.directory.remove(&self.name) {
            Ok(()) => "it was removed, and the next start makes it again".to_owned(),
            Err(error) => {
                format!("delete it (it cannot be removed from here: {error}), and the next start makes it again")
            }
        };
        Err(DerivedError::Wrong { path: self.path(), cure })
    }

    /// A file to be written, where one can be.
    fn begin(&self) -> Option<Draft<'_>> {
        // Elsewhere numbers do not lie as the file has them, and nobody could map it.
        if cfg!(target_endian = "big") {
            return None;
        }
        let draft = self.directory.begin();
        draft.inspect_err(|error| log::info!("cannot make {}: {error}; {IN_MEMORY}", self.path().display())).ok()
    }

    fn keep<T: Number>(&self, draft: Option<Draft<'_>>, values: Vec<T>) -> Derived<T> {
        let Some(draft) = draft else { return Derived::Memory(values) };
        let bytes = map::bytes(&values);
        if let Err(error) = draft.keep(&self.name, [&self.header(bytes), bytes]) {
            log::warn!("cannot make {}: {error}; {IN_MEMORY}", self.path().display());
            return Derived::Memory(values);
        }
        self.find(values.len()).unwrap_or(Derived::Memory(values))
    }

    fn header(&self, values: &[u8]) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let parts = MAGIC.iter().copied().chain(self.key).chain(checksum(values));
        header.iter_mut().zip(parts).for_each(|(to, byte)| *to = byte);
        header
    }
}

/// Why a derived file that is there is not used; in words that go on after its path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Useless {
    /// It cannot be opened, or is none that may be believed.
    #[error("cannot be used: {0}")]
    Refused(#[from] io::Error),
    /// An earlier or later program has made it, in another form.
    #[error("is of another version")]
    Version,
    /// It is cut, or holds other bytes than were written.
    #[error("is damaged")]
    Damaged,
}

/// What lies in a directory of derived files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contents {
    /// Derived files, of whatever base or pack.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Temporary files of programs that ended while they wrote; the next file that is made removes them.
    pub left: u64,
}

/// What is said where a file cannot be made.
const IN_MEMORY: &str = "what it would hold stays in memory";

/// Hexadecimal digits of the key in a file's name.
const DIGITS: usize = 32;

/// The name of a file of a kind, made from what has this digest.
pub(crate) fn name(kind: &str, key: &[u8; 32]) -> String {
    format!("{kind}-{}", &hex(key)[..DIGITS])
}

/// Whether a derived file has such a name.
fn is_derived(name: &str) -> bool {
    let Some((kind, digits)) = name.split_once('-') else { return false };
    let known = ["panels", "masks", "tokenizer"].iter().any(|known| kind.starts_with(known));
    known && digits.len() == DIGITS && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
