//! How sure a metric is: percentile intervals of the bootstrap (Efron & Tibshirani, *An
//! Introduction to the Bootstrap*, 1993, chapter 13).
//!
//! The texts that were measured stand for all that might have been: as many are drawn from them,
//! with replacement, many times over, and the metric of each such selection is taken. Most of these
//! values lie between the interval's ends.

use serde::Serialize;

use crate::data::rng;

/// How intervals are estimated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// How many selections are drawn.
    pub resamples: usize,
    /// The share of their values between the ends, 0 to 1; what lies outside is the nearer of the
    /// two.
    pub level: f64,
    /// Decides which texts are drawn.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 1000 selections, 95 %, seed 0.
    fn default() -> Self {
        Self { resamples: 1000, level: 0.95, seed: 0 }
    }
}

/// Between which values a metric lies. A report has it as `[low, high]`, null for NaN.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(into = "[f64; 2]")]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl From<Interval> for [f64; 2] {
    fn from(interval: Interval) -> Self {
        [interval.low, interval.high]
    }
}

impl Bootstrap {
    /// The interval of a statistic of `n` texts, which gets the numbers of those drawn: `n` of
    /// them, each below `n`, some of them more than once.
    ///
    /// Selection `i` depends on the seed, `i` and `n` alone. So two models can be compared on the
    /// same texts: take the difference of their metrics as the statistic, and see whether 0 lies
    /// within the interval.
    ///
    /// Without texts, both ends are what the statistic makes of nothing. They are NaN where there is
    /// no selection, and where the level or the statistic of a selection is NaN.
    pub fn interval(&self, n: usize, statistic: impl Fn(&[usize]) -> f64) -> Interval {
        let mut drawn = vec![0; n];
        let mut values = Vec::with_capacity(self.resamples);
        for resample in 0..self.resamples {
            let mut rng = rng::generator(self.seed, rng::stream::BOOTSTRAP, resample as u64);
            drawn.fill_with(|| rng::below(&mut rng, n as u64) as usize);
            values.push(statistic(&drawn));
        }
        values.sort_unstable_by(f64::total_cmp);
        let outside = 1.0 - self.level.clamp(0.0, 1.0);
        Interval { low: quantile(&values, outside / 2.0), high: quantile(&values, 1.0 - outside / 2.0) }
    }
}

/// The value below which a share of the sorted values lies, on the line between its neighbours
/// (definition 7 of Hyndman & Fan, *Sample quantiles in statistical packages*, 1996, NumPy's own).
fn quantile(sorted: &[f64], share: f64) -> f64 {
    if share.is_nan() || sorted.is_empty() || sorted.iter().any(|v| v.is_nan()) {
        return f64::NAN;
    }
    let place = share * (sorted.len() - 1) as f64;
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    // Neighbours that are equal, infinite ones too, have no line between them.
    if below == above { below } else { below + (above - below) * place.fract() }
}

