//! What instructions that multiply matrices add up: two rows times two outputs a register.

use std::arch::aarch64::{int32x4_t, vcombine_s32, vdupq_n_s32, vget_high_s32, vget_low_s32, vld1q_s32, vst1q_s32};

use super::LANES;
use crate::{NR, Row};

/// Pairs of rows of a tile.
pub(super) const PAIRS: usize = 3;

/// Pairs of outputs of half a panel.
pub(super) const TWOS: usize = NR / 4;

/// For each pair of rows and each pair of outputs the sums of the first row, then those of the second: bits of i32 or f32.
pub(super) type Sums = [[int32x4_t; TWOS]; PAIRS];

/// What takes 32 bits, all of which may be anything.
pub(super) trait Word {}

impl Word for i32 {}
impl Word for f32 {}

// These are always made part of what calls them, as the compiler would not do by itself: else sums would not stay in
// registers. Such functions name no instructions; every processor of 64 bits that runs an operating system has NEON.

/// The sums of some rows, or the bias, for half of a panel's outputs.
#[inline(always)]
pub(super) fn load<const R: usize, T: Word>(bias: Option<&Row<T>>, sums: &[Row<T>], half: usize) -> Sums {
    // SAFETY: the processor has NEON.
    unsafe {
        let mut all = [[vdupq_n_s32(0); TWOS]; PAIRS];
        for (pair, all) in all.iter_mut().enumerate().take(R.div_ceil(2)) {
            // Where there is no second row, nobody looks at its sums.
            let [first, second] = [2 * pair, (2 * pair + 1).min(R - 1)].map(|row| bias.unwrap_or(&sums[row]));
            for i in 0..TWOS / 2 {
                let output = half + LANES * i;
                let (first, second) = (load_lanes(first, output), load_lanes(second, output));
                all[2 * i] = vcombine_s32(vget_low_s32(first), vget_low_s32(second));
                all[2 * i + 1] = vcombine_s32(vget_high_s32(first), vget_high_s32(second));
            }
        }
        all
    }
}

#[inline(always)]
pub(super) fn store<const R: usize, T: Word>(sums: &mut [Row<T>], half: usize, all: Sums) {
    // SAFETY: the processor has NEON.
    unsafe {
        for (pair, all) in all.iter().enumerate().take(R.div_ceil(2)) {
            for i in 0..TWOS / 2 {
                let (output, low, high) = (half + LANES * i, all[2 * i], all[2 * i + 1]);
                store_lanes(&mut sums[2 * pair], output, vcombine_s32(vget_low_s32(low), vget_low_s32(high)));
                if 2 * pair + 1 < R {
                    let second = vcombine_s32(vget_high_s32(low), vget_high_s32(high));
                    store_lanes(&mut sums[2 * pair + 1], output, second);
                }
            }
        }
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn load_lanes<T: Word>(row: &Row<T>, start: usize) -> int32x4_t {
    let values = &row[start..start + LANES];
    // SAFETY: there are four values of 32 bits.
    unsafe { vld1q_s32(values.as_ptr().cast()) }
}

#[target_feature(enable = "neon")]
#[inline]
fn store_lanes<T: Word>(row: &mut Row<T>, start: usize, values: int32x4_t) {
    let to = &mut row[start..start + LANES];
    // SAFETY: there is room for four values of 32 bits, which may be anything.
    unsafe { vst1q_s32(to.as_mut_ptr().cast(), values) }
}
