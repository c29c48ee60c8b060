//! What a task says beside what is true: every metric that its kind has, how sure each is, and where
//! the mistakes are.

use std::collections::BTreeMap;

use overmask::pack::TaskKind;
use overmask::task::{Answer, OUTSIDE, Span, applies, largest, spans};
use serde::Serialize;

use crate::data::Gold;
use crate::metrics::{self, Bootstrap, Counts, Interval, Scores, multilabel, pick};

/// What a task says of an example, in the numbers of its labels.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// The number of a label.
    Class(usize),
    /// For each label, whether it applies.
    Set(Vec<bool>),
    /// A number.
    Value(f64),
    /// The number of each word's tag, none for a word without an answer.
    Tags(Vec<Option<usize>>),
}

impl Said {
    /// An answer of a device.
    pub fn new(answer: &Answer) -> Self {
        match answer {
            Answer::Label(prediction) => Said::Class(prediction.index),
            Answer::Labels { chosen, scores, .. } => {
                Said::Set((0..scores.len()).map(|label| chosen.contains(&label)).collect())
            }
            Answer::Value(value) => Said::Value(f64::from(*value)),
            Answer::Tags { tags, .. } => Said::Tags(tags.iter().map(|tag| tag.as_ref().map(|tag| tag.index)).collect()),
            // A kind of answer that this version does not know counts as no answer.
            _ => Said::Tags(Vec::new()),
        }
    }

    /// What rows of logits mean: one, or one for each word that has any.
    pub fn of_logits(kind: TaskKind, rows: &[Option<&[f32]>]) -> Self {
        let row = rows.first().copied().flatten().unwrap_or_default();
        match kind {
            TaskKind::Classify => Said::Class(largest(row)),
            TaskKind::Multilabel => Said::Set(row.iter().copied().map(applies).collect()),
            TaskKind::Regress => Said::Value(row.first().map_or(0.0, |value| f64::from(*value))),
            TaskKind::Tag => Said::Tags(rows.iter().map(|row| row.map(largest)).collect()),
        }
    }

    /// As a report tells it: a label, labels, a number, or tags.
    pub fn to_json(&self, labels: &[String]) -> serde_json::Value {
        let name = |i: &usize| labels.get(*i).map(String::as_str);
        match self {
            Self::Class(class) => name(class).into(),
            Self::Set(set) => (0..set.len()).filter(|i| set[*i]).filter_map(|i| name(&i)).collect(),
            Self::Value(value) => (*value).into(),
            Self::Tags(tags) => tags.iter().map(|tag| tag.as_ref().and_then(name)).collect(),
        }
    }
}

/// How good answers are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Card {
    /// The kind of task.
    pub task: TaskKind,
    /// The name of the metric by which it is judged.
    pub metric: &'static str,
    /// How many examples there were.
    pub n: usize,
    /// Every metric by name; one that is not defined for these answers is left out.
    #[serde(flatten)]
    pub metrics: BTreeMap<&'static str, f64>,
    /// The label that `f1` is of, where there are two: the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1_label: Option<String>,
    /// Between which values each probably lies: 95 % of 1000 selections of the examples.
    pub intervals: BTreeMap<&'static str, Interval>,
    /// Precision, recall and F1 of each label, or of each kind of span.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<Class>,
    /// How often each label was said of each; none where there are more than
    /// [`MAX_CONFUSION_LABELS`](metrics::MAX_CONFUSION_LABELS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Confusion>,
}

impl Card {
    /// The value of the metric by which the task is judged; 0 where it is not defined.
    pub fn main(&self) -> f64 {
        self.metrics.get(self.metric).copied().unwrap_or(0.0)
    }
}

/// Whether a metric is a share of texts, labels or spans, which is written in per cent.
pub fn is_share(metric: &str) -> bool {
    ["accuracy", "f1", "precision", "recall", "exact_match"].iter().any(|share| metric.contains(share))
}

/// A metric's value with its unit.
pub fn say(metric: &str, value: f64) -> String {
    if is_share(metric) { format!("{:.2} %", 100.0 * value) } else { format!("{value:.4}") }
}

