//! The loop over panels and tiles.

use super::isa::Set;
use super::panels::kept_steps;
use super::portable::Portable;
use super::tiles::split;
use super::{Isa, Kernel, NR, PanelMask, Panels, Row, Tiles};

/// Steps of a panel that are gone through at once: 48 kB of weights stay in the first-level cache,
/// or near it, while the tiles go over them.
const PART: usize = 384;

/// Memory that a product needs and that the next one uses again; one for each thread.
#[derive(Debug, Default)]
pub struct Scratch {
    /// A part of a panel, masked.
    masked: Vec<Row>,
    /// The kept steps of a part.
    steps: Vec<u32>,
}

impl Isa {
    /// Packs activations for [`multiply`] with this instruction set. They are [inputs / width,
    /// rows, width]: `width` is `inputs` for values row by row, [`NR`] for what [`multiply`] gives.
    /// (A `width` above `inputs` leaves out the end of each row.)
    ///
    /// # Panics
    /// When `values` has fewer values than that.
    pub fn pack(self, values: &[f32], rows: usize, inputs: usize, width: usize, tiles: &mut Tiles) {
        tiles.pack(values, rows, inputs, width, self.max_rows());
    }

    fn max_rows(self) -> usize {
        match self.0 {
            Set::Portable => Portable::MAX_ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => super::avx2::Avx2::MAX_ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => super::avx512::Avx512::MAX_ROWS,
            #[cfg(not(target_arch = "x86_64"))]
            Set::Avx2 | Set::Avx512 => Portable::MAX_ROWS,
        }
    }
}

/// Multiplies activations with some panels of a masked weight, from panel `first` on.
///
/// `product` is [panels, rows, [`NR`]]: its length says how many panels. `done` is called with each
/// panel's number and its finished rows, while they are in the cache.
///
/// # Panics
/// When the activations were packed for another instruction set, their inputs are not those of
/// the weight, the mask is of another weight, or there are not so many panels.
#[allow(clippy::too_many_arguments)]
pub fn multiply(
    isa: Isa,
    tiles: &Tiles,
    weight: Panels<'_>,
    mask: &PanelMask,
    first: usize,
    product: &mut [Row],
    scratch: &mut Scratch,
    done: impl FnMut(usize, &mut [Row]),
) {
    match isa.0 {
        Set::Portable => run(Portable, tiles, weight, mask, first, product, scratch, done),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => run(super::avx2::Avx2::of(isa), tiles, weight, mask, first, product, scratch, done),
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => run(super::avx512::Avx512::of(isa), tiles, weight, mask, first, product, scratch, done),
        #[cfg(not(target_arch = "x86_64"))]
        Set::Avx2 | Set::Avx512 => run(Portable, tiles, weight, mask, first, product, scratch, done),
    }
}

