//! The kernels in plain Rust: what every processor runs, and what the others are compared with.

use super::{Kernel, NR, Part, Row};

/// No particular instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

/// Outputs whose sums are kept in registers at a time: those of a whole panel would not fit.
const PART: usize = 8;

impl Kernel for Portable {
    const MAX_ROWS: usize = 4;

    fn dense(self, part: Part<'_>, sums: &mut [Row]) {
        self.steps(part, 0..part.b.len(), sums);
    }

    fn listed(self, part: Part<'_>, steps: &[u32], sums: &mut [Row]) {
        self.steps(part, steps.iter().map(|k| *k as usize), sums);
    }
}

impl Portable {
    fn steps(self, part: Part<'_>, steps: impl Iterator<Item = usize> + Clone, sums: &mut [Row]) {
        match sums.len() {
            1 => add::<1>(part, steps, sums),
            2 => add::<2>(part, steps, sums),
            3 => add::<3>(part, steps, sums),
            4 => add::<4>(part, steps, sums),
            rows => unreachable!("a tile of {rows} rows"),
        }
    }
}

fn add<const R: usize>(
    Part { a, b, bias, .. }: Part<'_>,
    steps: impl Iterator<Item = usize> + Clone,
    sums: &mut [Row],
) {
    for start in (0..NR).step_by(PART) {
        let of_part = |row: &Row| -> [f32; PART] { std::array::from_fn(|j| row[start + j]) };
        let mut all: [[f32; PART]; R] = std::array::from_fn(|r| of_part(bias.unwrap_or(&sums[r])));
        for k in steps.clone() {
            let (rows, step) = (a.panel(k / NR, R), of_part(&b[k]));
            for (sums, row) in all.iter_mut().zip(rows) {
                let value = row[k % NR];
                sums.iter_mut().zip(step).for_each(|(sum, weight)| *sum += value * weight);
            }
        }
        for (row, all) in sums.iter_mut().zip(all) {
            row[start..start + PART].copy_from_slice(&all);
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
