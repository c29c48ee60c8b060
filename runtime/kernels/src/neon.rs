//! NEON: half a panel's outputs at a time, so that a tile of six rows has twenty-four registers of sums. Four
//! steps share a load of activations, of which each multiplies one lane.
#![cfg(target_arch = "aarch64")]
#![allow(unsafe_code)]

use std::arch::aarch64::{
    float32x4_t, uint32x4_t, vandq_u32, vdupq_n_f32, vdupq_n_u32, vfmaq_f32, vfmaq_laneq_f32, vld1q_f32, vld1q_u32,
    vreinterpretq_f32_u32, vreinterpretq_u32_f32, vst1q_f32, vtstq_u32,
};
use std::arch::is_aarch64_feature_detected;
use std::ops::Index;

use super::kernel::{Instructions, Kernel, Operands, by_rows};
use super::{NR, Row};

/// That the processor has NEON, as all of 64 bits that run an operating system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon(());

impl Instructions for Neon {
    fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

impl Kernel<f32> for Neon {
    const MAX_ROWS: usize = 6;

    fn dense(self, operands: Operands<'_, f32>, sums: &mut [Row]) {
        by_rows!(dense, sums, (operands), [1 2 3 4 5 6]);
    }

    fn listed(self, operands: Operands<'_, f32>, steps: &[u32], sums: &mut [Row]) {
        by_rows!(listed, sums, (operands, steps), [1 2 3 4 5 6]);
    }

