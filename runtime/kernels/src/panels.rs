//! Weights and masks in the order in which the kernels read them.
//!
//! A linear layer's weight [outputs, inputs] is cut into panels of [`NR`] outputs. A panel holds,
//! for as many inputs after the other as the [`Element`] says (one *step*), the weights of its
//! outputs side by side: the kernels read it from its first to its last byte. Outputs that the last
//! panel lacks, and inputs that the last step lacks, are zeros.

use super::{Element, Row};

/// Outputs in a panel: two AVX-512 registers of 32-bit values, four AVX2 ones.
pub const NR: usize = 32;

/// The steps of a weight with so many inputs.
fn steps<E: Element>(inputs: usize) -> usize {
    inputs.div_ceil(E::INPUTS)
}

/// Where the weight of a panel's output and an input lies in the panel, and its bit in the panel's
/// part of a mask: [steps, [`NR`], [`Element::INPUTS`]].
fn place<E: Element>(output: usize, input: usize) -> usize {
    (input / E::INPUTS * NR + output) * E::INPUTS + input % E::INPUTS
}

/// A weight in panels: [panels, steps, [`NR`], [`Element::INPUTS`]].
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a, E: Element = f32> {
    data: &'a [E],
    outputs: usize,
    inputs: usize,
}

impl<'a, E: Element> Panels<'a, E> {
    /// The number of values that a weight takes in panels.
    pub fn packed_len(outputs: usize, inputs: usize) -> usize {
        outputs.div_ceil(NR) * NR * steps::<E>(inputs) * E::INPUTS
    }

    /// Packs a weight [outputs, inputs], given row by row; `packed` has [`Self::packed_len`] values,
    /// all 0.
    ///
    /// # Panics
    /// When a length is another.
    pub fn pack(weight: &[E], outputs: usize, inputs: usize, packed: &mut [E]) {
        assert_eq!(weight.len(), outputs * inputs);
        assert_eq!(packed.len(), Self::packed_len(outputs, inputs));
        if inputs == 0 {
            return;
        }
        let panels = packed.chunks_exact_mut(Self::packed_len(1, inputs));
        for (rows, panel) in weight.chunks(NR * inputs).zip(panels) {
            for (output, row) in rows.chunks_exact(inputs).enumerate() {
                for (input, value) in row.iter().enumerate() {
                    panel[place::<E>(output, input)] = *value;
                }
            }
        }
    }

    /// A packed weight.
    ///
    /// # Panics
    /// When `data` has not [`Self::packed_len`] values.
    pub fn new(data: &'a [E], outputs: usize, inputs: usize) -> Self {
        assert_eq!(data.len(), Self::packed_len(outputs, inputs));
        Panels { data, outputs, inputs }
    }

    /// Rows of the weight.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the weight.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The number of panels.
    pub fn len(&self) -> usize {
        self.outputs.div_ceil(NR)
    }

    /// Whether there are no panels.
    pub fn is_empty(&self) -> bool {
        self.outputs == 0
    }

    /// The number of steps of a panel.
    pub fn steps(&self) -> usize {
        steps::<E>(self.inputs)
    }

    /// The steps of a panel.
    ///
    /// # Panics
    /// When there is no such panel.
    pub fn panel(&self, panel: usize) -> &'a [Row<E::Lane>] {
        let steps = self.steps();
        &E::lanes(self.data).as_chunks::<NR>().0[panel * steps..][..steps]
    }
}

/// A mask as its units lie row by row: the form of a pack.
#[derive(Debug, Clone, Copy)]
pub struct Units<'a> {
    /// Rows of the weight.
    pub outputs: usize,
    /// Columns of the weight.
    pub inputs: usize,
    /// Rows and columns of a unit; those at the lower and right edge may be smaller.
    pub block: (usize, usize),
    /// A bit a unit, 1 = keep: unit i is bit i mod 8, counted from the lowest, of byte i / 8.
    pub bits: &'a [u8],
}

