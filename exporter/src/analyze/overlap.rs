//! How many zeros packs share, beside what chance would give.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use overmask::base::Base;
use overmask::codec::{CLASSES, classes};
use overmask::mask::{Granularity, Mask};
use overmask::pack::Pack;
use serde::Serialize;

use super::AnalyzeError;
use super::diff::zeros_in_both;

/// The overlap of every pair of packs: |A ∩ B| / min(|A|, |B|) of their zeros (Szymkiewicz and
/// Simpson's coefficient, 1 where one holds the other; 0 for a pack without zeros).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overlaps {
    /// Always `overlap`.
    pub analysis: &'static str,
    /// The packs' names.
    pub packs: Vec<String>,
    /// What there is.
    pub observed: Vec<Vec<f64>>,
    /// What independent masks with as many zeros in each tensor would share.
    pub chance: Vec<Vec<f64>>,
    /// The same for masks with as many zeros in each class of magnitude of each tensor
    /// ([`overmask::codec::classes`] of single weights): two tasks that zero small weights share
    /// zeros for that reason alone.
    pub chance_by_magnitude: Vec<Vec<f64>>,
}

/// Zeros of a tensor.
struct Zeros<'a> {
    mask: &'a Mask,
    by_class: [f64; CLASSES],
}

impl<'a> Zeros<'a> {
    fn new(mask: &'a Mask, classes: &[u8]) -> Self {
        let mut by_class = [0.0; CLASSES];
        for (_, class) in mask.expand().iter().zip(classes).filter(|(keep, _)| !**keep) {
            by_class[usize::from(*class).min(CLASSES - 1)] += 1.0;
        }
        Zeros { mask, by_class }
    }

    fn count(&self) -> f64 {
        self.by_class.iter().sum()
    }
}

/// A value a pair of packs.
type Matrix = Vec<Vec<f64>>;

/// Compares the zeros of packs, pair by pair.
///
/// # Errors
/// When a pack is not for this base, or a tensor cannot be read.
pub fn overlaps(base: &Base, packs: &[impl Borrow<Pack>]) -> Result<Overlaps, AnalyzeError> {
    let packs: Vec<&Pack> = packs.iter().map(Borrow::borrow).collect();
    packs.iter().try_for_each(|pack| pack.check_base(base))?;
    let n = packs.len();
    let masks: Vec<BTreeMap<&str, &Mask>> =
        packs.iter().map(|pack| pack.masks.iter().map(|m| (m.tensor.as_str(), &m.mask)).collect()).collect();
    // Sums over tensors, of the pairs (i, j) with i <= j: the others have the same.
    let (mut both, mut chance, mut by_magnitude) = (square(n), square(n), square(n));
    let mut zeros = vec![0.0; n];
    for tensor in &base.manifest().maskable {
        let classes = classes(&base.int8(tensor)?, Granularity::Weight);
        let mut sizes = [0.0; CLASSES];
        classes.iter().for_each(|class| sizes[usize::from(*class).min(CLASSES - 1)] += 1.0);
        let found: Vec<Option<Zeros>> =
            masks.iter().map(|masks| masks.get(tensor.name.as_str()).map(|mask| Zeros::new(mask, &classes))).collect();
        for (i, a) in found.iter().enumerate() {
            let Some(a) = a else { continue };
            zeros[i] += a.count();
            for (j, b) in found.iter().enumerate().skip(i) {
                let Some(b) = b else { continue };
                let wrong = |source| AnalyzeError::Mask { tensor: tensor.name.clone(), source };
                both[i][j] += zeros_in_both(a.mask, b.mask).map_err(wrong)? as f64;
                chance[i][j] += a.count() * b.count() / classes.len() as f64;
                let pairs = a.by_class.iter().zip(&b.by_class).zip(&sizes);
                by_magnitude[i][j] += pairs.filter(|(_, size)| **size > 0.0).map(|((a, b), n)| a * b / n).sum::<f64>();
            }
        }
    }
    let share = |sums: Matrix| -> Matrix {
        let value = |i: usize, j: usize| {
            let smaller = zeros[i].min(zeros[j]);
            if smaller > 0.0 { sums[i.min(j)][i.max(j)] / smaller } else { 0.0 }
        };
        (0..n).map(|i| (0..n).map(|j| value(i, j)).collect()).collect()
    };
    Ok(Overlaps {
        analysis: "overlap",
        packs: packs.iter().map(|pack| pack.document.name.clone()).collect(),
        observed: share(both),
        chance: share(chance),
        chance_by_magnitude: share(by_magnitude),
    })
}

