//! Activations as int8 codes, and sums of products of codes as numbers again.
//!
//! Each row has a scale and a zero of its own, so that its codes from 0 to 255 go from its least value to its largest,
//! with zero between them exact. Every operation is one of IEEE 754 in a fixed order: the same codes and sums everywhere.

use super::{NR, Row};

/// What the codes of a row stand for: scale · (code - zero).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Affine {
    /// The step from one code to the next; NaN for a row with a value that is not finite.
    pub scale: f32,
    /// The code of zero.
    pub zero: u8,
}

/// The largest code.
const LIMIT: f32 = 255.0;

/// Added to a value from -2²² to 2²², it leaves no bits for a fraction, so the addition rounds, and the low bits of the
/// sum are the integer.
pub(super) const ROUNDING: f32 = 12_582_912.0;

/// Makes codes of some rows: `from` and `to` have the rows of each panel, `rows` says what they stand for. Each is written
/// less `taken`, in the low bits. What lies behind the last input is any code.
#[inline(always)]
pub(super) fn quantize(from: &[&[Row]], inputs: usize, taken: u8, to: &mut [&mut [Row<u8>]], rows: &mut [Affine]) {
    for (r, row) in rows.iter_mut().enumerate() {
        let mut range = Range::default();
        for (panel, from) in from.iter().enumerate() {
            match inputs - panel * NR {
                0..NR => {
                    // Zero is in every range.
                    let mut values = [0.0; NR];
                    let used = inputs - panel * NR;
                    values[..used].copy_from_slice(&from[r][..used]);
                    range.widen(&values);
                }
                _ => range.widen(&from[r]),
            }
        }
        let Some(Coder { inverse, zero }) = affine(range.ends(), row) else {
            to.iter_mut().for_each(|panel| panel[r] = [0; NR]);
            continue;
        };
        for (from, to) in from.iter().zip(to.iter_mut()) {
            let codes = to[r].iter_mut().zip(&from[r]);
            codes.for_each(|(code, value)| {
                let nearest = round(value * inverse).wrapping_add(zero).clamp(0, 255);
                *code = (nearest as u8).wrapping_sub(taken);
            });
        }
    }
}

/// What makes codes of values: the nearest integers to `inverse` times the value, and `zero` more.
pub(super) struct Coder {
    pub(super) inverse: f32,
    pub(super) zero: i32,
}

/// What the codes of a row stand for that goes from one value to another; without what makes codes, all are 0.
#[inline(always)]
pub(super) fn affine((least, most): (f32, f32), row: &mut Affine) -> Option<Coder> {
    let scale = (most - least) / LIMIT;
    let inverse = 1.0 / scale;
    if !(scale.is_finite() && inverse.is_finite()) {
        // Of zeros and the smallest numbers there is no inverse.
        *row = Affine { scale: if scale.is_finite() { 0.0 } else { f32::NAN }, zero: 0 };
        return None;
    }
    let zero = round(-least * inverse).clamp(0, 255);
    *row = Affine { scale, zero: zero as u8 };
    Some(Coder { inverse, zero })
}

/// Values of a row that are looked at side by side.
const LANES: usize = 16;

/// Where the values of a row lie, zero among them.
#[derive(Default)]
struct Range {
    least: [f32; LANES],
    most: [f32; LANES],
    /// The values times zero: a number that is not finite leaves NaN.
    zeros: [f32; LANES],
}

impl Range {
    #[inline(always)]
    fn widen(&mut self, values: &Row) {
        for values in values.as_chunks::<LANES>().0 {
            let of_lanes = self.least.iter_mut().zip(&mut self.most).zip(&mut self.zeros);
            for (((least, most), zeros), value) in of_lanes.zip(values) {
                *least = if *value < *least { *value } else { *least };
                *most = if *value > *most { *value } else { *most };
                *zeros += value * 0.0;
            }
        }
    }

    /// The least and the largest value; NaN if one is not finite.
    #[inline(always)]
    fn ends(&self) -> (f32, f32) {
        let zero: f32 = self.zeros.iter().sum();
        let ends = (self.least.iter().copied().fold(0.0, f32::min), self.most.iter().copied().fold(0.0, f32::max));
        (ends.0 + zero, ends.1 + zero)
    }
}

/// The nearest integer, ties to even, of a value from -2²² to 2²²; of others any.
#[inline(always)]
fn round(value: f32) -> i32 {
    (value + ROUNDING).to_bits().wrapping_sub(ROUNDING.to_bits()) as i32
}

