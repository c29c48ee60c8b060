//! The labels of a task and their numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use overmask::pack::TaskKind;

use super::{DataError, Dataset, Target, normalise};

/// How many labels an error message lists.
const LISTED: usize = 30;

/// Up to so many labels there may be whatever the number of examples.
const FEW: usize = 20;

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
    /// The labels of a data set, those that soft labels name included, sorted by their UTF-8 bytes, so that
    /// the order of the file does not decide the numbers.
    fn from(dataset: &Dataset) -> Self {
        let mut sorted: BTreeSet<&str> = dataset.examples.iter().flat_map(|e| e.target.labels()).collect();
        let soft = dataset.examples.iter().filter_map(|example| example.soft.as_ref());
        sorted.extend(soft.flat_map(|soft| soft.scores.keys().map(String::as_str)));
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
    /// When there is nothing to learn: all examples (of tags, all words) are the same, or there are more than 20
    /// labels and hardly two of them the same.
    pub fn for_training(dataset: &Dataset) -> Result<Self, DataError> {
        let Some(first) = dataset.examples.first() else {
            return Err(DataError::Empty { path: dataset.path.clone() });
        };
        let labels = Self::from(dataset);
        let alike = match &first.target {
            Target::Label(label) if labels.len() < 2 => Some(format!("example is `{label}`")),
            Target::Tags(_) if labels.len() < 2 => Some(format!("word is tagged `{}`", labels.listed())),
            Target::Labels(set) if dataset.examples.iter().all(|e| e.target == first.target) => Some(match set.len() {
                0 => "example is without a label".to_owned(),
                _ => format!("example is `{}`", set.join(", ")),
            }),
            Target::Value(value) if dataset.examples.iter().all(|e| e.target == first.target) => {
                Some(format!("example is `{value}`"))
            }
            _ => None,
        };
        if let Some(what) = alike {
            return Err(DataError::Alike { path: dataset.path.clone(), what });
        }
        let labelled: usize = dataset.examples.iter().map(|e| e.target.labels().len()).sum();
        if labels.len() > FEW && labels.len() > labelled / 2 {
            let of = match first.target.kind() {
                TaskKind::Tag => format!("{labelled} words"),
                _ => format!("{} examples", dataset.len()),
            };
            return Err(DataError::ManyLabels { path: dataset.path.clone(), labels: labels.len(), of });
        }
        match first.target {
            Target::Value(_) => Ok(Self::new(vec![VALUE.to_owned()])),
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

/// What looks like a slip in the labels of a data set, a sentence each: labels that differ only in case or white
/// space, with how many examples (or words) have each; and classes that are numbers with fractions.
pub fn doubts(dataset: &Dataset) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    dataset.examples.iter().flat_map(|e| e.target.labels()).for_each(|label| *counts.entry(label).or_default() += 1);
    let mut spellings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (label, count) in &counts {
        spellings.entry(normalise(label)).or_default().push(format!("`{label}` ({count})"));
    }
    let path = dataset.path.display();
    let several = spellings.values().filter(|labels| labels.len() > 1);
    let mut doubts: Vec<String> = several
        .map(|labels| {
            let labels = labels.join(" and ");
            format!("{path}: {labels} differ only in case or white space; if they are one label, write them alike")
        })
        .collect();
    let classes = dataset.examples.first().is_some_and(|e| e.target.kind() == TaskKind::Classify);
    let numbers = || counts.keys().all(|label| label.parse::<f64>().is_ok_and(f64::is_finite));
    if let Some(fraction) = counts.keys().find(|label| label.contains('.')).filter(|_| classes && numbers()) {
        doubts.push(format!(
            "{path}: every label is a number, such as `{fraction}`, and is learnt as a name of its own; a task of the \
             kind `regress` learns numbers"
        ));
    }
    doubts
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

    /// Its number, if it is one.
    pub fn value(&self) -> Option<f64> {
        if let Self::Value(value) = self { Some(*value) } else { None }
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
        assert!(matches!(error, DataError::Alike { .. }));
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
        for (same, said) in [
            (Target::Value(1.0), "every example is `1`; there is nothing to learn"),
            (Target::Labels(names(&["a", "b"])), "every example is `a, b`"),
            (Target::Labels(vec![]), "every example is without a label"),
            (Target::Tags(names(&["O", "O"])), "every word is tagged `O`"),
        ] {
            let message = LabelSet::for_training(&set(&[same.clone(), same])).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
        // The words of sentences that are tagged alike are not.
        let alike = Target::Tags(names(&["O", "B-x"]));
        assert_eq!(LabelSet::for_training(&set(&[alike.clone(), alike])).unwrap().names(), ["B-x", "O"]);
    }

    /// Texts whose labels come from a function of their number.
    fn labelled(count: usize, label: impl Fn(usize) -> String) -> Dataset {
        let labels: Vec<String> = (0..count).map(label).collect();
        dataset(&labels.iter().map(|label| ("a", label.as_str())).collect::<Vec<_>>())
    }

    #[test]
    fn labels_of_one_example_each_are_none() {
        let message = LabelSet::for_training(&labelled(300, |i| i.to_string())).unwrap_err().to_string();
        assert!(message.starts_with("test.jsonl: 300 labels for 300 examples"), "{message}");
        assert!(LabelSet::for_training(&labelled(300, |i| (i % 151).to_string())).is_err());
        assert!(LabelSet::for_training(&labelled(300, |i| (i % 150).to_string())).is_ok());
        assert!(LabelSet::for_training(&labelled(20, |i| i.to_string())).is_ok(), "few");
        // Of tags, each word has one; a number needs none.
        let mut tags = labelled(25, |_| String::new());
        let word = |i: usize| format!("t{i}");
        (0..25).for_each(|i| tags.examples[i].target = Target::Tags(vec![word(i), word(0), word(1)]));
        assert!(LabelSet::for_training(&tags).is_ok());
        (0..25).for_each(|i| tags.examples[i].target = Target::Tags(vec![word(i)]));
        assert!(LabelSet::for_training(&tags).unwrap_err().to_string().contains("25 labels for 25 words"));
        let mut values = labelled(25, |_| String::new());
        (0..25).for_each(|i| values.examples[i].target = Target::Value(i as f64));
        assert!(LabelSet::for_training(&values).is_ok());
    }

    #[test]
    fn labels_that_look_alike_are_told_with_their_counts() {
        let data = dataset(&[("a", "Sport"), ("b", "sport"), ("c", "Sport"), ("d", "a  b"), ("e", "a b"), ("f", "c")]);
        assert_eq!(
            doubts(&data),
            [
                "test.jsonl: `a  b` (1) and `a b` (1) differ only in case or white space; if they are one label, \
                 write them alike",
                "test.jsonl: `Sport` (2) and `sport` (1) differ only in case or white space; if they are one label, \
                 write them alike",
            ]
        );
        assert!(doubts(&dataset(&[("a", "x-y"), ("b", "x y"), ("c", "1"), ("d", "2")])).is_empty());
    }

    #[test]
    fn classes_that_are_numbers_are_told() {
        let found = doubts(&dataset(&[("a", "0.5"), ("b", "1"), ("c", "-1.25")]));
        assert!(found.len() == 1 && found[0].contains("such as `-1.25`"), "{found:?}");
        assert!(doubts(&dataset(&[("a", "0.5"), ("b", "many")])).is_empty());
        assert!(doubts(&dataset(&[("a", "0"), ("b", "1")])).is_empty());
    }

    #[test]
    fn a_packs_order_is_kept() {
        let labels = LabelSet::new(vec!["z".to_owned(), "a".to_owned()]);
        assert_eq!(labels.index("z"), Some(0));
    }
}
