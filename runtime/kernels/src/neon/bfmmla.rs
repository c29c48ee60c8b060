//! bf16 with the instruction that multiplies matrices of it (`bfmmla`, ARMv8.6): four inputs of two rows and of two outputs
//! at a time, if the activations are bf16, too. Steps lie one input after the other: four of them are brought side by side
//! as they are loaded, whichever four they are, so that listed steps are multiplied as fast as all of them.

use std::arch::aarch64::{
    float32x4_t, int32x4_t, uint8x16_t, uint8x16x4_t, uint16x4_t, uint16x8_t, vcombine_u16, vdup_n_u16, vdupq_n_u8,
    vdupq_n_u16, vld1_u16, vld1q_u8, vqtbl4q_u8, vreinterpretq_u8_u16, vreinterpretq_u16_u32, vreinterpretq_u32_u16,
    vst1q_u8, vzip1q_u16, vzip1q_u32, vzip2q_u32,
};
use std::arch::{asm, is_aarch64_feature_detected};

use half::bf16;

use super::twos::{PAIRS, TWOS, load, store};
use super::{LANES, load_lanes, mask_bf16};
use crate::kernel::{DEPTH, Instructions, Kernel, Operands, by_rows};
use crate::{NR, Row};

/// That the processor multiplies matrices of bf16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bf16(());

impl Instructions for Bf16 {
    fn detect() -> Option<Self> {
        (is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("bf16")).then_some(Bf16(()))
    }
}

impl Kernel<bf16> for Bf16 {
    const MAX_ROWS: usize = 2 * PAIRS;

    const ROUNDS: bool = true;

    fn dense(self, operands: Operands<'_, bf16>, sums: &mut [Row]) {
        by_rows!(dense, sums, (operands), [1 2 3 4 5 6]);
    }

    fn listed(self, operands: Operands<'_, bf16>, steps: &[u32], sums: &mut [Row]) {
        by_rows!(listed, sums, (operands, steps), [1 2 3 4 5 6]);
    }

    fn masking(self, operands: Operands<'_, bf16>, masks: &[u32], masked: &mut [Row<bf16>], sums: &mut [Row]) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { mask_bf16(operands.b, masks, masked) };
        self.dense(Operands { b: masked, ..operands }, sums);
    }
}

/// Values of a register.
const EIGHT: usize = 8;

/// A row's activations of some steps, one after the other, and room for a panel more.
type Packed = [bf16; DEPTH + NR];

#[target_feature(enable = "neon,bf16")]
fn dense<const R: usize>(operands: Operands<'_, bf16>, sums: &mut [Row]) {
    let (count, mut packed) = (operands.b.len(), [[bf16::ZERO; DEPTH + NR]; R]);
    for panel in 0..count.div_ceil(NR) {
        for (row, packed) in operands.a.panel(panel, R).iter().zip(&mut packed) {
            let uint8x16x4_t(a, b, c, d) = round(row);
            for (i, values) in [a, b, c, d].into_iter().enumerate() {
                put(packed, panel * NR + EIGHT * i, values);
            }
        }
    }
    add(operands, count, |i| i, &mut packed, sums);
}

#[target_feature(enable = "neon,bf16")]
fn listed<const R: usize>(operands: Operands<'_, bf16>, steps: &[u32], sums: &mut [Row]) {
    let mut packed = [[bf16::ZERO; DEPTH + NR]; R];
    let mut first = 0;
    for of_panel in steps.chunk_by(|k, other| *k as usize / NR == *other as usize / NR) {
        // The two bytes of each kept value among those of its panel.
        let mut bytes = [0u16; NR];
        for (bytes, k) in bytes.iter_mut().zip(of_panel) {
            *bytes = 0x0202 * (*k as u16 % NR as u16) + 0x0100;
        }
        let panel = of_panel[0] as usize / NR;
        for (row, packed) in operands.a.panel(panel, R).iter().zip(&mut packed) {
            let values = round(row);
            for (i, bytes) in bytes.as_chunks::<EIGHT>().0[..of_panel.len().div_ceil(EIGHT)].iter().enumerate() {
                // SAFETY: there are 16 bytes.
                let bytes = unsafe { vld1q_u8(bytes.as_ptr().cast()) };
                // What lies behind the kept ones is the next panel's to overwrite.
                put(packed, first + EIGHT * i, vqtbl4q_u8(values, bytes));
            }
        }
        first += of_panel.len();
    }
    add(operands, steps.len(), |i| steps[i] as usize, &mut packed, sums);
}

