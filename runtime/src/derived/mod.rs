//! Derived files: what takes time to make of a base or a pack and is the same for every process, made once
//! and mapped.
//!
//! The page cache then holds one copy for everybody. They may be deleted at any time; where nothing can be
//! written, what they would hold stays in memory.

use std::io::{self, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::fs::{hex, map, write_atomically};

const MAGIC: &[u8; 8] = b"OVDRIVE1";

/// Header: magic, key, SHA-256 of the values, zeros up to a whole cache line.
const HEADER: usize = 128;

/// A number that derived files hold, little-endian.
pub(crate) trait Value: Sized {
    fn bytes(&self) -> [u8; 4];
    fn view(bytes: &[u8]) -> Option<&[Self]>;
}

impl Value for f32 {
    fn bytes(&self) -> [u8; 4] {
        self.to_le_bytes()
    }

    fn view(bytes: &[u8]) -> Option<&[f32]> {
        map::as_f32(bytes)
    }
}

impl Value for u32 {
    fn bytes(&self) -> [u8; 4] {
        self.to_le_bytes()
    }

    fn view(bytes: &[u8]) -> Option<&[u32]> {
        map::as_u32(bytes)
    }
}

/// Values of a derived file, or such as would be in one.
#[derive(Debug)]
pub(crate) enum Derived<T> {
    Memory(Vec<T>),
    Mapped(Mmap),
}

impl<T: Value> Deref for Derived<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Memory(values) => values,
            // That it is aligned and of whole values was seen when it was mapped.
            Self::Mapped(map) => T::view(&map[HEADER..]).unwrap_or_default(),
        }
    }
}

/// What a derived file is called, and what it is made from.
pub(crate) struct Name {
    path: PathBuf,
    key: [u8; 32],
}

impl Name {
    /// A kind of file made from what has a digest; none where nothing is kept.
    pub(crate) fn new(directory: Option<&Path>, kind: &str, key: [u8; 32]) -> Option<Name> {
        directory.map(|directory| Name { path: directory.join(format!("{kind}-{}", &hex(&key)[..32])), key })
    }

    /// The values of the file, if it is there, whole, and made from the same.
    pub(crate) fn find<T: Value>(&self, len: usize) -> Option<Derived<T>> {
        let map = map::map(&self.path).ok()?;
        let header = [&MAGIC[..], &self.key].concat();
        let values = map.get(HEADER..).filter(|bytes| bytes.len() == 4 * len && map.starts_with(&header));
        if values.is_none_or(|bytes| T::view(bytes).is_none()) {
            log::info!("{} is of something else; it is made again", self.path.display());
            return None;
        }
        Some(Derived::Mapped(map))
    }

    /// The same, after a look at every byte.
    pub(crate) fn find_checked<T: Value>(&self, len: usize) -> Option<Derived<T>> {
        self.find(len).filter(|derived: &Derived<T>| {
            let Derived::Mapped(map) = derived else { return false };
            let same = Sha256::digest(&map[HEADER..])[..] == map[MAGIC.len() + 32..][..32];
            if !same {
                log::info!("{} is damaged; it is made again", self.path.display());
            }
            same
        })
    }

    /// Writes the file and maps it; if that cannot be, the values stay in memory.
    pub(crate) fn make<T: Value>(&self, values: Vec<T>) -> Derived<T> {
        match self.write(&values).map(|()| self.find(values.len())) {
            Ok(Some(mapped)) => mapped,
            Ok(None) => Derived::Memory(values),
            Err(error) => {
                log::info!("{}: {error}; what it would hold stays in memory", self.path.display());
                Derived::Memory(values)
            }
        }
    }

    fn write<T: Value>(&self, values: &[T]) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut digest = Sha256::new();
        values.iter().for_each(|value| digest.update(value.bytes()));
        let mut header = [&MAGIC[..], &self.key, &digest.finalize()].concat();
        header.resize(HEADER, 0);
        write_atomically(&self.path, |file| {
            let mut out = io::BufWriter::with_capacity(1 << 20, file);
            out.write_all(&header)?;
            values.iter().try_for_each(|value| out.write_all(&value.bytes()))?;
            out.flush()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_what_is_something_else_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let name = Name::new(Some(&dir.path().join("a/b")), "numbers", [7; 32]).unwrap();
        assert!(name.find::<u32>(3).is_none());
        let made = name.make(vec![1u32, 2, u32::MAX]);
        assert!(matches!(made, Derived::Mapped(_)));
        assert_eq!(made[..], [1, 2, u32::MAX]);
        assert_eq!(made.as_ptr() as usize % 64, 0);
        assert_eq!(name.find_checked::<u32>(3).unwrap()[..], [1, 2, u32::MAX]);
        assert!(name.find::<u32>(4).is_none());
        let bytes = std::fs::read(&name.path).unwrap();
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            std::fs::remove_file(&name.path).unwrap();
            std::fs::write(&name.path, &other).unwrap();
            let padding = (72..HEADER).contains(&at);
            assert_eq!(name.find_checked::<u32>(3).is_some(), padding, "byte {at}");
            assert_eq!(name.find::<u32>(3).is_some(), at >= 40, "byte {at}");
        }
        for length in [0, 50, HEADER, bytes.len() - 1] {
            std::fs::remove_file(&name.path).unwrap();
            std::fs::write(&name.path, &bytes[..length]).unwrap();
            assert!(name.find::<u32>(3).is_none());
        }
        // A place where nothing can be written.
        let nowhere = Name::new(Some(&name.path.join("no")), "numbers", [7; 32]).unwrap();
        assert!(matches!(nowhere.make(vec![1.0f32]), Derived::Memory(_)));
        assert!(Name::new(None, "numbers", [7; 32]).is_none());
    }
}
