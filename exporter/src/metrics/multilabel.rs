//! Any number of labels a text, none too.
//!
//! A text is a row with a truth value for each label. A row that is shorter than others has none
//! of the labels that it leaves out.

use super::counts::{Counts, Scores, share};

/// The share of texts all of whose labels are right, 0 to 1; 0 where there is no text.
///
/// A text that has no label and is given none is right (scikit-learn's subset accuracy).
pub fn exact_match<G: AsRef<[bool]>, P: AsRef<[bool]>>(gold: &[G], predicted: &[P]) -> f64 {
    let n = gold.len().min(predicted.len());
    let right = pairs(gold, predicted).filter(|(g, p)| cells(g, p).all(|(g, p)| g == p)).count();
    share(right as u64, n as u64)
}

/// The F1 score over all labels of all texts, 0 to 1: common labels weigh more.
pub fn micro_f1<G: AsRef<[bool]>, P: AsRef<[bool]>>(gold: &[G], predicted: &[P]) -> f64 {
    label_counts(gold, predicted).into_iter().sum::<Counts>().f1()
}

/// The mean of the labels' F1 scores, 0 to 1, each label weighing the same; 0 where there is none.
///
/// As in scikit-learn, a label that is neither true of a text nor predicted counts too, with 0.
pub fn macro_f1<G: AsRef<[bool]>, P: AsRef<[bool]>>(gold: &[G], predicted: &[P]) -> f64 {
    let counts = label_counts(gold, predicted);
    if counts.is_empty() {
        return 0.0;
    }
    counts.iter().map(Counts::f1).sum::<f64>() / counts.len() as f64
}

/// Precision, recall and F1 of each label, in the order of the labels.
pub fn table<G: AsRef<[bool]>, P: AsRef<[bool]>>(gold: &[G], predicted: &[P]) -> Vec<Scores> {
    label_counts(gold, predicted).into_iter().map(Scores::from).collect()
}

/// The counts of each label.
fn label_counts<G: AsRef<[bool]>, P: AsRef<[bool]>>(gold: &[G], predicted: &[P]) -> Vec<Counts> {
    let labels = pairs(gold, predicted).map(|(g, p)| g.len().max(p.len())).max().unwrap_or(0);
    let mut counts = vec![Counts::default(); labels];
    for (gold, predicted) in pairs(gold, predicted) {
        for (count, (g, p)) in counts.iter_mut().zip(cells(gold, predicted)) {
            count.add(g, p);
        }
    }
    counts
}

/// The rows of the same texts.
fn pairs<'a, G: AsRef<[bool]>, P: AsRef<[bool]>>(
    gold: &'a [G],
    predicted: &'a [P],
) -> impl Iterator<Item = (&'a [bool], &'a [bool])> {
    gold.iter().map(AsRef::as_ref).zip(predicted.iter().map(AsRef::as_ref))
}

/// The truth values of the same labels, as many as the longer row has.
fn cells(gold: &[bool], predicted: &[bool]) -> impl Iterator<Item = (bool, bool)> {
    let at = |row: &[bool], label: usize| row.get(label).copied().unwrap_or(false);
    (0..gold.len().max(predicted.len())).map(move |label| (at(gold, label), at(predicted, label)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: bool = true;
    const F: bool = false;
    const GOLD: [[bool; 4]; 5] = [[T, F, T, F], [F, T, F, F], [T, T, F, F], [F, F, F, F], [F, F, T, F]];
    const PREDICTED: [[bool; 4]; 5] = [[T, F, F, F], [F, T, T, F], [T, T, F, F], [F, F, F, F], [F, F, T, F]];

    /// Values of scikit-learn 1.9.1 for the same indicator matrices.
    #[test]
    fn values_are_those_of_scikit_learn() {
        assert!((micro_f1(&GOLD, &PREDICTED) - 0.8333333333333334).abs() < 1e-12);
        assert!((macro_f1(&GOLD, &PREDICTED) - 0.625).abs() < 1e-12);
        assert!((exact_match(&GOLD, &PREDICTED) - 0.6).abs() < 1e-12);
        let rows = table(&GOLD, &PREDICTED);
        assert_eq!(rows.iter().map(|r| r.precision).collect::<Vec<_>>(), [1.0, 1.0, 0.5, 0.0]);
        assert_eq!(rows.iter().map(|r| r.recall).collect::<Vec<_>>(), [1.0, 1.0, 0.5, 0.0]);
        assert_eq!(rows.iter().map(|r| r.support).collect::<Vec<_>>(), [2, 2, 2, 0]);
    }

    #[test]
    fn nothing_scores_nothing() {
        let none: [[bool; 3]; 0] = [];
        assert_eq!((exact_match(&none, &none), micro_f1(&none, &none), macro_f1(&none, &none)), (0.0, 0.0, 0.0));
        assert_eq!(table(&none, &none), []);
        // Two texts without labels, and none predicted: each is right, but there is no label to find.
        let empty = [[F; 3]; 2];
        assert_eq!((exact_match(&empty, &empty), micro_f1(&empty, &empty), macro_f1(&empty, &empty)), (1.0, 0.0, 0.0));
        let zero_labels: [[bool; 0]; 2] = [[], []];
        assert_eq!(macro_f1(&zero_labels, &zero_labels), 0.0);
    }

    #[test]
    fn short_rows_have_none_of_the_rest() {
        let (gold, predicted) = ([vec![T, F, F], vec![T, F, T]], [vec![T], vec![T]]);
        assert_eq!(exact_match(&gold, &predicted), 0.5);
        assert_eq!(micro_f1(&gold, &predicted), 0.8);
        assert_eq!(micro_f1(&predicted, &gold), 0.8);
        assert_eq!(table(&gold, &predicted)[2].support, 1);
    }

    fn rows(labels: usize) -> impl Strategy<Value = (Vec<Vec<bool>>, Vec<Vec<bool>>)> {
        let row = prop::collection::vec(any::<bool>(), labels);
        prop::collection::vec((row.clone(), row), 1..30).prop_map(|pairs| pairs.into_iter().unzip())
    }

    proptest! {
        #[test]
        fn scores_are_shares((gold, predicted) in rows(4)) {
            let all = [exact_match(&gold, &predicted), micro_f1(&gold, &predicted), macro_f1(&gold, &predicted)];
            prop_assert!(all.iter().all(|s| (0.0..=1.0).contains(s)), "{:?}", all);
            prop_assert_eq!(exact_match(&gold, &gold), 1.0);
        }

        /// Rows with exactly one label are an ordinary classification.
        #[test]
        fn one_label_a_text_is_a_classification(pairs in prop::collection::vec((0usize..4, 0usize..4), 1..30)) {
            let one_hot = |label: &usize| (0..4).map(|l| l == *label).collect::<Vec<_>>();
            let (gold, predicted): (Vec<usize>, Vec<usize>) = pairs.into_iter().unzip();
            let (g, p): (Vec<_>, Vec<_>) = (gold.iter().map(one_hot).collect(), predicted.iter().map(one_hot).collect());
            let accuracy = super::super::accuracy(&gold, &predicted);
            prop_assert_eq!((exact_match(&g, &p), micro_f1(&g, &p)), (accuracy, accuracy));
            prop_assert_eq!(table(&g, &p), super::super::class_table(&gold, &predicted, 4));
        }
    }
}
