//! Activations as int8 codes, and sums of products of codes as numbers again.
//!
//! Each row has a scale of its own, its largest magnitude / 127, and its codes are its values / scale, rounded to the
//! nearest, ties to even. Every operation is one of IEEE 754 in a fixed order: the same codes and sums everywhere.

use super::{NR, Row, ZERO_POINT};

/// The largest code.
const LIMIT: f32 = 127.0;

/// Added to a value from -2²² to 2²², it leaves no bits for a fraction, so the addition rounds, and the low bits of the
/// sum are the integer.
const ROUNDING: f32 = 12_582_912.0;

/// Makes codes of some rows: `from` and `to` have the rows of each panel, `scales` one value a row. What lies behind the
/// last input becomes code 0. A row with a value that is not finite has the scale NaN.
#[inline(always)]
pub(super) fn quantize(from: &[&[Row]], inputs: usize, to: &mut [&mut [Row<u8>]], scales: &mut [f32]) {
    for (r, scale) in scales.iter_mut().enumerate() {
        // Magnitudes are ordered as their bits are, with infinity and then NaN at the end.
        let mut largest = [0u32; NR];
        let (whole, rest) = from.split_at(inputs / NR);
        for panel in whole {
            largest.iter_mut().zip(&panel[r]).for_each(|(most, value)| *most = (*most).max(magnitude(*value)));
        }
        let rest = rest.iter().flat_map(|panel| &panel[r][..inputs % NR]).map(|value| magnitude(*value));
        let largest = f32::from_bits(largest.into_iter().chain(rest).fold(0, u32::max));
        let inverse = if largest > 0.0 { LIMIT / largest } else { 0.0 };
        *scale = largest / LIMIT;
        if !(largest.is_finite() && inverse.is_finite()) {
            // Of the smallest numbers the inverse is none.
            *scale = if largest.is_finite() { 0.0 } else { f32::NAN };
            to.iter_mut().for_each(|panel| panel[r] = [ZERO_POINT; NR]);
            continue;
        }
        for (panel, (from, to)) in from.iter().zip(to.iter_mut()).enumerate() {
            let codes = &mut to[r];
            codes.iter_mut().zip(&from[r]).for_each(|(code, value)| *code = encode(value * inverse));
            if let Some(behind) = codes.get_mut(inputs - panel * NR..) {
                behind.fill(ZERO_POINT);
            }
        }
    }
}

#[inline(always)]
fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

#[inline(always)]
fn encode(value: f32) -> u8 {
    ((value + ROUNDING).to_bits() as u8).wrapping_add(ZERO_POINT)
}

/// Makes numbers of some rows of one panel: sum · (the row's scale · the output's scale), added to the bias, or to what
/// is there.
#[inline(always)]
pub(super) fn dequantize(sums: &[Row<i32>], rows: &[f32], outputs: &Row, bias: Option<&Row>, to: &mut [Row]) {
    for ((sums, scale), to) in sums.iter().zip(rows).zip(to) {
        if let Some(bias) = bias {
            *to = *bias;
        }
        for ((to, sum), output) in to.iter_mut().zip(sums).zip(outputs) {
            *to += *sum as f32 * (scale * output);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::{Isa, NR, Row, ZERO_POINT};

    /// Rows of values as panels.
    fn panels(rows: &[Vec<f32>], inputs: usize) -> Vec<Vec<Row>> {
        let value = |row: &Vec<f32>, k: usize| row.get(k).copied().unwrap_or(f32::NAN);
        let panel = |p: usize| rows.iter().map(|row| std::array::from_fn(|j| value(row, p * NR + j))).collect();
        (0..inputs.div_ceil(NR)).map(panel).collect()
    }

    fn quantize(isa: Isa, rows: &[Vec<f32>], inputs: usize) -> (Vec<Vec<Row<u8>>>, Vec<f32>) {
        let from = panels(rows, inputs);
        let from: Vec<&[Row]> = from.iter().map(Vec::as_slice).collect();
        let mut to = vec![vec![[7; NR]; rows.len()]; from.len()];
        let mut scales = vec![7.0; rows.len()];
        isa.quantize(&from, inputs, &mut to.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(), &mut scales);
        (to, scales)
    }

    proptest! {
        #[test]
        fn codes_are_the_nearest_and_the_same_everywhere(
            (inputs, rows) in (1usize..100).prop_flat_map(|inputs| {
                (Just(inputs), prop::collection::vec(prop::collection::vec(-9f32..9.0, inputs), 1..5))
            }),
        ) {
            let all: Vec<_> = Isa::available().into_iter().map(|isa| quantize(isa, &rows, inputs)).collect();
            let (codes, scales) = &all[0];
            prop_assert!(all.iter().all(|other| other == &all[0]));
            for (r, row) in rows.iter().enumerate() {
                for k in 0..inputs.next_multiple_of(NR) {
                    let code = f32::from(codes[k / NR][r][k % NR]) - f32::from(ZERO_POINT);
                    match row.get(k) {
                        Some(value) => prop_assert!((code * scales[r] - value).abs() <= scales[r] * 0.501),
                        None => prop_assert_eq!(code, 0.0),
                    }
                }
            }
        }

        #[test]
        fn sums_become_numbers(sums in prop::collection::vec(any::<i32>(), NR), scale in 0f32..1.0, seed in -1f32..1.0) {
            let sums: Row<i32> = std::array::from_fn(|j| sums[j] / 1000);
            let outputs: Row = std::array::from_fn(|j| seed * j as f32);
            for isa in Isa::available() {
                let (mut with, mut without) = ([[f32::NAN; NR]], [[3.0; NR]]);
                isa.dequantize(&[sums], &[scale], &outputs, Some(&[3.0; NR]), &mut with);
                isa.dequantize(&[sums], &[scale], &outputs, None, &mut without);
                let expected: Row = std::array::from_fn(|j| 3.0 + sums[j] as f32 * (scale * outputs[j]));
                prop_assert_eq!((with[0], without[0]), (expected, expected), "{}", isa);
            }
        }
    }

    #[test]
    fn rows_of_zeros_and_what_is_no_number_have_their_scales() {
        for isa in Isa::available() {
            let rows = [vec![0.0; 33], vec![1e-45; 33], vec![1.0, f32::INFINITY], vec![f32::NAN, 1.0]];
            let rows: Vec<Vec<f32>> = rows.into_iter().map(|mut row| (row.resize(33, 1.0), row).1).collect();
            let (codes, scales) = quantize(isa, &rows, 33);
            assert_eq!(scales[..2], [0.0; 2]);
            assert!(scales[2..].iter().all(|scale| scale.is_nan()));
            assert!(codes.iter().flatten().flatten().all(|code| *code == ZERO_POINT));
        }
    }
}
