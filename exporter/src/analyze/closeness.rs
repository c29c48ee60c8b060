//! How far a pack's weights are from the pre-trained ones (Radiya-Dixit & Wang, *How fine can
//! fine-tuning be?*, 2020, "L1 distance" and "angular distance"), beside how far weights of a
//! random initialisation are from them.

use half::f16;
use overmask::base::family::module;
use overmask::base::{Base, MaskableTensor};
use overmask::pack::Pack;
use serde::Serialize;

use super::AnalyzeError;
use crate::data::rng;

/// The standard deviation with which BERT's linear weights are initialised.
const INIT_DEVIATION: f64 = 0.02;

/// How far a pack's maskable tensors are from the base's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Closeness {
    /// Always `closeness`.
    pub analysis: &'static str,
    /// The pack's name.
    pub pack: String,
    /// The maskable tensors that the pack masks or replaces, in the order of the base's manifest.
    pub tensors: Vec<TensorDistance>,
}

/// How far a tensor is from the base's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorDistance {
    /// The tensor's name.
    pub tensor: String,
    /// Its layer.
    pub layer: usize,
    /// Its module, as `--modules` of `train` names it.
    pub module: String,
    /// The mean absolute difference a weight: the L1 distance over the number of weights.
    pub l1: f64,
    /// The angle between the two as vectors, in radians.
    pub angle: f64,
    /// The mean absolute difference of a random initialisation (normal, deviation 0.02 as BERT's).
    pub l1_random: f64,
    /// The angle to it.
    pub angle_random: f64,
    /// The number of weights.
    #[serde(skip)]
    pub weights: usize,
    /// The share of weights whose value as f16 did not change.
    pub unchanged: f64,
}

/// The means of several tensors, each weight counting the same; angles are weighted likewise.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Total {
    /// As [`TensorDistance::l1`].
    pub l1: f64,
    /// As [`TensorDistance::angle`].
    pub angle: f64,
    /// As [`TensorDistance::l1_random`].
    pub l1_random: f64,
    /// As [`TensorDistance::angle_random`].
    pub angle_random: f64,
    /// As [`TensorDistance::unchanged`].
    pub unchanged: f64,
}

impl Closeness {
    /// Totals of groups of tensors, by layer, by module, or whatever `group` names, in the order of their first
    /// tensors.
    pub fn totals(&self, group: impl Fn(&TensorDistance) -> String) -> Vec<(String, Total)> {
        let mut sums: Vec<(String, f64, Total)> = Vec::new();
        for tensor in &self.tensors {
            let name = group(tensor);
            let place = sums.iter().position(|(of, _, _)| *of == name).unwrap_or(sums.len());
            if place == sums.len() {
                sums.push((name, 0.0, Total::default()));
            }
            let (_, count, sum) = &mut sums[place];
            let weights = tensor.weights as f64;
            *count += weights;
            sum.l1 += weights * tensor.l1;
            sum.angle += weights * tensor.angle;
            sum.l1_random += weights * tensor.l1_random;
            sum.angle_random += weights * tensor.angle_random;
            sum.unchanged += weights * tensor.unchanged;
        }
        let mean = |count: f64, sum: Total| Total {
            l1: sum.l1 / count,
            angle: sum.angle / count,
            l1_random: sum.l1_random / count,
            angle_random: sum.angle_random / count,
            unchanged: sum.unchanged / count,
        };
        sums.into_iter().map(|(name, count, sum)| (name, mean(count, sum))).collect()
    }
}

/// Measures a pack; `seed` draws the random initialisation.
///
/// # Errors
/// When the pack is not for this base, or a tensor cannot be read.
pub fn closeness(base: &Base, pack: &Pack, seed: u64) -> Result<Closeness, AnalyzeError> {
    pack.check_base(base)?;
    let mut tensors = Vec::new();
    for (place, tensor) in base.manifest().maskable.iter().enumerate() {
        let (_, weights) = base.tensor_f32(&tensor.name)?;
        if let Some(changed) = changed(pack, tensor, weights)? {
            let random = rng::normal(seed, rng::stream::INITIALISATION, place as u64, weights.len());
            let random: Vec<f32> = random.into_iter().map(|z| (f64::from(z) * INIT_DEVIATION) as f32).collect();
            let same = weights.iter().zip(&changed).filter(|(a, b)| f16::from_f32(**a) == f16::from_f32(**b)).count();
            tensors.push(TensorDistance {
                tensor: tensor.name.clone(),
                layer: tensor.layer,
                module: module(tensor),
                l1: mean_l1(weights, &changed),
                angle: angle(weights, &changed),
                l1_random: mean_l1(weights, &random),
                angle_random: angle(weights, &random),
                weights: weights.len(),
                unchanged: same as f64 / weights.len().max(1) as f64,
            });
        }
    }
    Ok(Closeness { analysis: "closeness", pack: pack.document.name.clone(), tensors })
}

