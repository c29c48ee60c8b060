//! int8: activations are widened to 16 bits once a tile, weights as they are loaded, and pairs of products are added to
//! sums of 32 bits, so that nothing is ever too large. A quarter of a panel's outputs at a time: six rows have twelve
//! registers of sums, in which each output has two.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_cvtepi8_epi16,
    _mm256_cvtepu8_epi16, _mm256_hadd_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_permute4x64_epi64,
    _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setr_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_storeu_si256,
};
use std::mem::MaybeUninit;

use super::{Avx2, prefetch};
use crate::activations::Tile;
use crate::kernel::{Codes, DEPTH, Kernel, Operands, by_rows};
use crate::{Affine, Element, NR, Row, codes};

/// Inputs of an output that lie side by side.
const INPUTS: usize = i8::INPUTS;

/// Steps of a panel of activations.
const STEPS: usize = NR / INPUTS;

/// Outputs whose sums are in registers at a time.
const QUARTER: usize = NR / 4;

impl Codes for Avx2 {
    fn quantize(self, from: &[&[Row]], inputs: usize, to: &mut [&mut [Row<u8>]], rows: &mut [Affine]) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { quantize(from, inputs, to, rows) }
    }

    fn dequantize(self, sums: &[Row<i32>], rows: &[Affine], outputs: &Row, bias: Option<&Row>, to: &mut [Row]) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { dequantize(sums, rows, Self::ACTIVATION_ZERO, outputs, bias, to) }
    }
}

#[target_feature(enable = "avx2,fma")]
fn quantize(from: &[&[Row]], inputs: usize, to: &mut [&mut [Row<u8>]], rows: &mut [Affine]) {
    codes::quantize(from, inputs, 0, to, rows);
}

#[target_feature(enable = "avx2,fma")]
fn dequantize(sums: &[Row<i32>], rows: &[Affine], taken: u8, outputs: &Row, bias: Option<&Row>, to: &mut [Row]) {
    codes::dequantize(sums, rows, taken, outputs, bias, to);
}

impl Kernel<i8> for Avx2 {
    const MAX_ROWS: usize = 6;

    fn dense(self, operands: Operands<'_, i8>, sums: &mut [Row<i32>]) {
        by_rows!(dense, sums, (operands), [1 2 3 4 5 6]);
    }

    fn listed(self, operands: Operands<'_, i8>, steps: &[u32], sums: &mut [Row<i32>]) {
        by_rows!(listed, sums, (operands, steps), [1 2 3 4 5 6]);
    }

    fn masking(self, operands: Operands<'_, i8>, masks: &[u32], masked: &mut [Row<[i8; 4]>], sums: &mut [Row<i32>]) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { mask(operands.b, masks, masked) };
        self.dense(Operands { b: masked, ..operands }, sums);
    }
}

/// The activations of a tile as numbers of 16 bits: as many panels as a product goes through at once.
type Wide<const R: usize> = [MaybeUninit<[Row<i16>; R]>; DEPTH / STEPS];

#[target_feature(enable = "avx2,fma")]
fn dense<const R: usize>(Operands { a, b, bias, ahead }: Operands<'_, i8>, sums: &mut [Row<i32>]) {
    let mut memory = [const { MaybeUninit::uninit() }; DEPTH / STEPS];
    let wide = widen::<R>(a, b.len(), &mut memory);
    for first in (0..NR).step_by(QUARTER) {
        let (mut all, mut next) = ([[_mm256_setzero_si256(); 2]; R], ahead.start);
        for (rows, steps) in wide.iter().zip(b.chunks(STEPS)) {
            for (k, step) in (0..STEPS).zip(steps) {
                // The first quarter asks for every line, the others come by again.
                if first == 0 {
                    next = prefetch::<Row<[i8; 4]>>(next, ahead.stride);
                }
                add(&mut all, rows, k, load(step, first));
            }
        }
        store(bias, sums, first, all);
    }
}

#[target_feature(enable = "avx2,fma")]
fn listed<const R: usize>(Operands { a, b, bias, ahead }: Operands<'_, i8>, steps: &[u32], sums: &mut [Row<i32>]) {
    let mut memory = [const { MaybeUninit::uninit() }; DEPTH / STEPS];
    let wide = widen::<R>(a, b.len(), &mut memory);
    for first in (0..NR).step_by(QUARTER) {
        let (mut all, mut next) = ([[_mm256_setzero_si256(); 2]; R], ahead.start);
        for k in steps.iter().map(|k| *k as usize) {
            if first == 0 {
                next = prefetch::<Row<[i8; 4]>>(next, ahead.stride);
            }
            add(&mut all, &wide[k / STEPS], k % STEPS, load(&b[k], first));
        }
        store(bias, sums, first, all);
    }
}

