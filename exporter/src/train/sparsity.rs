//! Where the threshold of the scores is: at 0, or where a schedule of sparsity puts it.

use overmask::base::MaskableTensor;

use super::TrainError;
use super::batch::stream;
use super::graph::units;
use super::options::{Sampling, TrainOptions};
use crate::data::rng;

/// Steps after which a threshold is looked for anew while the sparsity rises.
const EVERY: u64 = 16;

/// How much noise Bernoulli sampling adds to scores: a unit that far above the threshold is kept
/// with a probability of σ(1).
const TEMPERATURE: f64 = 0.02;

/// Where the phases of a run end, in steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Phases {
    /// The first step at which the target is reached.
    pub(super) ramp_end: u64,
    /// The first step in which masks stay as they are.
    pub(super) polish: u64,
}

impl Phases {
    pub(super) fn new(steps: u64, o: &TrainOptions) -> Self {
        let part = |fraction: f64| ((steps as f64 * fraction).round() as u64).min(steps);
        let polish = part(1.0 - o.polish);
        let ramp_end = if o.target_sparsity.is_some() { part(o.ramp).min(polish) } else { 0 };
        Phases { ramp_end, polish }
    }

    /// Whether the threshold is set anew before this step.
    pub(super) fn moves_threshold(&self, step: u64) -> bool {
        step < self.ramp_end && step.is_multiple_of(EVERY) || step == self.ramp_end || step == self.polish
    }

    /// Whether the state after so many steps is of the sparsity that was asked for.
    pub(super) fn reached(&self, step: u64) -> bool {
        step >= self.ramp_end
    }
}

/// The sparsity at a step, rising from the initial to the target one along a cubic (Zhu & Gupta,
/// *To prune, or not to prune*, 2017): fast at first, when there is most to choose from.
pub(super) fn scheduled(o: &TrainOptions, phases: &Phases, step: u64) -> Option<f64> {
    let target = o.target_sparsity?;
    let left = 1.0 - (step as f64 / phases.ramp_end.max(1) as f64).min(1.0);
    Some(target + (o.initial_sparsity - target) * left.powi(3))
}

/// The threshold at which this fraction of all scores is not above it.
pub(super) fn threshold(scores: Vec<Vec<f32>>, sparsity: f64) -> f32 {
    let mut all = scores.concat();
    let zeros = ((all.len() as f64 * sparsity).round() as usize).min(all.len());
    match zeros.checked_sub(1) {
        None => f32::NEG_INFINITY,
        Some(last) => *all.select_nth_unstable_by(last, f32::total_cmp).1,
    }
}

/// What the scores of a tensor are compared with, a value a unit: the threshold, and at a step noise of
/// the logistic distribution, so that a unit is kept with the probability
/// σ((score - threshold) / [`TEMPERATURE`]).
pub(super) fn noise(
    tensor: &MaskableTensor,
    index: usize,
    step: Option<u64>,
    threshold: f32,
    o: &TrainOptions,
) -> Result<(Vec<usize>, Vec<f32>), TrainError> {
    debug_assert_eq!(o.sampling, Sampling::Bernoulli);
    let dims = units(tensor, o.granularity)?;
    let Some(step) = step else {
        let count = dims.iter().product();
        return Ok((dims, vec![threshold; count]));
    };
    // Tensors have places of their own in the stream.
    let seed = o.seed ^ ((index as u64 + 1) << 40);
    let draws = rng::uniform(seed, stream::NOISE, step, dims.iter().product());
    let logistic = |u: f32| {
        let u = f64::from(u).clamp(1e-7, 1.0 - 1e-7);
        threshold + (TEMPERATURE * (u / (1.0 - u)).ln()) as f32
    };
    Ok((dims, draws.into_iter().map(logistic).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_leaves_as_many_zeros_as_asked_for() {
        let scores = vec![
            (0..700).map(|i| (i * 7919 % 1000) as f32).collect::<Vec<f32>>(),
            (0..300).map(|i| -(i as f32)).collect(),
        ];
        for sparsity in [0.0, 0.01, 0.3, 0.5, 0.999, 1.0] {
            let limit = threshold(scores.clone(), sparsity);
            let zeros = scores.iter().flatten().filter(|s| **s <= limit).count();
            assert!((zeros as f64 / 1000.0 - sparsity).abs() < 0.002, "{zeros} for {sparsity}");
        }
    }
}