impl Units<'_> {
    /// Units across.
    fn across(&self) -> usize {
        self.inputs.div_ceil(self.block.1)
    }

    /// Whether a unit is kept.
    fn keeps_unit(&self, unit: usize) -> bool {
        self.bits[unit / 8] >> (unit % 8) & 1 == 1
    }

    /// Whether a weight is kept.
    ///
    /// # Panics
    /// When there are fewer bits than the weight has units.
    pub fn keeps(&self, output: usize, input: usize) -> bool {
        self.keeps_unit(output / self.block.0 * self.across() + input / self.block.1)
    }
}

/// A mask in the order of [`Panels`] of an element; it is of use for that element only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PanelMask<'a> {
    /// Everything is kept.
    Dense,
    /// A bit for each weight where it lies in the panels: [panels, steps, [`NR`] ·
    /// [`Element::INPUTS`] / 32], value v of a step is bit v mod 32 of its word v / 32.
    Weights(&'a [u32]),
    /// A bit for each input, where blocks have all outputs of a panel but not whole steps: [panels, inputs / 32], input
    /// k is bit k mod 32 of word k / 32; the bits after the last are 0.
    Inputs(&'a [u32]),
    /// A bit for each step, where blocks have whole steps: [panels, steps / 32], step s is bit
    /// s mod 32 of word s / 32; the bits after the last are 0.
    Steps(&'a [u32]),
}

impl PanelMask<'_> {
    /// The number of words that a mask in panel order takes.
    pub fn packed_len<E: Element>(block: (usize, usize), outputs: usize, inputs: usize) -> usize {
        outputs.div_ceil(NR) * words::<E>(block, inputs)
    }

    /// Packs a mask; `packed` has [`Self::packed_len`] words, all 0. Blocks whose height is a
    /// multiple of [`NR`] stay blocks: they become [`PanelMask::Steps`] if their width is one of
    /// [`Element::INPUTS`], else [`PanelMask::Inputs`]. All others become [`PanelMask::Weights`].
    ///
    /// # Panics
    /// When the length is another.
    pub fn pack<'a, E: Element>(mask: &Units<'_>, packed: &'a mut [u32]) -> PanelMask<'a> {
        let Units { outputs, inputs, block: (rows, cols), .. } = *mask;
        assert_eq!(packed.len(), Self::packed_len::<E>(mask.block, outputs, inputs));
        let (across, len) = (mask.across(), words::<E>(mask.block, inputs));
        if has_panels(mask.block) {
            // Of steps the first input tells.
            let inputs_of_bit = if has_steps::<E>(mask.block) { E::INPUTS } else { 1 };
            for (panel, words) in packed.chunks_exact_mut(len).enumerate() {
                for bit in 0..inputs.div_ceil(inputs_of_bit) {
                    let unit = panel * NR / rows * across + bit * inputs_of_bit / cols;
                    words[bit / 32] |= u32::from(mask.keeps_unit(unit)) << (bit % 32);
                }
            }
            return PanelMask::packed::<E>(mask.block, packed);
        }
        for output in 0..outputs {
            let first = output / rows * across;
            let words = &mut packed[output / NR * len..][..len];
            // The bits of a lane are in one word.
            let bit = place::<E>(output % NR, 0);
            let (mut unit, mut left) = (first, cols);
            for (step, words) in words.chunks_exact_mut(E::INPUTS).enumerate() {
                for i in 0..E::INPUTS.min(inputs - step * E::INPUTS) {
                    words[bit / 32] |= u32::from(mask.keeps_unit(unit)) << (bit % 32 + i);
                    left -= 1;
                    if left == 0 {
                        (unit, left) = (unit + 1, cols);
                    }
                }
            }
        }
        PanelMask::packed::<E>(mask.block, packed)
    }

    /// What [`Self::pack`] has packed before for the same element.
    pub fn packed<E: Element>(block: (usize, usize), packed: &[u32]) -> PanelMask<'_> {
        match has_panels(block) {
            true if has_steps::<E>(block) => PanelMask::Steps(packed),
            true => PanelMask::Inputs(packed),
            false => PanelMask::Weights(packed),
        }
    }

    /// Whether it can be of a weight.
    pub(super) fn fits<E: Element>(&self, weight: Panels<'_, E>) -> bool {
        let (panels, steps) = (weight.len(), weight.steps());
        match self {
            Self::Dense => true,
            Self::Weights(words) => words.len() == panels * steps * E::INPUTS,
            Self::Inputs(words) => words.len() == panels * weight.inputs.div_ceil(32),
            Self::Steps(words) => words.len() == panels * steps.div_ceil(32),
        }
    }
}