/// How well a label was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Class {
    /// The label.
    pub label: String,
    /// Precision, recall, F1 and support.
    #[serde(flatten)]
    pub scores: Scores,
}

/// How often each label was said of each.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Confusion {
    /// The labels.
    pub labels: Vec<String>,
    /// A row for each true label, with a count for each that was said.
    pub counts: Vec<Vec<u64>>,
}

/// The value of the main metric alone; 0 where it is not defined.
pub fn main_score(kind: TaskKind, labels: &[String], gold: &[Gold], said: &[Said]) -> f64 {
    let table = Table::new(kind, labels, gold, said);
    let value =
        table.metrics().into_iter().find(|(name, _)| *name == kind.metric()).map(|(_, of)| of(&table, &all(gold)));
    value.filter(|value| value.is_finite()).unwrap_or(0.0)
}

/// Everything that there is to say.
pub fn card(kind: TaskKind, labels: &[String], gold: &[Gold], said: &[Said]) -> Card {
    let table = Table::new(kind, labels, gold, said);
    let (mut metrics, mut intervals) = (BTreeMap::new(), BTreeMap::new());
    for (name, of) in table.metrics() {
        let value = of(&table, &all(gold));
        if value.is_finite() {
            metrics.insert(name, value);
            intervals.insert(name, Bootstrap::default().interval(gold.len(), |drawn| of(&table, drawn)));
        }
    }
    let class = |(label, scores): (&String, Scores)| Class { label: label.clone(), scores };
    let (classes, confusion) = match &table {
        Table::Classes { gold, said, labels } => {
            let confusion = metrics::confusion(gold, said, labels.len());
            let classes = labels.iter().zip(metrics::class_table(gold, said, labels.len())).map(class).collect();
            (classes, confusion.map(|counts| Confusion { labels: labels.to_vec(), counts }))
        }
        Table::Sets { gold, said } => (labels.iter().zip(multilabel::table(gold, said)).map(class).collect(), None),
        Table::Values { .. } => (Vec::new(), None),
        Table::Tags { gold, said, .. } => {
            (metrics::span_table(gold, said).iter().map(|(label, scores)| class((label, *scores))).collect(), None)
        }
    };
    let f1_label = metrics.contains_key("f1").then(|| labels[1].clone());
    Card { task: kind, metric: kind.metric(), n: gold.len(), metrics, f1_label, intervals, classes, confusion }
}

fn all(gold: &[Gold]) -> Vec<usize> {
    (0..gold.len()).collect()
}

/// Gold and answers in the form that the metrics of their kind take.
enum Table<'a> {
    Classes { gold: Vec<usize>, said: Vec<usize>, labels: &'a [String] },
    Sets { gold: Vec<&'a [bool]>, said: Vec<&'a [bool]> },
    Values { gold: Vec<f64>, said: Vec<f64> },
    Tags { gold: Vec<Vec<Span>>, said: Vec<Vec<Span>>, counts: Vec<Counts>, right: Vec<(usize, usize)> },
}

