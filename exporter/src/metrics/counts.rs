//! Precision, recall and F1 (van Rijsbergen, *Information Retrieval*, 1979), whatever is counted.

use std::iter::Sum;
use std::ops::AddAssign;

use serde::Serialize;

/// How often something was true, predicted, and both. Counts of texts or labels may be added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// True and predicted.
    pub hits: u64,
    /// True, predicted or not.
    pub gold: u64,
    /// Predicted, true or not.
    pub predicted: u64,
}

impl Counts {
    /// Counts one case more.
    pub(super) fn add(&mut self, gold: bool, predicted: bool) {
        self.hits += u64::from(gold && predicted);
        self.gold += u64::from(gold);
        self.predicted += u64::from(predicted);
    }

    /// The share of what was predicted that is true, 0 to 1.
    pub fn precision(&self) -> f64 {
        share(self.hits, self.predicted)
    }

    /// The share of what is true that was predicted, 0 to 1.
    pub fn recall(&self) -> f64 {
        share(self.hits, self.gold)
    }

    /// The harmonic mean of precision and recall, 0 to 1.
    pub fn f1(&self) -> f64 {
        share(2 * self.hits, self.gold + self.predicted)
    }
}

/// A part of a whole; 0 where the whole is nothing.
pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.gold += other.gold;
        self.predicted += other.predicted;
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        let mut sum = Self::default();
        all.for_each(|counts| sum += counts);
        sum
    }
}

/// What a report says of a label, or of all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Scores {
    /// The share of what was predicted that is true, 0 to 1.
    pub precision: f64,
    /// The share of what is true that was predicted, 0 to 1.
    pub recall: f64,
    /// The harmonic mean of the two, 0 to 1.
    pub f1: f64,
    /// How often it is true.
    pub support: u64,
}

impl From<Counts> for Scores {
    fn from(counts: Counts) -> Self {
        Self { precision: counts.precision(), recall: counts.recall(), f1: counts.f1(), support: counts.gold }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_of_nothing_are_zero() {
        let nothing = Scores::from(Counts::default());
        assert_eq!(nothing, Scores { precision: 0.0, recall: 0.0, f1: 0.0, support: 0 });
        let unseen = Counts { hits: 0, gold: 0, predicted: 3 };
        assert_eq!((unseen.precision(), unseen.recall(), unseen.f1()), (0.0, 0.0, 0.0));
    }

    proptest! {
        #[test]
        fn f1_is_the_harmonic_mean(hits in 1u64..1000, missed in 0u64..1000, wrong in 0u64..1000) {
            let counts = Counts { hits, gold: hits + missed, predicted: hits + wrong };
            let (p, r) = (counts.precision(), counts.recall());
            prop_assert!((counts.f1() - 2.0 * p * r / (p + r)).abs() < 1e-12);
        }

        #[test]
        fn a_sum_counts_every_case(cases in prop::collection::vec(any::<(bool, bool)>(), 0..50)) {
            let one = |(gold, predicted): (bool, bool)| {
                let mut counts = Counts::default();
                counts.add(gold, predicted);
                counts
            };
            let sum: Counts = cases.iter().copied().map(one).sum();
            prop_assert_eq!(sum.gold, cases.iter().filter(|c| c.0).count() as u64);
            prop_assert_eq!(sum.predicted, cases.iter().filter(|c| c.1).count() as u64);
            prop_assert_eq!(sum.hits, cases.iter().filter(|c| c.0 && c.1).count() as u64);
        }
    }
}
