//! NEON, with twenty-four registers of sums. Where every step counts, they are six rows of half a panel's outputs:
//! four steps share a load of activations, of which each multiplies one lane. Where steps are listed, they are three rows
//! of all outputs, so that the list is read half as often.
#![cfg(target_arch = "aarch64")]
#![allow(unsafe_code)]

mod bfmmla;
mod int8;
mod twos;

use std::arch::aarch64::{
    float32x4_t, uint8x16_t, uint16x8_t, uint32x4_t, vandq_u16, vandq_u32, vdupq_n_f32, vdupq_n_u16, vdupq_n_u32,
    vfmaq_f32, vfmaq_laneq_f32, vld1_u16, vld1q_f32, vld1q_u16, vld1q_u32, vreinterpretq_f32_u32,
    vreinterpretq_u32_f32, vshll_n_u16, vst1q_f32, vst1q_u16,
};
use std::arch::{asm, is_aarch64_feature_detected};
use std::ops::Index;
use std::slice::Iter;

use half::bf16;

pub(super) use self::bfmmla::Bf16;
pub(super) use self::int8::{DotProduct, MatrixMultiply};
use super::kernel::{Instructions, Kernel, Operands, by_rows};
use super::{Element, NR, Row};

/// That the processor has NEON, as all of 64 bits that run an operating system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon(());

impl Instructions for Neon {
    fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }

    /// The last step of each panel of activations says that it is the last: a loop over steps has nothing else to count.
    fn kept(self, words: &[u32], steps: &mut Vec<u32>) {
        const { assert!(NR == u32::BITS as usize, "a word is a panel of activations") };
        steps.clear();
        for (i, word) in words.iter().enumerate() {
            let mut left = *word;
            while left != 0 {
                steps.push((NR * i) as u32 + left.trailing_zeros());
                left &= left - 1;
            }
            if let Some(last) = steps.last_mut().filter(|_| *word != 0) {
                *last |= LAST;
            }
        }
    }
}

/// What marks a step as the last one of its panel of activations.
const LAST: u32 = 1 << 31;

/// What is a register of f32 as soon as it is loaded.
trait Floats: Element<Activation = f32, Sum = f32> {
    /// Loads four weights.
    ///
    /// # Safety
    /// They are there.
    unsafe fn load(weights: *const Self::Lane) -> float32x4_t;

    /// The steps with zeros where the masks have no bit.
    fn mask(b: &[Row<Self::Lane>], masks: &[u32], masked: &mut [Row<Self::Lane>]);
}

impl Floats for f32 {
    #[inline(always)]
    unsafe fn load(weights: *const f32) -> float32x4_t {
        // SAFETY: says the caller.
        unsafe { vld1q_f32(weights) }
    }

    fn mask(b: &[Row], masks: &[u32], masked: &mut [Row]) {
        // SAFETY: every processor of 64 bits that runs an operating system has NEON.
        unsafe { mask(b, masks, masked) }
    }
}

impl Floats for bf16 {
    /// Each bf16 is the upper half of an f32.
    #[inline(always)]
    unsafe fn load(weights: *const bf16) -> float32x4_t {
        // SAFETY: says the caller.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(weights.cast::<u16>()))) }
    }

    fn mask(b: &[Row<bf16>], masks: &[u32], masked: &mut [Row<bf16>]) {
        // SAFETY: every processor of 64 bits that runs an operating system has NEON.
        unsafe { mask_bf16(b, masks, masked) }
    }
}

impl<E: Floats> Kernel<E> for Neon {
    const MAX_ROWS: usize = 6;

    /// A listed step takes a quarter more instructions than one that is not, and masking as many as a tile of eight rows.
    fn lists(kept: usize, steps: usize, rows: usize) -> bool {
        rows < 32 || 5 * kept <= 4 * steps
    }

    fn dense(self, operands: Operands<'_, E>, sums: &mut [Row]) {
        by_rows!(dense<E>, sums, (operands), [1 2 3 4 5 6]);
    }

    fn listed(self, operands: Operands<'_, E>, steps: &[u32], sums: &mut [Row]) {
        let (first, second) = sums.split_at_mut(sums.len().div_ceil(2));
        let rows = first.len();
        by_rows!(listed<E>, first, (operands, 0, steps), [1 2 3]);
        if !second.is_empty() {
            by_rows!(listed<E>, second, (operands, rows, steps), [1 2 3]);
        }
    }

    fn masking(self, operands: Operands<'_, E>, masks: &[u32], masked: &mut [Row<E::Lane>], sums: &mut [Row]) {
        E::mask(operands.b, masks, masked);
        self.dense(Operands { b: masked, ..operands }, sums);
    }
}

