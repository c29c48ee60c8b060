//! A number a text: correlations and errors.
//!
//! Where a value is not a number, neither is the result: damage must not look like a score.

/// Pearson's correlation coefficient, -1 to 1.
///
/// 0 where it is not defined: for fewer than two texts, and where all true or all predicted values
/// are the same. NaN where a value is not finite.
pub fn pearson(gold: &[f64], predicted: &[f64]) -> f64 {
    let (gold, predicted) = same_length(gold, predicted);
    if gold.iter().chain(predicted).any(|v| !v.is_finite()) {
        return f64::NAN;
    }
    if is_constant(gold) || is_constant(predicted) {
        return 0.0;
    }
    let (a, b) = (deviations(gold), deviations(predicted));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let r = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
    r.clamp(-1.0, 1.0)
}

/// Spearman's rank correlation coefficient, -1 to 1: the [`pearson`] of the ranks. Equal values
/// share the mean of the ranks that they take up.
///
/// 0 where it is not defined: for fewer than two texts, and where all true or all predicted values
/// are the same. NaN where a value is.
pub fn spearman(gold: &[f64], predicted: &[f64]) -> f64 {
    let (gold, predicted) = same_length(gold, predicted);
    if gold.iter().chain(predicted).any(|v| v.is_nan()) {
        return f64::NAN;
    }
    pearson(&ranks(gold), &ranks(predicted))
}

/// The mean of the squared differences; NaN where there is none.
pub fn mean_squared_error(gold: &[f64], predicted: &[f64]) -> f64 {
    mean(gold.iter().zip(predicted).map(|(g, p)| (g - p).powi(2)))
}

/// The mean of the absolute differences; NaN where there is none.
pub fn mean_absolute_error(gold: &[f64], predicted: &[f64]) -> f64 {
    mean(gold.iter().zip(predicted).map(|(g, p)| (g - p).abs()))
}

fn same_length<'a>(a: &'a [f64], b: &'a [f64]) -> (&'a [f64], &'a [f64]) {
    let n = a.len().min(b.len());
    (&a[..n], &b[..n])
}

fn is_constant(values: &[f64]) -> bool {
    values.iter().all(|v| *v == values[0])
}

/// The mean; no error is not a perfect one, so that of nothing is NaN.
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len();
    values.sum::<f64>() / n as f64
}

/// How far each value is from the mean, in units that leave the largest at 1: their squares
/// neither overflow nor vanish, and a correlation has no unit.
fn deviations(values: &[f64]) -> Vec<f64> {
    let mean = mean(values.iter().copied());
    let largest = values.iter().map(|v| (v - mean).abs()).fold(0.0, f64::max);
    values.iter().map(|v| (v - mean) / largest).collect()
}

/// The rank of each value from 1; equal values have the mean of theirs. None may be NaN.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    // Compared as numbers, 0 and -0 are equal, and neighbours in the order.
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = before as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|i| ranks[*i] = rank);
        before += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOLD: [f64; 8] = [0.0, 1.25, 2.5, 2.5, 3.0, 4.75, 5.0, 5.0];
    const PREDICTED: [f64; 8] = [0.5, 1.0, 3.25, 2.0, 3.25, 4.0, 4.5, 2.75];

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    /// Values of SciPy 1.17.1 and scikit-learn 1.9.1.
    #[test]
    fn values_are_those_of_scipy() {
        close(pearson(&GOLD, &PREDICTED), 0.8671738689003131);
        close(spearman(&GOLD, &PREDICTED), 0.7818325406743832);
        assert_eq!(mean_squared_error(&GOLD, &PREDICTED), 0.8828125);
        assert_eq!(mean_absolute_error(&GOLD, &PREDICTED), 0.71875);
    }

    #[test]
    fn equal_values_share_their_ranks() {
        assert_eq!(ranks(&GOLD), [1.0, 2.0, 3.5, 3.5, 5.0, 6.0, 7.5, 7.5]);
        assert_eq!(ranks(&[3.0, 0.0, -0.0, 3.0, 3.0]), [4.0, 1.5, 1.5, 4.0, 4.0]);
        assert_eq!(ranks(&[f64::INFINITY, 1.0, f64::NEG_INFINITY]), [3.0, 2.0, 1.0]);
    }

    #[test]
    fn undefined_correlations_are_zero() {
        for correlation in [pearson, spearman] {
            assert_eq!(correlation(&[], &[]), 0.0);
            assert_eq!(correlation(&[1.0], &[2.0]), 0.0);
            // The mean of these is not 0.1 after rounding.
            assert_eq!(correlation(&[0.1; 3], &[1.0, 2.0, 3.0]), 0.0);
            assert_eq!(correlation(&[1.0, 2.0, 3.0], &[0.1; 3]), 0.0);
        }
    }

    #[test]
    fn what_is_not_a_number_is_not_hidden() {
        let damaged = [1.0, f64::NAN, 3.0];
        for metric in [pearson, spearman, mean_squared_error, mean_absolute_error] {
            assert!(metric(&damaged, &[1.0, 2.0, 4.0]).is_nan());
            assert!(metric(&[1.0; 3], &damaged).is_nan());
        }
        assert!(pearson(&[1.0, f64::INFINITY, 3.0], &[1.0, 2.0, 4.0]).is_nan());
        assert_eq!(spearman(&[1.0, f64::INFINITY, 3.0], &[1.0, 4.0, 2.0]), 1.0, "infinity has a rank");
        assert!(mean_squared_error(&[], &[]).is_nan() && mean_absolute_error(&[], &[]).is_nan());
    }

    #[test]
    fn very_large_and_very_small_values_correlate() {
        for unit in [1e-300, 1e300] {
            close(pearson(&GOLD, &PREDICTED.map(|p| p * unit)), 0.8671738689003131);
        }
    }

    fn pairs() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
        // Few different values, so that some are equal.
        let value = || (-20i32..20).prop_map(|v| f64::from(v) / 4.0);
        prop::collection::vec((value(), value()), 2..40).prop_map(|pairs| pairs.into_iter().unzip())
    }

    proptest! {
        #[test]
        fn correlations_ignore_scale_and_side((gold, predicted) in pairs()) {
            for correlation in [pearson, spearman] {
                let r = correlation(&gold, &predicted);
                prop_assert!((-1.0..=1.0).contains(&r));
                prop_assert!((r - correlation(&predicted, &gold)).abs() < 1e-12);
                let moved: Vec<f64> = predicted.iter().map(|p| 3.0 * p + 7.0).collect();
                prop_assert!((r - correlation(&gold, &moved)).abs() < 1e-9);
                let turned: Vec<f64> = predicted.iter().map(|p| -p).collect();
                prop_assert!((r + correlation(&gold, &turned)).abs() < 1e-9);
            }
        }

        #[test]
        fn spearman_sees_the_order_alone((gold, predicted) in pairs()) {
            let bent: Vec<f64> = predicted.iter().map(|p| p.exp()).collect();
            prop_assert_eq!(spearman(&gold, &predicted), spearman(&gold, &bent));
        }

        #[test]
        fn ranks_add_up(values in prop::collection::vec(-5i32..5, 0..40)) {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            let n = values.len() as f64;
            prop_assert_eq!(ranks(&values).iter().sum::<f64>(), n * (n + 1.0) / 2.0);
        }

        #[test]
        fn errors_are_zero_only_without_difference((gold, predicted) in pairs()) {
            for error in [mean_squared_error, mean_absolute_error] {
                prop_assert_eq!(error(&gold, &predicted) == 0.0, gold == predicted);
                prop_assert_eq!(error(&gold, &gold), 0.0);
            }
        }
    }
}
