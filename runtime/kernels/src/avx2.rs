//! AVX2 with FMA: half a panel's outputs at a time, so that a tile of six rows has twelve registers
//! of sums.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)]

mod int8;

use std::arch::x86_64::{
    __m128i, __m256, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_castsi256_ps, _mm256_cvtepu16_epi32,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps,
};

use half::bf16;

use super::kernel::{Instructions, Kernel, Operands, by_rows};
use super::{Element, NR, Row};

/// That the processor has AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

impl Instructions for Avx2 {
    fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }
}

/// What is a register of f32 as soon as it is loaded.
trait Floats: Element<Activation = f32, Sum = f32> {
    /// Loads eight weights.
    ///
    /// # Safety
    /// They are there, and the processor has AVX2.
    unsafe fn load(weights: *const Self::Lane) -> __m256;
}

impl Floats for f32 {
    #[inline(always)]
    unsafe fn load(weights: *const f32) -> __m256 {
        // SAFETY: says the caller.
        unsafe { _mm256_loadu_ps(weights) }
    }
}

impl Floats for bf16 {
    #[inline(always)]
    unsafe fn load(weights: *const bf16) -> __m256 {
        // SAFETY: says the caller.
        unsafe {
            let halves = _mm_loadu_si128(weights.cast::<__m128i>());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
        }
    }
}

impl<E: Floats> Kernel<E> for Avx2 {
    const MAX_ROWS: usize = 6;

    fn dense(self, operands: Operands<'_, E>, sums: &mut [Row]) {
        by_rows!(dense<E>, sums, (operands), [1 2 3 4 5 6]);
    }

    fn listed(self, operands: Operands<'_, E>, steps: &[u32], sums: &mut [Row]) {
        by_rows!(listed<E>, sums, (operands, steps), [1 2 3 4 5 6]);
    }
}

/// The sums of half a tile.
type Sums<const R: usize> = [[__m256; 2]; R];

#[target_feature(enable = "avx2,fma")]
fn dense<const R: usize, E: Floats>(Operands { a, b, bias, ahead }: Operands<'_, E>, sums: &mut [Row]) {
    for half in [0, NR / 2] {
        let (mut all, mut next) = (load::<R>(bias, sums, half), ahead.start);
        for (panel, steps) in b.chunks(NR).enumerate() {
            let rows = a.panel(panel, R);
            for (k, step) in (0..NR).zip(steps) {
                // The first half asks for every line, the second comes by again.
                if half == 0 {
                    next = prefetch::<Row<E::Lane>>(next, ahead.stride);
                }
                add(&mut all, rows, k, load_half::<E>(step, half));
            }
        }
        store(sums, half, all);
    }
}

#[target_feature(enable = "avx2,fma")]
fn listed<const R: usize, E: Floats>(Operands { a, b, bias, ahead }: Operands<'_, E>, steps: &[u32], sums: &mut [Row]) {
    for half in [0, NR / 2] {
        let (mut all, mut next) = (load::<R>(bias, sums, half), ahead.start);
        for k in steps.iter().map(|k| *k as usize) {
            if half == 0 {
                next = prefetch::<Row<E::Lane>>(next, ahead.stride);
            }
            add(&mut all, a.panel(k / NR, R), k % NR, load_half::<E>(&b[k], half));
        }
        store(sums, half, all);
    }
}

/// Asks for the one or two cache lines of a step, and gives the address `stride` bytes further.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub(super) fn prefetch<Step>(p: *const i8, stride: usize) -> *const i8 {
    // Asking for an address that is not there does nothing.
    _mm_prefetch::<_MM_HINT_T0>(p);
    if size_of::<Step>() > 64 {
        _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(64));
    }
    p.wrapping_add(stride)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn add<const R: usize>(all: &mut Sums<R>, rows: &[Row], k: usize, [low, high]: [__m256; 2]) {
    for (sum, row) in all.iter_mut().zip(rows) {
        let value = _mm256_set1_ps(row[k]);
        *sum = [_mm256_fmadd_ps(value, low, sum[0]), _mm256_fmadd_ps(value, high, sum[1])];
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn load<const R: usize>(bias: Option<&Row>, sums: &[Row], half: usize) -> Sums<R> {
    if let Some(bias) = bias {
        return [load_half::<f32>(bias, half); R];
    }
    let mut all = [[_mm256_setzero_ps(); 2]; R];
    for (all, row) in all.iter_mut().zip(sums) {
        *all = load_half::<f32>(row, half);
    }
    all
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn store<const R: usize>(sums: &mut [Row], half: usize, all: Sums<R>) {
    for (row, all) in sums.iter_mut().zip(all) {
        let p = row[half..half + NR / 2].as_mut_ptr();
        // SAFETY: half a row has 16 values.
        unsafe {
            _mm256_storeu_ps(p, all[0]);
            _mm256_storeu_ps(p.add(8), all[1]);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn load_half<E: Floats>(row: &Row<E::Lane>, half: usize) -> [__m256; 2] {
    let p = row[half..half + NR / 2].as_ptr();
    // SAFETY: half a row has 16 values.
    unsafe { [E::load(p), E::load(p.add(8))] }
}
