//! Where scores start, and how they become a mask.

use overmask::base::MaskableTensor;
use overmask::mask::{Granularity, Mask};

use super::TrainError;
use super::graph::units;
use crate::data::rng;

/// The scores that a tensor starts with: the rank of each unit's magnitude within the tensor,
/// from 0 to 1, minus `sparsity`.
///
/// So that fraction of the smallest units starts as zeros, and large weights are far from being
/// zeroed. The order matters: scores that all start equal do not train. A unit's magnitude is
/// its mean square; equal ones keep their order in the tensor.
///
/// # Errors
/// When the tensor does not divide into whole blocks.
pub fn magnitude_ranks(
    tensor: &MaskableTensor,
    weights: &[f32],
    granularity: Granularity,
    sparsity: f64,
) -> Result<Vec<f32>, TrainError> {
    let place = place(tensor, granularity)?;
    let mut energy = vec![0f64; units(tensor, granularity)?.iter().product()];
    for (output, row) in weights.chunks_exact(tensor.inputs).enumerate() {
        for (input, w) in row.iter().enumerate() {
            energy[place(output, input)] += f64::from(*w) * f64::from(*w);
        }
    }
    let mut order: Vec<u32> = (0..energy.len() as u32).collect();
    order.sort_by(|a, b| energy[*a as usize].total_cmp(&energy[*b as usize]).then(a.cmp(b)));
    let last = (energy.len().max(2) - 1) as f64;
    let mut scores = vec![0f32; energy.len()];
    for (rank, unit) in order.into_iter().enumerate() {
        scores[unit as usize] = (rank as f64 / last - sparsity) as f32;
    }
    Ok(scores)
}

/// Scores that say nothing of the weights: uniform from -`sparsity` to 1 - `sparsity`. `index` is the
/// tensor's place among those that are masked.
///
/// # Errors
/// When the tensor does not divide into whole blocks.
pub fn uniform(
    tensor: &MaskableTensor,
    index: usize,
    granularity: Granularity,
    sparsity: f64,
    seed: u64,
) -> Result<Vec<f32>, TrainError> {
    let count = units(tensor, granularity)?.iter().product();
    let draws = rng::uniform(seed, rng::stream::SCORES, index as u64, count);
    Ok(draws.into_iter().map(|u| (f64::from(u) - sparsity) as f32).collect())
}

/// The place of a weight's score.
fn place(
    tensor: &MaskableTensor,
    granularity: Granularity,
) -> Result<impl Fn(usize, usize) -> usize + use<>, TrainError> {
    let dims = units(tensor, granularity)?;
    let (outputs, inputs) = (tensor.outputs, tensor.inputs);
    Ok(move |output: usize, input: usize| match dims[..] {
        [_, _, groups] => (input % 4 * outputs + output) * groups + input / 4,
        [down, across] => output / (outputs / down) * across + input / (inputs / across),
        _ => 0,
    })
}

/// The mask that scores stand for: what is above the threshold is kept; for `2:4` the best two of
/// four, the first of equal ones.
///
/// # Errors
/// When there are not as many scores as units.
pub fn to_mask(
    tensor: &MaskableTensor,
    scores: &[f32],
    granularity: Granularity,
    threshold: f32,
) -> Result<Mask, TrainError> {
    let (outputs, inputs) = (tensor.outputs, tensor.inputs);
    if granularity != Granularity::TwoOfFour {
        return Ok(Mask::from_units(granularity, outputs, inputs, scores.iter().map(|s| *s > threshold))?);
    }
    let place = place(tensor, granularity)?;
    let score = |output, input| scores.get(place(output, input)).copied().unwrap_or(f32::NEG_INFINITY);
    let kept = |i: usize| {
        let (output, input) = (i / inputs, i % inputs);
        let (first, this) = (input / 4 * 4, score(output, input));
        let better = |other: usize| score(output, other) > this || (other < input && score(output, other) == this);
        (first..first + 4).filter(|other| better(*other)).count() < 2
    };
    Ok(Mask::from_units(granularity, outputs, inputs, (0..outputs * inputs).map(kept))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(outputs: usize, inputs: usize) -> MaskableTensor {
        MaskableTensor { name: "w".into(), outputs, inputs, layer: 0 }
    }

    #[test]
    fn the_smallest_weights_start_as_zeros() {
        let weights: Vec<f32> = (0..100).map(|i| if i % 2 == 0 { i as f32 } else { -(i as f32) }).collect();
        let scores = magnitude_ranks(&tensor(10, 10), &weights, Granularity::Weight, 0.25).unwrap();
        let mask = to_mask(&tensor(10, 10), &scores, Granularity::Weight, 0.0).unwrap();
        assert_eq!(mask.zero_weights(), 25);
        assert!(!mask.keeps(2, 4) && mask.keeps(2, 6));
        assert_eq!(scores[99], 0.75);
    }

    #[test]
    fn a_block_is_ranked_by_its_mean_square() {
        let block = Granularity::Block { rows: 2, cols: 1 };
        // Columns of the two block rows: energies 2, 8, 50 and 32, 18, 0.
        let weights = [1., 2., 5., 1., 2., 5., 4., 3., 0., 4., 3., 0.];
        let scores = magnitude_ranks(&tensor(4, 3), &weights, block, 0.0).unwrap();
        assert_eq!(scores, [0.2, 0.4, 1.0, 0.8, 0.6, 0.0]);
    }

    #[test]
    fn two_of_four_are_the_largest_to_start_with() {
        let tensor = tensor(2, 8);
        let weights = [1., -9., 3., 2., 5., 5., 5., 5., 0., 0., 1., 2., 4., 3., 2., 1.];
        let scores = magnitude_ranks(&tensor, &weights, Granularity::TwoOfFour, 0.0).unwrap();
        let mask = to_mask(&tensor, &scores, Granularity::TwoOfFour, 0.0).unwrap();
        let kept: Vec<u8> = mask.expand().into_iter().map(u8::from).collect();
        // Ranks tell equal weights apart by their place: the last of them count as larger.
        assert_eq!(kept, [0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0]);
        let equal = to_mask(&tensor, &[0.5; 16], Granularity::TwoOfFour, 0.0).unwrap();
        assert_eq!(equal.expand().iter().filter(|k| **k).count(), 8);
    }

    #[test]
    fn random_scores_start_with_the_sparsity_whatever_the_weights() {
        let scores = uniform(&tensor(100, 100), 3, Granularity::Weight, 0.2, 7).unwrap();
        let zeros = scores.iter().filter(|s| **s <= 0.0).count();
        assert!((1800..2200).contains(&zeros), "{zeros}");
        assert_ne!(scores, uniform(&tensor(100, 100), 4, Granularity::Weight, 0.2, 7).unwrap());
    }

    #[test]
    fn a_tensor_that_does_not_divide_is_refused() {
        let block = Granularity::Block { rows: 3, cols: 1 };
        let error = magnitude_ranks(&tensor(4, 3), &[0.0; 12], block, 0.0).unwrap_err();
        assert!(matches!(error, TrainError::Indivisible { .. }));
    }
}