/// A metric of the examples with these numbers.
type Metric = fn(&Table<'_>, &[usize]) -> f64;

impl<'a> Table<'a> {
    fn new(kind: TaskKind, labels: &'a [String], gold: &'a [Gold], said: &'a [Said]) -> Self {
        let pairs = || gold.iter().zip(said);
        match kind {
            TaskKind::Classify => {
                let number = |(gold, said): (&Gold, &Said)| match (gold, said) {
                    (Gold::Class(gold), Said::Class(said)) => Some((*gold, *said)),
                    _ => None,
                };
                let (gold, said) = pairs().filter_map(number).unzip();
                Table::Classes { gold, said, labels }
            }
            TaskKind::Multilabel => {
                let set = |(gold, said): (&'a Gold, &'a Said)| match (gold, said) {
                    (Gold::Set(gold), Said::Set(said)) => Some((gold.as_slice(), said.as_slice())),
                    _ => None,
                };
                let (gold, said) = pairs().filter_map(set).unzip();
                Table::Sets { gold, said }
            }
            TaskKind::Regress => {
                let value = |(gold, said): (&Gold, &Said)| match (gold, said) {
                    (Gold::Value(gold), Said::Value(said)) => Some((*gold, *said)),
                    _ => None,
                };
                let (gold, said) = pairs().filter_map(value).unzip();
                Table::Values { gold, said }
            }
            TaskKind::Tag => {
                let name = |tag: Option<usize>| tag.and_then(|tag| labels.get(tag)).map_or(OUTSIDE, String::as_str);
                let (mut golds, mut saids, mut right) = (Vec::new(), Vec::new(), Vec::new());
                for pair in pairs() {
                    if let (Gold::Tags(gold), Said::Tags(said)) = pair {
                        golds.push(spans(gold.iter().map(|tag| name(Some(*tag)))));
                        saids.push(spans(said.iter().map(|tag| name(*tag))));
                        let hits = gold.iter().zip(said).filter(|(gold, said)| Some(**gold) == **said).count();
                        right.push((hits, gold.len()));
                    }
                }
                let counts = golds.iter().zip(&saids).map(|(gold, said)| metrics::span_counts(gold, said)).collect();
                Table::Tags { gold: golds, said: saids, counts, right }
            }
        }
    }

    fn metrics(&self) -> Vec<(&'static str, Metric)> {
        match self {
            Self::Classes { labels, .. } => {
                let mut all: Vec<(&'static str, Metric)> = vec![
                    ("accuracy", |table, drawn| table.classes(drawn, |g, s, _| metrics::accuracy(g, s))),
                    ("macro_f1", |table, drawn| table.classes(drawn, metrics::macro_f1)),
                    ("matthews", |table, drawn| table.classes(drawn, metrics::matthews_correlation)),
                ];
                if labels.len() == 2 {
                    // As GLUE has it for pairs of sentences: of the second label, `1` or `true`.
                    all.push(("f1", |table, drawn| table.classes(drawn, |g, s, _| metrics::binary_f1(g, s, 1))));
                }
                all
            }
            Self::Sets { .. } => vec![
                ("micro_f1", |table, drawn| table.sets(drawn, |g, s| multilabel::micro_f1(g, s))),
                ("macro_f1", |table, drawn| table.sets(drawn, |g, s| multilabel::macro_f1(g, s))),
                ("exact_match", |table, drawn| table.sets(drawn, |g, s| multilabel::exact_match(g, s))),
            ],
            Self::Values { .. } => vec![
                ("pearson", |table, drawn| table.values(drawn, metrics::pearson)),
                ("spearman", |table, drawn| table.values(drawn, metrics::spearman)),
                ("mean_squared_error", |table, drawn| table.values(drawn, metrics::mean_squared_error)),
                ("mean_absolute_error", |table, drawn| table.values(drawn, metrics::mean_absolute_error)),
            ],
            Self::Tags { .. } => vec![
                ("span_f1", |table, drawn| table.spans(drawn).f1),
                ("span_precision", |table, drawn| table.spans(drawn).precision),
                ("span_recall", |table, drawn| table.spans(drawn).recall),
                ("word_accuracy", |table, drawn| table.words(drawn)),
            ],
        }
    }

    fn classes(&self, drawn: &[usize], of: impl Fn(&[usize], &[usize], usize) -> f64) -> f64 {
        let Self::Classes { gold, said, labels } = self else { return f64::NAN };
        of(&pick(gold, drawn), &pick(said, drawn), labels.len())
    }

    fn sets(&self, drawn: &[usize], of: impl Fn(&[&[bool]], &[&[bool]]) -> f64) -> f64 {
        let Self::Sets { gold, said } = self else { return f64::NAN };
        of(&pick(gold, drawn), &pick(said, drawn))
    }

    fn values(&self, drawn: &[usize], of: impl Fn(&[f64], &[f64]) -> f64) -> f64 {
        let Self::Values { gold, said } = self else { return f64::NAN };
        of(&pick(gold, drawn), &pick(said, drawn))
    }

    fn spans(&self, drawn: &[usize]) -> Scores {
        let Self::Tags { counts, .. } = self else { return Scores::default() };
        drawn.iter().map(|i| counts[*i]).sum::<Counts>().into()
    }

    fn words(&self, drawn: &[usize]) -> f64 {
        let Self::Tags { right, .. } = self else { return f64::NAN };
        let (hits, words) = drawn.iter().fold((0, 0), |(hits, words), i| (hits + right[*i].0, words + right[*i].1));
        if words == 0 { 0.0 } else { hits as f64 / words as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn every_kind_has_its_metrics_and_a_perfect_answer_scores_one() {
        let labels = names(&["B-x", "O"]);
        for (kind, gold, said) in [
            (TaskKind::Classify, [Gold::Class(0), Gold::Class(1)], [Said::Class(0), Said::Class(1)]),
            (
                TaskKind::Multilabel,
                [Gold::Set(vec![true, false]), Gold::Set(vec![true, true])],
                [Said::Set(vec![true, false]), Said::Set(vec![true, true])],
            ),
            (TaskKind::Regress, [Gold::Value(1.0), Gold::Value(2.0)], [Said::Value(1.0), Said::Value(2.0)]),
            (
                TaskKind::Tag,
                [Gold::Tags(vec![0, 1]), Gold::Tags(vec![1])],
                [Said::Tags(vec![Some(0), Some(1)]), Said::Tags(vec![None])],
            ),
        ] {
            let card = card(kind, &labels, &gold, &said);
            assert!((card.main() - 1.0).abs() < 1e-12, "{kind}: {:?}", card.metrics);
            assert_eq!(card.main(), main_score(kind, &labels, &gold, &said));
            assert_eq!(card.n, 2);
            assert!(card.metrics.keys().all(|name| card.intervals.contains_key(name)));
        }
    }

    #[test]
    fn very_many_labels_are_scored_without_a_confusion_matrix() {
        let labels: Vec<String> = (0..=metrics::MAX_CONFUSION_LABELS).map(|i| i.to_string()).collect();
        let card = card(TaskKind::Classify, &labels, &[Gold::Class(1)], &[Said::Class(1)]);
        assert_eq!((card.main(), card.classes.len(), &card.confusion), (1.0, labels.len(), &None));
        assert!(serde_json::to_value(&card).unwrap().get("confusion").is_none());
    }

    #[test]
    fn a_word_without_an_answer_is_a_wrong_one() {
        let labels = names(&["B-x", "O"]);
        let gold = [Gold::Tags(vec![0, 1, 0])];
        let card = card(TaskKind::Tag, &labels, &gold, &[Said::Tags(vec![Some(0), Some(1), None])]);
        assert!((card.main() - 2.0 / 3.0).abs() < 1e-12);
        assert!((card.metrics["word_accuracy"] - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!((card.classes[0].label.as_str(), card.classes[0].scores.support), ("x", 2));
    }

    #[test]
    fn logits_mean_what_devices_make_of_them() {
        let row: &[f32] = &[0.5, 2.0, 2.0];
        assert_eq!(Said::of_logits(TaskKind::Classify, &[Some(row)]), Said::Class(1));
        assert_eq!(Said::of_logits(TaskKind::Multilabel, &[Some(&[-1.0, 0.1])]), Said::Set(vec![false, true]));
        assert_eq!(Said::of_logits(TaskKind::Regress, &[Some(&[1.5])]), Said::Value(1.5));
        assert_eq!(Said::of_logits(TaskKind::Tag, &[Some(row), None]), Said::Tags(vec![Some(1), None]));
    }

    #[test]
    fn what_is_not_defined_is_left_out() {
        let gold = [Gold::Value(1.0), Gold::Value(1.0)];
        let card = card(TaskKind::Regress, &names(&["value"]), &gold, &[Said::Value(2.0), Said::Value(2.0)]);
        assert!(card.metrics.values().all(|v| v.is_finite()) && card.main().is_finite());
        assert_eq!(card.metrics["mean_absolute_error"], 1.0);
    }
}
