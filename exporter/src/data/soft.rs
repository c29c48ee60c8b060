//! Soft labels: what somebody, a larger model for example, holds likely of an example.
//!
//! | field | what it holds |
//! | --- | --- |
//! | `probs` | a probability for each label, from 0 to 1, in all 1 (within [`TOLERANCE`]); what is not named has 0 |
//! | `logits` | a finite number for each label, of which the softmax is taken |
//!
//! Either is an object, in which a label is a key, or a list in the order of the labels, sorted by their UTF-8 bytes as
//! in a pack; in a table it is the same as JSON. The labels are those that the file's `label`s name; where it has none,
//! those of its objects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use overmask::pack::Input;
use serde_json::Value;

use super::record::{Get, Reader, is_absent, kind};
use super::{DataError, Example, Form, LabelSet, ReadOptions, Target};

/// How far probabilities may be from 1 together: they are often rounded.
const TOLERANCE: f64 = 0.01;

/// How many labels a message lists.
const LISTED: usize = 30;

/// What soft labels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Probabilities.
    Probs,
    /// Numbers of which the softmax is taken.
    Logits,
}

impl Scale {
    /// The field that holds them.
    pub fn field(self) -> &'static str {
        match self {
            Self::Probs => "probs",
            Self::Logits => "logits",
        }
    }
}

/// What somebody holds likely of an example.
#[derive(Debug, Clone, PartialEq)]
pub struct Soft {
    /// What the numbers are.
    pub scale: Scale,
    /// A number for each label of the file.
    pub scores: BTreeMap<String, f64>,
    /// Whether they stand in place of a label: then the likeliest is the example's target.
    pub alone: bool,
}

impl Soft {
    /// Numbers whose softmax is what was given, in the order of the labels; one that was not named has no chance.
    pub fn logits(&self, labels: &LabelSet) -> Vec<f32> {
        let of = |score: f64| if self.scale == Scale::Probs { score.ln() as f32 } else { score as f32 };
        labels.names().iter().map(|name| self.scores.get(name).map_or(f32::NEG_INFINITY, |score| of(*score))).collect()
    }
}

/// Numbers as they are in the file.
enum Scores {
    Named(BTreeMap<String, f64>),
    Listed(Vec<f64>),
}

/// Soft labels as they are in the file.
pub(super) struct Given {
    scale: Scale,
    scores: Scores,
}

/// An example whose soft labels may be in an order that the whole file decides.
pub(super) struct Draft {
    pub(super) input: Input,
    pub(super) label: Option<String>,
    pub(super) soft: Option<Given>,
    pub(super) line: usize,
}

/// One whose label is given, or soft, or both.
pub(super) fn draft(
    path: &Path,
    line: usize,
    form: Form,
    options: &ReadOptions,
    get: Get<'_>,
) -> Result<Draft, DataError> {
    let read = Reader { path, line, options, get };
    let (input, soft) = (read.input(form)?, given(&read)?);
    let label = match get("label") {
        label if soft.is_some() && label.as_ref().is_none_or(is_absent) => None,
        _ => Some(read.label("label", &read.field("label")?)?),
    };
    Ok(Draft { input, label, soft, line })
}

