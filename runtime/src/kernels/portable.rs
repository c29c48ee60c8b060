//! The kernels in plain Rust: what every processor runs, and what the others are compared with.

use super::{Kernel, NR, Part, Row};

/// No particular instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Kernel for Portable {
    const MAX_ROWS: usize = 4;

    fn dense(self, Part { a, b, bias, .. }: Part<'_>, sums: &mut [Row]) {
        start(bias, sums);
        for (panel, steps) in b.chunks(NR).enumerate() {
            let rows = a.panel(panel, sums.len());
            for (k, step) in steps.iter().enumerate() {
                add(rows, k, step, sums);
            }
        }
    }

    fn listed(self, Part { a, b, bias, .. }: Part<'_>, steps: &[u32], sums: &mut [Row]) {
        start(bias, sums);
        for k in steps.iter().map(|k| *k as usize) {
            add(a.panel(k / NR, sums.len()), k % NR, &b[k], sums);
        }
    }
}

fn start(bias: Option<&Row>, sums: &mut [Row]) {
    if let Some(bias) = bias {
        sums.fill(*bias);
    }
}

fn add(rows: &[Row], k: usize, step: &Row, sums: &mut [Row]) {
    for (row, sums) in rows.iter().zip(sums) {
        for (sum, weight) in sums.iter_mut().zip(step) {
            *sum += row[k] * weight;
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

/// The numbers of the set bits, from the first to the last.
pub(super) fn kept(words: &[u32], steps: &mut Vec<u32>) {
    steps.clear();
    for (i, word) in words.iter().enumerate() {
        let mut left = *word;
        while left != 0 {
            steps.push((32 * i) as u32 + left.trailing_zeros());
            left &= left - 1;
        }
    }
}
