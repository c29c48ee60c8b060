//! The base's maskable weights in panels.

use std::path::Path;

use overmask_kernels::{Element, Panels};
use sha2::{Digest, Sha256};

use crate::base::{Base, BaseError};
use crate::derived::{Derived, Name};

/// The weights of a base in panels, one tensor after the other in the manifest's order.
pub(super) struct Packed {
    values: Derived<f32>,
    /// Where each tensor starts, in values, and the end of the last.
    starts: Vec<usize>,
    /// What they were made from.
    key: [u8; 32],
}

impl Packed {
    /// Maps the derived file of a base, or makes it.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub(super) fn open(base: &Base, directory: Option<&Path>) -> Result<Self, BaseError> {
        let (starts, key) = (starts(base), key(base));
        let name = Name::new(directory, f32::PANELS, key);
        let len = starts.last().copied().unwrap_or(0);
        let values = match (name.as_ref().and_then(|name| name.find(len)), name) {
            (Some(values), _) => values,
            // The file outlives a damaged base: it is made of a sound one only.
            (None, Some(name)) if super::is_sound(base) => name.make(pack(base, &starts)?),
            (None, _) => Derived::Memory(pack(base, &starts)?),
        };
        Ok(Packed { values, starts, key })
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
fn starts(base: &Base) -> Vec<usize> {
    let mut next = 0;
    let ends = base.manifest().maskable.iter().map(|tensor| {
        next += Panels::<f32>::packed_len(tensor.outputs, tensor.inputs);
        next
    });
    std::iter::once(0).chain(ends).collect()
}

fn key(base: &Base) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(base.base_id());
    digest.update(base.manifest().variant.name());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_weights_are_the_same_from_memory_and_from_the_file_that_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        crate::base::tests::bundle(dir.path());
        let base = Base::open(dir.path()).unwrap();
        let cache = dir.path().join("cache/overmask");
        let memory = Packed::open(&base, None).unwrap();
        assert!(matches!(memory.values, Derived::Memory(_)));
        assert_eq!(memory.tensor(0)[..4], [0.0, 4.0, 8.0, 0.0], "input 0 of the three outputs");
        let first = Packed::open(&base, Some(&cache)).unwrap();
        let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
        let made = std::fs::metadata(&file).unwrap().modified().unwrap();
        let again = Packed::open(&base, Some(&cache)).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), made);
        for packed in [&first, &again] {
            assert!(matches!(packed.values, Derived::Mapped(_)));
            assert_eq!(packed.tensor(0), memory.tensor(0));
            assert_eq!(packed.tensor(0).as_ptr() as usize % 64, 0);
        }
    }
}
