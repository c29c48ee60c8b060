//! Measures a pack: the runtime classifies the texts, as a device would, and the answers are
//! compared with the labels.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use overmask::base::Base;
use overmask::engine::{Engine, EngineError, TaskId};
use overmask::error::ErrorKind;
use overmask::pack::{Input, Pack, PackDocument};
use overmask::task::{self, Answer, Runner, TaskError};
use serde::Serialize;

use crate::data::{self, DataError, Dataset, Example, Gold, LabelSet};
use crate::score::{self, Card, Said};

/// Examples between two reports of progress.
const CHUNK: usize = 256;

/// What can go wrong when a pack is measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// The texts or their labels.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Pack and base do not fit, or the texts cannot be classified.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The predictions cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl EvaluateError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Data(e) => e.kind(),
            Self::Engine(e) => e.kind(),
            Self::Task(e) => e.kind(),
            Self::Write { .. } => ErrorKind::DeviceOrStore,
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// How good the answers are.
    #[serde(flatten)]
    pub card: Card,
    /// The engine that computed them.
    pub engine: String,
    /// Its precision.
    pub precision: String,
    /// Of given words, those that a device finds otherwise in a plain text; none if it finds them all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_text: Option<AsText>,
    /// The mistakes that the pack is surest of, the surest first.
    pub mistakes: Vec<Mistake>,
    /// The labels of the task.
    #[serde(skip)]
    pub labels: Vec<String>,
    /// The answer to every example, in the examples' order.
    #[serde(skip)]
    pub said: Vec<Said>,
}

/// A mistake: often of the label, not of the pack.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mistake {
    /// The line of the data file on which the example starts.
    pub line: usize,
    /// The example, with its fields.
    #[serde(flatten)]
    pub example: Example,
    /// What the pack says.
    pub predicted: serde_json::Value,
    /// How sure it is: the probability of the label or tag that is wrong; of a number how far it is off.
    pub score: f64,
}

/// How many of them are listed.
const MISTAKES: usize = 10;

/// How sure an answer is of what is wrong in it; nothing if it is right.
fn surest(gold: &Gold, answer: &Answer) -> Option<f64> {
    match (gold, answer) {
        (Gold::Class(gold), Answer::Label(said)) => (said.index != *gold).then(|| f64::from(said.score)),
        (Gold::Set(gold), Answer::Labels { scores, chosen, .. }) => {
            let labels = gold.iter().zip(scores).enumerate();
            let wrong = labels.filter(|(label, (gold, _))| chosen.contains(label) != **gold);
            wrong.map(|(_, (gold, p))| f64::from(if *gold { 1.0 - p } else { *p })).reduce(f64::max)
        }
        (Gold::Value(gold), Answer::Value(said)) => Some((f64::from(*said) - gold).abs()),
        (Gold::Tags(gold), Answer::Tags { tags, .. }) => {
            let words = gold.iter().zip(tags).filter_map(|(gold, tag)| Some((gold, tag.as_ref()?)));
            words.filter(|(gold, tag)| tag.index != **gold).map(|(_, tag)| f64::from(tag.score)).reduce(f64::max)
        }
        _ => None,
    }
}

/// Words of a data set that are not one word each for a device which is given a sentence as plain text: what was
/// measured says nothing of their tags there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AsText {
    /// How many sentences have such words.
    pub sentences: usize,
    /// How many such words there are.
    pub words: usize,
    /// The first of them.
    pub example: String,
    /// What a device takes for words in it.
    pub found: Vec<String>,
}

impl AsText {
    /// Looks at each word by itself: white space parts words, whatever stands beside it.
    fn of(dataset: &Dataset) -> Option<AsText> {
        let split = |word: &&String| task::words(word).first() != Some(&(0..word.len()));
        let words = |example: &'_ Example| match &example.input {
            Input::Words { words } => words.iter().filter(split).cloned().collect(),
            _ => Vec::new(),
        };
        let found: Vec<Vec<String>> = dataset.examples.iter().map(words).filter(|words| !words.is_empty()).collect();
        let example = found.first()?.first()?.clone();
        Some(AsText {
            sentences: found.len(),
            words: found.iter().map(Vec::len).sum(),
            found: task::words(&example).into_iter().map(|range| example[range].to_owned()).collect(),
            example,
        })
    }
}

