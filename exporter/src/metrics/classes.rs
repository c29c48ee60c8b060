//! One label a text: accuracy, F1, Matthews correlation, and tables.

use super::counts::{Counts, Scores, share};

/// The most labels of a [`confusion`] matrix. One of 1000 takes 8 MB; one of 50,000, as when a column of numbers
/// is taken for labels, would take 20 GB.
pub const MAX_CONFUSION_LABELS: usize = 1000;

/// How often each label was predicted for each true label: `[gold][predicted]`; none where there are more than
/// [`MAX_CONFUSION_LABELS`].
///
/// A number that is not below `labels` is not counted.
pub fn confusion(gold: &[usize], predicted: &[usize], labels: usize) -> Option<Vec<Vec<u64>>> {
    if labels > MAX_CONFUSION_LABELS {
        return None;
    }
    let mut counts = vec![vec![0; labels]; labels];
    for (&g, &p) in gold.iter().zip(predicted) {
        if let Some(count) = counts.get_mut(g).and_then(|row| row.get_mut(p)) {
            *count += 1;
        }
    }
    Some(counts)
}

/// The share of right predictions, 0 to 1; 0 where there is none.
pub fn accuracy(gold: &[usize], predicted: &[usize]) -> f64 {
    let n = gold.len().min(predicted.len());
    let right = gold.iter().zip(predicted).filter(|(g, p)| g == p).count();
    share(right as u64, n as u64)
}

/// The mean of the labels' F1 scores, 0 to 1, each label weighing the same.
///
/// As in scikit-learn's `f1_score(average="macro")`, the mean is over the labels that were
/// predicted or are true of a text; a label that is only one of the two scores 0.
pub fn macro_f1(gold: &[usize], predicted: &[usize], labels: usize) -> f64 {
    let counts = class_counts(gold, predicted, labels);
    let scores: Vec<f64> = counts.iter().filter(|c| c.gold + c.predicted > 0).map(Counts::f1).collect();
    if scores.is_empty() {
        return 0.0;
    }
    scores.iter().sum::<f64>() / scores.len() as f64
}

/// The F1 score of some labels taken together, 0 to 1, each text weighing the same.
///
/// That of all labels is the [`accuracy`]. It says more where one label means "none of them" and
/// is left out, as in scikit-learn's `f1_score(average="micro", labels=of)`.
pub fn micro_f1(gold: &[usize], predicted: &[usize], of: &[usize]) -> f64 {
    let mut counts = Counts::default();
    for (g, p) in gold.iter().zip(predicted) {
        counts += Counts {
            hits: u64::from(g == p && of.contains(g)),
            gold: u64::from(of.contains(g)),
            predicted: u64::from(of.contains(p)),
        };
    }
    counts.f1()
}

/// The F1 score of one label, 0 to 1: what counts where the task is to find it.
pub fn binary_f1(gold: &[usize], predicted: &[usize], label: usize) -> f64 {
    micro_f1(gold, predicted, &[label])
}

/// Precision, recall and F1 of each label, in the order of the labels.
///
/// A text with a number that is not below `labels` is not counted.
pub fn class_table(gold: &[usize], predicted: &[usize], labels: usize) -> Vec<Scores> {
    class_counts(gold, predicted, labels).into_iter().map(Scores::from).collect()
}

/// The Matthews correlation coefficient, -1 to 1: 1 where all is right, 0 where the predictions
/// know nothing of the truth.
///
/// For more than two labels it is Gorodkin's R_K (*Comparing two K-category assignments by a
/// K-category correlation coefficient*, 2004), as in scikit-learn's `matthews_corrcoef`. It is 0
/// where all texts have one label or are predicted to. A text with a number that is not below
/// `labels` is not counted.
pub fn matthews_correlation(gold: &[usize], predicted: &[usize], labels: usize) -> f64 {
    // Differences of large products: as integers they are exact.
    let wide = i128::from;
    let counts = class_counts(gold, predicted, labels);
    let total: i128 = counts.iter().map(|c| wide(c.gold)).sum();
    let right: i128 = counts.iter().map(|c| wide(c.hits)).sum();
    let chance: i128 = counts.iter().map(|c| wide(c.gold) * wide(c.predicted)).sum();
    let spread = |of: fn(&Counts) -> u64| total * total - counts.iter().map(|c| wide(of(c)).pow(2)).sum::<i128>();
    let (is, said) = (spread(|c| c.gold), spread(|c| c.predicted));
    if is == 0 || said == 0 {
        return 0.0;
    }
    (right * total - chance) as f64 / (is as f64 * said as f64).sqrt()
}

