//! AVX-512: a tile of up to 14 rows and a panel's 32 outputs are 28 registers of sums; two more
//! hold a step, one an activation.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask3_fmadd_ps, _mm512_maskz_loadu_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::isa::Set;
use super::{Isa, Kernel, NR, Row, by_rows};

/// Steps that are asked for ahead of their use: a panel comes from memory or a far cache.
const AHEAD: usize = 24;

/// That the processor has AVX-512F. Only [`Avx512::of`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// # Panics
    /// When it is another instruction set.
    pub(super) fn of(isa: Isa) -> Self {
        assert_eq!(isa.0, Set::Avx512);
        Avx512(())
    }
}

impl Kernel for Avx512 {
    const MAX_ROWS: usize = 14;

    // Merging costs each tile a little, masking a panel costs a pass over it.
    const MERGE_BELOW: usize = 64;

    fn dense(self, a: &[f32], b: &[Row], sums: &mut [Row]) {
        by_rows!(dense, sums, (a, b), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn listed(self, a: &[f32], b: &[Row], steps: &[u32], sums: &mut [Row]) {
        by_rows!(listed, sums, (a, b, steps), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn masked(self, a: &[f32], b: &[Row], masks: &[u32], _: &mut [Row], sums: &mut [Row]) {
        by_rows!(masked, sums, (a, b, masks), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn masking(self, a: &[f32], b: &[Row], masks: &[u32], masked: &mut [Row], sums: &mut [Row]) {
        by_rows!(masking, sums, (a, b, masks, masked), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }
}

/// The sums of a tile: the lower and the upper half of each row.
type Sums<const R: usize> = [[__m512; 2]; R];

#[target_feature(enable = "avx512f")]
#[inline]
fn load_row(row: &Row) -> [__m512; 2] {
    let p = row.as_ptr();
    // SAFETY: a row has 32 values.
    unsafe { [_mm512_loadu_ps(p), _mm512_loadu_ps(p.add(16))] }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_row(row: &mut Row, [low, high]: [__m512; 2]) {
    let p = row.as_mut_ptr();
    // SAFETY: a row has 32 values.
    unsafe {
        _mm512_storeu_ps(p, low);
        _mm512_storeu_ps(p.add(16), high);
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load<const R: usize>(sums: &[Row]) -> Sums<R> {
    let mut all = [[_mm512_setzero_ps(); 2]; R];
    for (all, row) in all.iter_mut().zip(sums) {
        *all = load_row(row);
    }
    all
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store<const R: usize>(sums: &mut [Row], all: Sums<R>) {
    for (row, all) in sums.iter_mut().zip(all) {
        store_row(row, all);
    }
}

/// Asks for a step that is read later; past the end of a panel lies the next one, or nothing.
#[target_feature(enable = "avx512f")]
#[inline]
fn prefetch(b: &[Row], k: usize) {
    let p = b.as_ptr().wrapping_add(k).cast::<i8>();
    // Asking for an address that is not there does nothing.
    _mm_prefetch::<_MM_HINT_T0>(p);
    _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(64));
}

#[target_feature(enable = "avx512f")]
#[inline]
fn add<const R: usize>(all: &mut Sums<R>, values: &[f32; R], [low, high]: [__m512; 2]) {
    for (sum, value) in all.iter_mut().zip(values) {
        let value = _mm512_set1_ps(*value);
        *sum = [_mm512_fmadd_ps(value, low, sum[0]), _mm512_fmadd_ps(value, high, sum[1])];
    }
}

#[target_feature(enable = "avx512f")]
fn dense<const R: usize>(a: &[f32], b: &[Row], sums: &mut [Row]) {
    let mut all = load::<R>(sums);
    for (k, (values, step)) in a.as_chunks::<R>().0.iter().zip(b).enumerate() {
        prefetch(b, k + AHEAD);
        add(&mut all, values, load_row(step));
    }
    store(sums, all);
}

#[target_feature(enable = "avx512f")]
fn listed<const R: usize>(a: &[f32], b: &[Row], steps: &[u32], sums: &mut [Row]) {
    let mut all = load::<R>(sums);
    let a = a.as_chunks::<R>().0;
    for (i, k) in steps.iter().map(|k| *k as usize).enumerate() {
        // The step that will be read then; past the last one, what lies after the panel.
        let later = steps.get(i + AHEAD).map_or(b.len() + i, |k| *k as usize);
        prefetch(b, later);
        add(&mut all, &a[k], load_row(&b[k]));
    }
    store(sums, all);
}

/// Adds where the mask has a bit: the weights need no register of their own.
#[target_feature(enable = "avx512f")]
fn masked<const R: usize>(a: &[f32], b: &[Row], masks: &[u32], sums: &mut [Row]) {
    let mut all = load::<R>(sums);
    for (k, ((values, step), mask)) in a.as_chunks::<R>().0.iter().zip(b).zip(masks).enumerate() {
        prefetch(b, k + AHEAD);
        let [low, high] = load_row(step);
        let (low_mask, high_mask) = (*mask as u16, (mask >> 16) as u16);
        for (sum, value) in all.iter_mut().zip(values) {
            let value = _mm512_set1_ps(*value);
            *sum = [
                _mm512_mask3_fmadd_ps(value, low, sum[0], low_mask),
                _mm512_mask3_fmadd_ps(value, high, sum[1], high_mask),
            ];
        }
    }
    store(sums, all);
}

/// Masks each step as it is read, and leaves it masked for the tiles that follow.
#[target_feature(enable = "avx512f")]
fn masking<const R: usize>(a: &[f32], b: &[Row], masks: &[u32], masked: &mut [Row], sums: &mut [Row]) {
    let mut all = load::<R>(sums);
    let steps = a.as_chunks::<R>().0.iter().zip(b).zip(masks).zip(masked);
    for (k, (((values, step), mask), out)) in steps.enumerate() {
        prefetch(b, k + AHEAD);
        let p = step.as_ptr();
        // SAFETY: a step has 32 values.
        let step = unsafe {
            [_mm512_maskz_loadu_ps(*mask as u16, p), _mm512_maskz_loadu_ps((mask >> 16) as u16, p.add(NR / 2))]
        };
        store_row(out, step);
        add(&mut all, values, step);
    }
    store(sums, all);
}