/// The metrics by which a pack says how good it was on texts that training never saw: each with `eval_` before its
/// name, and the number of texts.
pub fn promised(card: &Card) -> impl Iterator<Item = (String, f64)> {
    let metrics = card.metrics.iter().map(|(name, value)| (format!("eval_{name}"), *value));
    metrics.chain([("eval_texts".to_owned(), card.n as f64)])
}

/// The pack with what it was measured to be on these examples, in place of what it said of others; `head` is what the
/// head alone was on them. [`overmask::store::Promise`] reads it.
pub fn record(mut pack: Pack, dataset: &Dataset, card: &Card, head: Option<&Card>) -> Pack {
    let PackDocument { metrics, provenance, kind, .. } = &mut pack.document;
    metrics.retain(|name, _| !name.starts_with("eval_"));
    metrics.extend(promised(card));
    metrics.extend(head.map(|head| (format!("eval_head_{}", kind.metric()), head.main())));
    provenance.insert("eval_sha256".to_owned(), data::digest(dataset).into());
    pack
}

/// Measures the pack on the examples.
///
/// `progress` is told how many examples are done.
///
/// # Errors
/// When a label is not one of the pack's, the pack is not for this base, or the engine fails.
pub fn evaluate(
    base: &Arc<Base>,
    pack: Pack,
    dataset: &Dataset,
    engine: Arc<dyn Engine>,
    progress: &mut dyn FnMut(usize),
) -> Result<Report, EvaluateError> {
    measure(&Runner::new(engine, Arc::clone(base))?, pack, dataset, progress)
}

/// The same on an engine that runs already, which lets the task go afterwards: of many packs that are
/// measured one after the other, one is resident.
///
/// # Errors
/// As [`evaluate`].
pub fn measure(
    runner: &Runner,
    pack: Pack,
    dataset: &Dataset,
    progress: &mut dyn FnMut(usize),
) -> Result<Report, EvaluateError> {
    let task = runner.add_pack(pack)?;
    let report = measure_task(runner, task, dataset, progress);
    let removed = runner.remove(task);
    let report = report?;
    removed?;
    Ok(report)
}

/// The same of a task that the runner has already, and keeps.
///
/// # Errors
/// As [`evaluate`].
pub fn measure_task(
    runner: &Runner,
    task: TaskId,
    dataset: &Dataset,
    progress: &mut dyn FnMut(usize),
) -> Result<Report, EvaluateError> {
    let of = runner.task(task)?;
    let labels = LabelSet::new(of.labels().to_vec());
    let gold = labels.gold(dataset)?;
    let info = runner.describe();
    let Answers { said, mut wrong } = answers(runner, task, dataset, &gold, progress)?;
    // Of equal ones the first.
    wrong.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let mistake = |(i, score): &(usize, f64)| Mistake {
        line: dataset.examples[*i].line,
        example: dataset.examples[*i].clone(),
        predicted: said[*i].to_json(labels.names()),
        score: *score,
    };
    let mistakes = wrong.iter().take(MISTAKES).map(mistake).collect();
    let card = score::card(of.kind(), labels.names(), &gold, &said);
    let (engine, precision) = (info.engine.to_string(), info.precision.to_string());
    let as_text = AsText::of(dataset);
    Ok(Report { card, engine, precision, as_text, mistakes, labels: labels.names().to_vec(), said })
}

/// What a task says of examples.
struct Answers {
    /// Of each.
    said: Vec<Said>,
    /// The numbers of those that are wrong, and how sure each answer is.
    wrong: Vec<(usize, f64)>,
}