/// Values of a register.
const LANES: usize = 4;

/// Registers of half a row.
const HALF: usize = NR / 2 / LANES;

/// The sums of a tile, so many registers a row.
type Sums<const R: usize, const N: usize> = [[float32x4_t; N]; R];

#[target_feature(enable = "neon")]
fn dense<const R: usize, E: Floats>(Operands { a, b, bias, .. }: Operands<'_, E>, sums: &mut [Row]) {
    for half in [0, NR / 2] {
        let mut all: Sums<R, HALF> = load(bias, sums, half);
        for (panel, steps) in b.chunks(NR).enumerate() {
            let rows = a.panel(panel, R);
            let (fours, rest) = steps.as_chunks::<LANES>();
            for (k, four) in (0..NR).step_by(LANES).zip(fours) {
                let mut values = [vdupq_n_f32(0.0); R];
                values.iter_mut().zip(rows).for_each(|(value, row)| *value = load_lanes::<f32>(row, k));
                add::<R, 0, E>(&mut all, values, &four[0], half);
                add::<R, 1, E>(&mut all, values, &four[1], half);
                add::<R, 2, E>(&mut all, values, &four[2], half);
                add::<R, 3, E>(&mut all, values, &four[3], half);
            }
            for (k, step) in (NR.min(steps.len()) - rest.len()..NR).zip(rest) {
                add_one::<R, HALF, E>(&mut all, rows, k, step, half);
            }
        }
        store(sums, half, all);
    }
}

/// The rows from `first` on, all outputs of them.
#[target_feature(enable = "neon")]
fn listed<const R: usize, E: Floats>(
    Operands { a, b, bias, .. }: Operands<'_, E>,
    first: usize,
    steps: &[u32],
    sums: &mut [Row],
) {
    let a = a.rows_from(first);
    let mut all: Sums<R, { NR / LANES }> = load(bias, sums, 0);
    let mut steps = steps.iter();
    while let Some(step) = steps.as_slice().first() {
        let panel = (step & !LAST) as usize / NR;
        let (rows, b) = (a.panel(panel, R), &b[panel * NR..]);
        // Steps of a whole panel need no check.
        match b.first_chunk::<NR>() {
            Some(b) => add_listed::<R, E>(&mut all, rows, b, &mut steps),
            None => add_listed::<R, E>(&mut all, rows, b, &mut steps),
        }
    }
    store(sums, 0, all);
}

/// The steps with zeros where the masks have no bit.
#[target_feature(enable = "neon")]
fn mask(b: &[Row], masks: &[u32], masked: &mut [Row]) {
    let mut bits = [vdupq_n_u32(0); NR / LANES];
    for (i, bits) in bits.iter_mut().enumerate() {
        let of_lanes: [u32; LANES] = std::array::from_fn(|lane| 1 << (LANES * i + lane));
        // SAFETY: there are four values.
        *bits = unsafe { vld1q_u32(of_lanes.as_ptr()) };
    }
    for ((step, mask), out) in b.iter().zip(masks).zip(masked) {
        let mask = vdupq_n_u32(*mask);
        // All are loaded before any is stored: loads and stores of neighbours become one.
        let mut values = [vdupq_n_f32(0.0); NR / LANES];
        values.iter_mut().enumerate().for_each(|(i, value)| *value = load_lanes::<f32>(step, LANES * i));
        for ((i, bits), value) in bits.iter().enumerate().zip(values) {
            let value = vandq_u32(vreinterpretq_u32_f32(value), have(mask, *bits));
            store_lanes(out, LANES * i, vreinterpretq_f32_u32(value));
        }
    }
}

/// The same, eight at a time.
#[target_feature(enable = "neon")]
fn mask_bf16(b: &[Row<bf16>], masks: &[u32], masked: &mut [Row<bf16>]) {
    let bits = [0, 8].map(|first| {
        let of_lanes: [u16; 8] = std::array::from_fn(|lane| 1 << (first + lane));
        // SAFETY: there are eight values.
        unsafe { vld1q_u16(of_lanes.as_ptr()) }
    });
    for ((step, mask), out) in b.iter().zip(masks).zip(masked) {
        let halves = step.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<16>().0);
        for ((weights, out), half) in halves.zip([*mask as u16, (mask >> 16) as u16]) {
            let half = vdupq_n_u16(half);
            for (i, bits) in bits.into_iter().enumerate() {
                let (from, to) = (&weights[8 * i..][..8], &mut out[8 * i..][..8]);
                // SAFETY: both have eight values.
                unsafe {
                    let weights = vld1q_u16(from.as_ptr().cast());
                    vst1q_u16(to.as_mut_ptr().cast(), vandq_u16(weights, have_of_eight(half, bits)));
                }
            }
        }
    }
}

