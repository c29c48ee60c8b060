//! AVX-512: a tile of up to 14 rows and a panel's 32 outputs are 28 registers of sums; two more
//! hold a step, one an activation.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_add_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask3_fmadd_ps,
    _mm512_maskz_compress_epi32, _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32,
    _mm512_setzero_ps, _mm512_storeu_epi32, _mm512_storeu_ps,
};

use super::kernel::{Instructions, Kernel, Operands, by_rows};
use super::{NR, Row};

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

impl Kernel<f32> for Avx512 {
    const MAX_ROWS: usize = 14;

    // Merging costs each tile a little, masking a panel costs a pass over it.
    const MERGE_BELOW: usize = 64;

    fn dense(self, operands: Operands<'_, f32>, sums: &mut [Row]) {
        by_rows!(dense, sums, (operands), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn listed(self, operands: Operands<'_, f32>, steps: &[u32], sums: &mut [Row]) {
        by_rows!(listed, sums, (operands, steps), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn masked(self, operands: Operands<'_, f32>, masks: &[u32], _: &mut [Row], sums: &mut [Row]) {
        by_rows!(masked, sums, (operands, masks), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn masking(self, operands: Operands<'_, f32>, masks: &[u32], masked: &mut [Row], sums: &mut [Row]) {
        by_rows!(masking, sums, (operands, masks, masked), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }
}

/// The sums of a tile: the lower and the upper half of each row.
type Sums<const R: usize> = [[__m512; 2]; R];

#[target_feature(enable = "avx512f")]
fn dense<const R: usize>(Operands { a, b, bias, ahead }: Operands<'_, f32>, sums: &mut [Row]) {
    let (mut all, mut next) = (load::<R>(bias, sums), ahead.start);
    for (panel, steps) in b.chunks(NR).enumerate() {
        let rows = a.panel(panel, R);
        for (k, step) in (0..NR).zip(steps) {
            next = prefetch(next, ahead.stride);
            add(&mut all, rows, k, load_row(step));
        }
    }
    store(sums, all);
}

#[target_feature(enable = "avx512f")]
fn listed<const R: usize>(Operands { a, b, bias, ahead }: Operands<'_, f32>, steps: &[u32], sums: &mut [Row]) {
    let (mut all, mut next) = (load::<R>(bias, sums), ahead.start);
    for k in steps.iter().map(|k| *k as usize) {
        next = prefetch(next, ahead.stride);
        add(&mut all, a.panel(k / NR, R), k % NR, load_row(&b[k]));
    }
    store(sums, all);
}

/// Adds where the mask has a bit: the weights need no register of their own.
#[target_feature(enable = "avx512f")]
fn masked<const R: usize>(Operands { a, b, bias, ahead }: Operands<'_, f32>, masks: &[u32], sums: &mut [Row]) {
    let (mut all, mut next) = (load::<R>(bias, sums), ahead.start);
    for (panel, (steps, masks)) in b.chunks(NR).zip(masks.chunks(NR)).enumerate() {
        let rows = a.panel(panel, R);
        for (k, (step, mask)) in (0..NR).zip(steps.iter().zip(masks)) {
            next = prefetch(next, ahead.stride);
            let [low, high] = load_row(step);
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
fn masking<const R: usize>(
    Operands { a, b, bias, ahead }: Operands<'_, f32>,
    masks: &[u32],
    masked: &mut [Row],
    sums: &mut [Row],
) {
    let (mut all, mut next) = (load::<R>(bias, sums), ahead.start);
    let panels = b.chunks(NR).zip(masks.chunks(NR)).zip(masked.chunks_mut(NR));
    for (panel, ((steps, masks), masked)) in panels.enumerate() {
        let rows = a.panel(panel, R);
        for (k, ((step, mask), out)) in (0..NR).zip(steps.iter().zip(masks).zip(masked)) {
            next = prefetch(next, ahead.stride);
            let p = step.as_ptr();
            // SAFETY: a step has 32 values.
            let step = unsafe {
                [_mm512_maskz_loadu_ps(*mask as u16, p), _mm512_maskz_loadu_ps((mask >> 16) as u16, p.add(NR / 2))]
            };
            store_row(out, step);
            add(&mut all, rows, k, step);
        }
    }
    store(sums, all);
}

/// The numbers of the set bits: sixteen numbers at a time are moved together.
#[target_feature(enable = "avx512f")]
fn kept(words: &[u32], steps: &mut Vec<u32>) {
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

/// Asks for two cache lines, and gives the address `stride` bytes further.
#[target_feature(enable = "avx512f")]
#[inline]
fn prefetch(p: *const i8, stride: usize) -> *const i8 {
    // Asking for an address that is not there does nothing.
    _mm_prefetch::<_MM_HINT_T0>(p);
    _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(64));
    p.wrapping_add(stride)
}

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
fn load<const R: usize>(bias: Option<&Row>, sums: &[Row]) -> Sums<R> {
    if let Some(bias) = bias {
        return [load_row(bias); R];
    }
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