/// The tensor as the pack has it, none if it is the base's.
fn changed(pack: &Pack, tensor: &MaskableTensor, weights: &[f32]) -> Result<Option<Vec<f32>>, AnalyzeError> {
    if let Some(delta) = pack.deltas.iter().find(|delta| delta.tensor == tensor.name) {
        return Ok(Some(delta.values.clone()));
    }
    let Some(named) = pack.masks.iter().find(|named| named.tensor == tensor.name) else { return Ok(None) };
    let mut masked = weights.to_vec();
    let wrong = |source| AnalyzeError::Mask { tensor: tensor.name.clone(), source };
    named.mask.apply(&mut masked).map_err(wrong)?;
    Ok(Some(masked))
}

fn mean_l1(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).sum();
    sum / a.len().max(1) as f64
}

/// From 0 to π; a right angle where one of the two is zero and so has no direction.
///
/// Taken from the chord between the unit vectors (Kahan, *How futile are mindless assessments of
/// roundoff*, 2006): the arc cosine of a dot product loses small angles.
fn angle(a: &[f32], b: &[f32]) -> f64 {
    let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let (norm_a, norm_b) = (norm(a), norm(b));
    if norm_a == 0.0 || norm_b == 0.0 {
        return std::f64::consts::FRAC_PI_2;
    }
    let (mut difference, mut sum) = (0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(*x) / norm_a, f64::from(*y) / norm_b);
        difference += (x - y).powi(2);
        sum += (x + y).powi(2);
    }
    2.0 * difference.sqrt().atan2(sum.sqrt())
}

#[cfg(test)]
mod tests {
    use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};

    use super::*;

    #[test]
    fn distances_are_those_of_the_definitions() {
        assert_eq!(mean_l1(&[1.0, -2.0, 0.5, 0.0], &[0.0, -2.0, 1.0, 0.5]), 0.5);
        for (b, expected) in [
            ([2.0, 0.0], 0.0),
            ([1.0, 1.0], FRAC_PI_4),
            ([0.0, 3.0], FRAC_PI_2),
            ([-1.0, 0.0], PI),
            ([0.0; 2], FRAC_PI_2),
        ] {
            assert!((angle(&[1.0, 0.0], &b) - expected).abs() < 1e-12, "{b:?}");
        }
        // An arc cosine would say 0 here.
        assert!((angle(&[1.0, 0.0], &[1.0, 1e-9]) - 1e-9).abs() < 1e-15);
    }

    #[test]
    fn totals_count_each_weight_once_and_keep_the_order_of_the_tensors() {
        let tensor = |layer, weights, l1| TensorDistance {
            tensor: String::new(),
            layer,
            module: "query".into(),
            l1,
            angle: l1,
            l1_random: 1.0,
            angle_random: 1.0,
            weights,
            unchanged: 0.5,
        };
        let tensors = vec![tensor(2, 1, 4.0), tensor(2, 3, 0.0), tensor(10, 4, 2.0)];
        let found = Closeness { analysis: "closeness", pack: "p".into(), tensors };
        let l1 = |totals: Vec<(String, Total)>| -> Vec<(String, f64)> {
            totals.into_iter().map(|(name, total)| (name, total.l1)).collect()
        };
        let by_layer = l1(found.totals(|t| format!("layer {}", t.layer)));
        assert_eq!(by_layer, [("layer 2".to_owned(), 1.0), ("layer 10".to_owned(), 2.0)]);
        assert_eq!(l1(found.totals(|t| t.module.clone())), [("query".to_owned(), 1.5)]);
    }
}
