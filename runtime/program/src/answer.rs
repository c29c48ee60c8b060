//! What `overmask run` reads, and how it prints an answer.

use std::collections::BTreeMap;

use overmask::engine::EngineInfo;
use overmask::pack::Input;
use overmask::task::{Answer, Prediction, Task, TextSpan};
use overmask::text::printable;
use overmask_cli::Output;
use serde::{Deserialize, Serialize};

/// A line as it was given.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Given {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<String>>,
}

impl Given {
    pub(super) fn read(line: &str, json: bool) -> Result<Given, String> {
        if !json {
            return Ok(Given { text: Some(line.to_owned()), ..Given::default() });
        }
        let given: Given = serde_json::from_str(line)
            .map_err(|e| format!("{e}; --jsonl takes objects with `text`, `text` and `text_pair`, or `tokens`"))?;
        if given.text.is_some() == given.tokens.is_some() {
            return Err("must have either `text` or `tokens`".to_owned());
        }
        if given.tokens.is_some() && given.text_pair.is_some() {
            return Err("`text_pair` goes with `text`, not with `tokens`".to_owned());
        }
        Ok(given)
    }

    /// The line as an input, which each task reads as it needs it.
    pub(super) fn input(&self) -> Input {
        match (&self.text, &self.text_pair) {
            (Some(first), Some(second)) => Input::Pair(first.clone(), second.clone()),
            (Some(text), None) => Input::Text(text.clone()),
            (None, _) => Input::Words { words: self.tokens.clone().unwrap_or_default() },
        }
    }

    /// The text that a plain line is printed with.
    fn shown(&self) -> String {
        let words = self.tokens.iter().flatten();
        self.text.iter().chain(&self.text_pair).chain(words).map(String::as_str).collect::<Vec<_>>().join("\t")
    }
}

/// A task's answer to a line.
pub(super) struct Row<'a> {
    pub(super) line: usize,
    pub(super) task: &'a Task,
    /// The pack's file.
    pub(super) pack: &'a str,
    pub(super) given: &'a Given,
    pub(super) answer: &'a Answer,
    pub(super) info: &'a EngineInfo,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Json<'a> {
    /// Number of the text or line, from 1.
    line: usize,
    task: &'a str,
    pack: &'a str,
    #[serde(flatten)]
    given: &'a Given,
    #[serde(flatten)]
    said: Said<'a>,
    engine: String,
    precision: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Said<'a> {
    Label {
        label: &'a str,
        score: f32,
        scores: BTreeMap<&'a str, f32>,
    },
    Labels {
        labels: Vec<&'a str>,
        scores: BTreeMap<&'a str, f32>,
    },
    Value {
        value: f32,
    },
    Tags {
        /// The words, if they were found in a text: a tag belongs to each.
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens: Option<Vec<&'a str>>,
        tags: Vec<Option<&'a str>>,
        spans: Vec<Found<'a>>,
    },
    /// A kind of answer that the library knows and this program does not.
    Other {
        answer: String,
    },
}

/// A span of words: see [`TextSpan`].
#[derive(Serialize)]
struct Found<'a> {
    label: &'a str,
    score: f32,
    start: usize,
    end: usize,
    text: &'a str,
}

impl<'a> Row<'a> {
    pub(super) fn print(&self, json: bool, names: bool, out: &mut Output) -> anyhow::Result<()> {
        let said = self.said();
        if json {
            let Row { line, task, pack, given, info, .. } = self;
            let (task, engine, precision) = (task.name(), info.engine.to_string(), info.precision.name());
            return out.json(&Json { line: *line, task, pack, given, said, engine, precision });
        }
        let name = if names { format!("{}\t", self.task.name()) } else { String::new() };
        let text = self.given.shown();
        match said {
            Said::Label { label, score, .. } => out.line(&format!("{name}{label}\t{score:.4}\t{}", printable(&text))),
            Said::Labels { labels, scores } => {
                let score = |label: &&str| scores.get(label).map_or_else(String::new, |score| format!("{score:.4}"));
                let scores: Vec<String> = labels.iter().map(score).collect();
                out.line(&format!("{name}{}\t{}\t{}", labels.join(","), scores.join(","), printable(&text)))
            }
            Said::Value { value } => out.line(&format!("{name}{value:.4}\t{}", printable(&text))),
            Said::Tags { spans, .. } => spans.iter().try_for_each(|Found { label, score, start, end, text }| {
                let line = self.line;
                out.line(&format!("{name}{line}\t{label}\t{score:.4}\t{start}\t{end}\t{}", printable(text)))
            }),
            Said::Other { answer } => out.line(&format!("{name}{}\t{}", printable(&answer), printable(&text))),
        }
    }

    fn said(&self) -> Said<'a> {
        let labels = self.task.labels();
        let scored = |scores: &[f32]| labels.iter().map(String::as_str).zip(scores.iter().copied()).collect();
        match self.answer {
            Answer::Label(Prediction { label, score, scores, .. }) => {
                Said::Label { label, score: *score, scores: scored(scores) }
            }
            Answer::Labels { labels, scores, .. } => {
                Said::Labels { labels: labels.iter().map(String::as_str).collect(), scores: scored(scores) }
            }
            Answer::Value(value) => Said::Value { value: *value },
            Answer::Tags { words, tags, spans } => Said::Tags {
                tokens: self.given.text.is_some().then(|| words.iter().map(String::as_str).collect()),
                tags: tags.iter().map(|tag| tag.as_ref().map(|tag| tag.label.as_str())).collect(),
                spans: spans.iter().map(Found::from).collect(),
            },
            _ => Said::Other { answer: self.answer.to_string() },
        }
    }
}

impl<'a> From<&'a TextSpan> for Found<'a> {
    fn from(TextSpan { label, score, start, end, text, .. }: &'a TextSpan) -> Self {
        Found { label, score: *score, start: *start, end: *end, text }
    }
}
