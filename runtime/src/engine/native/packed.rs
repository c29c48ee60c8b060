//! The base's maskable weights in panels.

use std::ops::Range;
use std::path::PathBuf;

use half::bf16;
use overmask_kernels::{Element, Panels};
use sha2::{Digest, Sha256};

use crate::base::{Base, BaseError, Precision, Stored, file};
use crate::derived::{self, Derived, DerivedFile, Directory};
use crate::engine::EngineError;
use crate::fs::Number;

/// The weights of a base in panels, one tensor after the other in the manifest's order.
pub(super) struct Packed {
    values: Values,
    /// Where each tensor starts, in values, and the end of the last.
    starts: Vec<usize>,
    /// What they were made from.
    key: [u8; 32],
    /// Where they are kept, if they are.
    file: Option<DerivedFile>,
}

/// Weights in panels, in a precision.
pub(super) enum Values {
    F32(Derived<f32>),
    Bf16(Derived<bf16>),
    Int8(Derived<i8>),
}

/// A weight in panels, in a precision.
#[derive(Clone, Copy)]
pub(super) enum Weight<'a> {
    F32(Panels<'a, f32>),
    Bf16(Panels<'a, bf16>),
    Int8(Panels<'a, i8>),
}

/// An element that weights are stored as.
pub(super) trait Stores: Element + Number {
    /// Refuses weights that there are not.
    fn check(_: &[Self]) -> Result<(), &'static str> {
        Ok(())
    }

    /// The weights of a tensor, row by row, if it is stored so.
    fn weights(stored: Stored<'_>) -> Option<&[Self]>;

    fn values(values: Derived<Self>) -> Values;
}

impl Stores for f32 {
    fn weights(stored: Stored<'_>) -> Option<&[f32]> {
        match stored {
            Stored::F32(weights) => Some(weights),
            _ => None,
        }
    }

    fn values(values: Derived<f32>) -> Values {
        Values::F32(values)
    }
}

impl Stores for bf16 {
    fn weights(stored: Stored<'_>) -> Option<&[bf16]> {
        match stored {
            Stored::Bf16(weights) => Some(weights),
            _ => None,
        }
    }

    fn values(values: Derived<bf16>) -> Values {
        Values::Bf16(values)
    }
}

impl Stores for i8 {
    fn check(codes: &[i8]) -> Result<(), &'static str> {
        // Kernels add up products of two codes in 16 bits.
        if codes.contains(&i8::MIN) { Err("has a code of -128") } else { Ok(()) }
    }

    fn weights(stored: Stored<'_>) -> Option<&[i8]> {
        match stored {
            Stored::Int8 { codes, .. } => Some(codes),
            _ => None,
        }
    }

    fn values(values: Derived<i8>) -> Values {
        Values::Int8(values)
    }
}

impl Values {
    /// The weight [outputs, inputs] whose panels are in a range.
    pub(super) fn weight(&self, range: Range<usize>, outputs: usize, inputs: usize) -> Weight<'_> {
        match self {
            Self::F32(values) => Weight::F32(Panels::new(&values[range], outputs, inputs)),
            Self::Bf16(values) => Weight::Bf16(Panels::new(&values[range], outputs, inputs)),
            Self::Int8(values) => Weight::Int8(Panels::new(&values[range], outputs, inputs)),
        }
    }
}

impl Packed {
    /// Maps the derived file of a base, or makes it.
    ///
    /// # Errors
    /// When the base cannot be read, or is not what its digests say where the file is made.
    pub(super) fn open(base: &Base, directory: Option<&Directory>) -> Result<Self, BaseError> {
        let (starts, key) = (starts(base), key(base));
        let len = starts.last().copied().unwrap_or(0);
        let (values, file) = by_precision!(base.precision(), E => {
            let file = directory.map(|directory| DerivedFile::new(directory, E::PANELS, key));
            let make = |is_kept| {
                if is_kept {
                    // The file outlives a damaged base: it is made of a sound one only.
                    base.verify_once()?;
                }
                pack::<E>(base, &starts)
            };
            let values = match &file {
                Some(file) => file.find_or_make(len, make)?,
                None => Derived::Memory(make(false)?),
            };
            (E::values(values), file)
        });
        Ok(Packed { values, starts, key, file })
    }

