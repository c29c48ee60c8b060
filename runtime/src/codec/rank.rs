//! The context of a mask bit: how large the unit's weights are within their tensor.
//!
//! Training starts from scores that are ranks of magnitudes, so a unit's rank says most of what
//! can be said about its bit. The rank is that of the int8 codes times their scales, which every
//! variant of a base has; a unit's class is its rank in [`CLASSES`] steps.

use crate::base::Int8Tensor;
use crate::mask::Granularity;

/// Number of classes.
pub const CLASSES: usize = 64;

/// How many bits of an f32 its key drops: keys keep sign, exponent and 11 bits of fraction.
const DROPPED: u32 = 12;

/// The largest code's magnitude, and so the number of different ones, less one.
const LARGEST: usize = 128;

/// The class of every unit, row by row.
///
/// A unit's magnitude is |code| · scale for a weight, and the mean of the squares of these over a
/// block. Its class is ⌊64 · below / units⌋ with the number of units whose key, the upper 20 bits
/// of the magnitude as f32, is lower.
///
/// For `2:4`, what matters first is the place among the four: the class is 16 times the number of
/// weights of the group whose |code| is lower, or equal and before it, plus ⌊class / 4⌋ of the weight.
pub fn classes(tensor: &Int8Tensor, granularity: Granularity) -> Vec<u8> {
    match granularity {
        Granularity::Weight => of_weights(tensor),
        Granularity::TwoOfFour => of_groups(tensor),
        Granularity::Block { rows, cols } => of_blocks(tensor, (rows as usize).max(1), (cols as usize).max(1)),
    }
}

fn of_weights(tensor: &Int8Tensor) -> Vec<u8> {
    // A row has no more than 129 different magnitudes: those are counted and ranked.
    let counts: Vec<[u32; LARGEST + 1]> = tensor.rows().map(|(codes, _)| count(codes)).collect();
    let magnitude = |scale: f32, code: usize| scale * code as f32;
    let mut ranks = Ranks::over(tensor.rows().flat_map(|(_, scale)| [magnitude(scale, 1), magnitude(scale, LARGEST)]));
    for ((_, scale), counts) in tensor.rows().zip(&counts) {
        for (code, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            ranks.add(magnitude(scale, code), *count);
        }
    }
    ranks.finish();
    let mut classes = Vec::with_capacity(tensor.outputs() * tensor.inputs());
    for (codes, scale) in tensor.rows() {
        let table: [u8; LARGEST + 1] = std::array::from_fn(|code| ranks.class(magnitude(scale, code)));
        classes.extend(codes.iter().map(|code| table[usize::from(code.unsigned_abs())]));
    }
    classes
}

fn of_groups(tensor: &Int8Tensor) -> Vec<u8> {
    let mut classes = of_weights(tensor);
    let rows = classes.chunks_exact_mut(tensor.inputs().max(1)).zip(tensor.rows());
    for (classes, (codes, _)) in rows {
        for (classes, codes) in classes.chunks_mut(4).zip(codes.chunks(4)) {
            for (i, class) in classes.iter_mut().enumerate() {
                let this = codes[i].unsigned_abs();
                let before = codes[..i].iter().filter(|code| code.unsigned_abs() <= this).count();
                let after = codes[i + 1..].iter().filter(|code| code.unsigned_abs() < this).count();
                *class = 16 * (before + after) as u8 + *class / 4;
            }
        }
    }
    classes
}

/// How often each magnitude comes. Four counters for each: neighbours are often equal, and one
/// counter would have to wait for itself.
fn count(codes: &[i8]) -> [u32; LARGEST + 1] {
    let mut counts = [[0u32; LARGEST + 1]; 4];
    let (fours, rest) = codes.as_chunks::<4>();
    for four in fours {
        for (counts, code) in counts.iter_mut().zip(four) {
            counts[usize::from(code.unsigned_abs())] += 1;
        }
    }
    for code in rest {
        counts[0][usize::from(code.unsigned_abs())] += 1;
    }
    std::array::from_fn(|i| counts.iter().map(|c| c[i]).sum())
}

fn of_blocks(tensor: &Int8Tensor, rows: usize, cols: usize) -> Vec<u8> {
    let across = tensor.inputs().div_ceil(cols);
    let mut energies = Vec::with_capacity(tensor.outputs().div_ceil(rows) * across);
    let all: Vec<_> = tensor.rows().collect();
    for band in all.chunks(rows) {
        let mut sums = vec![0f64; across];
        for (codes, scale) in band {
            let square = f64::from(*scale) * f64::from(*scale);
            for (sum, codes) in sums.iter_mut().zip(codes.chunks(cols)) {
                let squares: u64 = codes.iter().map(|c| u64::from(c.unsigned_abs()).pow(2)).sum();
                *sum += squares as f64 * square;
            }
        }
        for (i, sum) in sums.into_iter().enumerate() {
            let width = cols.min(tensor.inputs() - i * cols);
            energies.push((sum / (band.len() * width) as f64) as f32);
        }
    }
    let mut ranks = Ranks::over(energies.iter().copied());
    energies.iter().for_each(|e| ranks.add(*e, 1));
    ranks.finish();
    energies.iter().map(|e| ranks.class(*e)).collect()
}

