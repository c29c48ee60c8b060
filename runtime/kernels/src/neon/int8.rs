//! int8: with the instruction of ARMv8.2 that multiplies four inputs of four outputs and adds them up (`sdot`), and for
//! older processors with one that multiplies to 16 bits and one that adds pairs.
//!
//! As with f32, twenty-four registers hold sums. With `sdot` they are six rows of half a panel's outputs, or where steps
//! are listed three rows of all outputs; without, each output has two sums, and there are six rows of a quarter.

mod i8mm;

use std::arch::aarch64::{
    int8x16_t, int16x8_t, int32x4_t, vaddq_s32, vaddq_u8, vandq_u8, vdupq_n_s32, vdupq_n_u8, vdupq_n_u32, vget_low_s8,
    vld1q_s8, vld1q_s32, vld1q_u8, vmlal_high_s8, vmlal_s8, vmull_high_s8, vmull_s8, vpadalq_s16, vpaddq_s32,
    vqtbl1q_u8, vreinterpretq_s8_u8, vreinterpretq_s8_u32, vreinterpretq_u8_u32, vst1q_s32, vst1q_u8,
};
use std::arch::{asm, is_aarch64_feature_detected};

pub(crate) use self::i8mm::MatrixMultiply;
use super::{LANES, LAST, Neon, have_of_sixteen};
use crate::kernel::{Codes, Instructions, Kernel, Operands, by_rows};
use crate::{Element, NR, Row};

/// That the processor has the dot products of ARMv8.2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DotProduct(());

/// Inputs of an output that lie side by side.
const INPUTS: usize = i8::INPUTS;

/// Steps of a panel of activations.
const STEPS: usize = NR / INPUTS;

/// The weights of a step.
type Step = Row<[i8; INPUTS]>;

/// The sums of a tile, so many registers a row.
type Sums<const R: usize, const N: usize> = [[int32x4_t; N]; R];

impl Instructions for DotProduct {
    fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("dotprod").then_some(DotProduct(()))
    }
}

// The compiler takes NEON by itself for what is around the products.
impl Codes for DotProduct {
    const ACTIVATION_ZERO: u8 = ZERO;
}

impl Codes for Neon {
    const ACTIVATION_ZERO: u8 = ZERO;
}

/// Half of the codes.
const ZERO: u8 = 128;

impl Kernel<i8> for DotProduct {
    const MAX_ROWS: usize = 6;

    fn dense(self, operands: Operands<'_, i8>, sums: &mut [Row<i32>]) {
        by_rows!(dense, sums, (operands), [1 2 3 4 5 6]);
    }

    fn listed(self, operands: Operands<'_, i8>, steps: &[u32], sums: &mut [Row<i32>]) {
        let (first, second) = sums.split_at_mut(sums.len().div_ceil(2));
        let rows = first.len();
        by_rows!(listed, first, (operands, 0, steps), [1 2 3]);
        if !second.is_empty() {
            by_rows!(listed, second, (operands, rows, steps), [1 2 3]);
        }
    }

    fn masking(self, operands: Operands<'_, i8>, masks: &[u32], masked: &mut [Step], sums: &mut [Row<i32>]) {
        // SAFETY: a processor with dot products has NEON.
        unsafe { mask(operands.b, masks, masked) };
        self.dense(Operands { b: masked, ..operands }, sums);
    }
}

impl Kernel<i8> for Neon {
    const MAX_ROWS: usize = 6;

    fn dense(self, operands: Operands<'_, i8>, sums: &mut [Row<i32>]) {
        by_rows!(dense_in_pairs, sums, (operands), [1 2 3 4 5 6]);
    }

    fn listed(self, operands: Operands<'_, i8>, steps: &[u32], sums: &mut [Row<i32>]) {
        by_rows!(listed_in_pairs, sums, (operands, steps), [1 2 3 4 5 6]);
    }

    fn masking(self, operands: Operands<'_, i8>, masks: &[u32], masked: &mut [Step], sums: &mut [Row<i32>]) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { mask(operands.b, masks, masked) };
        self.dense(Operands { b: masked, ..operands }, sums);
    }
}

/// Registers of sums of half a row.
const HALF: usize = NR / 2 / LANES;

#[target_feature(enable = "neon,dotprod")]
fn dense<const R: usize>(Operands { a, b, bias, .. }: Operands<'_, i8>, sums: &mut [Row<i32>]) {
    for half in [0, NR / 2] {
        let mut all: Sums<R, HALF> = load(bias, sums, half);
        for (panel, steps) in b.chunks(STEPS).enumerate() {
            let rows = a.panel(panel, R);
            let (fours, rest) = steps.as_chunks::<LANES>();
            for (k, four) in (0..STEPS).step_by(LANES).zip(fours) {
                let mut values = [vreinterpretq_s8_u8(vdupq_n_u8(0)); R];
                values.iter_mut().zip(rows).for_each(|(value, row)| *value = sixteen(row, k));
                add::<R, 0>(&mut all, values, &four[0], half);
                add::<R, 1>(&mut all, values, &four[1], half);
                add::<R, 2>(&mut all, values, &four[2], half);
                add::<R, 3>(&mut all, values, &four[3], half);
            }
            for (k, step) in (STEPS.min(steps.len()) - rest.len()..STEPS).zip(rest) {
                add_one(&mut all, rows, k, step, half);
            }
        }
        store(sums, half, all);
    }
}

