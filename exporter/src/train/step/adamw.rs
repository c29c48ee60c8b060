//! Clipping and AdamW (Loshchilov & Hutter 2019) on the host: one pass for the norm, one for the rest.
//!
//! The formulas are those of the step graph (`graph/optimizer.rs`), their twin; moments are kept without
//! their factors 1 - β, which rate and epsilon carry.

use rayon::prelude::*;

use crate::train::graph::{BETA1, BETA2};

/// Values of a part of the work. Fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 15;

/// How a step changes parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    /// What gradients are multiplied by.
    pub(super) scale: f32,
    /// Step size.
    pub(super) rate: f32,
    /// AdamW's epsilon.
    pub(super) epsilon: f32,
}

/// The sum of the squares of a gradient.
pub(super) fn sum_of_squares(gradient: &[f32]) -> f64 {
    // In f32 within short runs, which is fast, and in f64 across them.
    let of_run = |run: &[f32]| -> f64 {
        let mut sums = [0f32; 16];
        let (whole, rest) = run.as_chunks::<16>();
        for values in whole {
            sums.iter_mut().zip(values).for_each(|(sum, g)| *sum += g * g);
        }
        let rest: f32 = rest.iter().map(|g| g * g).sum();
        f64::from(sums.iter().sum::<f32>() + rest)
    };
    let of_chunk = |chunk: &[f32]| -> f64 { chunk.chunks(1024).map(of_run).sum() };
    let sums: Vec<f64> = gradient.par_chunks(CHUNK).map(of_chunk).collect();
    sums.into_iter().sum()
}

/// Changes a parameter and its two moments by its gradient.
pub(super) fn update(parameter: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[f32], by: Change) {
    let chunks = parameter.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK));
    chunks.zip(gradient.par_chunks(CHUNK)).for_each(|(((p, m), v), g)| update_chunk(p, m, v, g, by));
}

fn update_chunk(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], by: Change) {
    let (beta1, beta2) = (BETA1 as f32, BETA2 as f32);
    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
        let g = g * by.scale;
        *m = *m * beta1 + g;
        *v = *v * beta2 + g * g;
        *p -= *m / (v.sqrt() + by.epsilon) * by.rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::rng;

    #[test]
    fn chunks_change_nothing() {
        let count = 3 * CHUNK + 17;
        let [p, m, v, g] = [1, 2, 3, 4].map(|stream| rng::normal(5, stream, 0, count));
        let v: Vec<f32> = v.into_iter().map(f32::abs).collect();
        let by = Change { scale: 0.5, rate: 1e-2, epsilon: 1e-8 };
        let mut whole = (p.clone(), m.clone(), v.clone());
        update_chunk(&mut whole.0, &mut whole.1, &mut whole.2, &g, by);
        let mut parts = (p, m, v);
        update(&mut parts.0, &mut parts.1, &mut parts.2, &g, by);
        assert_eq!(parts, whole);
    }

    #[test]
    fn squares_are_summed() {
        let values = rng::normal(6, 1, 0, 2 * CHUNK + 1029);
        let exact: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!((sum_of_squares(&values) / exact - 1.0).abs() < 1e-6);
        assert_eq!(sum_of_squares(&[]), 0.0);
        assert_eq!(sum_of_squares(&[3.0, 4.0]), 25.0);
        assert!(sum_of_squares(&[1.0, f32::NAN]).is_nan() && sum_of_squares(&[f32::INFINITY]).is_infinite());
    }
}
