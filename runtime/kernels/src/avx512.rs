//! AVX-512: a tile of up to 14 rows and a panel's 32 outputs are 28 registers of sums; two more
//! hold a step, one an activation.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)]

mod dpbf16;
mod vnni;

use std::arch::x86_64::{
    __m256i, __m512, _mm256_and_si256, _mm256_cmpeq_epi16, _mm256_loadu_si256, _mm256_set1_epi16, _mm256_setr_epi16,
    _mm256_storeu_si256, _mm512_add_epi32, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_mask3_fmadd_ps, _mm512_maskz_compress_epi32, _mm512_maskz_loadu_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setr_epi32, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_epi32, _mm512_storeu_ps,
};

use half::bf16;

pub(super) use self::dpbf16::Bf16;
pub(super) use self::vnni::Vnni;
use super::avx2::prefetch;
use super::kernel::{self, Instructions, Kernel, Operands, by_rows};
use super::{Element, NR, Row};

/// That the processor has AVX-512F.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

impl Instructions for Avx512 {
    fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Avx512(()))
    }

    fn kept(self, words: &[u32], steps: &mut Vec<u32>) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { kept(words, steps) }
    }
}

/// What is a register of f32 as soon as it is loaded.
trait Floats: Element<Activation = f32, Sum = f32> {
    /// Loads sixteen weights.
    ///
    /// # Safety
    /// They are there, and the processor has AVX-512F.
    unsafe fn load(weights: *const Self::Lane) -> __m512;

    /// The same with zeros where the mask has no bit, and stores them so.
    ///
    /// # Safety
    /// The same, and there is room for sixteen.
    unsafe fn mask(weights: *const Self::Lane, mask: u16, masked: *mut Self::Lane) -> __m512;
}

impl Floats for f32 {
    #[inline(always)]
    unsafe fn load(weights: *const f32) -> __m512 {
        // SAFETY: says the caller.
        unsafe { _mm512_loadu_ps(weights) }
    }

    #[inline(always)]
    unsafe fn mask(weights: *const f32, mask: u16, masked: *mut f32) -> __m512 {
        // SAFETY: says the caller.
        unsafe {
            let kept = _mm512_maskz_loadu_ps(mask, weights);
            _mm512_storeu_ps(masked, kept);
            kept
        }
    }
}

impl Floats for bf16 {
    #[inline(always)]
    unsafe fn load(weights: *const bf16) -> __m512 {
        // SAFETY: says the caller.
        unsafe { widen(_mm256_loadu_si256(weights.cast::<__m256i>())) }
    }

    #[inline(always)]
    unsafe fn mask(weights: *const bf16, mask: u16, masked: *mut bf16) -> __m512 {
        // SAFETY: says the caller; AVX-512F has AVX2.
        unsafe {
            let bits = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
            let keep = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(mask.cast_signed()), bits), bits);
            let kept = _mm256_and_si256(_mm256_loadu_si256(weights.cast::<__m256i>()), keep);
            _mm256_storeu_si256(masked.cast::<__m256i>(), kept);
            widen(kept)
        }
    }
}

/// Each bf16 is the upper half of an f32.
#[target_feature(enable = "avx512f")]
#[inline]
fn widen(halves: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
}

impl<E: Floats> Kernel<E> for Avx512 {
    const MAX_ROWS: usize = 14;

    // Merging costs each tile a little, masking a panel costs a pass over it.
    const MERGE_BELOW: usize = 64;