/// Counts of magnitudes by key, then classes by key.
struct Ranks {
    lowest: u32,
    /// Units a key, from the lowest above 0 on; entry 0 is for key 0.
    counts: Vec<u64>,
    classes: Vec<u8>,
}

impl Ranks {
    /// For magnitudes between the smallest and the largest of these, and for those of key 0.
    fn over(magnitudes: impl Iterator<Item = f32>) -> Self {
        let keys = magnitudes.map(key).filter(|key| *key > 0);
        let (lowest, highest) = keys.fold((u32::MAX, 0), |(low, high), k| (low.min(k), high.max(k)));
        let size = if lowest > highest { 1 } else { (highest - lowest) as usize + 2 };
        Ranks { lowest, counts: vec![0; size], classes: Vec::new() }
    }

    fn index(&self, magnitude: f32) -> usize {
        match key(magnitude) {
            0 => 0,
            key => (key.saturating_sub(self.lowest) as usize + 1).min(self.counts.len() - 1),
        }
    }

    fn add(&mut self, magnitude: f32, count: u32) {
        let index = self.index(magnitude);
        self.counts[index] += u64::from(count);
    }

    fn finish(&mut self) {
        let units: u64 = self.counts.iter().sum();
        let mut below = 0u64;
        for count in &self.counts {
            // An empty tensor has no units to ask for.
            self.classes.push((below * CLASSES as u64 / units.max(1)).min(CLASSES as u64 - 1) as u8);
            below += count;
        }
    }

    fn class(&self, magnitude: f32) -> u8 {
        self.classes[self.index(magnitude)]
    }
}

fn key(magnitude: f32) -> u32 {
    magnitude.to_bits() >> DROPPED
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word by word.
    fn slow(tensor: &Int8Tensor, granularity: Granularity) -> Vec<u8> {
        let (rows, cols) = granularity.block();
        let all: Vec<_> = tensor.rows().collect();
        let mut magnitudes = Vec::new();
        for top in (0..tensor.outputs()).step_by(rows) {
            for left in (0..tensor.inputs()).step_by(cols) {
                let band = &all[top..tensor.outputs().min(top + rows)];
                let right = tensor.inputs().min(left + cols);
                let squares = band.iter().map(|(codes, scale)| {
                    let squares: i64 = codes[left..right].iter().map(|c| i64::from(*c).pow(2)).sum();
                    squares as f64 * (f64::from(*scale) * f64::from(*scale))
                });
                let mean = squares.fold(0.0, |a, b| a + b) / (band.len() * (right - left)) as f64;
                let weight = f32::from(band[0].0[left].unsigned_abs()) * band[0].1;
                magnitudes.push(if granularity == Granularity::Weight { weight } else { mean as f32 });
            }
        }
        let key = |m: f32| m.to_bits() >> 12;
        let below = |m: f32| magnitudes.iter().filter(|o| key(**o) < key(m)).count();
        magnitudes.iter().map(|m| (64 * below(*m) / magnitudes.len()) as u8).collect()
    }

    #[test]
    fn larger_weights_have_higher_classes() {
        let weights: Vec<f32> = (0..127).map(|i| if i % 2 == 0 { i as f32 } else { -(i as f32) }).collect();
        let classes = classes(&Int8Tensor::quantize(&weights, 127), Granularity::Weight);
        assert!(classes.is_sorted() && classes[0] == 0 && classes[126] == 63, "{classes:?}");
    }

    #[test]
    fn in_a_group_of_four_the_place_comes_first() {
        let weights = [4.0, -1.0, 4.0, 2.0, 0.5, 127.0];
        let found = classes(&Int8Tensor::quantize(&weights, 6), Granularity::TwoOfFour);
        assert_eq!(found.iter().map(|class| class / 16).collect::<Vec<_>>(), [2, 0, 3, 1, 0, 1]);
        let alone = classes(&Int8Tensor::quantize(&weights, 6), Granularity::Weight);
        assert!(found.iter().zip(alone).all(|(class, weight)| class % 16 == weight / 4));
    }

    #[test]
    fn a_tensor_of_zeros_has_one_class() {
        for granularity in [Granularity::Weight, Granularity::Block { rows: 2, cols: 2 }] {
            let classes = classes(&Int8Tensor::quantize(&[0.0; 12], 4), granularity);
            assert!(classes.iter().all(|c| *c == 0));
        }
    }

    proptest! {
        #[test]
        fn classes_are_those_of_the_definition(
            (outputs, inputs) in (1usize..9, 1usize..40),
            seed in prop::collection::vec(-2f32..2.0, 1..60),
            // The squares of some blocks, and the magnitudes of some weights, are next to nothing.
            tiny in prop_oneof![Just(1f32), Just(1e-21), Just(1e-38)],
            rows in 1u32..5,
            cols in 1u32..5,
        ) {
            let weights: Vec<f32> = seed.iter().cycle().take(outputs * inputs).enumerate()
                .map(|(i, w)| w * tiny * (1.0 + (i / inputs) as f32)).collect();
            let tensor = Int8Tensor::quantize(&weights, inputs);
            for granularity in [Granularity::Weight, Granularity::Block { rows, cols }] {
                prop_assert_eq!(classes(&tensor, granularity), slow(&tensor, granularity));
            }
        }
    }
}