fn square(n: usize) -> Matrix {
    vec![vec![0.0; n]; n]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{base, pack};
    use super::*;
    use crate::analyze::AnalyzeError;

    #[test]
    fn zeros_are_counted_by_class() {
        let mask = Mask::from_units(Granularity::Weight, 2, 2, [false, true, false, false].into_iter()).unwrap();
        let zeros = Zeros::new(&mask, &[0, 0, 0, 63]);
        assert_eq!((zeros.by_class[0], zeros.by_class[63], zeros.count()), (2.0, 1.0, 3.0));
    }

    #[track_caller]
    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
    }

    /// Tensor 0 has 32 x 32 weights, tensor 1 too.
    #[test]
    fn shared_zeros_are_divided_by_those_of_the_smaller() {
        let (_dir, base) = base();
        let packs = [
            pack(&base, "ten", &[(0, &|w| w < 10)]),
            pack(&base, "twenty", &[(0, &|w| (5..25).contains(&w))]),
            pack(&base, "elsewhere", &[(1, &|w| w < 10)]),
            pack(&base, "both", &[(0, &|w| w < 4), (1, &|w| w < 16)]),
            pack(&base, "none", &[]),
        ];
        let found = overlaps(&base, &packs).unwrap();
        assert_eq!(found.packs, ["ten", "twenty", "elsewhere", "both", "none"]);
        let expected = [
            // Of ten zeros 5 to 9 are among the twenty, 0 to 3 among those of `both`.
            [1.0, 0.5, 0.0, 0.4, 0.0],
            [0.5, 1.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 1.0, 0.0],
            [0.4, 0.0, 1.0, 1.0, 0.0],
            [0.0; 5],
        ];
        assert_eq!(found.observed, expected);
        // Tensor by tensor: 10 · 20 / 1024 zeros would be shared, of ten.
        assert_close(found.chance[0][1], 20.0 / 1024.0);
        assert_close(found.chance[0][2], 0.0);
        assert_close(found.chance[0][3], 4.0 / 1024.0);
        assert_close(found.chance[1][3], 20.0 * 4.0 / 1024.0 / 20.0);
        assert_close(found.chance[3][3], (4.0 * 4.0 + 16.0 * 16.0) / 1024.0 / 20.0);
    }

    #[test]
    fn chance_by_magnitude_knows_which_weights_are_small() {
        let (_dir, base) = base();
        let class = classes(&base.int8(&base.manifest().maskable[0]).unwrap(), Granularity::Weight);
        let size = |wanted: u8| class.iter().filter(|c| **c == wanted).count() as f64;
        let (smallest, next) = (class.iter().min().unwrap(), class.iter().filter(|c| **c > 0).min().unwrap());
        let first = class.iter().position(|c| c == smallest).unwrap();
        let packs = [
            pack(&base, "smallest", &[(0, &|w| class[w] == *smallest)]),
            pack(&base, "two classes", &[(0, &|w| class[w] == *smallest || class[w] == *next)]),
            pack(&base, "next", &[(0, &|w| class[w] == *next)]),
            pack(&base, "one", &[(0, &|w| w == first)]),
        ];
        let Overlaps { observed, chance, chance_by_magnitude: by_magnitude, .. } = overlaps(&base, &packs).unwrap();
        // Whole classes: there is no choice left, and chance gives what there is.
        for (i, j, shared) in [(0, 0, 1.0), (0, 1, 1.0), (0, 2, 0.0), (1, 2, 1.0)] {
            assert_close(observed[i][j], shared);
            assert_close(by_magnitude[i][j], shared);
        }
        assert_close(chance[0][1], (size(*smallest) + size(*next)) / 1024.0);
        // One weight of a class, twice: the same one by chance in as many cases as the class has weights.
        assert_close(observed[3][3], 1.0);
        assert_close(by_magnitude[3][3], 1.0 / size(*smallest));
        assert_close(chance[3][3], 1.0 / 1024.0);
    }

    #[test]
    fn masks_of_different_units_are_compared_weight_by_weight() {
        let (_dir, base) = base();
        let weights = pack(&base, "weights", &[(0, &|w| (32..96).contains(&w))]);
        let mut blocks = pack(&base, "blocks", &[(0, &|_| false)]);
        // The first of the blocks of two whole rows: weights 0 to 63.
        let granularity = Granularity::Block { rows: 2, cols: 32 };
        blocks.masks[0].mask = Mask::from_units(granularity, 32, 32, (0..16).map(|unit| unit > 0)).unwrap();
        let found = overlaps(&base, &[weights, blocks]).unwrap();
        assert_eq!(found.observed, [[1.0, 0.5], [0.5, 1.0]]);
        assert_close(found.chance[1][0], 64.0 / 1024.0);
    }

    #[test]
    fn a_pack_of_another_base_is_refused() {
        let (_dir, base) = base();
        let mut other = pack(&base, "other", &[]);
        other.document.base_id = "0".repeat(64);
        let error = overlaps(&base, &[pack(&base, "a", &[]), other]).unwrap_err();
        assert!(matches!(error, AnalyzeError::Pack(_)) && error.to_string().contains("`base_id`"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn overlaps_are_symmetric_and_a_pack_shares_all_with_itself(steps in prop::collection::vec(2usize..40, 3)) {
            let (_dir, base) = base();
            let packs: Vec<Pack> = steps
                .iter()
                .map(|step| pack(&base, "p", &[(0, &|w| w % step == 0), (4, &|w| w % (step + 1) == 1)]))
                .collect();
            let Overlaps { observed, chance, chance_by_magnitude, .. } = overlaps(&base, &packs).unwrap();
            for (i, j) in (0..3).flat_map(|i| (0..3).map(move |j| (i, j))) {
                prop_assert_eq!(observed[i][i], 1.0);
                for matrix in [&observed, &chance, &chance_by_magnitude] {
                    prop_assert_eq!(matrix[i][j], matrix[j][i]);
                    prop_assert!((0.0..=1.0 + 1e-12).contains(&matrix[i][j]));
                }
            }
        }
    }
}
