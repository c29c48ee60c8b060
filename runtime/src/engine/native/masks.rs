//! The masks of a task, in panel order.

use std::ops::Range;
use std::path::Path;

use overmask_kernels::{Element, PanelMask, Units};
use sha2::{Digest, Sha256};

use crate::base::Base;
use crate::derived::{Derived, Name};
use crate::mask::Granularity;
use crate::pack::{NamedMask, PackFile};

/// The masks of a task, one for each of the base's maskable tensors, in their order.
pub(super) struct TaskMasks {
    words: Derived<u32>,
    tensors: Vec<Packed>,
}

/// Where the words of a mask are, if there is one.
type Packed = Option<(Granularity, Range<usize>)>;

impl TaskMasks {
    /// Packs masks that fit the base; a tensor without one keeps everything.
    pub(super) fn new(base: &Base, masks: &[NamedMask]) -> Self {
        let of_tensor = |tensor: &str| masks.iter().find(|named| named.tensor == tensor).map(|named| &named.mask);
        let (tensors, len) = layout(base, |tensor| of_tensor(tensor).map(|mask| mask.granularity()));
        let mut words = vec![0; len];
        for (tensor, packed) in base.manifest().maskable.iter().zip(&tensors) {
            if let Some((mask, (_, range))) = of_tensor(&tensor.name).zip(packed.clone()) {
                let (outputs, inputs, block) = (mask.outputs(), mask.inputs(), mask.granularity().block());
                PanelMask::pack::<f32>(&Units { outputs, inputs, block, bits: mask.as_bytes() }, &mut words[range]);
            }
        }
        TaskMasks { words: Derived::Memory(words), tensors }
    }

    /// What an earlier process kept of a pack that fits the base.
    pub(super) fn recall(base: &Base, key: &[u8; 32], directory: Option<&Path>, pack: &PackFile) -> Option<Self> {
        let document = pack.document();
        let is_masked = |tensor: &str| document.masks.iter().any(|entry| entry.tensor == tensor);
        let (tensors, len) = layout(base, |tensor| is_masked(tensor).then_some(document.granularity));
        let words = name(key, directory, pack)?.find_checked(len)?;
        Some(TaskMasks { words, tensors })
    }

    /// Keeps what was packed for the processes that come.
    pub(super) fn keep(&mut self, key: &[u8; 32], directory: Option<&Path>, pack: &PackFile) {
        if let Derived::Memory(words) = &mut self.words
            && let Some(name) = name(key, directory, pack)
        {
            self.words = name.make(std::mem::take(words));
        }
    }

    /// The mask of the maskable tensor with this place in the manifest's list.
    pub(super) fn of(&self, index: usize) -> PanelMask<'_> {
        self.tensors[index].as_ref().map_or(PanelMask::Dense, |(granularity, range)| {
            PanelMask::packed::<f32>(granularity.block(), &self.words[range.clone()])
        })
    }
}

/// Where the words of each mask are, and how many there are in all.
fn layout(base: &Base, granularity: impl Fn(&str) -> Option<Granularity>) -> (Vec<Packed>, usize) {
    let mut next = 0;
    let of_tensor = base.manifest().maskable.iter().map(|tensor| {
        let granularity = granularity(&tensor.name)?;
        let start = next;
        next += PanelMask::packed_len::<f32>(granularity.block(), tensor.outputs, tensor.inputs);
        Some((granularity, start..next))
    });
    (of_tensor.collect(), next)
}

/// The file of a pack's masks for a base.
fn name(key: &[u8; 32], directory: Option<&Path>, pack: &PackFile) -> Option<Name> {
    let key = Sha256::new().chain_update(key).chain_update(pack.digest()).finalize();
    Name::new(directory, f32::MASKS, key.into())
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
