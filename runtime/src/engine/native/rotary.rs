//! Rotary positions (Su et al. 2021): queries and keys are turned by angles that grow with their positions, so that
//! their products depend on distances.

use overmask_kernels::{NR, Row};

use crate::base::family::encoder::frequencies;

/// The turns of positions from 0 on.
pub(super) struct Angles {
    theta: f32,
    /// Half the width of a head.
    half: usize,
    /// Cosine and sine, [positions, half].
    turns: Vec<[f32; 2]>,
}

impl Angles {
    /// Those of a base and a width of heads, for so many positions at least.
    pub(super) fn among(known: &mut Vec<Angles>, theta: f32, d: usize, positions: usize) -> &Angles {
        let half = d / 2;
        let place = known.iter().position(|angles| angles.theta == theta && angles.half == half);
        let place = place.unwrap_or_else(|| {
            known.push(Angles { theta, half, turns: Vec::new() });
            known.len() - 1
        });
        let angles = &mut known[place];
        let there = angles.turns.len() / half.max(1);
        // Most passes need no more than those before.
        let frequencies = if there < positions { frequencies(theta, d) } else { Vec::new() };
        for position in there..positions {
            // In f32, as PyTorch computes them.
            let turn = |frequency: &f32| (position as f32 * frequency).sin_cos();
            angles.turns.extend(frequencies.iter().map(turn).map(|(sin, cos)| [cos, sin]));
        }
        angles
    }

    /// Turns rows of some heads, whose values lie in panels; the first row is of this position.
    pub(super) fn turn(&self, heads: usize, position: usize, panels: &mut [&mut [Row]]) {
        let half = self.half;
        let rows = panels.first().map_or(0, |panel| panel.len());
        for (i, turns) in self.turns.chunks_exact(half).skip(position).take(rows).enumerate() {
            for head in 0..heads {
                let mut k = 0;
                while k < half {
                    // As many pairs as lie side by side.
                    let (a, b) = (head * 2 * half + k, head * 2 * half + half + k);
                    let pairs = (half - k).min(NR - a % NR).min(NR - b % NR);
                    let (mut first, mut second) = ([0.0; NR], [0.0; NR]);
                    let (first, second) = (&mut first[..pairs], &mut second[..pairs]);
                    first.copy_from_slice(&panels[a / NR][i][a % NR..][..pairs]);
                    second.copy_from_slice(&panels[b / NR][i][b % NR..][..pairs]);
                    for ((x, y), [cos, sin]) in first.iter_mut().zip(&mut *second).zip(&turns[k..]) {
                        (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
                    }
                    panels[a / NR][i][a % NR..][..pairs].copy_from_slice(first);
                    panels[b / NR][i][b % NR..][..pairs].copy_from_slice(second);
                    k += pairs;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_turned_rows_depend_on_their_distance() {
        for (heads, d) in [(1, 8), (2, 24), (2, 64), (3, 128)] {
            let mut known = Vec::new();
            Angles::among(&mut known, 10_000.0, d, 3);
            let angles = Angles::among(&mut known, 10_000.0, d, 12);
            let value = |column: usize| (column % 7) as f32 - 3.0;
            // The same row at positions 2 and 3, and 10 and 11.
            let turned = |position: usize| {
                let mut panels: Vec<Vec<Row>> = (0..(heads * d).div_ceil(NR))
                    .map(|panel| vec![std::array::from_fn(|i| value(panel * NR + i)); 2])
                    .collect();
                let mut rows: Vec<&mut [Row]> = panels.iter_mut().map(|panel| &mut panel[..]).collect();
                angles.turn(heads, position, &mut rows);
                panels
            };
            let product = |panels: &[Vec<Row>], head: usize| -> f32 {
                let columns = head * d..(head + 1) * d;
                columns.map(|j| panels[j / NR][0][j % NR] * panels[j / NR][1][j % NR]).sum()
            };
            let (near, far) = (turned(2), turned(10));
            for head in 0..heads {
                let square: f32 = (head * d..(head + 1) * d).map(|j| value(j).powi(2)).sum();
                let (a, b) = (product(&near, head), product(&far, head));
                assert!((a - b).abs() < 1e-4 * square && (a - square).abs() > 1e-3 * square, "{a} {b} {square}");
            }
        }
    }
}
