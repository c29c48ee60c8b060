//! The labels of a task and their numbers.

use std::collections::{BTreeSet, HashMap};

use super::{DataError, Dataset};

/// How many labels an error message lists.
const LISTED: usize = 30;

/// The labels of a task; a label's number is its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSet {
    names: Vec<String>,
    index: HashMap<String, usize>,
}

impl From<&Dataset> for LabelSet {
    /// The labels of a data set, sorted by their UTF-8 bytes, so that the order of the file
    /// does not decide the numbers.
    fn from(dataset: &Dataset) -> Self {
        let sorted: BTreeSet<&str> = dataset.examples.iter().map(|e| e.label.as_str()).collect();
        Self::new(sorted.into_iter().map(str::to_owned).collect())
    }
}

impl LabelSet {
    /// Labels in a given order, that of a pack for example. Of a name that comes twice, the
    /// first place counts.
    pub fn new(names: Vec<String>) -> Self {
        let mut index = HashMap::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            index.entry(name.clone()).or_insert(i);
        }
        Self { names, index }
    }

    /// The labels of a data set to train on.
    ///
    /// # Errors
    /// When there are fewer than two.
    pub fn for_training(dataset: &Dataset) -> Result<Self, DataError> {
        let labels = Self::from(dataset);
        match labels.names() {
            [] => Err(DataError::Empty { path: dataset.path.clone() }),
            [only] => Err(DataError::OneLabel { path: dataset.path.clone(), label: only.clone() }),
            _ => Ok(labels),
        }
    }

    /// The number of a label.
    pub fn index(&self, label: &str) -> Option<usize> {
        self.index.get(label).copied()
    }

    /// All labels in the order of their numbers.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Every example's label as a number.
    ///
    /// # Errors
    /// At the first label that is not in the set: with file, line and the labels that are.
    pub fn targets(&self, dataset: &Dataset) -> Result<Vec<usize>, DataError> {
        dataset
            .examples
            .iter()
            .map(|e| {
                self.index(&e.label).ok_or_else(|| DataError::UnknownLabel {
                    path: dataset.path.clone(),
                    line: e.line,
                    label: e.label.clone(),
                    known: self.listed(),
                })
            })
            .collect()
    }

    fn listed(&self) -> String {
        let mut list = self.names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
        if self.names.len() > LISTED {
            list.push_str(&format!(" and {} more", self.names.len() - LISTED));
        }
        list
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::data::tests::dataset;

    #[test]
    fn labels_are_sorted_and_numbered() {
        let data = dataset(&[("a", "pos"), ("b", "neg"), ("c", "pos"), ("d", "Zero")]);
        let labels = LabelSet::for_training(&data).unwrap();
        assert_eq!(labels.names(), ["Zero", "neg", "pos"]);
        assert_eq!(labels.targets(&data).unwrap(), [2, 1, 2, 0]);
        assert_eq!(labels.index("absent"), None);
    }

    #[test]
    fn an_unseen_label_names_file_line_and_known_labels() {
        let labels = LabelSet::from(&dataset(&[("a", "pos"), ("b", "neg")]));
        let error = labels.targets(&dataset(&[("a", "pos"), ("b", "neutral")])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "test.jsonl:2: label `neutral` was never seen in training; known labels: neg, pos"
        );
    }

    #[test]
    fn a_long_list_of_labels_is_cut() {
        let names = (0..100).map(|i| format!("l{i}")).collect();
        let error = LabelSet::new(names).targets(&dataset(&[("a", "x")])).unwrap_err();
        assert!(error.to_string().ends_with("l29 and 70 more"), "{error}");
    }

    #[test]
    fn one_label_is_no_task() {
        let error = LabelSet::for_training(&dataset(&[("a", "x"), ("b", "x")])).unwrap_err();
        assert!(matches!(error, DataError::OneLabel { .. }));
    }

    #[test]
    fn a_packs_order_is_kept() {
        let labels = LabelSet::new(vec!["z".to_owned(), "a".to_owned()]);
        assert_eq!(labels.index("z"), Some(0));
    }
}
