//! The kernels in plain Rust: what every processor runs, and what the others are compared with.

use super::kernel::{Codes, Instructions, Kernel, Operands};
use super::{Element, NR, Row};

/// No particular instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

/// Outputs whose sums are kept in registers at a time: those of a whole panel would not fit.
const LANES: usize = 8;

impl Instructions for Portable {
    fn detect() -> Option<Self> {
        Some(Portable)
    }
}

impl Codes for Portable {}

impl<E: Element> Kernel<E> for Portable {
    const MAX_ROWS: usize = 4;

    fn dense(self, operands: Operands<'_, E>, sums: &mut [Row<E::Sum>]) {
        steps(operands, 0..operands.b.len(), sums);
    }

    fn listed(self, operands: Operands<'_, E>, list: &[u32], sums: &mut [Row<E::Sum>]) {
        steps(operands, list.iter().map(|k| *k as usize), sums);
    }
}

fn steps<E: Element>(operands: Operands<'_, E>, steps: impl Iterator<Item = usize> + Clone, sums: &mut [Row<E::Sum>]) {
    match sums.len() {
        1 => add::<E, 1>(operands, steps, sums),
        2 => add::<E, 2>(operands, steps, sums),
        3 => add::<E, 3>(operands, steps, sums),
        4 => add::<E, 4>(operands, steps, sums),
        rows => unreachable!("a tile of {rows} rows"),
    }
}

fn add<E: Element, const R: usize>(
    Operands { a, b, bias, .. }: Operands<'_, E>,
    steps: impl Iterator<Item = usize> + Clone,
    sums: &mut [Row<E::Sum>],
) {
    for start in (0..NR).step_by(LANES) {
        let mut all: [[E::Sum; LANES]; R] = std::array::from_fn(|r| lanes(bias.unwrap_or(&sums[r]), start));
        for step in steps.clone() {
            let k = step * E::INPUTS;
            let (rows, weights) = (a.panel(k / NR, R), lanes(&b[step], start));
            for (sums, row) in all.iter_mut().zip(rows) {
                let values = &row[k % NR..][..E::INPUTS];
                sums.iter_mut().zip(weights).for_each(|(sum, lane)| *sum = E::multiply_add(*sum, values, lane));
            }
        }
        for (row, all) in sums.iter_mut().zip(all) {
            row[start..start + LANES].copy_from_slice(&all);
        }
    }
}

/// Those of a row from an output on.
fn lanes<T: Copy>(row: &Row<T>, start: usize) -> [T; LANES] {
    std::array::from_fn(|j| row[start + j])
}