/// All ones in the lanes that have a bit in common. The intrinsics for this one instruction, `vtstq_u32` and its like,
/// become two, and with what follows three instructions for two.
macro_rules! have {
    ($name:ident, $lanes:ident, $arrangement:literal) => {
        #[target_feature(enable = "neon")]
        #[inline]
        fn $name(a: $lanes, b: $lanes) -> $lanes {
            let out: $lanes;
            // SAFETY: it reads two registers and writes a third.
            unsafe {
                asm!(
                    concat!("cmtst {0:v}.", $arrangement, ", {1:v}.", $arrangement, ", {2:v}.", $arrangement),
                    out(vreg) out, in(vreg) a, in(vreg) b, options(pure, nomem, nostack, preserves_flags)
                );
            }
            out
        }
    };
}
have!(have, uint32x4_t, "4s");
have!(have_of_eight, uint16x8_t, "8h");
have!(have_of_sixteen, uint8x16_t, "16b");

/// Adds a step, which multiplies one lane of each row's values.
#[target_feature(enable = "neon")]
#[inline]
fn add<const R: usize, const LANE: i32, E: Floats>(
    all: &mut Sums<R, HALF>,
    values: [float32x4_t; R],
    step: &Row<E::Lane>,
    half: usize,
) {
    for i in 0..HALF {
        let weights = load_lanes::<E>(step, half + LANES * i);
        for (sums, value) in all.iter_mut().zip(values) {
            sums[i] = vfmaq_laneq_f32::<LANE>(sums[i], weights, value);
        }
    }
}

/// Adds the steps of one panel, of which there is one at least: those up to the one that is marked.
#[target_feature(enable = "neon")]
#[inline]
fn add_listed<const R: usize, E: Floats>(
    all: &mut Sums<R, { NR / LANES }>,
    rows: &[Row],
    b: &(impl Index<usize, Output = Row<E::Lane>> + ?Sized),
    steps: &mut Iter<'_, u32>,
) {
    loop {
        // SAFETY: the list is what `kept` made: behind every step that is not marked there is another.
        let step = *unsafe { steps.next().unwrap_unchecked() };
        let k = step as usize % NR;
        add_one::<R, { NR / LANES }, E>(all, rows, k, &b[k], 0);
        if step & LAST != 0 {
            break;
        }
    }
}

/// Adds a step by itself, one register of weights after the other: with all of them at once, sums would not stay in
/// registers.
#[target_feature(enable = "neon")]
#[inline]
fn add_one<const R: usize, const N: usize, E: Floats>(
    all: &mut Sums<R, N>,
    rows: &[Row],
    k: usize,
    step: &Row<E::Lane>,
    half: usize,
) {
    let mut values = [vdupq_n_f32(0.0); R];
    values.iter_mut().zip(rows).for_each(|(value, row)| *value = vdupq_n_f32(row[k]));
    for i in 0..N {
        let weights = load_lanes::<E>(step, half + LANES * i);
        for (sums, value) in all.iter_mut().zip(values) {
            sums[i] = vfmaq_f32(sums[i], weights, value);
        }
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn load<const R: usize, const N: usize>(bias: Option<&Row>, sums: &[Row], half: usize) -> Sums<R, N> {
    let mut all = [[vdupq_n_f32(0.0); N]; R];
    for (r, all) in all.iter_mut().enumerate() {
        let row = bias.unwrap_or_else(|| &sums[r]);
        all.iter_mut().enumerate().for_each(|(i, sum)| *sum = load_lanes::<f32>(row, half + LANES * i));
    }
    all
}

#[target_feature(enable = "neon")]
#[inline]
fn store<const R: usize, const N: usize>(sums: &mut [Row], half: usize, all: Sums<R, N>) {
    for (row, all) in sums.iter_mut().zip(all) {
        all.into_iter().enumerate().for_each(|(i, sum)| store_lanes(row, half + LANES * i, sum));
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn load_lanes<E: Floats>(row: &Row<E::Lane>, start: usize) -> float32x4_t {
    let values = &row[start..start + LANES];
    // SAFETY: there are four values.
    unsafe { E::load(values.as_ptr()) }
}

#[target_feature(enable = "neon")]
#[inline]
fn store_lanes(row: &mut Row, start: usize, values: float32x4_t) {
    let to = &mut row[start..start + LANES];
    // SAFETY: there is room for four values.
    unsafe { vst1q_f32(to.as_mut_ptr(), values) }
}
