//! Softmax of rows of scores that lie in panels.

use overmask_kernels::{NR, Row};
use rten_simd::ops::{BitOps, IntOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp};

/// Makes weights of the scores of a text's tokens, [tokens / 32, rows, 32]: exp(scale · (score - the row's largest)).
/// The weights of a row add up to 1 when they are multiplied with the row's factor; whoever has fewer values than there are
/// weights in a row does that with less work.
pub(super) struct Softmax<'a> {
    pub(super) scale: f32,
    /// What lies behind the last token becomes anything.
    pub(super) scores: &'a mut [Row],
    pub(super) tokens: usize,
    /// The factor of each row.
    pub(super) factors: &'a mut [f32],
}

impl SimdOp for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Softmax { scale, scores, tokens, factors } = self;
        let (ops, rows) = (isa.f32(), factors.len());
        // Powers of two are faster than those of e.
        let scale = scale * std::f32::consts::LOG2_E;
        let Some(last) = tokens.checked_sub(1).map(|last| last / NR) else { return };
        // A panel's values that belong to tokens, in whole registers.
        let used = |panel: usize| if panel < last { NR } else { (tokens - last * NR).next_multiple_of(ops.len()) };
        for (i, factor) in factors.iter_mut().enumerate() {
            scores[last * rows + i][tokens - last * NR..].fill(f32::NEG_INFINITY);
            let mut largest = ops.splat(f32::NEG_INFINITY);
            for panel in 0..=last {
                for values in scores[panel * rows + i][..used(panel)].chunks_exact(ops.len()) {
                    largest = ops.max(largest, ops.load(values));
                }
            }
            let largest = ops.splat(among(isa, largest));
            let (scale, shift) = (ops.splat(scale), ops.mul(largest, ops.splat(-scale)));
            let mut sum = ops.zero();
            for panel in 0..=last {
                for values in scores[panel * rows + i][..used(panel)].chunks_exact_mut(ops.len()) {
                    let weights = exp2(isa, ops.mul_add(ops.load(values), scale, shift));
                    sum = ops.add(sum, weights);
                    ops.store(weights, values);
                }
            }
            *factor = 1.0 / ops.sum(sum);
        }
    }
}

/// The largest value of a register; of what is no number, any.
#[inline(always)]
fn among<I: Isa>(isa: I, x: I::F32) -> f32 {
    const MOST: usize = 16;
    let ops = isa.f32();
    let mut lanes = [f32::NEG_INFINITY; MOST];
    ops.store(x, &mut lanes[..ops.len()]);
    let mut half = MOST;
    while half > 1 {
        half /= 2;
        for i in 0..half {
            lanes[i] = if lanes[half + i] > lanes[i] { lanes[half + i] } else { lanes[i] };
        }
    }
    lanes[0]
}

/// Below, 2ˣ is hardly a number any more; it is taken for this power.
const LEAST: f32 = -125.0;

/// Added to a value from -2²² to 2²², it leaves no bits for a fraction, so the addition rounds, and the low bits of the
/// sum are the integer.
const ROUNDING: f32 = 12_582_912.0;

/// 2ˣ from -0.5 to 0.5, the lowest power first: the polynomial whose largest relative error is the least (Remez), 7.5e-8.
const POWERS: [f32; 6] = [1.000_000_1, 0.693_146_97, 0.240_221_2, 0.055_507_133, 0.009_675_541, 0.001_327_647_2];

/// 2ˣ of values of at most 0, with a relative error below 3e-7; NaN stays NaN.
#[inline(always)]
fn exp2<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let (ops, int) = (isa.f32(), isa.i32());
    let least = ops.splat(LEAST);
    let x = ops.select(least, x, ops.lt(x, least));
    let rounding = ops.splat(ROUNDING);
    let rounded = ops.add(x, rounding);
    let rest = ops.sub(x, ops.sub(rounded, rounding));
    let [first, others @ ..] = POWERS;
    let mut power = ops.splat(others[4]);
    for factor in [others[3], others[2], others[1], others[0], first] {
        power = ops.mul_add(power, rest, ops.splat(factor));
    }
    // The integer is added to the exponent.
    let integer: I::I32 = rounded.reinterpret_cast();
    let bits: I::I32 = power.reinterpret_cast();
    int.add(bits, int.shift_left::<23>(integer)).reinterpret_cast()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rows of scores in panels, with NaN behind the last token.
    fn panels(rows: &[Vec<f32>], tokens: usize) -> Vec<Row> {
        let value = |row: &Vec<f32>, k: usize| row.get(k).copied().unwrap_or(f32::NAN);
        let panel = |p: usize| rows.iter().map(move |row| std::array::from_fn(|j| value(row, p * NR + j)));
        (0..tokens.div_ceil(NR)).flat_map(panel).collect()
    }

    fn weights(rows: &[Vec<f32>], tokens: usize, scale: f32) -> Vec<Vec<f32>> {
        let (mut scores, mut factors) = (panels(rows, tokens), vec![0.0; rows.len()]);
        Softmax { scale, scores: &mut scores, tokens, factors: &mut factors }.dispatch();
        let weight = |i: usize, k: usize| scores[k / NR * rows.len() + i][k % NR] * factors[i];
        (0..rows.len()).map(|i| (0..tokens).map(|k| weight(i, k)).collect()).collect()
    }

    proptest! {
        #[test]
        fn weights_are_those_of_the_definition(
            rows in (1usize..100).prop_flat_map(|tokens| {
                prop::collection::vec(prop::collection::vec(-300f32..300.0, tokens), 1..5)
            }),
            scale in 0.01f32..1.0,
        ) {
            let tokens = rows[0].len();
            for (found, row) in weights(&rows, tokens, scale).iter().zip(&rows) {
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let exp = |score: &f32| (f64::from(scale) * (f64::from(*score) - f64::from(largest))).exp();
                let sum: f64 = row.iter().map(exp).sum();
                for (found, score) in found.iter().zip(row) {
                    let expected = exp(score) / sum;
                    // Scores are rounded in units of the largest.
                    prop_assert!((f64::from(*found) - expected).abs() <= 4e-5 * expected + 1e-36, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_number_is_seen() {
        for bad in [f32::NAN, f32::INFINITY] {
            let found = weights(&[vec![0.0, bad, 1.0], vec![0.0; 3]], 3, 1.0);
            assert!(found[0].iter().all(|weight| weight.is_nan()), "{found:?}");
            assert!(found[1].iter().all(|weight| (weight - 1.0 / 3.0).abs() < 1e-6), "{found:?}");
        }
    }
}
