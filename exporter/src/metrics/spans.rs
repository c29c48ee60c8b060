//! Spans of words: a span is right when its label and both ends are.
//!
//! That is how `conlleval` (Tjong Kim Sang & Buchholz, *Introduction to the CoNLL-2000 shared
//! task*, 2000) and seqeval score. [`overmask::task::spans`] makes spans out of tags. A text whose
//! words were cut off keeps its true spans: what a model never saw, it missed.

use std::collections::{BTreeMap, BTreeSet};

use overmask::task::Span;

use super::counts::{Counts, Scores};

/// How many spans of a text are true, predicted, and both. A span that comes twice counts once.
///
/// The sum over texts has their micro F1; [`Bootstrap`](super::Bootstrap) can sum over many
/// selections without comparing spans again.
pub fn span_counts(gold: &[Span], predicted: &[Span]) -> Counts {
    by_label(gold, predicted).into_values().sum()
}

/// Precision, recall and F1 of the spans of each label that is true or predicted somewhere.
pub fn span_table<G: AsRef<[Span]>, P: AsRef<[Span]>>(gold: &[G], predicted: &[P]) -> BTreeMap<String, Scores> {
    let mut all: BTreeMap<&str, Counts> = BTreeMap::new();
    for (gold, predicted) in gold.iter().zip(predicted) {
        for (label, counts) in by_label(gold.as_ref(), predicted.as_ref()) {
            *all.entry(label).or_default() += counts;
        }
    }
    all.into_iter().map(|(label, counts)| (label.to_owned(), counts.into())).collect()
}

/// The counts of a text's spans by label.
fn by_label<'a>(gold: &'a [Span], predicted: &'a [Span]) -> BTreeMap<&'a str, Counts> {
    let (gold, predicted): (BTreeSet<&Span>, BTreeSet<&Span>) = (gold.iter().collect(), predicted.iter().collect());
    let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
    for span in gold.union(&predicted) {
        counts.entry(&span.label).or_default().add(gold.contains(span), predicted.contains(span));
    }
    counts
}

#[cfg(test)]
mod tests {
    use overmask::task::spans;
    use proptest::prelude::*;

    use super::*;

    fn decode(texts: &[&str]) -> Vec<Vec<Span>> {
        texts.iter().map(|tags| spans(tags.split_whitespace())).collect()
    }

    fn span_scores(gold: &[Vec<Span>], predicted: &[Vec<Span>]) -> Scores {
        gold.iter().zip(predicted).map(|(g, p)| span_counts(g, p)).sum::<Counts>().into()
    }

    /// Values of seqeval 1.2.2's `classification_report` for the same tags.
    #[test]
    fn values_are_those_of_seqeval() {
        let gold = decode(&["O O O B-MISC I-MISC I-MISC O", "B-PER I-PER O B-LOC", "B-ORG O B-LOC I-LOC"]);
        let predicted = decode(&["O O B-MISC I-MISC I-MISC I-MISC O", "B-PER I-PER O B-LOC", "B-PER O B-LOC I-LOC"]);
        assert_eq!(
            span_scores(&gold, &predicted),
            Scores { precision: 0.6, recall: 0.6, f1: 0.6, support: 5 },
            "micro average"
        );
        let row = |precision, recall, f1, support| Scores { precision, recall, f1, support };
        let expected = [
            ("LOC", row(1.0, 1.0, 1.0, 2)),
            ("MISC", row(0.0, 0.0, 0.0, 1)),
            ("ORG", row(0.0, 0.0, 0.0, 1)),
            ("PER", row(0.5, 1.0, 0.6666666666666666, 1)),
        ];
        assert_eq!(span_table(&gold, &predicted), expected.map(|(label, row)| (label.to_owned(), row)).into());
    }

    #[test]
    fn words_that_were_cut_off_were_missed() {
        let (gold, predicted) = (decode(&["B-A O B-A"]), decode(&["B-A O"]));
        assert_eq!(span_counts(&gold[0], &predicted[0]), Counts { hits: 1, gold: 2, predicted: 1 });
    }

    #[test]
    fn nothing_scores_nothing() {
        let none = Scores { precision: 0.0, recall: 0.0, f1: 0.0, support: 0 };
        assert_eq!(span_scores(&decode(&[]), &decode(&[])), none);
        assert_eq!(span_scores(&decode(&["O O"]), &decode(&["O O"])), none);
        assert!(span_table(&decode(&["O"]), &decode(&["O"])).is_empty());
    }

    #[test]
    fn a_span_that_comes_twice_counts_once() {
        let once = decode(&["B-A I-A"]).concat();
        let twice = [once.clone(), once.clone()].concat();
        assert_eq!(span_counts(&once, &twice), Counts { hits: 1, gold: 1, predicted: 1 });
    }

    fn texts() -> impl Strategy<Value = Vec<(Vec<Span>, Vec<Span>)>> {
        let tags = || prop::collection::vec("[BI]-[AB]|O", 8).prop_map(|t| spans(t.iter().map(String::as_str)));
        prop::collection::vec((tags(), tags()), 0..10)
    }

    proptest! {
        #[test]
        fn the_table_adds_up(texts in texts()) {
            let (gold, predicted): (Vec<_>, Vec<_>) = texts.into_iter().unzip();
            let (all, table) = (span_scores(&gold, &predicted), span_table(&gold, &predicted));
            prop_assert_eq!(table.values().map(|s| s.support).sum::<u64>(), all.support);
            prop_assert_eq!(all.support, gold.concat().len() as u64);
            let hits: f64 = table.values().map(|s| s.recall * s.support as f64).sum();
            prop_assert!((hits - all.recall * all.support as f64).abs() < 1e-9);
        }

        #[test]
        fn the_truth_scores_one(texts in texts()) {
            let gold: Vec<_> = texts.into_iter().map(|t| t.0).collect();
            let perfect = if gold.concat().is_empty() { 0.0 } else { 1.0 };
            prop_assert_eq!(span_scores(&gold, &gold).f1, perfect);
            prop_assert!(span_table(&gold, &gold).values().all(|s| s.f1 == 1.0));
        }
    }
}