/// The activations that some steps multiply.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn widen<'w, const R: usize>(a: Tile<'_, u8>, steps: usize, wide: &'w mut Wide<R>) -> &'w [[Row<i16>; R]] {
    let wide = &mut wide[..steps.div_ceil(STEPS)];
    for (panel, wide) in wide.iter_mut().enumerate() {
        let mut rows = [[0; NR]; R];
        for (row, out) in a.panel(panel, R).iter().zip(&mut rows) {
            for start in [0, NR / 2] {
                let (from, to) = (&row[start..start + NR / 2], &mut out[start..start + NR / 2]);
                // SAFETY: both have 16 values.
                unsafe {
                    let values = _mm256_cvtepu8_epi16(_mm_loadu_si128(from.as_ptr().cast::<__m128i>()));
                    _mm256_storeu_si256(to.as_mut_ptr().cast::<__m256i>(), values);
                }
            }
        }
        wide.write(rows);
    }
    // SAFETY: all of them were written.
    unsafe { &*(std::ptr::from_ref(wide) as *const [[Row<i16>; R]]) }
}

/// Adds the products of a step with each row: neighbouring pairs of inputs.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn add<const R: usize>(all: &mut [[__m256i; 2]; R], rows: &[Row<i16>; R], k: usize, [low, high]: [__m256i; 2]) {
    for (sum, row) in all.iter_mut().zip(rows) {
        let four = &row.as_chunks::<INPUTS>().0[k];
        // SAFETY: four numbers of 16 bits are one of 64, which need not be aligned.
        let value = _mm256_set1_epi64x(unsafe { four.as_ptr().cast::<i64>().read_unaligned() });
        *sum = [
            _mm256_add_epi32(sum[0], _mm256_madd_epi16(value, low)),
            _mm256_add_epi32(sum[1], _mm256_madd_epi16(value, high)),
        ];
    }
}

/// The weights of a quarter's outputs, four in a register.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn load(step: &Row<[i8; 4]>, first: usize) -> [__m256i; 2] {
    let p = step[first..first + QUARTER].as_ptr().cast::<__m128i>();
    // SAFETY: eight outputs have 32 bytes.
    unsafe { [_mm256_cvtepi8_epi16(_mm_loadu_si128(p)), _mm256_cvtepi8_epi16(_mm_loadu_si128(p.add(1)))] }
}

/// Adds the two sums of each output, and what was there before or the bias.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn store<const R: usize>(bias: Option<&Row<i32>>, sums: &mut [Row<i32>], first: usize, all: [[__m256i; 2]; R]) {
    for (row, [low, high]) in sums.iter_mut().zip(all) {
        // Within each half of a register there are two outputs of the one and two of the other.
        let sum = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(low, high));
        let row = &mut row[first..first + QUARTER];
        let before = bias.map_or(row.as_ptr(), |bias| bias[first..first + QUARTER].as_ptr()).cast::<__m256i>();
        // SAFETY: both have eight values.
        unsafe {
            let before = _mm256_loadu_si256(before);
            _mm256_storeu_si256(row.as_mut_ptr().cast::<__m256i>(), _mm256_add_epi32(before, sum));
        }
    }
}

/// The steps with zeros where the masks have no bit: a word of a mask has a bit for each byte of a register.
#[target_feature(enable = "avx2,fma")]
pub(super) fn mask(b: &[Row<[i8; 4]>], masks: &[u32], masked: &mut [Row<[i8; 4]>]) {
    // Byte i of a word goes to bytes 8 i to 8 i + 7, of which each looks at a bit of its own.
    let spread = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3,
    );
    let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let words = b.as_flattened().chunks_exact(QUARTER).zip(masked.as_flattened_mut().chunks_exact_mut(QUARTER));
    for ((weights, out), word) in words.zip(masks) {
        let word = _mm256_shuffle_epi8(_mm256_set1_epi32(word.cast_signed()), spread);
        let keep = _mm256_cmpeq_epi8(_mm256_and_si256(word, bits), bits);
        // SAFETY: eight outputs have 32 bytes.
        unsafe {
            let weights = _mm256_loadu_si256(weights.as_ptr().cast::<__m256i>());
            _mm256_storeu_si256(out.as_mut_ptr().cast::<__m256i>(), _mm256_and_si256(weights, keep));
        }
    }
}
