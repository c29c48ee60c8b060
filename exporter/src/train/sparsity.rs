//! Where the threshold of the scores is: at 0, or where a schedule of sparsity puts it.

use super::TrainError;
use super::graph::{self, Trained};
use super::options::{Sampling, TrainOptions};
use super::value::{Feed, f32_value};
use crate::data::rng;

/// Steps after which a threshold is looked for anew while the sparsity rises: often enough to follow the cubic,
/// seldom enough that ordering all scores is lost among the steps.
const EVERY: u64 = 16;

/// How much noise Bernoulli sampling adds to scores: a unit that far above the threshold is kept
/// with a probability of σ(1). Scores are ranks, less the initial sparsity, at first: the lot
/// decides for about a tenth of all units.
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
    let left = if phases.reached(step) { 0.0 } else { 1.0 - step as f64 / phases.ramp_end as f64 };
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

/// What scores are compared with where each unit has a threshold of its own ([`Sampling::Bernoulli`]):
/// noise of the logistic distribution, so that a unit is kept with the probability
/// σ(score / [`TEMPERATURE`]).
pub(super) struct Noise {
    /// The masked tensors and the shapes of their units.
    tensors: Vec<(String, Vec<usize>)>,
    seed: u64,
    /// The first step without noise.
    polish: u64,
}

impl Noise {
    /// Nothing if masks are not drawn.
    pub(super) fn new(trained: &[Trained], phases: &Phases, o: &TrainOptions) -> Option<Self> {
        let tensors = trained.iter().filter_map(|t| Some((t.scores_of()?.name.clone(), t.dims.clone())));
        let drawn = o.sampling == Sampling::Bernoulli;
        drawn.then(|| Noise { tensors: tensors.collect(), seed: o.seed, polish: phases.polish })
    }

    /// The inputs of a step's graph.
    pub(super) fn feed(&self, step: u64) -> Result<Feed, TrainError> {
        let of_units = |(index, (tensor, dims)): (usize, &(String, Vec<usize>))| {
            let values = self.values(index, dims.iter().product(), step);
            Ok((graph::noise(tensor), f32_value(dims, values)?))
        };
        self.tensors.iter().enumerate().map(of_units).collect()
    }

    fn values(&self, index: usize, count: usize, step: u64) -> Vec<f32> {
        if step >= self.polish {
            return vec![0.0; count];
        }
        // Tensors have places of their own in the stream.
        let seed = self.seed ^ ((index as u64 + 1) << 40);
        let logistic = |u: f32| {
            let u = f64::from(u).clamp(1e-7, 1.0 - 1e-7);
            (TEMPERATURE * (u / (1.0 - u)).ln()) as f32
        };
        rng::uniform(seed, rng::stream::NOISE, step, count).into_iter().map(logistic).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Method;

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

    #[test]
    fn a_cubic_leads_to_the_target() {
        let o = TrainOptions {
            initial_sparsity: 0.05,
            target_sparsity: Some(0.45),
            ramp: 0.6,
            polish: 0.2,
            ..TrainOptions::new("a", Method::Mask)
        };
        let phases = Phases::new(100, &o);
        assert_eq!(phases, Phases { ramp_end: 60, polish: 80 });
        for (step, wanted) in [(0, 0.05), (30, 0.45 - 0.4 / 8.0), (60, 0.45), (99, 0.45)] {
            let found = scheduled(&o, &phases, step).unwrap();
            assert!((found - wanted).abs() < 1e-12, "{found} at {step}");
        }
        let moves: Vec<u64> = (0..100).filter(|step| phases.moves_threshold(*step)).collect();
        assert_eq!(moves, [0, 16, 32, 48, 60, 80]);
        assert!(!phases.reached(59) && phases.reached(60));
        // A ramp of no step is at the target at once.
        let phases = Phases::new(100, &TrainOptions { ramp: 0.001, ..o.clone() });
        assert!(phases.moves_threshold(0) && scheduled(&o, &phases, 0) == Some(0.45));
        assert_eq!(scheduled(&TrainOptions { target_sparsity: None, ..o }, &phases, 0), None);
    }

    #[test]
    fn noise_keeps_a_unit_as_often_as_its_score_says() {
        let noise = Noise { tensors: Vec::new(), seed: 3, polish: 5 };
        let drawn = noise.values(0, 100_000, 4);
        for (score, kept) in [(0.0, 0.5), (0.02, 0.731), (-0.04, 0.119)] {
            let share = drawn.iter().filter(|limit| score > **limit).count() as f64 / 1e5;
            assert!((share - kept).abs() < 0.01, "{score}: {share}");
        }
        assert_ne!(drawn, noise.values(1, 100_000, 4));
        assert_ne!(drawn, noise.values(0, 100_000, 3));
        assert!(noise.values(0, 10, 5).iter().all(|limit| *limit == 0.0));
    }
}
