//! Memory maps of files, and their bytes seen as numbers.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use half::bf16;
use memmap2::Mmap;

/// Maps a regular file read-only.
pub(crate) fn map(path: &Path) -> io::Result<Mmap> {
    map_file(&super::open(path)?)
}

/// Maps an open file read-only.
pub(crate) fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only and lives as long as the `Mmap`. Files of bundles, stores and caches
    // are never modified in place (they are written beside and renamed), which is the promise
    // that keeps the bytes stable; a file truncated behind our back ends the process with SIGBUS.
    unsafe { Mmap::map(file) }
}

/// A number that files hold, little-endian.
///
/// # Safety
/// Each pattern of its bits is one, and it has no bytes that are not its value's.
pub unsafe trait Number: Copy {}

// SAFETY: so it is, and half's bf16 is a u16.
unsafe impl Number for f32 {}
// SAFETY: the same.
unsafe impl Number for u32 {}
// SAFETY: the same.
unsafe impl Number for bf16 {}
// SAFETY: the same.
unsafe impl Number for i8 {}

/// Sees little-endian bytes as numbers, or `None` when the address or length does not fit.
pub(crate) fn numbers<T: Number>(bytes: &[u8]) -> Option<&[T]> {
    // SAFETY: every bit pattern is a valid number, and `align_to` splits at aligned addresses only.
    let (before, values, after) = unsafe { bytes.align_to::<T>() };
    (before.is_empty() && after.is_empty() && cfg!(target_endian = "little")).then_some(values)
}

/// The bytes of numbers, as they lie in memory.
pub(crate) fn bytes<T: Number>(values: &[T]) -> &[u8] {
    // SAFETY: every byte of a number is a valid u8, and bytes are aligned everywhere.
    unsafe { values.align_to::<u8>() }.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_seen_as_the_safe_twin_reads_them() {
        let values: Vec<f32> = (0..100).map(|i| (i as f32).sin()).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), &bytes).unwrap();
        let mapped = map(&dir.path().join("f")).unwrap();
        let safe: Vec<f32> = mapped.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(numbers::<f32>(&mapped).unwrap(), safe);
        assert_eq!(numbers::<f32>(&mapped[4..44]).unwrap(), &safe[1..11]);
        assert!(numbers::<f32>(&mapped[1..41]).is_none() && numbers::<f32>(&mapped[0..5]).is_none());
        assert_eq!(numbers::<u32>(&mapped).unwrap()[7], safe[7].to_bits());
        assert_eq!(numbers::<bf16>(&mapped[2..4]).unwrap()[0].to_bits(), (safe[0].to_bits() >> 16) as u16);
        assert_eq!(numbers::<i8>(&mapped[1..]).unwrap()[0], bytes[1].cast_signed());
        assert_eq!(super::bytes(&values), bytes);
    }
}