/// The rows from `first` on, all outputs of them.
#[target_feature(enable = "neon,dotprod")]
fn listed<const R: usize>(
    Operands { a, b, bias, .. }: Operands<'_, i8>,
    first: usize,
    steps: &[u32],
    sums: &mut [Row<i32>],
) {
    let a = a.rows_from(first);
    let mut all: Sums<R, { NR / LANES }> = load(bias, sums, 0);
    for k in steps.iter().map(|k| *k as usize) {
        add_one(&mut all, a.panel(k / STEPS, R), k % STEPS, &b[k], 0);
    }
    store(sums, 0, all);
}

/// Adds a step, which multiplies one lane of each row's values: the inputs of that step.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn add<const R: usize, const LANE: usize>(all: &mut Sums<R, HALF>, values: [int8x16_t; R], step: &Step, half: usize) {
    for i in 0..HALF {
        let weights = weights(step, half + LANES * i);
        for (sums, value) in all.iter_mut().zip(values) {
            // The intrinsic is not stable.
            // SAFETY: it reads two registers and adds to a third.
            unsafe {
                asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{lane}]", inout(vreg) sums[i], in(vreg) weights,
                     in(vreg) value, lane = const LANE, options(pure, nomem, nostack, preserves_flags));
            }
        }
    }
}

/// Adds a step by itself, one register of weights after the other: with all of them at once, sums would not stay in
/// registers.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn add_one<const R: usize, const N: usize>(all: &mut Sums<R, N>, rows: &[Row<u8>], k: usize, step: &Step, half: usize) {
    let mut values = [vreinterpretq_s8_u8(vdupq_n_u8(0)); R];
    values.iter_mut().zip(rows).for_each(|(value, row)| *value = four(row, k));
    for i in 0..N {
        let weights = weights(step, half + LANES * i);
        for (sums, value) in all.iter_mut().zip(values) {
            // SAFETY: it reads two registers and adds to a third.
            unsafe {
                asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums[i], in(vreg) weights, in(vreg) value,
                     options(pure, nomem, nostack, preserves_flags));
            }
        }
    }
}

/// Outputs of a quarter of a panel; each has two sums.
const QUARTER: usize = NR / 4;

#[target_feature(enable = "neon")]
fn dense_in_pairs<const R: usize>(Operands { a, b, bias, .. }: Operands<'_, i8>, sums: &mut [Row<i32>]) {
    for first in (0..NR).step_by(QUARTER) {
        let mut all: Sums<R, LANES> = [[vdupq_n_s32(0); LANES]; R];
        for (panel, steps) in b.chunks(STEPS).enumerate() {
            let rows = a.panel(panel, R);
            let (twos, rest) = steps.as_chunks::<2>();
            for (k, [one, other]) in (0..STEPS).step_by(2).zip(twos) {
                add_pairs(&mut all, [(rows, k, one), (rows, k + 1, other)], first);
            }
            if let [last] = rest {
                add_pairs(&mut all, [(rows, steps.len() - 1, last)], first);
            }
        }
        store_pairs(bias, sums, first, all);
    }
}

#[target_feature(enable = "neon")]
fn listed_in_pairs<const R: usize>(
    Operands { a, b, bias, .. }: Operands<'_, i8>,
    steps: &[u32],
    sums: &mut [Row<i32>],
) {
    let at = |k: &u32| {
        let k = (k & !LAST) as usize;
        (a.panel(k / STEPS, R), k % STEPS, &b[k])
    };
    let (twos, rest) = steps.as_chunks::<2>();
    for first in (0..NR).step_by(QUARTER) {
        let mut all: Sums<R, LANES> = [[vdupq_n_s32(0); LANES]; R];
        for [one, other] in twos {
            add_pairs(&mut all, [at(one), at(other)], first);
        }
        if let [last] = rest {
            add_pairs(&mut all, [at(last)], first);
        }
        store_pairs(bias, sums, first, all);
    }
}

/// Adds one or two steps, each with its rows and its number among theirs: two products of -128 and -127 fit
/// into 16 bits.
#[target_feature(enable = "neon")]
#[inline]
fn add_pairs<const R: usize, const N: usize>(
    all: &mut Sums<R, LANES>,
    steps: [(&[Row<u8>], usize, &Step); N],
    first: usize,
) {
    const { assert!(N == 1 || N == 2) };
    for half in 0..QUARTER / LANES {
        let mut from = [vreinterpretq_s8_u8(vdupq_n_u8(0)); N];
        from.iter_mut().zip(steps).for_each(|(from, (_, _, step))| *from = weights(step, first + LANES * half));
        for (r, sums) in all.iter_mut().enumerate() {
            let (mut low, mut high): (int16x8_t, int16x8_t);
            let value = four(&steps[0].0[r], steps[0].1);
            (low, high) = (vmull_s8(vget_low_s8(from[0]), vget_low_s8(value)), vmull_high_s8(from[0], value));
            if N == 2 {
                let value = four(&steps[N - 1].0[r], steps[N - 1].1);
                low = vmlal_s8(low, vget_low_s8(from[N - 1]), vget_low_s8(value));
                high = vmlal_high_s8(high, from[N - 1], value);
            }
            sums[2 * half] = vpadalq_s16(sums[2 * half], low);
            sums[2 * half + 1] = vpadalq_s16(sums[2 * half + 1], high);
        }
    }
}

