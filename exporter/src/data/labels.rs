//! The labels of a task and their numbers.

use std::collections::{BTreeSet, HashMap};

use overmask::pack::TaskKind;

use super::{DataError, Dataset, Target};

/// How many labels an error message lists.
const LISTED: usize = 30;

/// What an example is, in the numbers of a label set.
#[derive(Debug, Clone, PartialEq)]
pub enum Gold {
    /// The number of its label.
    Class(usize),
    /// For each label, whether it has it.
    Set(Vec<bool>),
    /// Its value.
    Value(f64),
    /// The number of each word's tag.
    Tags(Vec<usize>),
}

/// The name that the number of a regression has.
pub const VALUE: &str = "value";

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
        let sorted: BTreeSet<&str> = dataset.examples.iter().flat_map(|e| e.target.labels()).collect();
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

    /// The labels of a data set to train on; a regression has one, [`VALUE`].
    ///
    /// # Errors
    /// When there is nothing to learn: all examples are the same.
    pub fn for_training(dataset: &Dataset) -> Result<Self, DataError> {
        let Some(first) = dataset.examples.first() else {
            return Err(DataError::Empty { path: dataset.path.clone() });
        };
        let alike = dataset.examples.iter().all(|e| e.target == first.target);
        let labels = Self::from(dataset);
        let few = labels.len() < if first.target.kind() == TaskKind::Multilabel { 1 } else { 2 };
        match &first.target {
            Target::Value(value) if alike => {
                Err(DataError::OneLabel { path: dataset.path.clone(), label: value.to_string() })
            }
            Target::Value(_) => Ok(Self::new(vec![VALUE.to_owned()])),
            _ if alike || few => {
                let label = labels.names().first().cloned().unwrap_or_default();
                Err(DataError::OneLabel { path: dataset.path.clone(), label })
            }
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

    /// What every example is, in numbers.
    ///
    /// # Errors
    /// At the first label that is not in the set: with file, line and the labels that are.
    pub fn gold(&self, dataset: &Dataset) -> Result<Vec<Gold>, DataError> {
        let of = |example: &super::Example| {
            let number = |label: &String| {
                self.index(label).ok_or_else(|| DataError::UnknownLabel {
                    path: dataset.path.clone(),
                    line: example.line,
                    label: label.clone(),
                    known: self.listed(),
                })
            };
            Ok(match &example.target {
                Target::Label(label) => Gold::Class(number(label)?),
                Target::Labels(labels) => {
                    let mut set = vec![false; self.len()];
                    for label in labels {
                        set[number(label)?] = true;
                    }
                    Gold::Set(set)
                }
                Target::Value(value) => Gold::Value(*value),
                Target::Tags(tags) => Gold::Tags(tags.iter().map(number).collect::<Result<_, _>>()?),
            })
        };
        dataset.examples.iter().map(of).collect()
    }

    fn listed(&self) -> String {
        let mut list = self.names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
        if self.names.len() > LISTED {
            list.push_str(&format!(" and {} more", self.names.len() - LISTED));
        }
        list
    }
}

impl Target {
    /// The labels that it names.
    pub fn labels(&self) -> Vec<&str> {
        match self {
            Self::Label(label) => vec![label],
            Self::Labels(labels) | Self::Tags(labels) => labels.iter().map(String::as_str).collect(),
            Self::Value(_) => Vec::new(),
        }
    }

    /// The kind of task that it is a target of.
    pub fn kind(&self) -> TaskKind {
        match self {
            Self::Label(_) => TaskKind::Classify,
            Self::Labels(_) => TaskKind::Multilabel,
            Self::Value(_) => TaskKind::Regress,
            Self::Tags(_) => TaskKind::Tag,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::dataset;

    #[test]
    fn labels_are_sorted_and_numbered() {
        let data = dataset(&[("a", "pos"), ("b", "neg"), ("c", "pos"), ("d", "Zero")]);
        let labels = LabelSet::for_training(&data).unwrap();
        assert_eq!(labels.names(), ["Zero", "neg", "pos"]);
        assert_eq!(labels.gold(&data).unwrap(), [2, 1, 2, 0].map(Gold::Class));
        assert_eq!(labels.index("absent"), None);
    }

    #[test]
    fn an_unseen_label_names_file_line_and_known_labels() {
        let labels = LabelSet::from(&dataset(&[("a", "pos"), ("b", "neg")]));
        let error = labels.gold(&dataset(&[("a", "pos"), ("b", "neutral")])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "test.jsonl:2: label `neutral` was never seen in training; known labels: neg, pos"
        );
    }

    #[test]
    fn a_long_list_of_labels_is_cut() {
        let names = (0..100).map(|i| format!("l{i}")).collect();
        let error = LabelSet::new(names).gold(&dataset(&[("a", "x")])).unwrap_err();
        assert!(error.to_string().ends_with("l29 and 70 more"), "{error}");
    }

    #[test]
    fn one_label_is_no_task() {
        let error = LabelSet::for_training(&dataset(&[("a", "x"), ("b", "x")])).unwrap_err();
        assert!(matches!(error, DataError::OneLabel { .. }));
    }

    #[test]
    fn each_kind_has_its_numbers() {
        let set = |targets: &[Target]| {
            let mut data = dataset(&vec![("a", "x"); targets.len()]);
            data.examples.iter_mut().zip(targets).for_each(|(e, target)| e.target = target.clone());
            data
        };
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let data = set(&[Target::Labels(names(&["b", "a"])), Target::Labels(vec![])]);
        let labels = LabelSet::for_training(&data).unwrap();
        assert_eq!(labels.gold(&data).unwrap(), [Gold::Set(vec![true, true]), Gold::Set(vec![false, false])]);
        let data = set(&[Target::Tags(names(&["O", "B-x", "O"])), Target::Tags(names(&["O"]))]);
        let labels = LabelSet::for_training(&data).unwrap();
        assert_eq!(labels.gold(&data).unwrap(), [Gold::Tags(vec![1, 0, 1]), Gold::Tags(vec![1])]);
        let data = set(&[Target::Value(0.5), Target::Value(-2.0)]);
        let labels = LabelSet::for_training(&data).unwrap();
        assert_eq!(
            (labels.names(), labels.gold(&data).unwrap()),
            (&names(&[VALUE])[..], vec![Gold::Value(0.5), Gold::Value(-2.0)])
        );
        for same in [Target::Value(1.0), Target::Labels(names(&["a"])), Target::Tags(names(&["O"]))] {
            let error = LabelSet::for_training(&set(&[same.clone(), same])).unwrap_err();
            assert!(matches!(error, DataError::OneLabel { .. }));
        }
    }

    #[test]
    fn a_packs_order_is_kept() {
        let labels = LabelSet::new(vec!["z".to_owned(), "a".to_owned()]);
        assert_eq!(labels.index("z"), Some(0));
    }
}
