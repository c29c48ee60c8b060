//! Where scores start, and how they become a mask.

use overmask::base::MaskableTensor;
use overmask::mask::{Granularity, Mask};

use super::TrainError;
use super::graph::units;

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
    let [down, across] = units(tensor, granularity)?;
    let (rows, cols) = (tensor.outputs / down, tensor.inputs / across);
    let mut energy = vec![0f64; down * across];
    for (output, row) in weights.chunks_exact(tensor.inputs).enumerate() {
        for (input, w) in row.iter().enumerate() {
            energy[output / rows * across + input / cols] += f64::from(*w) * f64::from(*w);
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

/// The mask that scores stand for: what is above zero is kept.
///
/// # Errors
/// When there are not as many scores as units.
pub fn to_mask(tensor: &MaskableTensor, scores: &[f32], granularity: Granularity) -> Result<Mask, TrainError> {
    Ok(Mask::from_units(granularity, tensor.outputs, tensor.inputs, scores.iter().map(|s| *s > 0.0))?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn tensor(outputs: usize, inputs: usize) -> MaskableTensor {
        MaskableTensor { name: "w".into(), outputs, inputs, layer: 0 }
    }

    #[test]
    fn the_smallest_weights_start_as_zeros() {
        let weights: Vec<f32> = (0..100).map(|i| if i % 2 == 0 { i as f32 } else { -(i as f32) }).collect();
        let scores = magnitude_ranks(&tensor(10, 10), &weights, Granularity::Weight, 0.25).unwrap();
        let mask = to_mask(&tensor(10, 10), &scores, Granularity::Weight).unwrap();
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
    fn a_tensor_that_does_not_divide_is_refused() {
        let block = Granularity::Block { rows: 3, cols: 1 };
        let error = magnitude_ranks(&tensor(4, 3), &[0.0; 12], block, 0.0).unwrap_err();
        assert!(matches!(error, TrainError::Indivisible { .. }));
    }
}
