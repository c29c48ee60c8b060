//! Weights and masks in the order in which the kernels read them.
//!
//! A linear layer's weight [outputs, inputs] is cut into panels of [`NR`] outputs. A panel holds,
//! for one input after the other (one *step*), the weights of its outputs side by side: the
//! kernels read it from its first to its last byte. Outputs that the last panel lacks are zeros.

/// Outputs in a panel: two AVX-512 registers, four AVX2 ones.
pub const NR: usize = 32;

/// A weight in panels: [panels, inputs, [`NR`]].
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    data: &'a [f32],
    outputs: usize,
    inputs: usize,
}

impl<'a> Panels<'a> {
    /// The number of values that a weight takes in panels.
    pub fn packed_len(outputs: usize, inputs: usize) -> usize {
        outputs.div_ceil(NR) * NR * inputs
    }

    /// Packs a weight [outputs, inputs], given row by row; `packed` has [`Self::packed_len`] values.
    ///
    /// # Panics
    /// When a length is another.
    pub fn pack(weight: &[f32], outputs: usize, inputs: usize, packed: &mut [f32]) {
        assert_eq!(weight.len(), outputs * inputs);
        assert_eq!(packed.len(), Self::packed_len(outputs, inputs));
        if inputs == 0 {
            return;
        }
        for (rows, panel) in weight.chunks(NR * inputs).zip(packed.chunks_exact_mut(NR * inputs)) {
            for (j, row) in rows.chunks_exact(inputs).enumerate() {
                for (value, step) in row.iter().zip(panel.as_chunks_mut::<NR>().0) {
                    step[j] = *value;
                }
            }
        }
    }

    /// A packed weight.
    ///
    /// # Panics
    /// When `data` has not [`Self::packed_len`] values.
    pub fn new(data: &'a [f32], outputs: usize, inputs: usize) -> Self {
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

    /// The steps of a panel.
    ///
    /// # Panics
    /// When there is no such panel.
    pub fn panel(&self, panel: usize) -> &'a [[f32; NR]] {
        &self.data.as_chunks::<NR>().0[panel * self.inputs..][..self.inputs]
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

/// A mask in the order of [`Panels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PanelMask<'a> {
    /// Everything is kept.
    Dense,
    /// A bit for each weight: [panels, inputs], output 32·p + j of panel p is bit j.
    Weights(&'a [u32]),
    /// A bit for each step, where blocks are whole panels high: [panels, inputs / 32], input k is
    /// bit k mod 32 of word k / 32; the bits after the last are 0.
    Steps(&'a [u32]),
}

impl PanelMask<'_> {
    /// The number of words that a mask in panel order takes.
    pub fn packed_len(block: (usize, usize), outputs: usize, inputs: usize) -> usize {
        outputs.div_ceil(NR) * if has_steps(block) { inputs.div_ceil(32) } else { inputs }
    }

    /// Packs a mask; `packed` has [`Self::packed_len`] words, all 0. Blocks whose height is a
    /// multiple of [`NR`] stay blocks and become [`PanelMask::Steps`], all others
    /// [`PanelMask::Weights`].
    ///
    /// # Panics
    /// When the length is another.
    pub fn pack<'a>(mask: &Units<'_>, packed: &'a mut [u32]) -> PanelMask<'a> {
        let Units { outputs, inputs, block: (rows, cols), .. } = *mask;
        assert_eq!(packed.len(), Self::packed_len(mask.block, outputs, inputs));
        let across = mask.across();
        if has_steps(mask.block) {
            for (panel, words) in packed.chunks_exact_mut(inputs.div_ceil(32)).enumerate() {
                for k in 0..inputs {
                    let unit = panel * NR / rows * across + k / cols;
                    words[k / 32] |= u32::from(mask.keeps_unit(unit)) << (k % 32);
                }
            }
            return PanelMask::packed(mask.block, packed);
        }
        for output in 0..outputs {
            let (panel, bit) = (output / NR, output % NR);
            let first = output / rows * across;
            let row = &mut packed[panel * inputs..][..inputs];
            for (unit, steps) in (first..first + across).zip(row.chunks_mut(cols)) {
                let keep = u32::from(mask.keeps_unit(unit)) << bit;
                steps.iter_mut().for_each(|step| *step |= keep);
            }
        }
        PanelMask::packed(mask.block, packed)
    }

    /// What [`Self::pack`] has packed before.
    pub fn packed(block: (usize, usize), packed: &[u32]) -> PanelMask<'_> {
        if has_steps(block) { PanelMask::Steps(packed) } else { PanelMask::Weights(packed) }
    }

    /// Whether it can be of a weight of this shape.
    pub(super) fn fits(&self, outputs: usize, inputs: usize) -> bool {
        let panels = outputs.div_ceil(NR);
        match self {
            Self::Dense => true,
            Self::Weights(words) => words.len() == panels * inputs,
            Self::Steps(words) => words.len() == panels * inputs.div_ceil(32),
        }
    }
}

/// Whether each unit has or lacks whole steps of a panel.
fn has_steps(block: (usize, usize)) -> bool {
    block.0.is_multiple_of(NR)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn panels_hold_every_weight_once((outputs, inputs) in (1usize..80, 1usize..20)) {
            let weight: Vec<f32> = (0..outputs * inputs).map(|i| i as f32 + 1.0).collect();
            let mut packed = vec![f32::NAN; Panels::packed_len(outputs, inputs)];
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
            let mut packed = vec![0; PanelMask::packed_len(block, outputs, inputs)];
            let panels = PanelMask::pack(&mask, &mut packed);
            prop_assert!(panels.fits(outputs, inputs));
            prop_assert_eq!(matches!(panels, PanelMask::Steps(_)), block.0.is_multiple_of(32));
            let across = inputs.div_ceil(32);
            let kept: Vec<Vec<u32>> = match &panels {
                PanelMask::Steps(words) => words.chunks(across).map(|words| {
                    let mut steps = Vec::new();
                    crate::portable::kept(words, &mut steps);
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
                    };
                    prop_assert_eq!(found, mask.keeps(output, k));
                }
            }
        }
    }
}
