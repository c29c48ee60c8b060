//! The base's maskable weights in panels, in a derived file that all processes map.
//!
//! Packing takes as long as reading every weight twice, and a private copy would cost the memory of
//! the whole base for each process. So the panels are written once beside other caches and mapped:
//! the page cache holds one copy for everybody. Where nothing can be written, they stay in memory.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::base::{Base, BaseError, hex};
use crate::fs::write_atomically;
use crate::kernels::{NR, Panels};
use crate::mmap;

/// The directory of derived files, if it is not the user's cache.
const CACHE_ENV: &str = "OVERMASK_CACHE";

const MAGIC: &[u8; 8] = b"OVPANEL1";

/// Header: magic, key, zeros up to a cache line.
const HEADER: usize = 64;

/// The weights of a base in panels, one tensor after the other in the manifest's order.
pub(super) struct Packed {
    values: Values,
    /// Where each tensor starts, in values, and the end of the last.
    starts: Vec<usize>,
}

enum Values {
    Memory(Vec<f32>),
    Mapped(Mmap),
}

impl Packed {
    /// Maps the derived file of a base, or makes it.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub(super) fn open(base: &Base) -> Result<Self, BaseError> {
        Self::open_in(base, directory())
    }

    fn open_in(base: &Base, directory: Option<PathBuf>) -> Result<Self, BaseError> {
        let starts = starts(base);
        let key = key(base);
        let path = directory.map(|dir| dir.join(format!("panels{NR}-{}", &hex(&key)[..32])));
        if let Some(values) = path.as_deref().and_then(|path| map(path, &key, &starts)) {
            return Ok(Packed { values, starts });
        }
        let packed = pack(base, &starts)?;
        let values = match path {
            None => Values::Memory(packed),
            Some(path) => match write(&path, &key, &packed).map(|()| map(&path, &key, &starts)) {
                Ok(Some(mapped)) => mapped,
                Ok(None) => Values::Memory(packed),
                Err(error) => {
                    log::info!("{}: {error}; the packed weights stay in memory", path.display());
                    Values::Memory(packed)
                }
            },
        };
        Ok(Packed { values, starts })
    }

    /// The panels of the tensor with this place in the manifest's list.
    pub(super) fn tensor(&self, index: usize) -> &[f32] {
        &self.values()[self.starts[index]..self.starts[index + 1]]
    }

    fn values(&self) -> &[f32] {
        match &self.values {
            Values::Memory(values) => values,
            // That it is aligned and as long as it should be was seen when it was mapped.
            Values::Mapped(map) => mmap::as_f32(&map[HEADER..]).unwrap_or_default(),
        }
    }
}

/// Panels are whole cache lines, so every tensor starts on one.
fn starts(base: &Base) -> Vec<usize> {
    let mut next = 0;
    let ends = base.manifest().maskable.iter().map(|tensor| {
        next += Panels::packed_len(tensor.outputs, tensor.inputs);
        next
    });
    std::iter::once(0).chain(ends).collect()
}

/// What the file was made from: the base, and which of its tensors in which order.
fn key(base: &Base) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(base.base_id());
    digest.update(&base.manifest().variant);
    for tensor in &base.manifest().maskable {
        digest.update(format!("\n{} {} {}", tensor.name, tensor.outputs, tensor.inputs));
    }
    digest.finalize().into()
}

fn pack(base: &Base, starts: &[usize]) -> Result<Vec<f32>, BaseError> {
    let mut packed = vec![0.0; starts.last().copied().unwrap_or(0)];
    for (tensor, range) in base.manifest().maskable.iter().zip(starts.windows(2)) {
        let (_, weights) = base.tensor_f32(&tensor.name)?;
        Panels::pack(weights, tensor.outputs, tensor.inputs, &mut packed[range[0]..range[1]]);
    }
    Ok(packed)
}

/// The mapped file, if it is there and was made from the same.
fn map(path: &Path, key: &[u8; 32], starts: &[usize]) -> Option<Values> {
    let map = mmap::map(path).ok()?;
    let length = HEADER + 4 * starts.last()?;
    let same = map.len() == length && map.starts_with(MAGIC) && map[MAGIC.len()..][..key.len()] == key[..];
    if !same || mmap::as_f32(&map[HEADER..]).is_none() {
        log::info!("{} is of something else; it is made again", path.display());
        return None;
    }
    Some(Values::Mapped(map))
}

fn write(path: &Path, key: &[u8; 32], packed: &[f32]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut header = [MAGIC, &key[..]].concat();
    header.resize(HEADER, 0);
    write_atomically(path, |file| {
        let mut out = io::BufWriter::with_capacity(1 << 20, file);
        out.write_all(&header)?;
        packed.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))?;
        out.flush()
    })
}

/// Where derived files are kept: what `OVERMASK_CACHE` names, else the user's cache; nowhere if it
/// names nothing.
fn directory() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if std::env::var_os(CACHE_ENV).is_some() {
        return named(CACHE_ENV);
    }
    let user = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
    user.map(|dir| dir.join("overmask"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn packed_weights_are_the_same_from_memory_and_from_the_file_that_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        crate::base::tests::bundle(dir.path());
        let base = Base::open(dir.path()).unwrap();
        let cache = dir.path().join("cache/overmask");
        let memory = Packed::open_in(&base, None).unwrap();
        assert!(matches!(memory.values, Values::Memory(_)));
        assert_eq!(memory.tensor(0)[..4], [0.0, 4.0, 8.0, 0.0], "input 0 of the three outputs");
        let first = Packed::open_in(&base, Some(cache.clone())).unwrap();
        let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
        let made = std::fs::metadata(&file).unwrap().modified().unwrap();
        let again = Packed::open_in(&base, Some(cache.clone())).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), made);
        for packed in [&first, &again] {
            assert!(matches!(packed.values, Values::Mapped(_)));
            assert_eq!(packed.tensor(0), memory.tensor(0));
            assert_eq!(packed.tensor(0).as_ptr() as usize % 64, 0);
        }
        // What is something else, or cut, is made again.
        let bytes = std::fs::read(&file).unwrap();
        for other in [&bytes[..bytes.len() - 4], b"", &[&[1], &bytes[1..]].concat()] {
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, other).unwrap();
            assert_eq!(Packed::open_in(&base, Some(cache.clone())).unwrap().tensor(0), memory.tensor(0));
            assert_eq!(std::fs::read(&file).unwrap(), bytes);
        }
        // A place where nothing can be written.
        let nowhere = Packed::open_in(&base, Some(file.join("no"))).unwrap();
        assert!(matches!(nowhere.values, Values::Memory(_)));
    }
}
