//! Clipping and AdamW (Loshchilov & Hutter 2019), without weight decay, on the host: one pass for the norm, one for
//! the rest.
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
    /// How many times the root of the mean second moment is added to it.
    pub(super) damping: f32,
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
    let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)).zip(gradient.par_chunks(CHUNK));
    if by.damping == 0.0 {
        let chunks = parameter.par_chunks_mut(CHUNK).zip(moments);
        return chunks.for_each(|(p, ((m, v), g))| {
            move_moments(m, v, g, by.scale);
            move_parameter(p, m, v, by);
        });
    }
    let sum_of_chunk = |((m, v), g): ((&mut [f32], &mut [f32]), &[f32])| {
        move_moments(m, v, g, by.scale);
        v.chunks(1024).map(|run| f64::from(run.iter().sum::<f32>())).sum::<f64>()
    };
    // In order: a sum must not depend on who was first.
    let sums: Vec<f64> = moments.map(sum_of_chunk).collect();
    let mean = sums.iter().sum::<f64>() / v.len().max(1) as f64;
    let by = Change { epsilon: by.epsilon + by.damping * mean.sqrt() as f32, ..by };
    let chunks = parameter.par_chunks_mut(CHUNK).zip(m.par_chunks(CHUNK)).zip(v.par_chunks(CHUNK));
    chunks.for_each(|((p, m), v)| move_parameter(p, m, v, by));
}

fn move_moments(m: &mut [f32], v: &mut [f32], g: &[f32], scale: f32) {
    let (beta1, beta2) = (BETA1 as f32, BETA2 as f32);
    for ((m, v), g) in m.iter_mut().zip(v).zip(g) {
        let g = g * scale;
        *m = *m * beta1 + g;
        *v = *v * beta2 + g * g;
    }
}

fn move_parameter(p: &mut [f32], m: &[f32], v: &[f32], by: Change) {
    for ((p, m), v) in p.iter_mut().zip(m).zip(v) {
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
        for damping in [0.0, 0.5] {
            let by = Change { scale: 0.5, rate: 1e-2, epsilon: 1e-8, damping };
            let (mut whole, mut parts) = ((p.clone(), m.clone(), v.clone()), (p.clone(), m.clone(), v.clone()));
            move_moments(&mut whole.1, &mut whole.2, &g, by.scale);
            let mean = whole.2.iter().map(|v| f64::from(*v)).sum::<f64>() / count as f64;
            let damped = Change { epsilon: by.epsilon + damping * mean.sqrt() as f32, ..by };
            move_parameter(&mut whole.0, &whole.1, &whole.2, damped);
            update(&mut parts.0, &mut parts.1, &mut parts.2, &g, by);
            assert_eq!((&parts.1, &parts.2), (&whole.1, &whole.2));
            // The mean is rounded in other places.
            assert!(parts.0.iter().zip(&whole.0).all(|(a, b)| (a - b).abs() < 1e-6), "{damping}");
        }
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