/// What a record says softly, if it does.
fn given(read: &Reader<'_>) -> Result<Option<Given>, DataError> {
    let [probs, logits] =
        [Scale::Probs, Scale::Logits].map(|scale| (read.get)(scale.field()).filter(|value| !is_absent(value)));
    let (scale, value) = match (probs, logits) {
        (None, None) => return Ok(None),
        (Some(value), None) => (Scale::Probs, value),
        (None, Some(value)) => (Scale::Logits, value),
        (Some(_), Some(_)) => return Err(read.wrong("probs", "stands beside `logits`: give one of the two")),
    };
    let field = scale.field();
    // In a table, JSON.
    let value = match value {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|e| read.wrong(field, format!("is a string that is neither an object nor a list in JSON: {e}")))?,
        value => value,
    };
    let scores = match value {
        Value::Object(named) => {
            let mut scores = BTreeMap::new();
            for (name, value) in named {
                let label = read.label(field, &Value::String(name))?;
                let score = number(read, scale, &value, &format!("`{label}`"))?;
                if scores.insert(label.clone(), score).is_some() {
                    return Err(read.wrong(field, format!("names `{label}` twice")));
                }
            }
            Scores::Named(scores)
        }
        Value::Array(values) => {
            let numbers = values.iter().enumerate();
            let numbers = numbers.map(|(i, value)| number(read, scale, value, &format!("place {}", i + 1)));
            Scores::Listed(numbers.collect::<Result<_, _>>()?)
        }
        other => return Err(read.wrong(field, format!("is {}, not an object or a list", kind(&other)))),
    };
    let sum: f64 = match &scores {
        Scores::Named(named) => named.values().fold(0.0, |sum, score| sum + score),
        Scores::Listed(listed) => listed.iter().fold(0.0, |sum, score| sum + score),
    };
    if scale == Scale::Probs && (sum - 1.0).abs() > TOLERANCE {
        return Err(read.wrong(field, format!("sums to {sum:.4}, not to 1 (within {TOLERANCE}); logits are `logits`")));
    }
    Ok(Some(Given { scale, scores }))
}

/// A number of soft labels; `of` says whose.
fn number(read: &Reader<'_>, scale: Scale, value: &Value, of: &str) -> Result<f64, DataError> {
    let field = scale.field();
    let Value::Number(number) = value else {
        return Err(read.wrong(field, format!("holds {} for {of}, not only numbers", kind(value))));
    };
    // Training has f32.
    let finite = number.as_f64().filter(|number| (*number as f32).is_finite());
    let number =
        finite.ok_or_else(|| read.wrong(field, format!("holds {number} for {of}: it is not a finite number")))?;
    if scale == Scale::Probs && !(0.0..=1.0).contains(&number) {
        return Err(read.wrong(field, format!("holds {number} for {of}: no probability is outside 0 to 1")));
    }
    Ok(number)
}

/// The examples of a file, now that all its labels are known.
pub(super) fn settle(path: &Path, drafts: Vec<Draft>) -> Result<Vec<Example>, DataError> {
    let mut known: BTreeSet<&str> = drafts.iter().filter_map(|draft| draft.label.as_deref()).collect();
    if known.is_empty() {
        known.extend(drafts.iter().flat_map(|draft| match &draft.soft {
            Some(Given { scores: Scores::Named(named), .. }) => named.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        }));
    }
    let known: Vec<String> = known.into_iter().map(str::to_owned).collect();
    drafts.into_iter().map(|draft| example(path, draft, &known)).collect()
}

fn example(path: &Path, draft: Draft, known: &[String]) -> Result<Example, DataError> {
    let Draft { input, label, soft, line } = draft;
    let named = |Given { scale, scores }| {
        let scores = match scores {
            Scores::Named(named) => full(scale, named, known),
            Scores::Listed(listed) => in_order(listed, known),
        };
        let field = scale.field().to_owned();
        let scores = scores.map_err(|reason| DataError::Field { path: path.to_owned(), line, field, reason })?;
        Ok(Soft { scale, scores, alone: label.is_none() })
    };
    let soft = soft.map(named).transpose()?;
    let target = match (label, &soft) {
        (Some(label), _) => label,
        (None, soft) => likeliest(soft.as_ref()),
    };
    Ok(Example { input, target: Target::Label(target), soft, line })
}

/// A number for each label.
fn full(scale: Scale, mut named: BTreeMap<String, f64>, known: &[String]) -> Result<BTreeMap<String, f64>, String> {
    if let Some(name) = named.keys().find(|name| known.binary_search(name).is_err()) {
        return Err(format!("names `{name}`, which is no `label` of the file; they are {}", listed(known)));
    }
    for label in known {
        match scale {
            Scale::Probs => drop(named.entry(label.clone()).or_insert(0.0)),
            Scale::Logits if !named.contains_key(label) => return Err(format!("has no number for `{label}`")),
            Scale::Logits => {}
        }
    }
    Ok(named)
}

/// The same of a list.
fn in_order(values: Vec<f64>, known: &[String]) -> Result<BTreeMap<String, f64>, String> {
    if known.is_empty() {
        return Err("is a list, and nothing in the file names the labels; make it an object".to_owned());
    }
    if values.len() != known.len() {
        let (numbers, labels) = (values.len(), known.len());
        return Err(format!("has {numbers} numbers for {labels} labels: {}, in this order", listed(known)));
    }
    Ok(known.iter().cloned().zip(values).collect())
}