#[allow(clippy::too_many_arguments)]
fn run<K: Kernel>(
    kernel: K,
    tiles: &Tiles,
    weight: Panels<'_>,
    mask: &PanelMask,
    first_panel: usize,
    product: &mut [Row],
    scratch: &mut Scratch,
    mut done: impl FnMut(usize, &mut [Row]),
) {
    let (rows, inputs) = (tiles.rows(), weight.inputs());
    assert_eq!(tiles.inputs(), inputs, "activations and weight have not the same inputs");
    let expected = match mask {
        PanelMask::Dense => 0,
        PanelMask::Weights(_) => 4 * weight.len() * inputs,
        PanelMask::Steps(_) => 8 * weight.len() * inputs.div_ceil(64),
    };
    assert_eq!(mask.bytes(), expected, "the mask is of another weight");
    if rows == 0 {
        return;
    }
    let Scratch { masked, steps } = scratch;
    masked.resize(PART.min(inputs), [0.0; NR]);
    for (i, sums) in product.chunks_exact_mut(rows).enumerate() {
        let panel = first_panel + i;
        sums.fill([0.0; NR]);
        for start in (0..inputs).step_by(PART) {
            let part = start..inputs.min(start + PART);
            let b = &weight.panel(panel)[part.clone()];
            let masked = &mut masked[..b.len()];
            if let PanelMask::Steps(words) = mask {
                let words = &words[panel * inputs.div_ceil(64)..][part.start / 64..part.end.div_ceil(64)];
                kept_steps(words, steps);
            }
            for (tile, (first, height)) in split(rows, K::MAX_ROWS).enumerate() {
                let (a, sums) = (tiles.tile(first, height, part.clone()), &mut sums[first..first + height]);
                match mask {
                    PanelMask::Dense => kernel.dense(a, b, sums),
                    PanelMask::Steps(_) if steps.len() == b.len() => kernel.dense(a, b, sums),
                    PanelMask::Steps(_) => kernel.listed(a, b, steps, sums),
                    PanelMask::Weights(masks) => {
                        let masks = &masks[panel * inputs..][part.clone()];
                        match tile {
                            _ if rows < K::MERGE_BELOW => kernel.masked(a, b, masks, masked, sums),
                            0 => kernel.masking(a, b, masks, masked, sums),
                            _ => kernel.dense(a, masked, sums),
                        }
                    }
                }
            }
        }
        done(panel, sums);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mask::{Granularity, Mask};

    /// The product, one weight after the other, in f64.
    fn slow(values: &[f32], rows: usize, stride: usize, weight: &[f32], mask: &Mask) -> Vec<f64> {
        let (outputs, inputs) = (mask.outputs(), mask.inputs());
        let mut product = vec![0.0; rows * outputs];
        for row in 0..rows {
            for output in 0..outputs {
                for k in (0..inputs).filter(|k| mask.keeps(output, *k)) {
                    product[row * outputs + output] +=
                        f64::from(values[row * stride + k]) * f64::from(weight[output * inputs + k]);
                }
            }
        }
        product
    }

    fn random(seed: u32) -> impl FnMut() -> f32 {
        let mut state = seed | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn products_are_those_of_the_definition(
            rows in 0usize..40,
            (outputs, inputs) in (1usize..100, prop_oneof![1usize..80, 380usize..400, 800usize..900]),
            more in 0usize..5,
            kind in 0..4,
            seed: u32,
        ) {
            let granularity = match kind {
                0 | 1 => Granularity::Weight,
                2 => Granularity::Block { rows: 32, cols: 1 },
                _ => Granularity::Block { rows: 5, cols: 3 },
            };
            let mut next = random(seed);
            let stride = inputs + more;
            let values: Vec<f32> = (0..rows * stride).map(|_| next()).collect();
            let weight: Vec<f32> = (0..outputs * inputs).map(|_| next()).collect();
            let units = Mask::keep_all(granularity, outputs, inputs).unwrap().unit_bits().len();
            let mask = Mask::from_units(granularity, outputs, inputs, (0..units).map(|_| kind == 0 || next() > -0.3)).unwrap();
            let mut packed = vec![0.0; Panels::packed_len(outputs, inputs)];
            Panels::pack(&weight, outputs, inputs, &mut packed);
            let panels = Panels::new(&packed, outputs, inputs);
            let panel_mask = if kind == 0 { PanelMask::Dense } else { PanelMask::new(&mask) };
            let expected = slow(&values, rows, stride, &weight, &mask);
            for isa in Isa::available() {
                let (mut tiles, mut scratch) = (Tiles::default(), Scratch::default());
                isa.pack(&values, rows, inputs, stride, &mut tiles);
                let mut found = vec![[f32::NAN; NR]; rows * panels.len()];
                // In two halves, as two threads would.
                let (low, high) = found.split_at_mut(panels.len() / 2 * rows);
                let mut called = Vec::new();
                for (first, half) in [(0, low), (panels.len() / 2, high)] {
                    multiply(isa, &tiles, panels, &panel_mask, first, half, &mut scratch, |panel, _| called.push(panel));
                }
                prop_assert!(rows == 0 || called == (0..panels.len()).collect::<Vec<_>>());
                for (i, expected) in expected.iter().enumerate() {
                    let (row, output) = (i / outputs, i % outputs);
                    let found = found[output / NR * rows + row][output % NR];
                    prop_assert!((f64::from(found) - expected).abs() < 1e-4, "{isa}: {found} {expected}");
                }
            }
        }
    }
}