/// What a task says of each example, and which answers are wrong, with how sure each is.
fn answers(
    runner: &Runner,
    task: TaskId,
    dataset: &Dataset,
    gold: &[Gold],
    progress: &mut dyn FnMut(usize),
) -> Result<Answers, TaskError> {
    let (mut said, mut wrong) = (Vec::with_capacity(dataset.len()), Vec::new());
    for chunk in dataset.inputs().chunks(CHUNK) {
        for answer in runner.predict(task, chunk)? {
            let index = said.len();
            wrong.extend(gold.get(index).and_then(|gold| surest(gold, &answer)).map(|score| (index, score)));
            said.push(Said::new(&answer));
        }
        progress(said.len());
    }
    Ok(Answers { said, wrong })
}

/// Writes the predictions, one JSON object a line: the example, and `predicted`.
///
/// # Errors
/// When the file cannot be written; nothing half-written is left.
pub fn write_predictions(path: &Path, dataset: &Dataset, report: &Report) -> Result<(), EvaluateError> {
    #[derive(Serialize)]
    struct Row<'a> {
        #[serde(flatten)]
        example: &'a Example,
        predicted: serde_json::Value,
    }
    let written = overmask::fs::write_atomically(path, |file| -> std::io::Result<()> {
        let mut out = std::io::BufWriter::new(file);
        for (example, said) in dataset.examples.iter().zip(&report.said) {
            serde_json::to_writer(&mut out, &Row { example, predicted: said.to_json(&report.labels) })?;
            std::io::Write::write_all(&mut out, b"\n")?;
        }
        std::io::Write::flush(&mut out)
    });
    written.map_err(|source| EvaluateError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use overmask::task::Prediction;

    use super::*;
    use crate::data::Target;

    #[test]
    fn an_answer_is_as_wrong_as_it_is_sure_of_what_is_wrong() {
        let tag = |index, score| Prediction { label: String::new(), index, score, logits: vec![], scores: vec![] };
        let set = Answer::Labels { labels: vec![], chosen: vec![0, 2], scores: vec![0.6, 0.3, 0.75] };
        let tags =
            || Answer::Tags { words: vec![], tags: vec![Some(tag(1, 0.5)), None, Some(tag(0, 0.75))], spans: vec![] };
        for (gold, answer, expected) in [
            (Gold::Class(1), Answer::Label(tag(1, 0.5)), None),
            (Gold::Class(0), Answer::Label(tag(1, 0.5)), Some(0.5)),
            (Gold::Set(vec![true, true, false]), set.clone(), Some(0.75)),
            (Gold::Set(vec![true, false, true]), set, None),
            (Gold::Value(2.0), Answer::Value(-1.0), Some(3.0)),
            (Gold::Tags(vec![0, 0, 1]), tags(), Some(0.75)),
            (Gold::Tags(vec![1, 0, 0]), tags(), None),
        ] {
            assert_eq!(surest(&gold, &answer), expected, "{gold:?}");
        }
    }

    #[test]
    fn words_that_a_text_would_not_give_are_counted() {
        let sentence = |(i, words): (usize, &str)| {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            let target = Target::Tags(vec!["O".to_owned(); words.len()]);
            Example { input: Input::Words { words }, target, soft: None, line: i + 1 }
        };
        let of = |sentences: &[&str]| {
            let examples = sentences.iter().copied().enumerate().map(sentence).collect();
            AsText::of(&Dataset { path: "test.conll".into(), examples })
        };
        assert_eq!(of(&["O'Neil sent an e-mail from the U.S. .", "Lima 's mayor did n't ..."]), None);
        let found = of(&["Lima is here", "he said :-) , (c) and", "so :-)"]).unwrap();
        assert_eq!((found.sentences, found.words, found.example.as_str()), (2, 3, ":-)"));
        assert_eq!(found.found, [":", "-", ")"]);
    }
}