/// The counts of each label over the texts both of whose numbers are below `labels`.
fn class_counts(gold: &[usize], predicted: &[usize], labels: usize) -> Vec<Counts> {
    let mut counts = vec![Counts::default(); labels];
    for (&g, &p) in gold.iter().zip(predicted).filter(|(g, p)| **g < labels && **p < labels) {
        counts[g].gold += 1;
        counts[p].predicted += 1;
        counts[g].hits += u64::from(g == p);
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOLD: [usize; 8] = [0, 0, 0, 1, 1, 2, 2, 2];
    const PREDICTED: [usize; 8] = [0, 0, 1, 1, 2, 2, 2, 0];

    /// Two labels, one of them rarer.
    const RARE: [[usize; 10]; 2] = [[1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 0, 0, 0, 0, 0]];

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    #[test]
    fn values_are_those_of_scikit_learn() {
        assert_eq!(accuracy(&GOLD, &PREDICTED), 0.625);
        assert_eq!(confusion(&GOLD, &PREDICTED, 3), Some(vec![vec![2, 1, 0], vec![0, 1, 1], vec![1, 0, 2]]));
        // F1: 2/3, 1/2, 2/3.
        close(macro_f1(&GOLD, &PREDICTED, 3), 11.0 / 18.0);
        close(micro_f1(&GOLD, &PREDICTED, &[1, 2]), 0.6);
        close(binary_f1(&GOLD, &PREDICTED, 0), 2.0 / 3.0);
        close(binary_f1(&RARE[0], &RARE[1], 1), 0.75);
        close(binary_f1(&RARE[0], &RARE[1], 0), 0.8333333333333334);
    }

    /// Values of scikit-learn 1.9.1's `matthews_corrcoef`.
    #[test]
    fn matthews_correlation_is_that_of_scikit_learn() {
        close(matthews_correlation(&GOLD, &PREDICTED, 3), 0.42857142857142855);
        close(matthews_correlation(&RARE[0], &RARE[1], 2), 0.5833333333333334);
        // Label 2 is predicted and never true.
        close(matthews_correlation(&[0, 0, 1, 1], &[0, 2, 1, 1], 3), 0.6708203932499369);
        assert_eq!(matthews_correlation(&[0, 1, 0, 1], &[1, 0, 1, 0], 2), -1.0);
        assert_eq!(matthews_correlation(&[0, 1], &[1, 1], 2), 0.0);
        assert_eq!(matthews_correlation(&[1, 1], &[1, 1], 2), 0.0, "one label only");
    }

    #[test]
    fn a_table_has_a_row_for_every_label() {
        let table = class_table(&[0, 0, 0, 1], &[0, 0, 1, 1], 3);
        assert_eq!(table[0], Scores { precision: 1.0, recall: 2.0 / 3.0, f1: 0.8, support: 3 });
        assert_eq!(table[1], Scores { precision: 0.5, recall: 1.0, f1: 2.0 / 3.0, support: 1 });
        assert_eq!(table[2], Scores { precision: 0.0, recall: 0.0, f1: 0.0, support: 0 });
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn labels_that_do_not_occur_do_not_count() {
        assert_eq!(macro_f1(&GOLD, &PREDICTED, 10), macro_f1(&GOLD, &PREDICTED, 3));
        // Predicted but never true: it counts, with 0.
        assert_eq!(macro_f1(&[0, 0], &[0, 1], 2), (2.0 / 3.0) / 2.0);
    }

    #[test]
    fn so_many_labels_have_no_confusion_matrix() {
        let most = confusion(&[7], &[9], MAX_CONFUSION_LABELS).unwrap_or_default();
        assert_eq!((most.len(), most[7][9]), (MAX_CONFUSION_LABELS, 1));
        assert_eq!(confusion(&[7], &[9], MAX_CONFUSION_LABELS + 1), None);
    }

    #[test]
    fn nothing_scores_nothing() {
        assert_eq!((accuracy(&[], &[]), macro_f1(&[], &[], 3)), (0.0, 0.0));
        assert_eq!((micro_f1(&[], &[], &[1]), matthews_correlation(&[], &[], 3)), (0.0, 0.0));
        assert_eq!((micro_f1(&GOLD, &PREDICTED, &[]), matthews_correlation(&GOLD, &PREDICTED, 0)), (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn scores_are_shares(pairs in prop::collection::vec((0usize..5, 0usize..5), 1..50)) {
            let (gold, predicted): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let (a, f) = (accuracy(&gold, &predicted), macro_f1(&gold, &predicted, 5));
            prop_assert!((0.0..=1.0).contains(&a) && (0.0..=1.0).contains(&f));
            prop_assert_eq!((accuracy(&gold, &gold), macro_f1(&gold, &gold, 5)), (1.0, 1.0));
            let total: u64 = confusion(&gold, &predicted, 5).unwrap_or_default().concat().iter().sum();
            prop_assert_eq!(total, gold.len() as u64);
        }

        #[test]
        fn micro_f1_of_all_labels_is_the_accuracy(pairs in prop::collection::vec((0usize..5, 0usize..5), 0..50)) {
            let (gold, predicted): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            prop_assert_eq!(micro_f1(&gold, &predicted, &[0, 1, 2, 3, 4]), accuracy(&gold, &predicted));
        }

        #[test]
        fn matthews_correlation_is_a_correlation(pairs in prop::collection::vec((0usize..4, 0usize..4), 1..50)) {
            let (gold, predicted): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let forth = matthews_correlation(&gold, &predicted, 4);
            prop_assert!((-1.0 - 1e-12..=1.0 + 1e-12).contains(&forth));
            prop_assert_eq!(forth, matthews_correlation(&predicted, &gold, 4));
            let one = gold.iter().all(|g| g == &gold[0]);
            prop_assert_eq!(matthews_correlation(&gold, &gold, 4), if one { 0.0 } else { 1.0 });
        }

        /// Of two labels, both definitions are the same: the correlation of the two 0s and 1s.
        #[test]
        fn matthews_correlation_of_two_labels_is_pearsons(pairs in prop::collection::vec((0usize..2, 0usize..2), 1..50)) {
            let (gold, predicted): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let floats = |v: &[usize]| v.iter().map(|x| *x as f64).collect::<Vec<_>>();
            let expected = super::super::pearson(&floats(&gold), &floats(&predicted));
            prop_assert!((matthews_correlation(&gold, &predicted, 2) - expected).abs() < 1e-9);
        }

        /// The table's counts are the margins of the confusion matrix.
        #[test]
        fn table_and_confusion_agree(pairs in prop::collection::vec((0usize..6, 0usize..6), 0..50)) {
            let (gold, predicted): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let matrix = confusion(&gold, &predicted, 5).unwrap_or_default();
            for (label, scores) in class_table(&gold, &predicted, 5).into_iter().enumerate() {
                let said: u64 = matrix.iter().map(|row| row[label]).sum();
                prop_assert_eq!(scores.support, matrix[label].iter().sum::<u64>());
                prop_assert_eq!(scores.precision, share(matrix[label][label], said));
                prop_assert_eq!(scores.recall, share(matrix[label][label], scores.support));
            }
        }
    }
}