/// Adds the two sums of each output, and what was there before or the bias.
#[target_feature(enable = "neon")]
#[inline]
fn store_pairs<const R: usize>(bias: Option<&Row<i32>>, sums: &mut [Row<i32>], first: usize, all: Sums<R, LANES>) {
    for (row, [a, b, c, d]) in sums.iter_mut().zip(all) {
        for (start, sum) in [(first, vpaddq_s32(a, b)), (first + LANES, vpaddq_s32(c, d))] {
            let before = load_lanes(bias.unwrap_or(row), start);
            store_lanes(row, start, vaddq_s32(before, sum));
        }
    }
}

/// The codes of a row's activations of a step, for each output.
#[target_feature(enable = "neon")]
#[inline]
fn four(row: &Row<u8>, k: usize) -> int8x16_t {
    let values = u32::from_le_bytes(row.as_chunks::<INPUTS>().0[k]);
    vreinterpretq_s8_u32(vdupq_n_u32(values))
}

/// The codes of a row's activations of four steps.
#[target_feature(enable = "neon")]
#[inline]
fn sixteen(row: &Row<u8>, k: usize) -> int8x16_t {
    let values = &row[k * INPUTS..][..LANES * INPUTS];
    // SAFETY: there are sixteen.
    vreinterpretq_s8_u8(unsafe { vld1q_u8(values.as_ptr()) })
}

/// The weights of four outputs.
#[target_feature(enable = "neon")]
#[inline]
fn weights(step: &Step, output: usize) -> int8x16_t {
    let weights = &step[output..output + LANES];
    // SAFETY: four outputs have 16 weights.
    unsafe { vld1q_s8(weights.as_ptr().cast()) }
}

/// The steps with zeros where the masks have no bit: a word of a mask has a bit for each byte of two registers.
#[target_feature(enable = "neon")]
fn mask(b: &[Step], masks: &[u32], masked: &mut [Step]) {
    // Bytes 0 and 1 of a word go to the first register, 2 and 3 to the second, each eight times; each looks at a bit of
    // its own.
    let spread: [u8; 16] = std::array::from_fn(|i| (i / 8) as u8);
    let bits: [u8; 16] = std::array::from_fn(|i| 1 << (i % 8));
    // SAFETY: there are sixteen of each.
    let (low, bits) = unsafe { (vld1q_u8(spread.as_ptr()), vld1q_u8(bits.as_ptr())) };
    let high = vaddq_u8(low, vdupq_n_u8(2));
    let eights = b.as_flattened().as_chunks::<8>().0.iter().zip(masked.as_flattened_mut().as_chunks_mut::<8>().0);
    for ((weights, out), word) in eights.zip(masks) {
        let word = vreinterpretq_u8_u32(vdupq_n_u32(*word));
        let (from, to) =
            (weights.as_flattened().as_ptr().cast::<u8>(), out.as_flattened_mut().as_mut_ptr().cast::<u8>());
        // SAFETY: eight outputs have 32 weights.
        unsafe {
            for (i, spread) in [low, high].into_iter().enumerate() {
                let keep = have_of_sixteen(vqtbl1q_u8(word, spread), bits);
                vst1q_u8(to.add(16 * i), vandq_u8(vld1q_u8(from.add(16 * i)), keep));
            }
        }
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn load<const R: usize, const N: usize>(bias: Option<&Row<i32>>, sums: &[Row<i32>], half: usize) -> Sums<R, N> {
    let mut all = [[vdupq_n_s32(0); N]; R];
    for (r, all) in all.iter_mut().enumerate() {
        let row = bias.unwrap_or_else(|| &sums[r]);
        all.iter_mut().enumerate().for_each(|(i, sum)| *sum = load_lanes(row, half + LANES * i));
    }
    all
}

#[target_feature(enable = "neon")]
#[inline]
fn store<const R: usize, const N: usize>(sums: &mut [Row<i32>], half: usize, all: Sums<R, N>) {
    for (row, all) in sums.iter_mut().zip(all) {
        all.into_iter().enumerate().for_each(|(i, sum)| store_lanes(row, half + LANES * i, sum));
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn load_lanes(row: &Row<i32>, start: usize) -> int32x4_t {
    let values = &row[start..start + LANES];
    // SAFETY: there are four values.
    unsafe { vld1q_s32(values.as_ptr()) }
}

#[target_feature(enable = "neon")]
#[inline]
fn store_lanes(row: &mut Row<i32>, start: usize, values: int32x4_t) {
    let to = &mut row[start..start + LANES];
    // SAFETY: there is room for four values.
    unsafe { vst1q_s32(to.as_mut_ptr(), values) }
}