/// Adds some steps, of which `step` gives the numbers, in fours.
#[target_feature(enable = "neon,bf16")]
#[inline]
fn add<const R: usize>(
    Operands { b, bias, .. }: Operands<'_, bf16>,
    count: usize,
    step: impl Fn(usize) -> usize,
    packed: &mut [Packed; R],
    sums: &mut [Row],
) {
    // The last four may be fewer.
    packed.iter_mut().for_each(|packed| packed[count..count + LANES].fill(bf16::ZERO));
    for half in [0, NR / 2] {
        let mut all = load::<R, _>(bias, sums, half);
        for i in (0..count).step_by(LANES) {
            let steps: [&Row<bf16>; LANES] = match count - i {
                LANES.. => std::array::from_fn(|j| &b[step(i + j)]),
                rest => std::array::from_fn(|j| &b[step(i + j.min(rest - 1))]),
            };
            let mut values = [vdupq_n_u16(0); PAIRS];
            for (value, pair) in values.iter_mut().zip(packed.chunks(2)) {
                // Where there is no second row, nobody looks at its sums.
                *value = vcombine_u16(four(&pair[0], i), four(pair.last().unwrap_or(&pair[0]), i));
            }
            for i in 0..TWOS / 2 {
                let [low, high] = side_by_side(steps, half + LANES * i);
                for (sums, value) in all.iter_mut().zip(values).take(R.div_ceil(2)) {
                    multiply_add(&mut sums[2 * i], value, low);
                    multiply_add(&mut sums[2 * i + 1], value, high);
                }
            }
        }
        store::<R, _>(sums, half, all);
    }
}

/// Four outputs of four steps in twos, the four inputs of an output side by side.
#[target_feature(enable = "neon,bf16")]
#[inline]
fn side_by_side(steps: [&Row<bf16>; LANES], output: usize) -> [uint16x8_t; 2] {
    let mut weights = [vdupq_n_u16(0); LANES];
    for (weights, step) in weights.iter_mut().zip(steps) {
        let four = &step[output..output + LANES];
        // SAFETY: there are four.
        *weights = unsafe { vcombine_u16(vld1_u16(four.as_ptr().cast()), vdup_n_u16(0)) };
    }
    let [a, b, c, d] = weights;
    let [a, b] = [vzip1q_u16(a, b), vzip1q_u16(c, d)].map(|pairs| vreinterpretq_u32_u16(pairs));
    [vzip1q_u32(a, b), vzip2q_u32(a, b)].map(|twos| vreinterpretq_u16_u32(twos))
}

/// Adds the products of two rows with two outputs, of four inputs each.
#[target_feature(enable = "neon,bf16")]
#[inline]
fn multiply_add(sums: &mut int32x4_t, rows: uint16x8_t, outputs: uint16x8_t) {
    // The intrinsic is not stable. Said to touch memory, which it does not, it stays behind the loads of its operands and
    // before those of the next: with all of them at once, sums would not stay in registers.
    // SAFETY: it reads two registers and adds to a third, whose bits are those of f32.
    unsafe {
        asm!("bfmmla {0:v}.4s, {1:v}.8h, {2:v}.8h", inout(vreg) *sums, in(vreg) rows, in(vreg) outputs,
             options(nostack, preserves_flags));
    }
}

/// The activations of a panel as bf16: the nearest, ties to even.
#[target_feature(enable = "neon,bf16")]
#[inline]
fn round(row: &Row) -> uint8x16x4_t {
    let mut all = [vdupq_n_u8(0); NR / EIGHT];
    for (i, eight) in all.iter_mut().enumerate() {
        let (low, high) = (load_lanes::<f32>(row, EIGHT * i), load_lanes::<f32>(row, EIGHT * i + LANES));
        *eight = narrow(low, high);
    }
    let [a, b, c, d] = all;
    uint8x16x4_t(a, b, c, d)
}

/// Eight values as bf16.
#[target_feature(enable = "neon,bf16")]
#[inline]
fn narrow(low: float32x4_t, high: float32x4_t) -> uint8x16_t {
    let eight: uint16x8_t;
    // The intrinsics are not stable.
    // SAFETY: they read two registers and write a third.
    unsafe {
        asm!("bfcvtn {0:v}.4h, {1:v}.4s", "bfcvtn2 {0:v}.8h, {2:v}.4s", out(vreg) eight, in(vreg) low, in(vreg) high,
             options(pure, nomem, nostack, preserves_flags));
    }
    vreinterpretq_u8_u16(eight)
}

/// Stores eight values from the one with this number on.
#[target_feature(enable = "neon")]
#[inline]
fn put(packed: &mut Packed, first: usize, values: uint8x16_t) {
    let to = &mut packed[first..first + EIGHT];
    // SAFETY: there is room for eight values.
    unsafe { vst1q_u8(to.as_mut_ptr().cast(), values) }
}

/// A row's activations of four steps.
#[target_feature(enable = "neon")]
#[inline]
fn four(packed: &Packed, first: usize) -> uint16x4_t {
    let values = &packed[first..first + LANES];
    // SAFETY: there are four.
    unsafe { vld1_u16(values.as_ptr().cast()) }
}
