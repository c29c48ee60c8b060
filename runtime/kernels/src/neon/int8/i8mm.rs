//! The instruction that multiplies matrices (`smmla`, ARMv8.6): eight inputs of two rows and of two outputs at a time,
//! twice what `sdot` does. Two steps make eight inputs, which are brought side by side as they are loaded.

use std::arch::aarch64::{
    int8x16_t, int32x4_t, uint8x8_t, vcombine_u8, vdupq_n_s8, vdupq_n_s32, vld1_u8, vreinterpretq_s8_s32,
    vreinterpretq_s8_u8, vreinterpretq_s32_s8, vzip1q_s32, vzip2q_s32,
};
use std::arch::{asm, is_aarch64_feature_detected};

use super::{DotProduct, INPUTS, STEPS, Step, ZERO, mask, weights};
use crate::kernel::{Codes, Instructions, Kernel, Operands, by_rows};
use crate::neon::LANES;
use crate::neon::twos::{PAIRS, Sums, TWOS, load, store};
use crate::{NR, Row};

/// That the processor multiplies matrices of int8, and has dot products.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatrixMultiply(DotProduct);

impl Instructions for MatrixMultiply {
    fn detect() -> Option<Self> {
        DotProduct::detect().filter(|_| is_aarch64_feature_detected!("i8mm")).map(MatrixMultiply)
    }
}

impl Codes for MatrixMultiply {
    const ACTIVATION_ZERO: u8 = ZERO;
}

impl Kernel<i8> for MatrixMultiply {
    const MAX_ROWS: usize = 6;

    fn dense(self, operands: Operands<'_, i8>, sums: &mut [Row<i32>]) {
        by_rows!(dense, sums, (operands), [1 2 3 4 5 6]);
    }

    /// Steps that are listed do not lie side by side.
    fn listed(self, operands: Operands<'_, i8>, steps: &[u32], sums: &mut [Row<i32>]) {
        self.0.listed(operands, steps, sums);
    }

    fn masking(self, operands: Operands<'_, i8>, masks: &[u32], masked: &mut [Step], sums: &mut [Row<i32>]) {
        // SAFETY: a processor with these instructions has NEON.
        unsafe { mask(operands.b, masks, masked) };
        self.dense(Operands { b: masked, ..operands }, sums);
    }
}

#[target_feature(enable = "neon,i8mm")]
fn dense<const R: usize>(Operands { a, b, bias, .. }: Operands<'_, i8>, sums: &mut [Row<i32>]) {
    for half in [0, NR / 2] {
        let mut all = load::<R, _>(bias, sums, half);
        for (panel, steps) in b.chunks(STEPS).enumerate() {
            let rows = a.panel(panel, R);
            let (twos, rest) = steps.as_chunks::<2>();
            for (k, [one, other]) in (0..STEPS).step_by(2).zip(twos) {
                add::<R>(&mut all, rows, k, one, Some(other), half);
            }
            if let [last] = rest {
                add::<R>(&mut all, rows, steps.len() - 1, last, None, half);
            }
        }
        store::<R, _>(sums, half, all);
    }
}

/// Adds the products of two steps; the first is an even one.
#[target_feature(enable = "neon,i8mm")]
#[inline]
fn add<const R: usize>(all: &mut Sums, rows: &[Row<u8>], k: usize, one: &Step, other: Option<&Step>, half: usize) {
    let mut values = [vdupq_n_s8(0); PAIRS];
    for (value, pair) in values.iter_mut().zip(rows.chunks(2)) {
        // Where there is no second row, nobody looks at its sums.
        let (first, second) = (&pair[0], pair.last().unwrap_or(&pair[0]));
        *value = vreinterpretq_s8_u8(vcombine_u8(eight(first, k), eight(second, k)));
    }
    for i in 0..TWOS / 2 {
        let output = half + LANES * i;
        let one = vreinterpretq_s32_s8(weights(one, output));
        let other = match other {
            Some(other) => vreinterpretq_s32_s8(weights(other, output)),
            None => vdupq_n_s32(0),
        };
        let [low, high] = [vzip1q_s32(one, other), vzip2q_s32(one, other)].map(|twos| vreinterpretq_s8_s32(twos));
        for (sums, value) in all.iter_mut().zip(values).take(R.div_ceil(2)) {
            multiply_add(&mut sums[2 * i], value, low);
            multiply_add(&mut sums[2 * i + 1], value, high);
        }
    }
}

/// Adds the products of two rows with two outputs, of eight inputs each.
#[target_feature(enable = "neon,i8mm")]
#[inline]
fn multiply_add(sums: &mut int32x4_t, rows: int8x16_t, outputs: int8x16_t) {
    // The intrinsic is not stable.
    // SAFETY: it reads two registers and adds to a third.
    unsafe {
        asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) *sums, in(vreg) rows, in(vreg) outputs,
             options(pure, nomem, nostack, preserves_flags));
    }
}

/// The codes of a row's activations of two steps.
#[target_feature(enable = "neon")]
#[inline]
fn eight(row: &Row<u8>, k: usize) -> uint8x8_t {
    let values = &row[k * INPUTS..][..2 * INPUTS];
    // SAFETY: there are eight.
    unsafe { vld1_u8(values.as_ptr()) }
}