    fn masking(self, operands: Operands<'_, f32>, masks: &[u32], masked: &mut [Row], sums: &mut [Row]) {
        // SAFETY: the processor has the instructions, says the type.
        unsafe { mask(operands.b, masks, masked) };
        self.dense(Operands { b: masked, ..operands }, sums);
    }
}

/// Values of a register.
const LANES: usize = 4;

/// Registers of half a row.
const REGISTERS: usize = NR / 2 / LANES;

/// The sums of half a tile.
type Sums<const R: usize> = [[float32x4_t; REGISTERS]; R];

#[target_feature(enable = "neon")]
fn dense<const R: usize>(Operands { a, b, bias, .. }: Operands<'_, f32>, sums: &mut [Row]) {
    for half in [0, NR / 2] {
        let mut all = load::<R>(bias, sums, half);
        for (panel, steps) in b.chunks(NR).enumerate() {
            let rows = a.panel(panel, R);
            let (fours, rest) = steps.as_chunks::<LANES>();
            for (k, four) in (0..NR).step_by(LANES).zip(fours) {
                let mut values = [vdupq_n_f32(0.0); R];
                values.iter_mut().zip(rows).for_each(|(value, row)| *value = load_lanes(row, k));
                add::<R, 0>(&mut all, values, &four[0], half);
                add::<R, 1>(&mut all, values, &four[1], half);
                add::<R, 2>(&mut all, values, &four[2], half);
                add::<R, 3>(&mut all, values, &four[3], half);
            }
            for (k, step) in (NR.min(steps.len()) - rest.len()..NR).zip(rest) {
                add_one(&mut all, rows, k, step, half);
            }
        }
        store(sums, half, all);
    }
}

#[target_feature(enable = "neon")]
fn listed<const R: usize>(operands: Operands<'_, f32>, steps: &[u32], sums: &mut [Row]) {
    listed_half::<R, 0>(operands, steps, sums);
    listed_half::<R, { NR / 2 }>(operands, steps, sums);
}

#[target_feature(enable = "neon")]
#[inline]
fn listed_half<const R: usize, const HALF: usize>(
    Operands { a, b, bias, .. }: Operands<'_, f32>,
    steps: &[u32],
    sums: &mut [Row],
) {
    let mut all = load::<R>(bias, sums, HALF);
    // Those of a panel of activations follow each other.
    for of_panel in steps.chunk_by(|a, b| *a as usize / NR == *b as usize / NR) {
        let panel = of_panel[0] as usize / NR;
        let (rows, b) = (a.panel(panel, R), &b[panel * NR..]);
        // Steps of a whole panel need no check.
        match b.first_chunk::<NR>() {
            Some(b) => add_listed(&mut all, rows, b, of_panel, HALF),
            None => add_listed(&mut all, rows, b, of_panel, HALF),
        }
    }
    store(sums, HALF, all);
}

/// The steps with zeros where the masks have no bit.
#[target_feature(enable = "neon")]
fn mask(b: &[Row], masks: &[u32], masked: &mut [Row]) {
    let mut bits = [vdupq_n_u32(0); NR / LANES];
    for (i, bits) in bits.iter_mut().enumerate() {
        let of_lanes: [u32; LANES] = std::array::from_fn(|lane| 1 << (LANES * i + lane));
        // SAFETY: there are four values.
        *bits = unsafe { vld1q_u32(of_lanes.as_ptr()) };
    }
    for ((step, mask), out) in b.iter().zip(masks).zip(masked) {
        let mask = vdupq_n_u32(*mask);
        for (i, bits) in bits.iter().enumerate() {
            let kept: uint32x4_t = vtstq_u32(mask, *bits);
            let value = vreinterpretq_u32_f32(load_lanes(step, LANES * i));
            store_lanes(out, LANES * i, vreinterpretq_f32_u32(vandq_u32(value, kept)));
        }
    }
}

/// Adds a step, which multiplies one lane of each row's values.
#[target_feature(enable = "neon")]
#[inline]
fn add<const R: usize, const LANE: i32>(all: &mut Sums<R>, values: [float32x4_t; R], step: &Row, half: usize) {
    for i in 0..REGISTERS {
        let weights = load_lanes(step, half + LANES * i);
        for (sums, value) in all.iter_mut().zip(values) {
            sums[i] = vfmaq_laneq_f32::<LANE>(sums[i], weights, value);
        }
    }
}

/// Adds some steps of one panel.
#[target_feature(enable = "neon")]
#[inline]
fn add_listed<const R: usize>(
    all: &mut Sums<R>,
    rows: &[Row],
    b: &(impl Index<usize, Output = Row> + ?Sized),
    steps: &[u32],
    half: usize,
) {
    for k in steps.iter().map(|k| *k as usize % NR) {
        add_one(all, rows, k, &b[k], half);
    }
}

/// Adds a step by itself.
#[target_feature(enable = "neon")]
#[inline]
fn add_one<const R: usize>(all: &mut Sums<R>, rows: &[Row], k: usize, step: &Row, half: usize) {
    let mut weights = [vdupq_n_f32(0.0); REGISTERS];
    weights.iter_mut().enumerate().for_each(|(i, weights)| *weights = load_lanes(step, half + LANES * i));
    for (sums, row) in all.iter_mut().zip(rows) {
        let value = vdupq_n_f32(row[k]);
        sums.iter_mut().zip(weights).for_each(|(sum, weights)| *sum = vfmaq_f32(*sum, weights, value));
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn load<const R: usize>(bias: Option<&Row>, sums: &[Row], half: usize) -> Sums<R> {
    let mut all = [[vdupq_n_f32(0.0); REGISTERS]; R];
    for (r, all) in all.iter_mut().enumerate() {
        let row = bias.unwrap_or_else(|| &sums[r]);
        all.iter_mut().enumerate().for_each(|(i, sum)| *sum = load_lanes(row, half + LANES * i));
    }
    all
}

#[target_feature(enable = "neon")]
#[inline]
fn store<const R: usize>(sums: &mut [Row], half: usize, all: Sums<R>) {
    for (row, all) in sums.iter_mut().zip(all) {
        all.into_iter().enumerate().for_each(|(i, sum)| store_lanes(row, half + LANES * i, sum));
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn load_lanes(row: &Row, start: usize) -> float32x4_t {
    let values = &row[start..start + LANES];
    // SAFETY: there are four values.
    unsafe { vld1q_f32(values.as_ptr()) }
}

#[target_feature(enable = "neon")]
#[inline]
fn store_lanes(row: &mut Row, start: usize, values: float32x4_t) {
    let to = &mut row[start..start + LANES];
    // SAFETY: there is room for four values.
    unsafe { vst1q_f32(to.as_mut_ptr(), values) }
}
