//! The kernels in plain Rust: what every processor runs, and what the others are compared with.

use super::{Kernel, NR, Row};

/// No particular instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Kernel for Portable {
    const MAX_ROWS: usize = 4;

    fn dense(self, a: &[f32], b: &[Row], sums: &mut [Row]) {
        let rows = sums.len();
        for (values, step) in a.chunks_exact(rows).zip(b) {
            add(values, step, sums);
        }
    }

    fn listed(self, a: &[f32], b: &[Row], steps: &[u32], sums: &mut [Row]) {
        let rows = sums.len();
        for k in steps.iter().map(|k| *k as usize) {
            add(&a[k * rows..][..rows], &b[k], sums);
        }
    }
}

fn add(values: &[f32], step: &Row, sums: &mut [Row]) {
    for (value, sums) in values.iter().zip(sums) {
        for (sum, weight) in sums.iter_mut().zip(step) {
            *sum += value * weight;
        }
    }
}

/// The steps with zeros where the masks have no bit.
pub(super) fn mask(b: &[Row], masks: &[u32], masked: &mut [Row]) {
    for ((step, mask), out) in b.iter().zip(masks).zip(masked) {
        for j in 0..NR {
            // All ones or all zeros: no branch, which the compiler vectorises.
            let keep = 0u32.wrapping_sub(mask >> j & 1);
            out[j] = f32::from_bits(step[j].to_bits() & keep);
        }
    }
}
