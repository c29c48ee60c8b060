//! A data set at a glance, before anything is learnt from it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::Dataset;

/// Labels that are named in words, ...
const LISTED: usize = 5;
/// ... and as data.
const COUNTED: usize = 100;

/// What there is to learn from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Examples.
    pub examples: usize,
    /// How many labels, or tags, there are; 0 for numbers.
    pub labels: usize,
    /// The rarest labels, at most a hundred, with how many examples (of tags, words) have each, the rarest first.
    pub rarest: Vec<(String, usize)>,
    /// Examples with soft labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft: Option<usize>,
    /// Texts without a label, which a teacher labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlabelled: Option<usize>,
    /// Lengths in tokens, if texts were tokenized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Lengths>,
    /// Texts that repeat an earlier one, but for case and white space.
    pub repeated: usize,
    /// Texts of the examples that choose, in a file of their own, that are learnt from, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_dev: Option<usize>,
    /// Texts of the examples that are only measured that are learnt from, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_eval: Option<usize>,
}

/// Lengths of texts in tokens, the special ones included, as they are read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub min: usize,
    /// The middle one.
    pub median: usize,
    /// Nineteen in twenty are not longer.
    pub p95: usize,
    /// The longest.
    pub max: usize,
    /// Texts whose end is cut away.
    pub cut: usize,
}

impl Lengths {
    /// Of texts with so many tokens, of which some are cut; nothing of no text.
    pub fn of(mut tokens: Vec<usize>, cut: usize) -> Option<Self> {
        tokens.sort_unstable();
        let at = |part: f64| tokens.get(((tokens.len().checked_sub(1)?) as f64 * part).round() as usize).copied();
        Some(Lengths { min: at(0.0)?, median: at(0.5)?, p95: at(0.95)?, max: at(1.0)?, cut })
    }
}

impl Summary {
    /// Of examples to learn from, and of those beside them.
    pub fn of(train: &Dataset, dev: Option<&Dataset>, eval: Option<&Dataset>) -> Self {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        train.examples.iter().flat_map(|e| e.target.labels()).for_each(|label| *counts.entry(label).or_default() += 1);
        let mut rarest: Vec<(String, usize)> = counts.iter().map(|(label, n)| ((*label).to_owned(), *n)).collect();
        rarest.sort_by_key(|(_, n)| *n);
        rarest.truncate(COUNTED);
        let shared = |other: Option<&Dataset>| other.map(|other| super::duplicates(train, other).len());
        Summary {
            examples: train.len(),
            labels: counts.len(),
            rarest,
            soft: Some(train.soft()).filter(|soft| *soft > 0),
            unlabelled: None,
            tokens: None,
            repeated: super::repetitions(train).len(),
            in_dev: shared(dev),
            in_eval: shared(eval),
        }
    }

    /// Labels that a single example (or word) has, if there are any: a sentence.
    pub fn lone_labels(&self) -> Option<String> {
        let lone: Vec<String> =
            self.rarest.iter().take_while(|(_, n)| *n == 1).map(|(label, _)| format!("`{label}`")).collect();
        let listed = lone.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
        let more = if lone.len() > LISTED { ", ..." } else { "" };
        let only = "is there once: it can be learnt hardly, and not be measured";
        match lone.len() {
            0 => None,
            1 => Some(format!("the label {listed} {only}")),
            n if n == COUNTED => Some(format!("{n} labels or more, such as {listed}{more}: each {only}")),
            n => Some(format!("{n} labels, {listed}{more}: each {only}")),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} examples", self.examples)?;
        if self.labels > 0 {
            let rarest: Vec<String> =
                self.rarest.iter().take(LISTED.min(self.labels)).map(|(label, n)| format!("`{label}` {n}")).collect();
            write!(f, ", {} labels (the rarest: {})", self.labels, rarest.join(", "))?;
        }
        if let Some(soft) = self.soft {
            write!(f, ", {soft} with soft labels")?;
        }
        if let Some(unlabelled) = self.unlabelled {
            write!(f, "; {unlabelled} texts without a label beside them")?;
        }
        if let Some(Lengths { min, median, p95, max, cut }) = self.tokens {
            write!(f, "; {min} to {max} tokens, half of them up to {median}, 95 % up to {p95}")?;
            if cut > 0 {
                write!(f, "; {cut} ({:.1} %) are cut there", 100.0 * cut as f64 / self.examples.max(1) as f64)?;
            }
        }
        match self.repeated {
            0 => Ok(()),
            n => write!(f, "; {n} repeat an earlier one"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::dataset;

    #[test]
    fn a_data_set_is_told_in_a_line() {
        let data = dataset(&[("a", "x"), ("b", "x"), ("A ", "y"), ("c", "z")]);
        let mut summary = Summary::of(&data, None, Some(&dataset(&[("B", "x"), ("d", "x")])));
        summary.tokens = Lengths::of((3..=22).rev().collect(), 1);
        assert_eq!(
            summary.to_string(),
            "4 examples, 3 labels (the rarest: `y` 1, `z` 1, `x` 2); 3 to 22 tokens, half of them up to 13, 95 % up to \
             21; 1 (25.0 %) are cut there; 1 repeat an earlier one"
        );
        assert_eq!((summary.in_dev, summary.in_eval), (None, Some(1)));
        let beside = Summary { soft: Some(2), unlabelled: Some(30), tokens: None, ..summary.clone() }.to_string();
        assert!(beside.contains("2), 2 with soft labels; 30 texts without a label beside them; 1 repeat"), "{beside}");
        let said = summary.lone_labels().unwrap();
        assert!(said.starts_with("2 labels, `y`, `z`: each is there once"), "{said}");
        assert_eq!(Summary::of(&dataset(&[("a", "x"), ("b", "x")]), None, None).lone_labels(), None);
        assert_eq!(Lengths::of(Vec::new(), 0), None);
    }
}
