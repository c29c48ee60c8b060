//! AVX2 with FMA: half a panel's outputs at a time, so that a tile of six rows has twelve registers
//! of sums.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)]

mod int8;
mod vnni;

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_and_ps, _mm256_and_si256,
    _mm256_castsi256_ps, _mm256_cmpeq_epi16, _mm256_cmpeq_epi32, _mm256_cvtepu16_epi32, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi16,
    _mm256_setr_epi32, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_storeu_si256,
};

use half::bf16;

pub(super) use self::vnni::AvxVnni;
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

    /// As [`Kernel::masking`].
    fn masking(
        kernel: Avx2,
        operands: Operands<'_, Self>,
        masks: &[u32],
        masked: &mut [Row<Self::Lane>],
        sums: &mut [Row],
    );
}

impl Floats for f32 {
    #[inline(always)]
    unsafe fn load(weights: *const f32) -> __m256 {
        // SAFETY: says the caller.
        unsafe { _mm256_loadu_ps(weights) }
    }

    fn masking(_: Avx2, operands: Operands<'_, f32>, masks: &[u32], masked: &mut [Row], sums: &mut [Row]) {
        by_rows!(masking, sums, (operands, masks, masked), [1 2 3 4 5 6]);
    }
}

impl Floats for bf16 {
    #[inline(always)]
    unsafe fn load(weights: *const bf16) -> __m256 {
        // SAFETY: says the caller.
        unsafe { widen(_mm_loadu_si128(weights.cast::<__m128i>())) }
    }

    fn masking(kernel: Avx2, operands: Operands<'_, bf16>, masks: &[u32], masked: &mut [Row<bf16>], sums: &mut [Row]) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { mask(operands.b, masks, masked) };
        kernel.dense(Operands { b: masked, ..operands }, sums);
    }
}

/// Each bf16 is the upper half of an f32.
#[target_feature(enable = "avx2")]
#[inline]
fn widen(halves: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
}

impl<E: Floats> Kernel<E> for Avx2 {
    const MAX_ROWS: usize = 6;

    // 24 kB of f32, which leave room for activations in 32 kB.
    const LISTED_DEPTH: usize = 192;

    /// A listed step takes a third more than one that is not. With few rows the weights come from memory, and what is
    /// not kept is not read.
    fn lists(kept: usize, steps: usize, rows: usize) -> bool {
        rows < 32 || 5 * kept <= 4 * steps
    }

    fn dense(self, operands: Operands<'_, E>, sums: &mut [Row]) {
        by_rows!(dense<E>, sums, (operands), [1 2 3 4 5 6]);
    }

    fn listed(self, operands: Operands<'_, E>, steps: &[u32], sums: &mut [Row]) {
        by_rows!(listed<E>, sums, (operands, steps), [1 2 3 4 5 6]);
    }

    fn masking(self, operands: Operands<'_, E>, masks: &[u32], masked: &mut [Row<E::Lane>], sums: &mut [Row]) {
        E::masking(self, operands, masks, masked, sums);
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

/// As `dense`, with masked weights, which it leaves: masking and storing are done beside the multiply-adds.
#[target_feature(enable = "avx2,fma")]
fn masking<const R: usize>(
    Operands { a, b, bias, ahead }: Operands<'_, f32>,
    masks: &[u32],
    masked: &mut [Row],
    sums: &mut [Row],
) {
    for half in [0, NR / 2] {
        let (mut all, mut next) = (load::<R>(bias, sums, half), ahead.start);
        let panels = b.chunks(NR).zip(masks.chunks(NR)).zip(masked.chunks_mut(NR));
        for (panel, ((steps, masks), masked)) in panels.enumerate() {
            let rows = a.panel(panel, R);
            for (k, ((step, mask), masked)) in (0..NR).zip(steps.iter().zip(masks).zip(masked)) {
                if half == 0 {
                    next = prefetch::<Row>(next, ahead.stride);
                }
                let word = _mm256_set1_epi32((mask >> half).cast_signed());
                let keep = |bits| _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(word, bits), bits));
                let [low, high] = load_half::<f32>(step, half);
                let kept = [
                    _mm256_and_ps(low, keep(_mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128))),
                    _mm256_and_ps(high, keep(_mm256_setr_epi32(256, 512, 1024, 2048, 4096, 8192, 16384, 32768))),
                ];
                store_half(masked, half, kept);
                add(&mut all, rows, k, kept);
            }
        }
        store(sums, half, all);
    }
}

/// The steps with zeros where the masks have no bit. Masking beside the multiply-adds, where they are widened as well,
/// takes longer.
#[target_feature(enable = "avx2,fma")]
fn mask(b: &[Row<bf16>], masks: &[u32], masked: &mut [Row<bf16>]) {
    let bits = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
    for ((step, mask), out) in b.iter().zip(masks).zip(masked) {
        let halves = step.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<16>().0);
        for ((weights, out), word) in halves.zip([*mask as i16, (mask >> 16) as i16]) {
            let keep = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(word), bits), bits);
            // SAFETY: both have sixteen values of two bytes.
            unsafe {
                let weights = _mm256_loadu_si256(weights.as_ptr().cast::<__m256i>());
                _mm256_storeu_si256(out.as_mut_ptr().cast::<__m256i>(), _mm256_and_si256(weights, keep));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn listed<const R: usize, E: Floats>(Operands { a, b, bias, ahead }: Operands<'_, E>, steps: &[u32], sums: &mut [Row]) {
    let Some(last) = steps.last().map(|k| *k as usize) else {
        // There is nothing to add, but what the sums start from.
        return [0, NR / 2].into_iter().for_each(|half| store(sums, half, load::<R>(bias, sums, half)));
    };
    let (a, stride) = a.steps(last, R);
    let b = b[..=last].as_ptr();
    for half in [0, NR / 2] {
        let (mut all, mut next) = (load::<R>(bias, sums, half), ahead.start);
        for k in steps.iter().map(|k| *k as usize) {
            if half == 0 {
                next = prefetch::<Row<E::Lane>>(next, ahead.stride);
            }
            // SAFETY: steps are listed in their order, and the last one and its activations are there.
            let (rows, step) = unsafe { (&*a.add(k / NR * stride).cast::<[Row; R]>(), &*b.add(k)) };
            add(&mut all, rows, k % NR, load_half::<E>(step, half));
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
        store_half(row, half, all);
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn store_half(row: &mut Row, half: usize, [low, high]: [__m256; 2]) {
    let p = row[half..half + NR / 2].as_mut_ptr();
    // SAFETY: half a row has 16 values.
    unsafe {
        _mm256_storeu_ps(p, low);
        _mm256_storeu_ps(p.add(8), high);
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn load_half<E: Floats>(row: &Row<E::Lane>, half: usize) -> [__m256; 2] {
    let p = row[half..half + NR / 2].as_ptr();
    // SAFETY: half a row has 16 values.
    unsafe { [E::load(p), E::load(p.add(8))] }
}
