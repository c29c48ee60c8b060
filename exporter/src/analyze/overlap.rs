//! How many zeros packs share, beside what chance would give.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use overmask::base::Base;
use overmask::codec::{CLASSES, classes};
use overmask::mask::{Granularity, Mask};
use overmask::pack::Pack;
use serde::Serialize;

use super::AnalyzeError;

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
struct Zeros {
    keep: Vec<bool>,
    by_class: [f64; CLASSES],
}

impl Zeros {
    fn new(mask: &Mask, classes: &[u8]) -> Self {
        let keep = mask.expand();
        let mut by_class = [0.0; CLASSES];
        for (_, class) in keep.iter().zip(classes).filter(|(keep, _)| !**keep) {
            by_class[usize::from(*class).min(CLASSES - 1)] += 1.0;
        }
        Zeros { keep, by_class }
    }

    fn count(&self) -> f64 {
        self.by_class.iter().sum()
    }
}

/// Sums over tensors, a value a pair of packs.
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
            for (j, b) in found.iter().enumerate() {
                let Some(b) = b else { continue };
                both[i][j] += a.keep.iter().zip(&b.keep).filter(|(a, b)| !**a && !**b).count() as f64;
                chance[i][j] += a.count() * b.count() / classes.len() as f64;
                let pairs = a.by_class.iter().zip(&b.by_class).zip(&sizes);
                by_magnitude[i][j] += pairs.filter(|(_, size)| **size > 0.0).map(|((a, b), n)| a * b / n).sum::<f64>();
            }
        }
    }
    let share = |matrix: Matrix| -> Matrix {
        let value = |i: usize, j: usize, sum: f64| {
            let smaller = zeros[i].min(zeros[j]);
            if smaller > 0.0 { sum / smaller } else { 0.0 }
        };
        let row = |(i, row): (usize, Vec<f64>)| row.into_iter().enumerate().map(|(j, sum)| value(i, j, sum)).collect();
        matrix.into_iter().enumerate().map(row).collect()
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
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn zeros_are_counted_by_class() {
        let mask = Mask::from_units(Granularity::Weight, 2, 2, [false, true, false, false].into_iter()).unwrap();
        let zeros = Zeros::new(&mask, &[0, 0, 0, 63]);
        assert_eq!((zeros.by_class[0], zeros.by_class[63], zeros.count()), (2.0, 1.0, 3.0));
    }
}
