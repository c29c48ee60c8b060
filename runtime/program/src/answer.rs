//! How `overmask run` prints an answer, or why there is none.

use std::collections::BTreeMap;

use overmask::engine::EngineInfo;
use overmask::pack::Input;
use overmask::task::{Answer, Prediction, Reply, Task, TaskError, TextSpan};
use overmask::text::printable;
use overmask_cli::Output;
use serde::Serialize;

use super::given::{Fields, Given};

/// A task and the pack that it came from.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) task: &'a Task,
    /// The pack's file.
    pub(super) pack: &'a str,
}

/// A task's reply to a line.
pub(super) struct Row<'a> {
    pub(super) line: usize,
    pub(super) known: Known<'a>,
    pub(super) given: &'a Given,
    pub(super) reply: &'a Reply,
    pub(super) info: &'a EngineInfo,
}

/// A line of `--json`; docs/json.md tells of each field.
#[derive(Serialize)]
struct Json<'a, S> {
    line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pack: Option<&'a str>,
    #[serde(flatten)]
    shown: Shown<'a>,
    #[serde(flatten)]
    said: S,
    #[serde(skip_serializing_if = "Option::is_none")]
    given: Option<&'a Fields>,
}

impl<'a, S> Json<'a, S> {
    fn new(line: usize, known: Option<&Known<'a>>, given: Option<&'a Given>, said: S) -> Self {
        Json {
            line,
            task: known.map(|known| known.task.name()),
            pack: known.map(|known| known.pack),
            shown: given.map_or_else(Shown::default, |given| Shown::from(&given.input)),
            said,
            given: given.map(|given| &given.rest).filter(|rest| !rest.is_empty()),
        }
    }
}

/// An answer, and what made it of how much.
#[derive(Serialize)]
pub(super) struct Answered<'a> {
    #[serde(flatten)]
    said: Said<'a>,
    tokens: usize,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    engine: String,
    precision: &'static str,
}

impl<'a> Answered<'a> {
    /// A task's reply.
    pub(super) fn new(task: &'a Task, reply: &'a Reply, info: &EngineInfo) -> Self {
        let (tokens, truncated) = (reply.tokens, reply.dropped > 0);
        let (engine, precision) = (info.engine.to_string(), info.precision.name());
        Answered { said: Said::new(task, &reply.answer), tokens, truncated, engine, precision }
    }
}

/// Why there is no answer.
#[derive(Serialize)]
struct Failed<'a> {
    error: &'a str,
}

/// The input as it is shown.
#[derive(Default, Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<&'a str>,
    /// Words that were given, or found in the text by a task that tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<&'a [String]>,
}

impl<'a> From<&'a Input> for Shown<'a> {
    fn from(input: &'a Input) -> Self {
        match input {
            Input::Text(text) => Shown { text: Some(text), ..Shown::default() },
            Input::Pair(first, second) => Shown { text: Some(first), text_pair: Some(second), words: None },
            Input::Words { words } => Shown { words: Some(words), ..Shown::default() },
        }
    }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<[usize; 2]>,
    text: &'a str,
}

impl<'a> Row<'a> {
    /// Prints it; in plain form with the task's `name` before it, if there is one.
    pub(super) fn print(&self, json: bool, name: Option<&str>, out: &mut Output) -> anyhow::Result<()> {
        if json {
            let answered = Answered::new(self.known.task, self.reply, self.info);
            let mut row = Json::new(self.line, Some(&self.known), Some(self.given), answered);
            if let Answer::Tags { words, .. } = &self.reply.answer {
                row.shown.words = Some(words);
            }
            return out.json(&row);
        }
        let name = name.map_or_else(String::new, |name| format!("{}\t", printable(name)));
        let text = columns(&self.given.input);
        match Said::new(self.known.task, &self.reply.answer) {
            Said::Label { label, score, .. } => out.line(&format!("{name}{}\t{score:.4}\t{text}", printable(label))),
            Said::Labels { labels, scores } => {
                let score = |label: &&str| scores.get(label).map_or_else(String::new, |score| format!("{score:.4}"));
                let scores: Vec<String> = labels.iter().map(score).collect();
                let labels: Vec<String> = labels.into_iter().map(quoted).collect();
                out.line(&format!("{name}{}\t{}\t{text}", labels.join(","), scores.join(",")))
            }
            Said::Value { value } => out.line(&format!("{name}{value:.4}\t{text}")),
            Said::Tags { spans, .. } => {
                spans.iter().try_for_each(|Found { label, score, start, end, text, .. }| {
                    let (line, label, text) = (self.line, printable(label), printable(text));
                    out.line(&format!("{name}{line}\t{label}\t{score:.4}\t{start}\t{end}\t{text}"))
                })
            }
            Said::Other { answer } => out.line(&format!("{name}{}\t{text}", printable(&answer))),
        }
    }
}

impl<'a> Said<'a> {
    fn new(task: &'a Task, answer: &'a Answer) -> Self {
        let labels = task.labels();
        let scored = |scores: &[f32]| labels.iter().map(String::as_str).zip(scores.iter().copied()).collect();
        match answer {
            Answer::Label(Prediction { label, score, scores, .. }) => {
                Said::Label { label, score: *score, scores: scored(scores) }
            }
            Answer::Labels { labels, scores, .. } => {
                Said::Labels { labels: labels.iter().map(String::as_str).collect(), scores: scored(scores) }
            }
            Answer::Value(value) => Said::Value { value: *value },
            Answer::Tags { tags, spans, .. } => Said::Tags {
                tags: tags.iter().map(|tag| tag.as_ref().map(|tag| tag.label.as_str())).collect(),
                spans: spans.iter().map(Found::from).collect(),
            },
            other => Said::Other { answer: other.to_string() },
        }
    }
}

impl<'a> From<&'a TextSpan> for Found<'a> {
    fn from(TextSpan { label, score, start, end, bytes, text }: &'a TextSpan) -> Self {
        let bytes = bytes.as_ref().map(|bytes| [bytes.start, bytes.end]);
        Found { label, score: *score, start: *start, end: *end, bytes, text }
    }
}

/// Why an input that is alone, not one of several, has no answer.
pub(super) fn reason(error: &TaskError) -> String {
    match error {
        TaskError::Text { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// Prints the JSON of a line without an answer: to a task, if the line itself is well-formed.
pub(super) fn print_error(
    line: usize,
    known: Option<&Known<'_>>,
    given: Option<&Given>,
    error: &str,
    out: &mut Output,
) -> anyhow::Result<()> {
    out.json(&Json::new(line, known, given, Failed { error }))
}

/// An input as the last columns of a plain line: a tab is between texts, or words.
fn columns(input: &Input) -> String {
    input.texts().join("\t")
}

/// A label in a list with commas between; one that holds a comma or a quote is quoted as in CSV.
fn quoted(label: &str) -> String {
    let label = printable(label);
    if label.contains([',', '"']) { format!("\"{}\"", label.replace('"', "\"\"")) } else { label }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_columns_can_be_told_apart() {
        let pair = Input::Pair("a".to_owned(), "b".to_owned());
        assert_eq!([columns(&pair), columns(&"a\tb".into())], ["a\tb", "a\tb"]);
        assert_eq!(["a b", "a,b", "say \"a\""].map(quoted), ["a b", "\"a,b\"", "\"say \"\"a\"\"\""]);
    }
}
