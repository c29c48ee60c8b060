//! int8 with VNNI: an instruction multiplies four inputs of sixteen outputs, activations without a sign and weights with
//! one, and adds them up.

use std::arch::x86_64::{
    __m128i, __m512i, _CMP_UNORD_Q, _mm_storeu_si128, _mm512_add_epi32, _mm512_add_ps, _mm512_castps_si512,
    _mm512_cmp_ps_mask, _mm512_cvtepi32_epi8, _mm512_dpbusd_epi32, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_maskz_loadu_ps, _mm512_maskz_mov_epi8, _mm512_max_epi32, _mm512_max_ps, _mm512_min_epi32, _mm512_min_ps,
    _mm512_mul_ps, _mm512_reduce_max_ps, _mm512_reduce_min_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_storeu_si512, _mm512_sub_epi32,
};

use super::{Instructions, prefetch};
use crate::codes::{self, Coder, ROUNDING};
use crate::kernel::{Codes, Kernel, Operands, by_rows};
use crate::{Affine, Element, NR, Row};

/// That the processor has AVX-512 F, BW and VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vnni(());

/// Inputs of an output that lie side by side.
const INPUTS: usize = i8::INPUTS;

/// Steps of a panel of activations.
const STEPS: usize = NR / INPUTS;

/// The weights of a step.
type Step = Row<[i8; INPUTS]>;

/// The sums of a row: those of the lower and of the upper half of the outputs.
type Halves = [__m512i; 2];

impl Instructions for Vnni {
    fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni");
        has_all.then_some(Vnni(()))
    }

    fn kept(self, words: &[u32], steps: &mut Vec<u32>) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { super::kept(words, steps) }
    }
}

impl Codes for Vnni {
    fn quantize(self, from: &[&[Row]], inputs: usize, to: &mut [&mut [Row<u8>]], rows: &mut [Affine]) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { quantize(from, inputs, to, rows) }
    }

    fn dequantize(self, sums: &[Row<i32>], rows: &[Affine], outputs: &Row, bias: Option<&Row>, to: &mut [Row]) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { dequantize(sums, rows, Self::ACTIVATION_ZERO, outputs, bias, to) }
    }
}