/// The words of a panel's mask.
fn words<E: Element>(block: (usize, usize), inputs: usize) -> usize {
    let steps = steps::<E>(inputs);
    match has_panels(block) {
        true if has_steps::<E>(block) => steps.div_ceil(32),
        true => inputs.div_ceil(32),
        false => steps * E::INPUTS,
    }
}

/// Whether each unit has or lacks all outputs of a panel.
fn has_panels(block: (usize, usize)) -> bool {
    block.0.is_multiple_of(NR)
}

/// Whether each unit has or lacks whole steps of a panel.
fn has_steps<E: Element>(block: (usize, usize)) -> bool {
    has_panels(block) && block.1.is_multiple_of(E::INPUTS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn panels_hold_every_weight_once((outputs, inputs) in (1usize..80, 1usize..20)) {
            let weight: Vec<f32> = (0..outputs * inputs).map(|i| i as f32 + 1.0).collect();
            let mut packed = vec![f32::NAN; Panels::<f32>::packed_len(outputs, inputs)];
            packed.fill(0.0);
            Panels::pack(&weight, outputs, inputs, &mut packed);
            let panels = Panels::new(&packed, outputs, inputs);
            for output in 0..panels.len() * NR {
                for (k, step) in panels.panel(output / NR).iter().enumerate() {
                    let expected = if output < outputs { weight[output * inputs + k] } else { 0.0 };
                    prop_assert_eq!(step[output % NR], expected);
                }
            }
        }

        #[test]
        fn masks_in_panel_order_keep_the_same_weights(
            (outputs, inputs) in (1usize..100, 1usize..150),
            block in prop_oneof![Just((1, 1)), Just((32, 1)), Just((64, 3)), (1usize..40, 1usize..6)],
            seed: u32,
        ) {
            let bits: Vec<u8> = (0..outputs.div_ceil(block.0) * inputs.div_ceil(block.1))
                .map(|i| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as u8)
                .collect();
            let mask = Units { outputs, inputs, block, bits: &bits };
            let mut packed = vec![0; PanelMask::packed_len::<f32>(block, outputs, inputs)];
            let panels = PanelMask::pack::<f32>(&mask, &mut packed);
            prop_assert!(panels.fits(Panels::new(&vec![0.0; Panels::<f32>::packed_len(outputs, inputs)], outputs, inputs)));
            prop_assert_eq!(matches!(panels, PanelMask::Steps(_)), block.0.is_multiple_of(32));
            let across = inputs.div_ceil(32);
            let kept: Vec<Vec<u32>> = match &panels {
                PanelMask::Steps(words) => words.chunks(across).map(|words| {
                    let mut steps = Vec::new();
                    crate::kernel::kept(words, &mut steps);
                    steps
                }).collect(),
                _ => Vec::new(),
            };
            for output in 0..outputs {
                for k in 0..inputs {
                    let found = match &panels {
                        PanelMask::Dense => true,
                        PanelMask::Weights(words) => words[output / NR * inputs + k] >> (output % NR) & 1 == 1,
                        PanelMask::Steps(_) => kept[output / NR].binary_search(&(k as u32)).is_ok(),
                        PanelMask::Inputs(_) => unreachable!("an input is a step"),
                    };
                    prop_assert_eq!(found, mask.keeps(output, k));
                }
            }
        }
    }
}