    /// Compares what was mapped with what the base gives now; returns whether there was anything to compare.
    ///
    /// # Errors
    /// When it is not the same; the file is removed.
    pub(super) fn verify(&self, base: &Base) -> Result<bool, EngineError> {
        let Some(file) = &self.file else { return Ok(false) };
        match &self.values {
            Values::F32(values) => verify(file, values, base, &self.starts),
            Values::Bf16(values) => verify(file, values, base, &self.starts),
            Values::Int8(values) => verify(file, values, base, &self.starts),
        }
    }

    /// The file that the values are kept in, if they are.
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.file.as_ref().map(DerivedFile::path)
    }

    /// The tensor [outputs, inputs] with this place in the manifest's list.
    pub(super) fn weight(&self, index: usize, outputs: usize, inputs: usize) -> Weight<'_> {
        self.values.weight(self.starts[index]..self.starts[index + 1], outputs, inputs)
    }

    /// A digest of the base, of its variant, and of the list of its maskable tensors.
    pub(super) fn key(&self) -> &[u8; 32] {
        &self.key
    }
}

fn verify<E: Stores>(
    file: &DerivedFile,
    values: &Derived<E>,
    base: &Base,
    starts: &[usize],
) -> Result<bool, EngineError> {
    match values {
        Derived::Mapped(_) => file.verify(values, &pack(base, starts)?).map(|()| true).map_err(EngineError::from),
        Derived::Memory(_) => Ok(false),
    }
}

/// Panels are whole cache lines, so every tensor starts on one.
pub(super) fn starts(base: &Base) -> Vec<usize> {
    let mut next = 0;
    let ends = base.manifest().maskable.iter().map(|tensor| {
        next += by_precision!(base.precision(), E => Panels::<E>::packed_len(tensor.outputs, tensor.inputs));
        next
    });
    std::iter::once(0).chain(ends).collect()
}

/// The name of a base's derived file.
pub(super) fn name(base: &Base) -> String {
    derived::name(by_precision!(base.precision(), E => E::PANELS), &key(base))
}

/// A digest of the base, of its variant, and of the list of its maskable tensors: what names it with the layout of its
/// panels.
pub(super) fn key(base: &Base) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(base.base_id());
    digest.update(base.manifest().variant.name());
    // The identity says what the weights are of the f32 base alone.
    if base.precision() != Precision::F32 {
        digest.update(base.manifest().digests.get(file::WEIGHTS).map_or("", String::as_str));
    }
    for tensor in &base.manifest().maskable {
        digest.update(format!("\n{} {} {}", tensor.name, tensor.outputs, tensor.inputs));
    }
    digest.finalize().into()
}

/// The weights in panels, with each tensor where [`starts`] has it.
pub(super) fn pack<E: Stores>(base: &Base, starts: &[usize]) -> Result<Vec<E>, BaseError> {
    let mut packed = vec![E::default(); starts.last().copied().unwrap_or(0)];
    for (tensor, range) in base.manifest().maskable.iter().zip(starts.windows(2)) {
        let (_, stored) = base.stored(&tensor.name)?;
        let wrong = |reason: String| BaseError::Field {
            path: base.dir().join(file::WEIGHTS),
            field: tensor.name.clone(),
            reason,
        };
        let weights = E::weights(stored)
            .ok_or_else(|| wrong(format!("is {}, the base is {}", stored.precision(), base.precision())))?;
        E::check(weights).map_err(|reason| wrong(reason.to_owned()))?;
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
        let values = |packed: &Packed| match &packed.values {
            Values::F32(values) => (matches!(values, Derived::Mapped(_)), values.to_vec(), values.as_ptr() as usize),
            _ => panic!("not of f32"),
        };
        let (is_mapped, of_memory, _) = values(&memory);
        assert!(!is_mapped);
        assert_eq!(of_memory[..4], [0.0, 4.0, 8.0, 0.0], "input 0 of the three outputs");
        let first = Packed::open(&base, Some(&directory)).unwrap();
        let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
        let made = std::fs::metadata(&file).unwrap().modified().unwrap();
        let again = Packed::open(&base, Some(&directory)).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), made);
        for packed in [&first, &again] {
            let (is_mapped, found, address) = values(packed);
            assert!(is_mapped && found == of_memory && address.is_multiple_of(64));
        }
    }
}
