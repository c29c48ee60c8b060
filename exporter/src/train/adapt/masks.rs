//! Random masks that are like those that tasks learn: small units are zeroed rather than large ones, by chance.

use overmask::base::{Base, MaskableTensor};
use overmask::mask::Granularity;

use crate::data::rng::{self, stream};
use crate::train::TrainError;
use crate::train::graph::{self, Adaptation};
use crate::train::scores;
use crate::train::value::{Feed, f32_value};

/// The part of all steps without a mask: what the base gives as it is must stay.
const DENSE: f32 = 0.25;

/// How much chance may weigh beside the rank of a unit's size, from 0 to 1: then hardly anything else decides.
const CHANCE: f32 = 2.0;

/// The largest part of one tensor that is zeroed.
const MOST: f32 = 0.95;

/// A source of masks.
pub(super) struct Masks {
    tensors: Vec<Ranked>,
    granularity: Granularity,
    most: f32,
}

/// A tensor and its units.
struct Ranked {
    name: String,
    /// The shape of its units.
    dims: Vec<usize>,
    /// The rank of each among them by its size, from 0 to 1.
    ranks: Vec<f32>,
}

impl Masks {
    /// # Errors
    /// When a tensor does not divide into whole blocks.
    pub(super) fn new(base: &Base, of: &Adaptation, most: f64) -> Result<Self, TrainError> {
        let granularity = of.granularity;
        let ranked = |tensor: &MaskableTensor| {
            let (_, weights) = base.tensor_f32(&tensor.name)?;
            let ranks = scores::magnitude_ranks(tensor, weights, granularity, 0.0)?;
            Ok(Ranked { name: tensor.name.clone(), dims: graph::units(tensor, granularity)?, ranks })
        };
        let tensors = of.masked.iter().map(ranked).collect::<Result<_, TrainError>>()?;
        Ok(Masks { tensors, granularity, most: most as f32 })
    }

    /// Those of a step, as the graph's inputs: of any sparsity up to the largest, by size or by chance, or none.
    pub(super) fn of_step(&self, seed: u64, step: u64) -> Result<Feed, TrainError> {
        let lots = rng::uniform(seed, stream::ADAPTATION, step, 3);
        let sparsity = if lots[0] < DENSE { 0.0 } else { lots[1] * self.most };
        self.given(seed, sparsity, lots[2] * CHANCE, step)
    }

    /// Masks of a sparsity, and how much chance weighs in them. Tensors have half to one and a half times of it, as
    /// those of a task do.
    pub(super) fn given(&self, seed: u64, sparsity: f32, chance: f32, number: u64) -> Result<Feed, TrainError> {
        let of_tensor = |(index, Ranked { name, dims, ranks }): (usize, &Ranked)| {
            if sparsity == 0.0 {
                return Ok((graph::keep(name), f32_value(dims, vec![1.0; ranks.len()])?));
            }
            // Tensors have places of their own in the stream.
            let seed = seed ^ ((index as u64 + 1) << 40);
            let mut lots = rng::uniform(seed, stream::ADAPTATION_MASKS, number, ranks.len() + 1);
            let share = (sparsity * (0.5 + lots.pop().unwrap_or_default())).min(MOST);
            let scores: Vec<f32> = ranks.iter().zip(lots).map(|(rank, lot)| rank + chance * (lot - 0.5)).collect();
            Ok((graph::keep(name), f32_value(dims, keep(&scores, share, self.granularity))?))
        };
        self.tensors.iter().enumerate().map(of_tensor).collect()
    }
}

/// 0 for the lowest scores, a share of them, else 1; of `2:4` two of each four, or none for a share of 0.
fn keep(scores: &[f32], share: f32, granularity: Granularity) -> Vec<f32> {
    let zeros = (scores.len() as f32 * share).round() as usize;
    if zeros == 0 {
        return vec![1.0; scores.len()];
    }
    if granularity == Granularity::TwoOfFour {
        // The first, second, third and fourth of all groups lie side by side.
        let groups = scores.len() / 4;
        let better = |i: usize| {
            let group = i % groups;
            (0..4).map(|k| k * groups + group).filter(|other| scores[*other] > scores[i]).count()
        };
        return (0..scores.len()).map(|i| f32::from(better(i) < 2)).collect();
    }
    let mut order = scores.to_vec();
    let (_, limit, _) = order.select_nth_unstable_by(zeros - 1, f32::total_cmp);
    scores.iter().map(|score| f32::from(*score > *limit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_are_zeroed() {
        let scores: Vec<f32> = (0..1000).map(|i| (i * 7919 % 1000) as f32).collect();
        for share in [0.0, 0.1, 0.5, 0.95] {
            let kept = keep(&scores, share, Granularity::Weight);
            let limit = 1000.0 * share;
            assert!(scores.iter().zip(kept).all(|(score, keep)| (keep == 1.0) == (*score >= limit)), "{share}");
        }
    }

    #[test]
    fn two_of_four_are_kept() {
        let scores = rng::uniform(1, 1, 1, 400);
        let kept = keep(&scores, 0.3, Granularity::TwoOfFour);
        for group in 0..100 {
            let places = [0, 1, 2, 3].map(|k| k * 100 + group);
            let of = |keep: f32| places.into_iter().filter(|i| kept[*i] == keep).map(|i| scores[i]).collect::<Vec<_>>();
            let (best, rest) = (of(1.0), of(0.0));
            assert!(best.len() == 2 && rest.iter().all(|low| best.iter().all(|high| high > low)), "{group}");
        }
        assert!(keep(&scores, 0.0, Granularity::TwoOfFour).iter().all(|keep| *keep == 1.0));
    }
}
