//! How good predictions are.
//!
//! All functions take the true and the predicted label numbers of the same texts in the same
//! order; where the slices differ in length, the longer one's rest is ignored.

/// How often each label was predicted for each true label: `[gold][predicted]`.
///
/// A number that is not below `labels` is not counted.
pub fn confusion(gold: &[usize], predicted: &[usize], labels: usize) -> Vec<Vec<u64>> {
    let mut counts = vec![vec![0; labels]; labels];
    for (&g, &p) in gold.iter().zip(predicted) {
        if let Some(count) = counts.get_mut(g).and_then(|row| row.get_mut(p)) {
            *count += 1;
        }
    }
    counts
}

/// The share of right predictions, 0 to 1; 0 where there is none.
pub fn accuracy(gold: &[usize], predicted: &[usize]) -> f64 {
    let n = gold.len().min(predicted.len());
    let right = gold.iter().zip(predicted).filter(|(g, p)| g == p).count();
    if n == 0 { 0.0 } else { right as f64 / n as f64 }
}

/// The mean of the labels' F1 scores, 0 to 1, each label weighing the same.
///
/// As in scikit-learn's `f1_score(average="macro")`, the mean is over the labels that were
/// predicted or are true of a text; a label that is only one of the two scores 0.
pub fn macro_f1(gold: &[usize], predicted: &[usize], labels: usize) -> f64 {
    let counts = confusion(gold, predicted, labels);
    let scores: Vec<f64> = (0..labels)
        .filter_map(|label| {
            let hits = counts[label][label];
            let is: u64 = counts[label].iter().sum();
            let said: u64 = counts.iter().map(|row| row[label]).sum();
            (is + said > 0).then(|| 2.0 * hits as f64 / (is + said) as f64)
        })
        .collect();
    if scores.is_empty() {
        return 0.0;
    }
    scores.iter().sum::<f64>() / scores.len() as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOLD: [usize; 8] = [0, 0, 0, 1, 1, 2, 2, 2];
    const PREDICTED: [usize; 8] = [0, 0, 1, 1, 2, 2, 2, 0];

    #[test]
    fn values_are_those_of_scikit_learn() {
        assert_eq!(accuracy(&GOLD, &PREDICTED), 0.625);
        assert_eq!(confusion(&GOLD, &PREDICTED, 3), [[2, 1, 0], [0, 1, 1], [1, 0, 2]]);
        // F1: 2/3, 1/2, 2/3.
        assert!((macro_f1(&GOLD, &PREDICTED, 3) - 11.0 / 18.0).abs() < 1e-12);
    }

    #[test]
    fn labels_that_do_not_occur_do_not_count() {
        assert_eq!(macro_f1(&GOLD, &PREDICTED, 10), macro_f1(&GOLD, &PREDICTED, 3));
        // Predicted but never true: it counts, with 0.
        assert_eq!(macro_f1(&[0, 0], &[0, 1], 2), (2.0 / 3.0) / 2.0);
    }

    #[test]
    fn nothing_scores_nothing() {
        assert_eq!((accuracy(&[], &[]), macro_f1(&[], &[], 3)), (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn scores_are_shares(pairs in prop::collection::vec((0usize..5, 0usize..5), 1..50)) {
            let (gold, predicted): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let (a, f) = (accuracy(&gold, &predicted), macro_f1(&gold, &predicted, 5));
            prop_assert!((0.0..=1.0).contains(&a) && (0.0..=1.0).contains(&f));
            prop_assert_eq!((accuracy(&gold, &gold), macro_f1(&gold, &gold, 5)), (1.0, 1.0));
            let total: u64 = confusion(&gold, &predicted, 5).concat().iter().sum();
            prop_assert_eq!(total, gold.len() as u64);
        }
    }
}