/// The values with these numbers, in their order: what a metric is taken of. A number that there
/// is no value for is left out.
///
/// ```
/// use overmask_exporter::metrics::{Bootstrap, accuracy, pick};
///
/// let (gold, predicted) = ([0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 1, 1]);
/// let statistic = |drawn: &[usize]| accuracy(&pick(&gold, drawn), &pick(&predicted, drawn));
/// let interval = Bootstrap::default().interval(gold.len(), statistic);
/// assert!(interval.low < 4.0 / 6.0 && 4.0 / 6.0 < interval.high);
/// ```
pub fn pick<T: Copy>(values: &[T], numbers: &[usize]) -> Vec<T> {
    numbers.iter().filter_map(|i| values.get(*i).copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;
    use crate::metrics::accuracy;

    /// What `Bootstrap` hands to its statistic.
    fn selections(bootstrap: Bootstrap, n: usize) -> Vec<Vec<usize>> {
        let seen = RefCell::new(vec![]);
        bootstrap.interval(n, |drawn| {
            seen.borrow_mut().push(drawn.to_vec());
            0.0
        });
        seen.into_inner()
    }

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    /// These values are what a seed means: published intervals rest on them.
    #[test]
    fn the_selections_of_a_seed_never_change() {
        let bootstrap = Bootstrap { resamples: 2, seed: 7, ..Default::default() };
        assert_eq!(selections(bootstrap, 8), SELECTIONS);
    }
    const SELECTIONS: [[usize; 8]; 2] = [[4, 4, 5, 4, 0, 4, 5, 6], [0, 5, 7, 3, 0, 4, 1, 4]];

    #[test]
    fn more_selections_keep_the_first_ones() {
        let of = |resamples| selections(Bootstrap { resamples, ..Default::default() }, 20);
        assert_eq!(of(10)[..4], of(4));
        assert_ne!(of(4), selections(Bootstrap { resamples: 4, seed: 1, ..Default::default() }, 20));
    }

    /// Values of NumPy 2.4.6's `percentile`.
    #[test]
    fn quantiles_are_those_of_numpy() {
        let values = [1.0, 2.0, 4.0, 8.0, 16.0];
        for (share, expected) in [(0.025, 1.1), (0.975, 15.2), (0.1, 1.4), (0.9, 12.8), (0.0, 1.0), (1.0, 16.0)] {
            assert!((quantile(&values, share) - expected).abs() < 1e-12, "{share}");
        }
        assert_eq!(quantile(&[f64::NEG_INFINITY; 3], 0.3), f64::NEG_INFINITY);
    }

    /// The accuracy of 400 texts, 80 % of them right, has a standard error of 0.02.
    #[test]
    fn the_interval_of_an_accuracy_is_about_two_standard_errors_wide() {
        let gold = [0; 400];
        let predicted: Vec<usize> = (0..400).map(|i| usize::from(i % 5 == 0)).collect();
        for seed in 0..5 {
            let bootstrap = Bootstrap { seed, ..Default::default() };
            let interval = bootstrap.interval(400, |drawn| accuracy(&pick(&gold, drawn), &pick(&predicted, drawn)));
            assert!((interval.low - 0.7608).abs() < 0.006, "{interval:?}");
            assert!((interval.high - 0.8392).abs() < 0.006, "{interval:?}");
        }
    }

    #[test]
    fn degenerate_input_has_defined_ends() {
        let bootstrap = Bootstrap { resamples: 20, ..Default::default() };
        let no_texts = bootstrap.interval(0, |drawn| drawn.len() as f64);
        assert_eq!(no_texts, Interval { low: 0.0, high: 0.0 });
        assert_eq!(bootstrap.interval(5, |_| 0.5), Interval { low: 0.5, high: 0.5 });
        let none = Bootstrap { resamples: 0, ..Default::default() }.interval(5, |_| 0.5);
        assert!(none.low.is_nan() && none.high.is_nan());
        let level = Bootstrap { level: f64::NAN, ..Default::default() }.interval(5, |_| 0.5);
        assert!(level.low.is_nan() && level.high.is_nan());
        let broken = bootstrap.interval(5, |drawn| if drawn[0] == 0 { f64::NAN } else { 1.0 });
        assert!(broken.low.is_nan() && broken.high.is_nan());
        for (level, width) in [(-1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (9.0, 1.0)] {
            let values = [0.0, 1.0];
            let bootstrap = Bootstrap { level, resamples: 101, seed: 0 };
            let interval = bootstrap.interval(2, |drawn| values[drawn[0]]);
            assert_eq!(interval.high - interval.low, width, "{level}");
        }
    }

    #[test]
    fn an_interval_is_written_as_two_numbers() {
        let json = |low, high| serde_json::to_string(&Interval { low, high }).unwrap();
        assert_eq!((json(0.5, 0.75), json(f64::NAN, 1.0)), ("[0.5,0.75]".to_owned(), "[null,1.0]".to_owned()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_wider_level_holds_the_narrower(values in prop::collection::vec(-5.0f64..5.0, 1..30), seed: u64) {
            let of = |level| {
                let bootstrap = Bootstrap { resamples: 100, level, seed };
                bootstrap.interval(values.len(), |drawn| mean(&pick(&values, drawn)))
            };
            let (narrow, wide) = (of(0.5), of(0.95));
            prop_assert!(wide.low <= narrow.low && narrow.low <= narrow.high && narrow.high <= wide.high);
            let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(l, m), v| (l.min(*v), m.max(*v)));
            prop_assert!(least - 1e-9 <= wide.low && wide.high <= most + 1e-9);
        }

        #[test]
        fn every_number_is_drawn_and_none_beyond(n in 1usize..50, seed: u64) {
            let drawn = selections(Bootstrap { resamples: 60, seed, ..Default::default() }, n);
            prop_assert!(drawn.iter().all(|d| d.len() == n && d.iter().all(|i| *i < n)));
            let seen: std::collections::BTreeSet<usize> = drawn.concat().into_iter().collect();
            prop_assert_eq!(seen.len(), n);
        }
    }
}