/// As [`codes::quantize`], of which compilers make several passes over a row.
#[target_feature(enable = "avx512f,avx512bw")]
fn quantize(from: &[&[Row]], inputs: usize, to: &mut [&mut [Row<u8>]], rows: &mut [Affine]) {
    // Miri lacks comparisons of these registers.
    if cfg!(miri) {
        return codes::quantize(from, inputs, 0, to, rows);
    }
    let (whole, used) = (inputs / NR, inputs % NR);
    // Of a last panel that is not full.
    let mask = u32::MAX >> (NR - used.max(1));
    for (r, row) in rows.iter_mut().enumerate() {
        let (mut least, mut most) = ([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]);
        let mut is_nan = 0;
        for (panel, values) in from.iter().enumerate() {
            let mask = if panel < whole { u32::MAX } else { mask };
            let p = values[r].as_ptr();
            // SAFETY: a row has 32 values.
            let values = unsafe {
                [_mm512_maskz_loadu_ps(mask as u16, p), _mm512_maskz_loadu_ps((mask >> 16) as u16, p.add(NR / 2))]
            };
            // What a lower or an upper end becomes by what is not a number does not matter.
            least = [_mm512_min_ps(least[0], values[0]), _mm512_min_ps(least[1], values[1])];
            most = [_mm512_max_ps(most[0], values[0]), _mm512_max_ps(most[1], values[1])];
            is_nan |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values[0], values[1]);
        }
        let ends = (
            _mm512_reduce_min_ps(_mm512_min_ps(least[0], least[1])),
            _mm512_reduce_max_ps(_mm512_max_ps(most[0], most[1])),
        );
        let Some(Coder { inverse, zero }) = codes::affine(if is_nan == 0 { ends } else { (f32::NAN, f32::NAN) }, row)
        else {
            to.iter_mut().for_each(|panel| panel[r] = [0; NR]);
            continue;
        };
        let (inverse, zero) = (_mm512_set1_ps(inverse), _mm512_set1_epi32(zero));
        let largest = _mm512_set1_epi32(255);
        let (rounding, bits) = (_mm512_set1_ps(ROUNDING), _mm512_set1_epi32(ROUNDING.to_bits().cast_signed()));
        for (from, to) in from.iter().zip(to.iter_mut()) {
            let (from, to) = (from[r].as_ptr(), to[r].as_mut_ptr());
            for half in [0, NR / 2] {
                // SAFETY: a row has 32 values, and 32 codes.
                unsafe {
                    let rounded = _mm512_add_ps(_mm512_mul_ps(_mm512_loadu_ps(from.add(half)), inverse), rounding);
                    let code = _mm512_add_epi32(_mm512_sub_epi32(_mm512_castps_si512(rounded), bits), zero);
                    let code = _mm512_min_epi32(_mm512_max_epi32(code, _mm512_setzero_si512()), largest);
                    _mm_storeu_si128(to.add(half).cast::<__m128i>(), _mm512_cvtepi32_epi8(code));
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn dequantize(sums: &[Row<i32>], rows: &[Affine], taken: u8, outputs: &Row, bias: Option<&Row>, to: &mut [Row]) {
    codes::dequantize(sums, rows, taken, outputs, bias, to);
}

impl Kernel<i8> for Vnni {
    const MAX_ROWS: usize = 14;

    fn dense(self, operands: Operands<'_, i8>, sums: &mut [Row<i32>]) {
        by_rows!(dense, sums, (operands), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn listed(self, operands: Operands<'_, i8>, steps: &[u32], sums: &mut [Row<i32>]) {
        by_rows!(listed, sums, (operands, steps), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }

    fn masking(self, operands: Operands<'_, i8>, masks: &[u32], masked: &mut [Step], sums: &mut [Row<i32>]) {
        by_rows!(masking, sums, (operands, masks, masked), [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dense<const R: usize>(Operands { a, b, bias, ahead }: Operands<'_, i8>, sums: &mut [Row<i32>]) {
    let (mut all, mut next) = (load::<R>(bias, sums), ahead.start);
    for (panel, steps) in b.chunks(STEPS).enumerate() {
        let rows = a.panel(panel, R);
        for (k, step) in (0..STEPS).zip(steps) {
            next = prefetch::<Step>(next, ahead.stride);
            add(&mut all, rows, k, load_row(step));
        }
    }
    store(sums, all);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn listed<const R: usize>(Operands { a, b, bias, ahead }: Operands<'_, i8>, steps: &[u32], sums: &mut [Row<i32>]) {
    let (mut all, mut next) = (load::<R>(bias, sums), ahead.start);
    for k in steps.iter().map(|k| *k as usize) {
        next = prefetch::<Step>(next, ahead.stride);
        add(&mut all, a.panel(k / STEPS, R), k % STEPS, load_row(&b[k]));
    }
    store(sums, all);
}

/// Masks each step as it is read, and leaves it masked for the tiles that follow.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn masking<const R: usize>(
    Operands { a, b, bias, ahead }: Operands<'_, i8>,
    masks: &[u32],
    masked: &mut [Step],
    sums: &mut [Row<i32>],
) {
    let (mut all, mut next) = (load::<R>(bias, sums), ahead.start);
    let masks = masks.as_chunks::<INPUTS>().0;
    let panels = b.chunks(STEPS).zip(masks.chunks(STEPS)).zip(masked.chunks_mut(STEPS));
    for (panel, ((steps, masks), masked)) in panels.enumerate() {
        let rows = a.panel(panel, R);
        for (k, ((step, mask), out)) in (0..STEPS).zip(steps.iter().zip(masks).zip(masked)) {
            next = prefetch::<Step>(next, ahead.stride);
            let [low, high] = load_row(step);
            let [a, b, c, d] = mask.map(u64::from);
            let step = [_mm512_maskz_mov_epi8(a | b << 32, low), _mm512_maskz_mov_epi8(c | d << 32, high)];
            let p = out.as_mut_ptr().cast::<__m512i>();
            // SAFETY: a step has 128 bytes.
            unsafe {
                _mm512_storeu_si512(p, step[0]);
                _mm512_storeu_si512(p.add(1), step[1]);
            }
            add(&mut all, rows, k, step);
        }
    }
    store(sums, all);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn add<const R: usize>(all: &mut [Halves; R], rows: &[Row<u8>], k: usize, [low, high]: Halves) {
    for (sum, row) in all.iter_mut().zip(rows) {
        let value = _mm512_set1_epi32(i32::from_le_bytes(row.as_chunks::<INPUTS>().0[k]));
        *sum = [_mm512_dpbusd_epi32(sum[0], value, low), _mm512_dpbusd_epi32(sum[1], value, high)];
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_row(step: &Step) -> Halves {
    let p = step.as_ptr().cast::<__m512i>();
    // SAFETY: a step has 128 bytes.
    unsafe { [_mm512_loadu_si512(p), _mm512_loadu_si512(p.add(1))] }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_sums(row: &Row<i32>) -> Halves {
    let p = row.as_ptr().cast::<__m512i>();
    // SAFETY: a row has 32 values.
    unsafe { [_mm512_loadu_si512(p), _mm512_loadu_si512(p.add(1))] }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_sums(row: &mut Row<i32>, [low, high]: Halves) {
    let p = row.as_mut_ptr().cast::<__m512i>();
    // SAFETY: a row has 32 values.
    unsafe {
        _mm512_storeu_si512(p, low);
        _mm512_storeu_si512(p.add(1), high);
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load<const R: usize>(bias: Option<&Row<i32>>, sums: &[Row<i32>]) -> [Halves; R] {
    if let Some(bias) = bias {
        return [load_sums(bias); R];
    }
    let mut all = [[_mm512_setzero_si512(); 2]; R];
    all.iter_mut().zip(sums).for_each(|(all, row)| *all = load_sums(row));
    all
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store<const R: usize>(sums: &mut [Row<i32>], all: [Halves; R]) {
    sums.iter_mut().zip(all).for_each(|(row, all)| store_sums(row, all));
}
