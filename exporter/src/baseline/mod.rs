//! What a task comes to without a mask: the answer that is always the same, and a linear model on the words of a text.
//! Figures beside a pack's own say what the encoder, and the mask, are worth. Heads on the encoder's output, and on its
//! word embeddings alone, are in [`crate::train`].
//!
//! Tags have no such baselines: a word's tag depends on the words around it, which neither sees.

mod linear;
mod tfidf;

use overmask::pack::{Input, TaskKind};
use rayon::prelude::*;
use serde::{Serialize, Serializer};

use self::linear::{Linear, Loss, Row};
use self::tfidf::Vocabulary;
use crate::data::{DataError, Dataset, Gold, LabelSet};
use crate::score::{self, Card, Said};

/// A model that asks little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// The most frequent label, each label that most examples have, or the mean number, whatever the text.
    Majority,
    /// Words and pairs of words, weighted by tf-idf, and a linear model: a support vector machine for each label, or
    /// ridge regression.
    TfIdf,
    /// A head on the mean of the base's word embeddings, without the encoder.
    Embeddings,
    /// A head on the frozen encoder.
    Head,
}

impl Baseline {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Majority => "majority",
            Self::TfIdf => "tf-idf",
            Self::Embeddings => "embeddings",
            Self::Head => "head",
        }
    }

    /// What it is, in words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Majority => "always the same answer",
            Self::TfIdf => "tf-idf, linear model",
            Self::Embeddings => "head on word embeddings",
            Self::Head => "head on the encoder",
        }
    }
}

impl Serialize for Baseline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// How good a baseline is.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Which.
    pub baseline: Baseline,
    /// On the examples that choose.
    pub dev: Card,
    /// On the examples that are only measured, if there are any.
    pub eval: Option<Card>,
    /// How long learning and measuring took.
    pub seconds: f64,
}

/// Learns the baselines that need no base, and measures them; none for tags.
///
/// # Errors
/// When a label is not one of `labels`.
pub fn measure(
    train: &Dataset,
    dev: &Dataset,
    eval: Option<&Dataset>,
    labels: &LabelSet,
    seed: u64,
) -> Result<Vec<Measured>, DataError> {
    let Some(kind) = train.examples.first().map(|example| example.target.kind()) else { return Ok(Vec::new()) };
    if kind == TaskKind::Tag {
        return Ok(Vec::new());
    }
    let gold = labels.gold(train)?;
    let row = |baseline| {
        let started = std::time::Instant::now();
        let model = match baseline {
            Baseline::TfIdf => Model::tfidf(train, &gold, labels.len(), seed),
            _ => Model::Constant(majority(&gold, labels.len())),
        };
        let card = |data: &Dataset| {
            let said: Vec<Said> = data.examples.par_iter().map(|example| model.answer(kind, &example.input)).collect();
            Ok(score::card(kind, labels.names(), &labels.gold(data)?, &said))
        };
        let (dev, eval) = (card(dev)?, eval.map(card).transpose()?);
        Ok(Measured { baseline, dev, eval, seconds: started.elapsed().as_secs_f64() })
    };
    [Baseline::Majority, Baseline::TfIdf].into_iter().map(row).collect()
}

enum Model {
    Constant(Said),
    Words { terms: Vocabulary, models: Vec<Linear>, mean: f32 },
}

impl Model {
    fn tfidf(train: &Dataset, gold: &[Gold], labels: usize, seed: u64) -> Self {
        let inputs = || train.examples.iter().map(|example| &example.input);
        let terms = Vocabulary::of(inputs());
        let rows: Vec<Row> = inputs().map(|input| terms.row(input)).collect();
        let mean = match majority(gold, labels) {
            Said::Value(mean) => mean as f32,
            _ => 0.0,
        };
        let model = |label: usize| {
            let side = |yes: bool| if yes { 1.0 } else { -1.0 };
            let wanted: Vec<f32> = gold
                .iter()
                .map(|gold| match gold {
                    Gold::Class(class) => side(*class == label),
                    Gold::Set(set) => side(set.get(label).copied().unwrap_or(false)),
                    Gold::Value(value) => *value as f32 - mean,
                    Gold::Tags(_) => 0.0,
                })
                .collect();
            let loss = if matches!(gold.first(), Some(Gold::Value(_))) { Loss::Distance } else { Loss::Hinge };
            Linear::learn(&rows, terms.len(), &wanted, loss, seed)
        };
        let models = (0..labels).into_par_iter().map(model).collect();
        Model::Words { terms, models, mean }
    }