    fn dense(self, operands: Operands<'_, E>, sums: &mut [Row]) {
        by_rows!(dense<E>, sums, (operands), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn listed(self, operands: Operands<'_, E>, steps: &[u32], sums: &mut [Row]) {
        by_rows!(listed<E>, sums, (operands, steps), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn masked(self, operands: Operands<'_, E>, masks: &[u32], _: &mut [Row<E::Lane>], sums: &mut [Row]) {
        by_rows!(masked<E>, sums, (operands, masks), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn masking(self, operands: Operands<'_, E>, masks: &[u32], masked: &mut [Row<E::Lane>], sums: &mut [Row]) {
        by_rows!(masking<E>, sums, (operands, masks, masked), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }
}

/// The sums of a tile: the lower and the upper half of each row.
type Sums<const R: usize> = [[__m512; 2]; R];

#[target_feature(enable = "avx512f")]
fn dense<const R: usize, E: Floats>(Operands { a, b, bias, ahead }: Operands<'_, E>, sums: &mut [Row]) {
    let (mut all, mut next) = (load::<R>(bias, sums), ahead.start);
    for (panel, steps) in b.chunks(NR).enumerate() {
        let rows = a.panel(panel, R);
        for (k, step) in (0..NR).zip(steps) {
            next = prefetch::<Row<E::Lane>>(next, ahead.stride);
            add(&mut all, rows, k, load_row::<E>(step));
        }
    }
    store(sums, all);
}

#[target_feature(enable = "avx512f")]
fn listed<const R: usize, E: Floats>(Operands { a, b, bias, ahead }: Operands<'_, E>, steps: &[u32], sums: &mut [Row]) {
    let (mut all, mut next) = (load::<R>(bias, sums), ahead.start);
    for k in steps.iter().map(|k| *k as usize) {
        next = prefetch::<Row<E::Lane>>(next, ahead.stride);
        add(&mut all, a.panel(k / NR, R), k % NR, load_row::<E>(&b[k]));
    }
    store(sums, all);
}

/// Adds where the mask has a bit: the weights need no register of their own.
#[target_feature(enable = "avx512f")]
fn masked<const R: usize, E: Floats>(Operands { a, b, bias, ahead }: Operands<'_, E>, masks: &[u32], sums: &mut [Row]) {
    let (mut all, mut next) = (load::<R>(bias, sums), ahead.start);
    for (panel, (steps, masks)) in b.chunks(NR).zip(masks.chunks(NR)).enumerate() {
        let rows = a.panel(panel, R);
        for (k, (step, mask)) in (0..NR).zip(steps.iter().zip(masks)) {
            next = prefetch::<Row<E::Lane>>(next, ahead.stride);
            let [low, high] = load_row::<E>(step);
            let (low_mask, high_mask) = (*mask as u16, (mask >> 16) as u16);
            for (sum, row) in all.iter_mut().zip(rows) {
                let value = _mm512_set1_ps(row[k]);
                *sum = [
                    _mm512_mask3_fmadd_ps(value, low, sum[0], low_mask),
                    _mm512_mask3_fmadd_ps(value, high, sum[1], high_mask),
                ];
            }
        }
    }
    store(sums, all);
}

/// Masks each step as it is read, and leaves it masked for the tiles that follow.
#[target_feature(enable = "avx512f")]
fn masking<const R: usize, E: Floats>(
    Operands { a, b, bias, ahead }: Operands<'_, E>,
    masks: &[u32],
    masked: &mut [Row<E::Lane>],
    sums: &mut [Row],
) {
    let (mut all, mut next) = (load::<R>(bias, sums), ahead.start);
    let panels = b.chunks(NR).zip(masks.chunks(NR)).zip(masked.chunks_mut(NR));
    for (panel, ((steps, masks), masked)) in panels.enumerate() {
        let rows = a.panel(panel, R);
        for (k, ((step, mask), out)) in (0..NR).zip(steps.iter().zip(masks).zip(masked)) {
            next = prefetch::<Row<E::Lane>>(next, ahead.stride);
            let (p, out) = (step.as_ptr(), out.as_mut_ptr());
            // SAFETY: a step has 32 values.
            let step = unsafe {
                [E::mask(p, *mask as u16, out), E::mask(p.add(NR / 2), (mask >> 16) as u16, out.add(NR / 2))]
            };
            add(&mut all, rows, k, step);
        }
    }
    store(sums, all);
}

/// The numbers of the set bits: sixteen numbers at a time are moved together.
#[target_feature(enable = "avx512f")]
fn kept(words: &[u32], steps: &mut Vec<u32>) {
    // Miri knows all of these kernels' instructions but the one that moves.
    if cfg!(miri) {
        return kernel::kept(words, steps);
    }
    const LANES: usize = 16;
    steps.clear();
    // Whole registers are stored, of which the next one overwrites what was not kept.
    steps.resize(32 * words.len() + LANES, 0);
    let mut numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let mut found = 0;
    for word in words {
        for half in 0..32 / LANES {
            let bits = (word >> (LANES * half)) as u16;
            let room = &mut steps[found..found + LANES];
            // SAFETY: there is room for 16 numbers.
            unsafe { _mm512_storeu_epi32(room.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(bits, numbers)) };
            found += bits.count_ones() as usize;
            numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32(LANES as i32));
        }
    }
    steps.truncate(found);
}

#[target_feature(enable = "avx512f")]
#[inline]
fn add<const R: usize>(all: &mut Sums<R>, rows: &[Row], k: usize, [low, high]: [__m512; 2]) {
    for (sum, row) in all.iter_mut().zip(rows) {
        let value = _mm512_set1_ps(row[k]);
        *sum = [_mm512_fmadd_ps(value, low, sum[0]), _mm512_fmadd_ps(value, high, sum[1])];
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_row<E: Floats>(row: &Row<E::Lane>) -> [__m512; 2] {
    let p = row.as_ptr();
    // SAFETY: a row has 32 values.
    unsafe { [E::load(p), E::load(p.add(NR / 2))] }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load<const R: usize>(bias: Option<&Row>, sums: &[Row]) -> Sums<R> {
    if let Some(bias) = bias {
        return [load_row::<f32>(bias); R];
    }
    let mut all = [[_mm512_setzero_ps(); 2]; R];
    for (all, row) in all.iter_mut().zip(sums) {
        *all = load_row::<f32>(row);
    }
    all
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store<const R: usize>(sums: &mut [Row], all: Sums<R>) {
    for (row, [low, high]) in sums.iter_mut().zip(all) {
        let p = row.as_mut_ptr();
        // SAFETY: a row has 32 values.
        unsafe {
            _mm512_storeu_ps(p, low);
            _mm512_storeu_ps(p.add(NR / 2), high);
        }
    }
}
