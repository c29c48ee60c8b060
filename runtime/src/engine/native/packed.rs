//! The base's maskable weights in panels.

use std::path::PathBuf;

use overmask_kernels::{Element, Panels};
use sha2::{Digest, Sha256};

use crate::base::{Base, BaseError};
use crate::derived::{self, Derived, DerivedFile, Directory};
use crate::engine::EngineError;

/// The weights of a base in panels, one tensor after the other in the manifest's order.
pub(super) struct Packed {
    values: Derived<f32>,
    /// Where each tensor starts, in values, and the end of the last.
    starts: Vec<usize>,
    /// What they were made from.
    key: [u8; 32],
    /// Where they are kept, if they are.
    file: Option<DerivedFile>,
}

impl Packed {
    /// Maps the derived file of a base, or makes it.
    ///
    /// # Errors
    /// When the base cannot be read, or is not what its digests say where the file is made.
    pub(super) fn open(base: &Base, directory: Option<&Directory>) -> Result<Self, BaseError> {
        let (starts, key) = (starts(base), key(base));
        let file = directory.map(|directory| DerivedFile::new(directory, f32::PANELS, key));
        let make = |is_kept| {
            if is_kept {
                // The file outlives a damaged base: it is made of a sound one only.
                base.verify_once()?;
            }
            pack(base, &starts)
        };
        let len = starts.last().copied().unwrap_or(0);
        let values = match &file {
            Some(file) => file.find_or_make(len, make)?,
            None => Derived::Memory(make(false)?),
        };
        Ok(Packed { values, starts, key, file })
    }

    /// Compares what was mapped with what the base gives now; returns whether there was anything to compare.
    ///
    /// # Errors
    /// When it is not the same; the file is removed.
    pub(super) fn verify(&self, base: &Base) -> Result<bool, EngineError> {
        match (&self.file, &self.values) {
            (Some(file), Derived::Mapped(_)) => {
                file.verify(&self.values, &pack(base, &self.starts)?).map(|()| true).map_err(EngineError::from)
            }
            _ => Ok(false),
        }
    }

    /// The file that the values are kept in, if they are.
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.file.as_ref().map(DerivedFile::path)
    }

    /// The panels of the tensor with this place in the manifest's list.
    pub(super) fn tensor(&self, index: usize) -> &[f32] {
        &self.values[self.starts[index]..self.starts[index + 1]]
    }

    /// A digest of the base, of its variant, and of the list of its maskable tensors.
    pub(super) fn key(&self) -> &[u8; 32] {
        &self.key
    }
}

/// Panels are whole cache lines, so every tensor starts on one.
pub(super) fn starts(base: &Base) -> Vec<usize> {
    let mut next = 0;
    let ends = base.manifest().maskable.iter().map(|tensor| {
        next += Panels::<f32>::packed_len(tensor.outputs, tensor.inputs);
        next
    });
    std::iter::once(0).chain(ends).collect()
}

/// The name of a base's derived file.
pub(super) fn name(base: &Base) -> String {
    derived::name(f32::PANELS, &key(base))
}

/// A digest of the base, of its variant, and of the list of its maskable tensors: what names it with the layout of its
/// panels.
pub(super) fn key(base: &Base) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(base.base_id());
    digest.update(base.manifest().variant.name());
    for tensor in &base.manifest().maskable {
        digest.update(format!("\n{} {} {}", tensor.name, tensor.outputs, tensor.inputs));
    }
    digest.finalize().into()
}

/// The weights in panels, with each tensor where [`starts`] has it.
pub(super) fn pack(base: &Base, starts: &[usize]) -> Result<Vec<f32>, BaseError> {
    let mut packed = vec![0.0; starts.last().copied().unwrap_or(0)];
    for (tensor, range) in base.manifest().maskable.iter().zip(starts.windows(2)) {
        let (_, weights) = base.tensor_f32(&tensor.name)?;
        Panels::pack(weights, tensor.outputs, tensor.inputs, &mut packed[range[0]..range[1]]);
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_weights_are_the_same_from_memory_and_from_the_file_that_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        crate::base::tests::bundle(dir.path());
        let base = Base::open(dir.path()).unwrap();
        let cache = dir.path().join("cache/overmask");
        let directory = Directory::open(&cache).unwrap();
        let memory = Packed::open(&base, None).unwrap();
        assert!(matches!(memory.values, Derived::Memory(_)));
        assert_eq!(memory.tensor(0)[..4], [0.0, 4.0, 8.0, 0.0], "input 0 of the three outputs");
        let first = Packed::open(&base, Some(&directory)).unwrap();
        let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
        let made = std::fs::metadata(&file).unwrap().modified().unwrap();
        let again = Packed::open(&base, Some(&directory)).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), made);
        for packed in [&first, &again] {
            assert!(matches!(packed.values, Derived::Mapped(_)));
            assert_eq!(packed.tensor(0), memory.tensor(0));
            assert_eq!(packed.tensor(0).as_ptr() as usize % 64, 0);
        }
    }
}
