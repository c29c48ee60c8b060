//! Memory maps of files, and their bytes seen as numbers.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

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

/// Sees little-endian bytes as f32 values, or `None` when the address or length does not fit.
pub(crate) fn as_f32(bytes: &[u8]) -> Option<&[f32]> {
    // SAFETY: every bit pattern is a valid f32, and `align_to` splits at aligned addresses only.
    let (before, values, after) = unsafe { bytes.align_to::<f32>() };
    (before.is_empty() && after.is_empty() && cfg!(target_endian = "little")).then_some(values)
}

/// Sees little-endian bytes as u32 values, or `None` when the address or length does not fit.
#[cfg(feature = "native")]
pub(crate) fn as_u32(bytes: &[u8]) -> Option<&[u32]> {
    // SAFETY: every bit pattern is a valid u32, and `align_to` splits at aligned addresses only.
    let (before, values, after) = unsafe { bytes.align_to::<u32>() };
    (before.is_empty() && after.is_empty() && cfg!(target_endian = "little")).then_some(values)
}

/// The bytes of f32 values, as they lie in memory.
#[cfg(feature = "native")]
pub(crate) fn f32_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: every byte of an f32 is a valid u8, and bytes are aligned everywhere.
    unsafe { values.align_to::<u8>() }.1
}

/// The bytes of u32 values, as they lie in memory.
#[cfg(feature = "native")]
pub(crate) fn u32_bytes(values: &[u32]) -> &[u8] {
    // SAFETY: every byte of a u32 is a valid u8, and bytes are aligned everywhere.
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
        assert_eq!(as_f32(&mapped).unwrap(), safe);
        assert_eq!(as_f32(&mapped[4..44]).unwrap(), &safe[1..11]);
        assert!(as_f32(&mapped[1..41]).is_none());
        #[cfg(feature = "native")]
        {
            assert_eq!(as_u32(&mapped).unwrap()[7], safe[7].to_bits());
            assert_eq!(f32_bytes(&values), bytes);
            assert_eq!(u32_bytes(as_u32(&mapped).unwrap()), bytes);
        }
        assert!(as_f32(&mapped[0..5]).is_none());
    }
}
