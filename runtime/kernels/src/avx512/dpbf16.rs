//! bf16 with AVX512-BF16: an instruction multiplies two inputs of sixteen outputs and adds them up, if the activations are
//! bf16, too. Steps lie one input after the other: two of them become pairs as they are loaded, whichever two they are,
//! so that listed steps are multiplied as fast as all of them.

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_and_si512, _mm512_castsi256_si512, _mm512_cvtepi32_epi16, _mm512_cvtne2ps_pbh,
    _mm512_dpbf16_ps, _mm512_inserti64x4, _mm512_loadu_si512, _mm512_maskz_loadu_epi16, _mm512_permutex2var_ps,
    _mm512_permutexvar_epi16, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_storeu_si512,
    _mm512_unpackhi_epi16, _mm512_unpacklo_epi16,
};
use std::mem::transmute;

use half::bf16;

use super::{Avx512, Sums, load, load_row, prefetch, store};
use crate::kernel::{DEPTH, Instructions, Kernel, Operands, by_rows};
use crate::{NR, Row};

/// That the processor has AVX-512 F and BW, and multiplies bf16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bf16(Avx512);

impl Instructions for Bf16 {
    fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512bf16");
        Avx512::detect().filter(|_| has_all).map(Bf16)
    }

    fn kept(self, words: &[u32], steps: &mut Vec<u32>) {
        self.0.kept(words, steps);
    }
}

impl Kernel<bf16> for Bf16 {
    const MAX_ROWS: usize = 14;

    const ROUNDS: bool = true;

