//! What `overmask run` takes a line for, and how it prints an answer.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::output::Output;
use super::run::Task;
use crate::engine::EngineInfo;
use crate::error::printable;
use crate::pack::{Input, TaskKind};
use crate::task::{Answer, Prediction, Runner, Span, spans};

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

/// A line as a task reads it.
pub(super) struct Asked {
    pub(super) input: Input,
    /// Where in the text each word is, in bytes, if the words were found in a text.
    words: Vec<Range<usize>>,
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

    /// The line as an input of a task.
    pub(super) fn input(&self, task: &Task, runner: &Runner) -> Result<Asked, String> {
        let asked = |input| Ok(Asked { input, words: Vec::new() });
        let Some(text) = &self.text else {
            let words = self.tokens.clone().unwrap_or_default();
            return match task.kind {
                TaskKind::Tag => asked(Input::Words { words }),
                _ => Err(format!("`tokens` are for tasks that tag words; give `{}` a `text`", task.name)),
            };
        };
        if task.kind == TaskKind::Tag && self.text_pair.is_none() {
            let ranges = runner.tokenizer().words(text).map_err(|e| e.to_string())?;
            let words = ranges.iter().map(|range| text[range.clone()].to_owned()).collect();
            return Ok(Asked { input: Input::Words { words }, words: ranges });
        }
        match (task.text.pair, &self.text_pair, text.split_once('\t')) {
            (false, None, _) => asked(Input::Text(text.clone())),
            (false, Some(_), _) => Err(format!("the task `{}` reads one text, without `text_pair`", task.name)),
            (true, Some(second), _) => asked(Input::Pair(text.clone(), second.clone())),
            (true, None, Some((first, second))) => asked(Input::Pair(first.to_owned(), second.to_owned())),
            (true, None, None) => {
                Err(format!("the task `{}` reads two texts; put a tab between them, or take --jsonl", task.name))
            }
        }
    }
}

/// A task's answer to a line.
pub(super) struct Row<'a> {
    pub(super) line: usize,
    pub(super) task: &'a Task,
    pub(super) given: &'a Given,
    pub(super) asked: &'a Asked,
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
    engine: &'a str,
    precision: &'a str,
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
}

/// A span of words.
#[derive(Serialize)]
struct Found<'a> {
    label: String,
    /// The mean of its words' probabilities.
    score: f32,
    /// Its first character in the text; of given tokens, its first token.
    start: usize,
    /// One after its last.
    end: usize,
    text: std::borrow::Cow<'a, str>,
}

impl<'a> Row<'a> {
    pub(super) fn print(&self, json: bool, names: bool, out: &mut Output) -> anyhow::Result<()> {
        let said = self.said();
        if json {
            let Row { line, task, given, info, .. } = self;
            let (engine, precision) = (&info.engine, &info.precision);
            return out.json(&Json { line: *line, task: &task.name, pack: &task.file, given, said, engine, precision });
        }
        let name = if names { format!("{}\t", self.task.name) } else { String::new() };
        let text = self.asked.input.texts().join("\t");
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
        }
    }

    fn said(&self) -> Said<'a> {
        let labels = &self.task.labels;
        let scored = |scores: &[f32]| labels.iter().map(String::as_str).zip(scores.iter().copied()).collect();
        match self.answer {
            Answer::Label(Prediction { label, score, scores, .. }) => {
                Said::Label { label, score: *score, scores: scored(scores) }
            }
            Answer::Labels { chosen, scores } => {
                Said::Labels { labels: chosen.iter().map(|i| labels[*i].as_str()).collect(), scores: scored(scores) }
            }
            Answer::Value(value) => Said::Value { value: *value },
            Answer::Tags(tags) => Said::Tags {
                tokens: self.given.text.is_some().then(|| self.asked.input.texts()),
                tags: tags.iter().map(|tag| tag.as_ref().map(|tag| tag.label.as_str())).collect(),
                spans: self.found(tags),
            },
        }
    }

    /// The spans of tagged words.
    fn found(&self, tags: &[Option<Prediction>]) -> Vec<Found<'a>> {
        // A word without an answer is in no span.
        let names = tags.iter().map(|tag| tag.as_ref().map_or("O", |tag| tag.label.as_str()));
        let found = |Span { label, start, end }: Span| {
            let scores: Vec<f32> = tags[start..end].iter().flatten().map(|tag| tag.score).collect();
            let score = scores.iter().sum::<f32>() / scores.len().max(1) as f32;
            match (&self.given.text, self.asked.words.get(start), self.asked.words.get(end - 1)) {
                (Some(text), Some(first), Some(last)) => {
                    let characters = |to: usize| text[..to].chars().count();
                    let (start, end) = (characters(first.start), characters(last.end));
                    Found { label, score, start, end, text: text[first.start..last.end].into() }
                }
                _ => {
                    let text = self.asked.input.texts()[start..end].join(" ").into();
                    Found { label, score, start, end, text }
                }
            }
        };
        spans(names).into_iter().map(found).collect()
    }
}