    fn answer(&self, kind: TaskKind, input: &Input) -> Said {
        match self {
            Model::Constant(said) => said.clone(),
            Model::Words { terms, models, mean } => {
                let row = terms.row(input);
                let values: Vec<f32> = models.iter().map(|model| model.value(&row) + mean).collect();
                Said::of_logits(kind, &[Some(&values)])
            }
        }
    }
}

/// The answer that is right most often.
fn majority(gold: &[Gold], labels: usize) -> Said {
    let mut counts = vec![0usize; labels];
    let mut sum = 0.0;
    for gold in gold {
        match gold {
            Gold::Class(class) => counts[*class] += 1,
            Gold::Set(set) => counts.iter_mut().zip(set).for_each(|(count, has)| *count += usize::from(*has)),
            Gold::Value(value) => sum += value,
            Gold::Tags(_) => {}
        }
    }
    match gold.first() {
        Some(Gold::Set(_)) => Said::Set(counts.iter().map(|count| 2 * count > gold.len()).collect()),
        Some(Gold::Value(_)) => Said::Value(sum / gold.len() as f64),
        // Of equal ones the first.
        _ => Said::Class((0..labels).rev().max_by_key(|label| counts[*label]).unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Target;
    use crate::data::tests::dataset;

    fn main_of(measured: &[Measured], baseline: Baseline) -> f64 {
        measured.iter().find(|row| row.baseline == baseline).unwrap().dev.main()
    }

    /// Words decide the label; of two examples in three it is `yes`.
    fn texts() -> Dataset {
        let texts: Vec<String> =
            (0..60).map(|i| format!("{} film {}", ["good", "fine", "bad"][i % 3], i / 3)).collect();
        let rows: Vec<(&str, &str)> =
            texts.iter().enumerate().map(|(i, text)| (text.as_str(), if i % 3 == 2 { "no" } else { "yes" })).collect();
        dataset(&rows)
    }

    #[test]
    fn words_are_learnt_and_the_majority_is_what_it_is() {
        let data = texts();
        let labels = LabelSet::from(&data);
        let measured = measure(&data, &data, Some(&data), &labels, 1).unwrap();
        assert!((main_of(&measured, Baseline::Majority) - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(main_of(&measured, Baseline::TfIdf), 1.0);
        assert!(measured.iter().all(|row| row.eval.as_ref().is_some_and(|eval| eval.n == 60)));
        let other = dataset(&[("a", "maybe")]);
        assert!(measure(&data, &other, None, &labels, 1).is_err());
    }

    #[test]
    fn sets_and_numbers_have_baselines_and_tags_have_none() {
        let mut data = texts();
        for (i, example) in data.examples.iter_mut().enumerate() {
            let more: &[&str] = if i % 3 == 2 { &["bad"] } else { &[] };
            example.target = Target::Labels(["any"].iter().chain(more).map(|l| (*l).to_owned()).collect());
        }
        let labels = LabelSet::for_training(&data).unwrap();
        let measured = measure(&data, &data, None, &labels, 1).unwrap();
        assert!((main_of(&measured, Baseline::Majority) - 6.0 / 7.0).abs() < 1e-9, "{measured:?}");
        assert_eq!(main_of(&measured, Baseline::TfIdf), 1.0);

        data.examples.iter_mut().enumerate().for_each(|(i, e)| e.target = Target::Value(100.0 + (i % 3) as f64));
        let labels = LabelSet::for_training(&data).unwrap();
        let measured = measure(&data, &data, None, &labels, 1).unwrap();
        assert!(main_of(&measured, Baseline::TfIdf) > 0.95, "{measured:?}");
        let error = measured[1].dev.metrics["mean_absolute_error"];
        assert!(error < 0.3, "{error}");

        data.examples.iter_mut().for_each(|e| e.target = Target::Tags(vec!["O".into(), "B-x".into()]));
        assert!(measure(&data, &data, None, &LabelSet::from(&data), 1).unwrap().is_empty());
    }
}
