//! AVX2 with FMA: half a panel's outputs at a time, so that a tile of six rows has twelve registers
//! of sums.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::{
    __m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::isa::Set;
use super::{Isa, Kernel, NR, Row, by_rows};

/// That the processor has AVX2 and FMA. Only [`Avx2::of`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// # Panics
    /// When it is another instruction set.
    pub(super) fn of(isa: Isa) -> Self {
        assert_eq!(isa.0, Set::Avx2);
        Avx2(())
    }
}

impl Kernel for Avx2 {
    const MAX_ROWS: usize = 6;

    fn dense(self, a: &[f32], b: &[Row], sums: &mut [Row]) {
        by_rows!(halves, sums, (a, b, 0..b.len()), [1 2 3 4 5 6]);
    }

    fn listed(self, a: &[f32], b: &[Row], steps: &[u32], sums: &mut [Row]) {
        by_rows!(halves, sums, (a, b, steps.iter().map(|k| *k as usize)), [1 2 3 4 5 6]);
    }
}

#[target_feature(enable = "avx2,fma")]
fn halves<const R: usize>(a: &[f32], b: &[Row], steps: impl Iterator<Item = usize> + Clone, sums: &mut [Row]) {
    let a = a.as_chunks::<R>().0;
    for half in [0, NR / 2] {
        let mut all = [[_mm256_setzero_ps(); 2]; R];
        for (all, row) in all.iter_mut().zip(&*sums) {
            *all = load(row, half);
        }
        for k in steps.clone() {
            let [low, high] = load(&b[k], half);
            for (sum, value) in all.iter_mut().zip(&a[k]) {
                let value = _mm256_set1_ps(*value);
                *sum = [_mm256_fmadd_ps(value, low, sum[0]), _mm256_fmadd_ps(value, high, sum[1])];
            }
        }
        for (row, all) in sums.iter_mut().zip(all) {
            let p = row[half..half + NR / 2].as_mut_ptr();
            // SAFETY: half a row has 16 values.
            unsafe {
                _mm256_storeu_ps(p, all[0]);
                _mm256_storeu_ps(p.add(8), all[1]);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn load(row: &Row, half: usize) -> [__m256; 2] {
    let p = row[half..half + NR / 2].as_ptr();
    // SAFETY: half a row has 16 values.
    unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
}
