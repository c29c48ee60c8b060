//! One panel of a product: the loop over the tiles, for every element and instruction set.

use super::activations::split;
use super::kernel::{Ahead, Kernel, Operands};
use super::{Activations, Element, NR, PanelMask, Panels, Row};

/// Steps of a panel that are gone through at once: 48 kB of 32-bit lanes stay in the first-level
/// cache, or near it, while the tiles go over them. Whole panels of activations.
const DEPTH: usize = 384;

/// Memory that a product needs and that the next one uses again; one for each thread.
#[derive(Debug, Default)]
pub struct Scratch<E: Element = f32> {
    /// Some steps of a panel, masked.
    masked: Vec<Row<E::Lane>>,
    /// Which of them are kept.
    kept: Vec<u32>,
}

/// Activations [rows, inputs] times one panel of a masked weight [outputs, inputs].
#[derive(Debug, Clone, Copy)]
pub struct Product<'a, E: Element = f32> {
    /// The activations.
    pub activations: Activations<'a, E::Activation>,
    /// The weight.
    pub weight: Panels<'a, E>,
    /// Which of the weights are kept, packed for the element.
    pub mask: PanelMask<'a>,
    /// The number of the panel.
    pub panel: usize,
    /// What the products are added to; without it, to what the sums are.
    pub bias: Option<&'a Row<E::Sum>>,
}

