//! int8 with AVX-VNNI: the instruction of AVX-512 VNNI in registers of 256 bits, for processors that have no AVX-512. Half
//! a panel's outputs at a time, as with f32.

use std::arch::x86_64::{
    __m256i, _mm256_dpbusd_avx_epi32, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
};

use super::{Avx2, int8, prefetch};
use crate::kernel::{Codes, Instructions, Kernel, Operands, by_rows};
use crate::{Affine, Element, NR, Row};

/// That the processor has AVX-VNNI, and AVX2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AvxVnni(Avx2);

/// Inputs of an output that lie side by side.
const INPUTS: usize = i8::INPUTS;

/// Steps of a panel of activations.
const STEPS: usize = NR / INPUTS;

/// The weights of a step.
type Step = Row<[i8; INPUTS]>;

/// The sums of half a tile.
type Sums<const R: usize> = [[__m256i; 2]; R];

impl Instructions for AvxVnni {
    fn detect() -> Option<Self> {
        Avx2::detect().filter(|_| is_x86_feature_detected!("avxvnni")).map(AvxVnni)
    }
}

impl Codes for AvxVnni {
    fn quantize(self, from: &[&[Row]], inputs: usize, to: &mut [&mut [Row<u8>]], rows: &mut [Affine]) {
        self.0.quantize(from, inputs, to, rows);
    }

    fn dequantize(self, sums: &[Row<i32>], rows: &[Affine], outputs: &Row, bias: Option<&Row>, to: &mut [Row]) {
        self.0.dequantize(sums, rows, outputs, bias, to);
    }
}

impl Kernel<i8> for AvxVnni {
    const MAX_ROWS: usize = 6;

    fn dense(self, operands: Operands<'_, i8>, sums: &mut [Row<i32>]) {
        by_rows!(dense, sums, (operands), [1 2 3 4 5 6]);
    }

    fn listed(self, operands: Operands<'_, i8>, steps: &[u32], sums: &mut [Row<i32>]) {
        by_rows!(listed, sums, (operands, steps), [1 2 3 4 5 6]);
    }

    fn masking(self, operands: Operands<'_, i8>, masks: &[u32], masked: &mut [Step], sums: &mut [Row<i32>]) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { int8::mask(operands.b, masks, masked) };
        self.dense(Operands { b: masked, ..operands }, sums);
    }
}

#[target_feature(enable = "avx2,fma,avxvnni")]
fn dense<const R: usize>(Operands { a, b, bias, ahead }: Operands<'_, i8>, sums: &mut [Row<i32>]) {
    for half in [0, NR / 2] {
        let (mut all, mut next) = (load::<R>(bias, sums, half), ahead.start);
        for (panel, steps) in b.chunks(STEPS).enumerate() {
            let rows = a.panel(panel, R);
            for (k, step) in (0..STEPS).zip(steps) {
                // The first half asks for every line, the second comes by again.
                if half == 0 {
                    next = prefetch::<Step>(next, ahead.stride);
                }
                add(&mut all, rows, k, load_half(step, half));
            }
        }
        store(sums, half, all);
    }
}

#[target_feature(enable = "avx2,fma,avxvnni")]
fn listed<const R: usize>(Operands { a, b, bias, ahead }: Operands<'_, i8>, steps: &[u32], sums: &mut [Row<i32>]) {
    for half in [0, NR / 2] {
        let (mut all, mut next) = (load::<R>(bias, sums, half), ahead.start);
        for k in steps.iter().map(|k| *k as usize) {
            if half == 0 {
                next = prefetch::<Step>(next, ahead.stride);
            }
            add(&mut all, a.panel(k / STEPS, R), k % STEPS, load_half(&b[k], half));
        }
        store(sums, half, all);
    }
}

#[target_feature(enable = "avx2,fma,avxvnni")]
#[inline]
fn add<const R: usize>(all: &mut Sums<R>, rows: &[Row<u8>], k: usize, [low, high]: [__m256i; 2]) {
    for (sum, row) in all.iter_mut().zip(rows) {
        let value = _mm256_set1_epi32(i32::from_le_bytes(row.as_chunks::<INPUTS>().0[k]));
        *sum = [_mm256_dpbusd_avx_epi32(sum[0], value, low), _mm256_dpbusd_avx_epi32(sum[1], value, high)];
    }
}

/// Half a row of values of four bytes.
#[target_feature(enable = "avx2")]
#[inline]
fn load_half<T: Copy>(row: &Row<T>, half: usize) -> [__m256i; 2] {
    const { assert!(size_of::<T>() == 4) };
    let p = row[half..half + NR / 2].as_ptr().cast::<__m256i>();
    // SAFETY: sixteen values have 64 bytes.
    unsafe { [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))] }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load<const R: usize>(bias: Option<&Row<i32>>, sums: &[Row<i32>], half: usize) -> Sums<R> {
    if let Some(bias) = bias {
        return [load_half(bias, half); R];
    }
    let mut all = [[_mm256_setzero_si256(); 2]; R];
    all.iter_mut().zip(sums).for_each(|(all, row)| *all = load_half(row, half));
    all
}

#[target_feature(enable = "avx2")]
#[inline]
fn store<const R: usize>(sums: &mut [Row<i32>], half: usize, all: Sums<R>) {
    for (row, [low, high]) in sums.iter_mut().zip(all) {
        let p = row[half..half + NR / 2].as_mut_ptr().cast::<__m256i>();
        // SAFETY: sixteen values have 64 bytes.
        unsafe {
            _mm256_storeu_si256(p, low);
            _mm256_storeu_si256(p.add(1), high);
        }
    }
}