    fn dense(self, operands: Operands<'_, bf16>, sums: &mut [Row]) {
        by_rows!(dense, sums, (operands), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn listed(self, operands: Operands<'_, bf16>, steps: &[u32], sums: &mut [Row]) {
        by_rows!(listed, sums, (operands, steps), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn masking(self, operands: Operands<'_, bf16>, masks: &[u32], masked: &mut [Row<bf16>], sums: &mut [Row]) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { mask(operands.b, masks, masked) };
        self.dense(Operands { b: masked, ..operands }, sums);
    }
}

/// A row's activations of some steps, one after the other, and room for a register more.
type Packed = [bf16; DEPTH + NR];

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn dense<const R: usize>(operands: Operands<'_, bf16>, sums: &mut [Row]) {
    let (count, mut packed) = (operands.b.len(), [[bf16::ZERO; DEPTH + NR]; R]);
    for panel in 0..count.div_ceil(NR) {
        for (row, packed) in operands.a.panel(panel, R).iter().zip(&mut packed) {
            put(packed, panel * NR, round(row));
        }
    }
    add(operands, count, |i| i, &mut packed, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn listed<const R: usize>(operands: Operands<'_, bf16>, steps: &[u32], sums: &mut [Row]) {
    let mut packed = [[bf16::ZERO; DEPTH + NR]; R];
    let mut first = 0;
    for of_panel in steps.chunk_by(|k, other| *k as usize / NR == *other as usize / NR) {
        let mut numbers = [0; NR];
        numbers[..of_panel.len()].copy_from_slice(of_panel);
        let numbers = narrow(&numbers);
        for (row, packed) in operands.a.panel(of_panel[0] as usize / NR, R).iter().zip(&mut packed) {
            // What lies behind the kept ones is the next panel's to overwrite.
            put(packed, first, _mm512_permutexvar_epi16(numbers, round(row)));
        }
        first += of_panel.len();
    }
    add(operands, steps.len(), |i| steps[i] as usize, &mut packed, sums);
}

/// Adds some steps, of which `step` gives the numbers, in pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn add<const R: usize>(
    Operands { b, bias, ahead, .. }: Operands<'_, bf16>,
    count: usize,
    step: impl Fn(usize) -> usize,
    packed: &mut [Packed; R],
    sums: &mut [Row],
) {
    // The second of the last pair may be none.
    packed.iter_mut().for_each(|packed| packed[count] = bf16::ZERO);
    let (mut all, mut next) = (in_pairs(load::<R>(bias, sums)), ahead.start);
    for i in (0..count).step_by(2) {
        let (one, other) = (load_step(&b[step(i)]), load_step(&b[step((i + 1).min(count - 1))]));
        let pairs = [_mm512_unpacklo_epi16(one, other), _mm512_unpackhi_epi16(one, other)].map(|pairs| of_bf16(pairs));
        for (sum, packed) in all.iter_mut().zip(&*packed) {
            let [low, high] = [packed[i], packed[i + 1]].map(|value| u32::from(value.to_bits()));
            let value = of_bf16(_mm512_set1_epi32((low | high << 16).cast_signed()));
            *sum = [_mm512_dpbf16_ps(sum[0], value, pairs[0]), _mm512_dpbf16_ps(sum[1], value, pairs[1])];
        }
        for _ in 0..2 {
            next = prefetch::<Row<bf16>>(next, ahead.stride);
        }
    }
    store(sums, in_order(all));
}

/// The activations of a panel as bf16: the nearest, ties to even.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn round(row: &Row) -> __m512i {
    let [low, high] = load_row::<f32>(row);
    // SAFETY: both are 512 bits without meaning of their own.
    unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn of_bf16(pairs: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without meaning of their own.
    unsafe { transmute::<__m512i, __m512bh>(pairs) }
}

/// Stores 32 values from the one with this number on.
#[target_feature(enable = "avx512f")]
#[inline]
fn put(packed: &mut Packed, first: usize, values: __m512i) {
    let to = &mut packed[first..first + NR];
    // SAFETY: there is room for 32 values.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), values) }
}

/// The numbers of steps within their panel.
#[target_feature(enable = "avx512f")]
#[inline]
fn narrow(steps: &Row<u32>) -> __m512i {
    let p = steps.as_ptr();
    // SAFETY: there are 32 numbers.
    let [low, high] =
        unsafe { [p, p.add(NR / 2)].map(|p| _mm512_cvtepi32_epi16(_mm512_loadu_si512(p.cast::<__m512i>()))) };
    let numbers = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
    _mm512_and_si512(numbers, _mm512_set1_epi16(NR as i16 - 1))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_step(step: &Row<bf16>) -> __m512i {
    // SAFETY: a step has 64 bytes.
    unsafe { _mm512_loadu_si512(step.as_ptr().cast()) }
}

/// The outputs in the order in which pairs of two steps come out: those of the lower, then those of the upper half of
/// each 128 bits.
#[target_feature(enable = "avx512f")]
#[inline]
fn in_pairs<const R: usize>(all: Sums<R>) -> Sums<R> {
    let low = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    let high = _mm512_setr_epi32(4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    reorder(all, low, high)
}

/// The other way.
#[target_feature(enable = "avx512f")]
#[inline]
fn in_order<const R: usize>(all: Sums<R>) -> Sums<R> {
    let low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    let high = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    reorder(all, low, high)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn reorder<const R: usize>(mut all: Sums<R>, low: __m512i, high: __m512i) -> Sums<R> {
    for sums in &mut all {
        *sums = [_mm512_permutex2var_ps(sums[0], low, sums[1]), _mm512_permutex2var_ps(sums[0], high, sums[1])];
    }
    all
}

/// The steps with zeros where the masks have no bit.
#[target_feature(enable = "avx512f,avx512bw")]
fn mask(b: &[Row<bf16>], masks: &[u32], masked: &mut [Row<bf16>]) {
    for ((step, mask), out) in b.iter().zip(masks).zip(masked) {
        // SAFETY: both have 32 weights.
        unsafe {
            let kept = _mm512_maskz_loadu_epi16(*mask, step.as_ptr().cast());
            _mm512_storeu_si512(out.as_mut_ptr().cast(), kept);
        }
    }
}