/// Makes numbers of some rows of one panel: (sum - (zero of the row - `taken`) · column sum) · (scale of the row · scale
/// of the output), added to the bias, or to what is there. The last row of `sums` are the column sums: those of a row of
/// activations that are all 1.
#[inline(always)]
pub(super) fn dequantize(
    sums: &[Row<i32>],
    rows: &[Affine],
    taken: u8,
    outputs: &Row,
    bias: Option<&Row>,
    to: &mut [Row],
) {
    let Some((columns, sums)) = sums.split_last() else { return };
    for ((sums, Affine { scale, zero }), to) in sums.iter().zip(rows).zip(to) {
        if let Some(bias) = bias {
            *to = *bias;
        }
        let zero = i32::from(*zero) - i32::from(taken);
        for (((to, sum), column), output) in to.iter_mut().zip(sums).zip(columns).zip(outputs) {
            *to += (sum - zero * column) as f32 * (scale * output);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Affine;
    use crate::{Isa, NR, Row};

    /// Rows of values as panels.
    fn panels(rows: &[Vec<f32>], inputs: usize) -> Vec<Vec<Row>> {
        let value = |row: &Vec<f32>, k: usize| row.get(k).copied().unwrap_or(f32::NAN);
        let panel = |p: usize| rows.iter().map(|row| std::array::from_fn(|j| value(row, p * NR + j))).collect();
        (0..inputs.div_ceil(NR)).map(panel).collect()
    }

    fn quantize(isa: Isa, rows: &[Vec<f32>], inputs: usize) -> (Vec<Vec<Row<u8>>>, Vec<Affine>) {
        let from = panels(rows, inputs);
        let from: Vec<&[Row]> = from.iter().map(Vec::as_slice).collect();
        let mut to = vec![vec![[7; NR]; rows.len()]; from.len()];
        let mut scales = vec![Affine::default(); rows.len()];
        isa.quantize(&from, inputs, &mut to.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(), &mut scales);
        (to, scales)
    }

    /// The codes of the inputs alone.
    fn of_inputs(isa: Isa, codes: &[Vec<Row<u8>>], row: usize, inputs: usize) -> Vec<u8> {
        (0..inputs).map(|k| codes[k / NR][row][k % NR].wrapping_add(isa.activation_zero())).collect()
    }

    proptest! {
        #[test]
        fn codes_are_the_nearest_and_the_same_everywhere(
            (inputs, rows) in (1usize..100).prop_flat_map(|inputs| {
                (Just(inputs), prop::collection::vec(prop::collection::vec(-9f32..9.0, inputs), 1..5))
            }),
            shift in prop_oneof![Just(0f32), -20f32..20.0],
        ) {
            let rows: Vec<Vec<f32>> = rows.iter().map(|row| row.iter().map(|value| value + shift).collect()).collect();
            let all: Vec<_> = Isa::available().into_iter().map(|isa| (isa, quantize(isa, &rows, inputs))).collect();
            for (r, row) in rows.iter().enumerate() {
                let (isa, (first, affine)) = &all[0];
                let (codes, expected) = (of_inputs(*isa, first, r, inputs), affine[r]);
                for (isa, (other, affine)) in &all {
                    prop_assert_eq!((&of_inputs(*isa, other, r, inputs), affine[r]), (&codes, expected));
                }
                let Affine { scale, zero } = expected;
                for (code, value) in codes.iter().zip(row) {
                    // The zero is rounded, too, so at the ends it is up to one step.
                    let found = (f32::from(*code) - f32::from(zero)) * scale;
                    prop_assert!((found - value).abs() <= scale * 1.01, "{found} {value}");
                }
            }
        }

        #[test]
        fn sums_become_numbers(
            sums in prop::collection::vec(any::<i32>(), 2 * NR),
            (scale, zero) in (0f32..1.0, any::<u8>()),
            seed in -1f32..1.0,
        ) {
            let row = |part: usize| -> Row<i32> { std::array::from_fn(|j| sums[part * NR + j] / 10_000) };
            let (sums, columns) = (row(0), row(1));
            let outputs: Row = std::array::from_fn(|j| seed * j as f32);
            let affine = [Affine { scale, zero }];
            for isa in Isa::available() {
                let (mut with, mut without) = ([[f32::NAN; NR]], [[3.0; NR]]);
                isa.dequantize(&[sums, columns], &affine, &outputs, Some(&[3.0; NR]), &mut with);
                isa.dequantize(&[sums, columns], &affine, &outputs, None, &mut without);
                let zero = i32::from(zero) - i32::from(isa.activation_zero());
                let exact = |j: usize| (sums[j] - zero * columns[j]) as f32 * (scale * outputs[j]);
                let expected: Row = std::array::from_fn(|j| 3.0 + exact(j));
                prop_assert_eq!((with[0], without[0]), (expected, expected), "{}", isa);
            }
        }
    }

    #[test]
    fn rows_of_zeros_and_what_is_no_number_have_their_scales() {
        for isa in Isa::available() {
            let rows = [vec![0.0; 33], vec![1e-45; 33], vec![1.0, f32::INFINITY], vec![f32::NAN, 1.0]];
            let rows: Vec<Vec<f32>> = rows.into_iter().map(|mut row| (row.resize(33, 1.0), row).1).collect();
            let (codes, affine) = quantize(isa, &rows, 33);
            assert!(affine[..2].iter().all(|affine| affine.scale == 0.0));
            assert!(affine[2..].iter().all(|affine| affine.scale.is_nan()));
            assert!(codes.iter().flatten().flatten().all(|code| *code == 0));
        }
    }
}