/// The label with the largest number, of equals the first.
fn likeliest(soft: Option<&Soft>) -> String {
    let scores = soft.iter().flat_map(|soft| &soft.scores);
    let best = scores.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map(|(label, _)| label.clone()).unwrap_or_default()
}

fn listed(known: &[String]) -> String {
    let names: Vec<String> = known.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    names.join(", ") + if known.len() > LISTED { ", ..." } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, Form, ReadOptions, digest, read_unlabelled, read_with};

    fn soft_file(name: &str, text: &str) -> Result<Dataset, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let options = ReadOptions { soft: true, ..ReadOptions::default() };
        read_with(&path, Form::CLASSIFY, &options)
            .map_err(|e| e.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    fn probs(data: &Dataset, i: usize) -> Vec<f32> {
        let logits = data.examples[i].soft.as_ref().unwrap().logits(&LabelSet::from(data));
        overmask::task::softmax(&logits)
    }

    #[test]
    fn soft_labels_stand_beside_labels_or_in_their_place() {
        let data = soft_file(
            "a.jsonl",
            "{\"text\":\"a\",\"label\":\"y\",\"probs\":{\"x\":0.75,\"y\":0.25}}\n\
             {\"text\":\"b\",\"probs\":[1.0,0]}\n\
             {\"text\":\"c\",\"label\":\"x\"}\n\
             {\"text\":\"d\",\"label\":null,\"logits\":{\"y\":3,\"x\":1.5}}\n\
             {\"text\":\"e\",\"probs\":{\"y\":1}}\n",
        )
        .unwrap();
        let labels: Vec<String> = data.examples.iter().map(|e| e.target.labels().concat()).collect();
        assert_eq!(labels.join(" "), "y x x y y");
        let alone: Vec<Option<bool>> = data.examples.iter().map(|e| e.soft.as_ref().map(|s| s.alone)).collect();
        assert_eq!(alone, [Some(false), Some(true), None, Some(true), Some(true)]);
        assert_eq!(
            (probs(&data, 0), probs(&data, 1), probs(&data, 4)),
            (vec![0.75, 0.25], vec![1.0, 0.0], vec![0.0, 1.0])
        );
        assert!((probs(&data, 3)[1] - 0.817_574_5).abs() < 1e-6);
        assert_eq!(data.soft(), 4);
        // The canonical form has them, and is read as it was written.
        let mut file = Vec::new();
        data.write_jsonl(&mut file).unwrap();
        let text = String::from_utf8(file).unwrap();
        assert!(text.contains("{\"text\":\"b\",\"probs\":{\"x\":1.0,\"y\":0.0}}\n"), "{text}");
        assert_eq!(digest(&soft_file("b.jsonl", &text).unwrap()), digest(&data));
    }

    #[test]
    fn tables_have_them_too() {
        for (name, text) in [
            ("a.csv", "text,label,probs\na,x,\nb,y,\"[0.5,0.5]\"\nc,,\"{\"\"y\"\":1}\"\n"),
            ("a.tsv", "text\tlabel\tprobs\na\tx\t\nb\ty\t[0.5,0.5]\nc\t\t{\"y\":1}\n"),
            (
                "a.jsonl",
                "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":\"y\",\"probs\":[0.5,0.5]}\n\
                 {\"text\":\"c\",\"probs\":[0,1]}\n",
            ),
        ] {
            let data = soft_file(name, text).unwrap();
            assert_eq!((data.soft(), data.examples[2].target.labels().concat().as_str()), (2, "y"), "{name}");
            assert_eq!(probs(&data, 2), [0.0, 1.0]);
        }
        // Without a column of labels; an object may name a label that is nowhere the likeliest.
        let data =
            soft_file("a.csv", "text,Logits\na,\"{\"\"x\"\":1,\"\"y\"\":0,\"\"z\"\":-1}\"\nb,\"[0,1,0]\"\n").unwrap();
        assert_eq!(LabelSet::from(&data).names(), ["x", "y", "z"]);
        assert_eq!(data.examples[1].target.labels(), ["y"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_line_and_field() {
        let first = "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":\"y\"}\n";
        for (fields, said) in [
            (
                "\"probs\":{\"x\":0.5,\"y\":0.4}",
                "field `probs` sums to 0.9000, not to 1 (within 0.01); logits are `logits`",
            ),
            ("\"probs\":{}", "field `probs` sums to 0.0000, not to 1"),
            ("\"probs\":{\"x\":-0.5,\"y\":1.5}", "field `probs` holds -0.5 for `x`: no probability is outside 0 to 1"),
            ("\"probs\":{\"x\":\"1\"}", "field `probs` holds a string for `x`, not only numbers"),
            ("\"probs\":[0.5,null]", "field `probs` holds null for place 2, not only numbers"),
            (
                "\"probs\":{\"x\":0.5,\"z\":0.5}",
                "field `probs` names `z`, which is no `label` of the file; they are `x`, `y`",
            ),
            ("\"probs\":{\"x\":0.5,\" x\":0.5}", "field `probs` names `x` twice"),
            ("\"probs\":[0.2,0.3,0.5]", "field `probs` has 3 numbers for 2 labels: `x`, `y`, in this order"),
            ("\"probs\":0.5", "field `probs` is a fraction, not an object or a list"),
            ("\"probs\":\"x\"", "field `probs` is a string that is neither an object nor a list in JSON: "),
            ("\"probs\":[1,0],\"logits\":[1,0]", "field `probs` stands beside `logits`: give one of the two"),
            ("\"logits\":{\"x\":1}", "field `logits` has no number for `y`"),
            ("\"logits\":[1e300,0]", "field `logits` holds 1e+300 for place 1: it is not a finite number"),
            ("\"probs\":null", "field `label` is missing"),
            ("\"probs\":[1,0],\"label\":[1]", "field `label` is a list"),
        ] {
            let message = soft_file("a.jsonl", &format!("{first}{{\"text\":\"c\",{fields}}}\n")).unwrap_err();
            assert!(message.starts_with(&format!("a.jsonl:3: {said}")), "{message}\nnot\n{said}");
        }
        let message = soft_file("a.jsonl", "{\"text\":\"a\",\"probs\":[1,0]}\n").unwrap_err();
        assert!(message.starts_with("a.jsonl:1: field `probs` is a list, and nothing in the file names"), "{message}");
        let message = soft_file("a.csv", "text\na\n").unwrap_err();
        assert!(message.contains("a.csv:1: the header has no column `label`"), "{message}");
        let message = soft_file("a.csv", "text,label,probs\na,x,\"[1,\"\n").unwrap_err();
        assert!(message.starts_with("a.csv:2: field `probs` is a string that is neither"), "{message}");
    }

    #[test]
    fn without_soft_labels_a_file_is_what_it_was() {
        let text = "text,label,probs\na,x,7\nb,y,\n";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(&path, text).unwrap();
        let plain = read_with(&path, Form::CLASSIFY, &ReadOptions::default()).unwrap();
        assert_eq!(plain.soft(), 0, "other columns are skipped");
        let own = soft_file("a.csv", "text,label\na,x\nb,y\n").unwrap();
        assert_eq!(digest(&own), digest(&plain));
    }

    #[test]
    fn texts_are_read_without_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let mut digests = Vec::new();
        for (name, text) in [
            ("a.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b\",\"label\":[]}\n"),
            ("a.csv", "text,label\na,\nb,\n"),
            ("b.csv", "text\na\nb\n"),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let texts = read_unlabelled(&path, Form::CLASSIFY, &ReadOptions::default()).unwrap();
            assert_eq!(texts.inputs.iter().map(|(input, _)| input.texts().concat()).collect::<String>(), "ab");
            digests.push(texts.digest());
        }
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
        let path = dir.path().join("c.jsonl");
        for (text, said) in [("{\"label\":\"x\"}\n", "c.jsonl:1: field `text` is missing"), ("\n", "holds no example")]
        {
            std::fs::write(&path, text).unwrap();
            let message = read_unlabelled(&path, Form::CLASSIFY, &ReadOptions::default()).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
    }
}
