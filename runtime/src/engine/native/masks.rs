//! The masks of a task, in panel order.

use std::borrow::Cow;
use std::ops::Range;

use overmask_kernels::{Element, PanelMask, Units};
use sha2::{Digest, Sha256};

use super::packed;
use crate::base::{Base, Precision};
use crate::derived::{self, Derived, DerivedError, DerivedFile, Directory};
use crate::mask::Granularity;
use crate::pack::{NamedMask, PackFile};

/// The masks of a task, one for each of the base's maskable tensors, in their order.
pub(super) struct TaskMasks {
    /// For weights of this precision.
    precision: Precision,
    words: Derived<u32>,
    tensors: Vec<Packed>,
}

/// Where the words of a mask are, if there is one.
pub(super) type Packed = Option<(Granularity, Range<usize>)>;

impl TaskMasks {
    /// Packs masks that fit the base; a tensor without one keeps everything.
    pub(super) fn new(base: &Base, masks: &[NamedMask]) -> Self {
        let (tensors, words) = pack(base, masks);
        TaskMasks { precision: base.precision(), words: Derived::Memory(words), tensors }
    }

    /// The masks of a pack that fits the base: what an earlier process kept in its file, else what `masks` gives,
    /// which is told whether it is going to be kept.
    ///
    /// # Errors
    /// What `masks` returns.
    pub(super) fn find_or_make<'a, E>(
        base: &Base,
        file: &PackFile,
        kept: &DerivedFile,
        masks: impl FnOnce(bool) -> Result<Cow<'a, [NamedMask]>, E>,
    ) -> Result<Self, E> {
        let (tensors, len) = layout_of(base, file);
        let words = kept.find_or_make(len, |is_kept| Ok(pack(base, &masks(is_kept)?).1))?;
        Ok(TaskMasks { precision: base.precision(), words, tensors })
    }

    /// The mask of the maskable tensor with this place in the manifest's list.
    pub(super) fn of(&self, index: usize) -> PanelMask<'_> {
        self.tensors[index].as_ref().map_or(PanelMask::Dense, |(granularity, range)| {
            let (block, words) = (granularity.block(), &self.words[range.clone()]);
            by_precision!(self.precision, E => PanelMask::packed::<E>(block, words))
        })
    }
}

/// Where the words of each mask are, and the words.
pub(super) fn pack(base: &Base, masks: &[NamedMask]) -> (Vec<Packed>, Vec<u32>) {
    let of_tensor = |tensor: &str| masks.iter().find(|named| named.tensor == tensor).map(|named| &named.mask);
    let (tensors, len) = layout(base, |tensor| of_tensor(tensor).map(|mask| mask.granularity()));
    let mut words = vec![0; len];
    for (tensor, packed) in base.manifest().maskable.iter().zip(&tensors) {
        if let Some((mask, (_, range))) = of_tensor(&tensor.name).zip(packed.clone()) {
            let (outputs, inputs, block) = (mask.outputs(), mask.inputs(), mask.granularity().block());
            let units = Units { outputs, inputs, block, bits: mask.as_bytes() };
            by_precision!(base.precision(), E => PanelMask::pack::<E>(&units, &mut words[range]));
        }
    }
    (tensors, words)
}

/// Where the words of each mask are, and how many there are in all.
fn layout(base: &Base, granularity: impl Fn(&str) -> Option<Granularity>) -> (Vec<Packed>, usize) {
    let mut next = 0;
    let of_tensor = base.manifest().maskable.iter().map(|tensor| {
        let granularity = granularity(&tensor.name)?;
        let start = next;
        let (block, outputs, inputs) = (granularity.block(), tensor.outputs, tensor.inputs);
        next += by_precision!(base.precision(), E => PanelMask::packed_len::<E>(block, outputs, inputs));
        Some((granularity, start..next))
    });
    (of_tensor.collect(), next)
}

/// The same for the masks that a pack's document names.
fn layout_of(base: &Base, file: &PackFile) -> (Vec<Packed>, usize) {
    let document = file.document();
    let is_masked = |tensor: &str| document.masks.iter().any(|entry| entry.tensor == tensor);
    layout(base, |tensor| is_masked(tensor).then_some(document.granularity))
}

/// The file in which a pack's masks are kept, for a base with this key.
pub(super) fn kept(base: &Base, directory: &Directory, base_key: &[u8; 32], file: &PackFile) -> DerivedFile {
    DerivedFile::new(directory, kind(base), key(base_key, file.digest()))
}

/// What such files are called after, as masks lie like the weights of the base's precision.
fn kind(base: &Base) -> &'static str {
    by_precision!(base.precision(), E => E::MASKS)
}

/// The name of that file, for a pack with this digest.
pub(super) fn name(base: &Base, sha256: &str) -> String {
    derived::name(kind(base), &key(&packed::key(base), sha256))
}

fn key(base: &[u8; 32], sha256: &str) -> [u8; 32] {
    Sha256::new().chain_update(base).chain_update(sha256).finalize().into()
}

/// Compares what is kept of a pack with its masks; returns whether anything is.
///
/// # Errors
/// When it is not the same; the file is removed.
pub(super) fn verify(base: &Base, masks: &[NamedMask], kept: &DerivedFile) -> Result<bool, DerivedError> {
    let words = pack(base, masks).1;
    kept.find(words.len()).map_or(Ok(false), |found| kept.verify(&found, &words).map(|()| true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;

    #[test]
    fn a_tensor_has_its_own_mask_or_none() {
        let dir = tempfile::tempdir().unwrap();
        crate::base::tests::bundle(dir.path());
        let base = Base::open(dir.path()).unwrap();
        let tensor = base.manifest().maskable[0].clone();
        let units = (0..tensor.outputs * tensor.inputs).map(|i| i % 3 != 0);
        let mask = Mask::from_units(Granularity::Weight, tensor.outputs, tensor.inputs, units).unwrap();
        let named = NamedMask { tensor: tensor.name, mask };
        let masks = TaskMasks::new(&base, &[named]);
        // Outputs 0 to 2 of input 0 are weights 0, 4 and 8 of [3, 4].
        let PanelMask::Weights(words) = masks.of(0) else { panic!("not of weights") };
        assert_eq!(words[0], 0b110);
        for index in 1..base.manifest().maskable.len() {
            assert_eq!(masks.of(index), PanelMask::Dense);
        }
        assert!(TaskMasks::new(&base, &[]).words.is_empty());
    }
}