/// Runs a product.
type Run<E> = fn(&Product<'_, E>, &mut Scratch<E>, &mut [Row<<E as Element>::Sum>]);

/// What an instruction set offers for an element.
pub struct Kernels<E: Element> {
    pub(super) run: Run<E>,
    /// What is done with a mask in a product of so many rows.
    pub(super) form: fn(PanelMask<'_>, usize) -> &'static str,
}

impl<E: Element> Kernels<E> {
    pub(super) const fn new<K: Kernel<E>>() -> Self {
        Kernels { run: run::<E, K>, form: form::<E, K> }
    }
}

fn form<E: Element, K: Kernel<E>>(mask: PanelMask<'_>, rows: usize) -> &'static str {
    match mask {
        PanelMask::Dense => "no mask",
        PanelMask::Steps(_) => "kept steps",
        PanelMask::Weights(_) if rows < K::MERGE_BELOW => "masked multiply-adds",
        PanelMask::Weights(_) => "masked panels",
    }
}

fn run<E: Element, K: Kernel<E>>(product: &Product<'_, E>, scratch: &mut Scratch<E>, sums: &mut [Row<E::Sum>]) {
    // An `Isa` is a line of the table whose detection said yes.
    let Some(kernel) = K::detect() else { unreachable!("instructions that were detected are gone") };
    let Product { activations, weight, mask, panel, bias } = *product;
    let (rows, steps) = (activations.rows(), weight.steps());
    assert_eq!(activations.inputs(), weight.inputs(), "activations and weight have not the same inputs");
    assert_eq!(sums.len(), rows, "activations and sums have not the same rows");
    assert!(mask.fits(weight), "the mask is of another weight");
    let Scratch { masked, kept } = scratch;
    masked.resize(DEPTH, [E::Lane::default(); NR]);
    let tiles = split(rows, K::MAX_ROWS);
    for start in (0..steps).step_by(DEPTH) {
        let range = start..steps.min(start + DEPTH);
        let b = &weight.panel(panel)[range.clone()];
        let masked = &mut masked[..b.len()];
        if let PanelMask::Steps(words) = mask {
            let words = &words[panel * steps.div_ceil(32)..][range.start / 32..range.end.div_ceil(32)];
            kernel.kept(words, kept);
        }
        // What comes next lies behind; each tile asks for its share, step by step.
        let used = if matches!(mask, PanelMask::Steps(_)) { kept.len() } else { b.len() };
        let (next, stride) = (b.as_ptr_range().end.cast::<i8>(), size_of_val(b).div_ceil((tiles.len() * used).max(1)));
        for (tile, (first, height)) in split(rows, K::MAX_ROWS).enumerate() {
            let (a, sums) = (activations.tile(first, start * E::INPUTS), &mut sums[first..first + height]);
            let ahead = Ahead { start: next.wrapping_add(tile * stride * used), stride };
            let operands = Operands { a, b, bias: bias.filter(|_| start == 0), ahead };
            match mask {
                PanelMask::Dense => kernel.dense(operands, sums),
                PanelMask::Steps(_) if kept.len() == b.len() => kernel.dense(operands, sums),
                PanelMask::Steps(_) => kernel.listed(operands, kept, sums),
                PanelMask::Weights(masks) => {
                    let masks = &masks[panel * steps * E::INPUTS..][range.start * E::INPUTS..range.end * E::INPUTS];
                    match tile {
                        _ if rows < K::MERGE_BELOW => kernel.masked(operands, masks, masked, sums),
                        0 => kernel.masking(operands, masks, masked, sums),
                        _ => kernel.dense(Operands { b: masked, ..operands }, sums),
                    }
                }
            }
        }
    }
    // Without steps there is none that the bias could come with.
    if let (0, Some(bias)) = (steps, bias) {
        sums.fill(*bias);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::portable::Portable;
    use crate::{Isa, Units};

    /// The most rows and outputs, and where long inputs begin; an interpreter takes its time.
    const SIZES: [usize; 4] = if cfg!(miri) { [8, 40, 1, 1] } else { [40, 100, 380, 800] };

    /// The product, one weight after the other, in f64.
    fn slow(values: &[f32], rows: usize, stride: usize, weight: &[f32], mask: &Units<'_>) -> Vec<f64> {
        let Units { outputs, inputs, .. } = *mask;
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

    /// The values [rows, stride] in panels, without the end of each row, behind `stride - inputs`
    /// rows that are not of the product.
    fn panels_of(values: &[f32], rows: usize, inputs: usize, stride: usize) -> Vec<Row> {
        let more = stride - inputs;
        let mut panels = vec![[f32::NAN; NR]; inputs.div_ceil(NR) * (rows + more)];
        for (row, values) in values.chunks(stride).enumerate() {
            for (k, value) in values[..inputs].iter().enumerate() {
                panels[k / NR * (rows + more) + more + row][k % NR] = *value;
            }
        }
        panels
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
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 300 }))]

        #[test]
        fn products_are_those_of_the_definition(
            rows in 0..SIZES[0],
            (outputs, inputs) in (1..SIZES[1], prop_oneof![1..80usize, SIZES[2]..SIZES[2] + 20, SIZES[3]..SIZES[3] + 100]),
            more in 0usize..5,
            kind in 0..4,
            seed: u32,
        ) {
            let block = match kind {
                0 | 1 => (1, 1),
                2 => (32, 1),
                _ => (5, 3),
            };
            let mut next = random(seed);
            let stride = inputs + more;
            let values: Vec<f32> = (0..rows * stride).map(|_| next()).collect();
            let weight: Vec<f32> = (0..outputs * inputs).map(|_| next()).collect();
            let mut bits = vec![0; (outputs.div_ceil(block.0) * inputs.div_ceil(block.1)).div_ceil(8)];
            for byte in &mut bits {
                *byte = (0..8).fold(0, |byte, bit| byte | u8::from(kind == 0 || next() > -0.3) << bit);
            }
            let mask = Units { outputs, inputs, block, bits: &bits };
            let mut packed = vec![0.0; Panels::<f32>::packed_len(outputs, inputs)];
            Panels::pack(&weight, outputs, inputs, &mut packed);
            let panels = Panels::new(&packed, outputs, inputs);
            let mut words = vec![0; PanelMask::packed_len::<f32>(block, outputs, inputs)];
            let panel_mask = if kind == 0 { PanelMask::Dense } else { PanelMask::pack::<f32>(&mask, &mut words) };
            let expected = slow(&values, rows, stride, &weight, &mask);
            let activations = panels_of(&values, rows, inputs, stride);
            for isa in Isa::available() {
                let mut scratch = Scratch::default();
                // With a bias, what is there before does not count.
                let (bias, before) = if more % 2 == 0 { (None, 0.5) } else { (Some(&[0.5; NR]), f32::NAN) };
                let mut found = vec![[before; NR]; panels.len() * rows];
                for (panel, sums) in found.chunks_mut(rows.max(1)).enumerate() {
                    let activations = Activations::new(&activations, rows + more, inputs).of_rows(more..rows + more);
                    let product = Product { activations, weight: panels, mask: panel_mask, panel, bias };
                    product.run(isa, &mut scratch, sums);
                }
                for (i, expected) in expected.iter().enumerate() {
                    let (row, output) = (i / outputs, i % outputs);
                    let found = f64::from(found[output / NR * rows + row][output % NR]) - 0.5;
                    prop_assert!((found - expected).abs() < 1e-4, "{isa}: {found} {expected}");
                }
            }
        }
    }

    const KERNELS: Kernels<i16> = Kernels::new::<Portable>();

    /// Two inputs share a step, as with bf16: no table knows it, the portable kernels multiply it.
    impl Element for i16 {
        const INPUTS: usize = 2;
        const PANELS: &'static str = "panels32x2";
        const MASKS: &'static str = "masks32x2";

        type Lane = [i16; 2];
        type Activation = i16;
        type Sum = i32;

        fn lanes(panels: &[i16]) -> &[[i16; 2]] {
            panels.as_chunks().0
        }

        fn keep(lane: [i16; 2], bits: u32) -> [i16; 2] {
            std::array::from_fn(|i| lane[i] * (bits >> i & 1) as i16)
        }

        fn multiply_add(sum: i32, activations: &[i16], lane: [i16; 2]) -> i32 {
            activations.iter().zip(lane).fold(sum, |sum, (a, b)| sum + i32::from(*a) * i32::from(b))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 100 }))]

        #[test]
        fn products_of_another_element_are_those_of_the_definition(
            rows in 1..SIZES[0],
            (outputs, inputs) in (1..SIZES[1], prop_oneof![1..80usize, SIZES[3]..SIZES[3] + 100]),
            block in prop_oneof![Just((1, 1)), Just((32, 2)), Just((32, 1)), Just((5, 3))],
            seed: u32,
        ) {
            let mut next = random(seed);
            let mut value = || (next() * 200.0) as i16;
            // What lies behind the last input is there, but is multiplied with zeros.
            let values: Vec<Row<i16>> = (0..rows * inputs.div_ceil(NR)).map(|_| std::array::from_fn(|_| value())).collect();
            let weight: Vec<i16> = (0..outputs * inputs).map(|_| value()).collect();
            let units = outputs.div_ceil(block.0) * inputs.div_ceil(block.1);
            let bits: Vec<u8> = (0..units.div_ceil(8)).map(|_| value() as u8).collect();
            let mask = Units { outputs, inputs, block, bits: &bits };
            let mut packed = vec![0; Panels::<i16>::packed_len(outputs, inputs)];
            Panels::pack(&weight, outputs, inputs, &mut packed);
            let panels = Panels::new(&packed, outputs, inputs);
            let mut words = vec![0; PanelMask::packed_len::<i16>(block, outputs, inputs)];
            let panel_mask = PanelMask::pack::<i16>(&mask, &mut words);
            prop_assert_eq!(matches!(panel_mask, PanelMask::Steps(_)), block == (32, 2));
            let activations = Activations::new(&values, rows, inputs);
            let (mut scratch, mut sums) = (Scratch::default(), vec![[7; NR]; panels.len() * rows]);
            for (panel, sums) in sums.chunks_mut(rows).enumerate() {
                let product = Product { activations, weight: panels, mask: panel_mask, panel, bias: None };
                (KERNELS.run)(&product, &mut scratch, sums);
            }
            for row in 0..rows {
                for output in 0..outputs {
                    let kept = (0..inputs).filter(|k| mask.keeps(output, *k));
                    let products = kept.map(|k| {
                        i32::from(values[k / NR * rows + row][k % NR]) * i32::from(weight[output * inputs + k])
                    });
                    prop_assert_eq!(sums[output / NR * rows + row][output % NR], 7 + products.sum::<i32>());
                }
            }
        }
    }
}
