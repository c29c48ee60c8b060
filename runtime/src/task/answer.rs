//! What a task says of an input: decisions, with their probabilities.

use std::fmt;
use std::ops::Range;

use super::head::{sigmoid, softmax};
use super::{OUTSIDE, Question, Rows, Span, Task, spans};
use crate::pack::TaskKind;

/// What a task says of an input.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Answer {
    /// One label ([`TaskKind::Classify`]).
    Label(Prediction),
    /// The labels that apply ([`TaskKind::Multilabel`]).
    Labels {
        /// Those with a probability above a half, in the order of the pack's labels.
        labels: Vec<String>,
        /// Their places among the pack's labels.
        chosen: Vec<usize>,
        /// Probabilities, one for each of the pack's labels (sigmoid of the logits).
        scores: Vec<f32>,
    },
    /// A number ([`TaskKind::Regress`]).
    Value(f32),
    /// A tag for each word ([`TaskKind::Tag`]).
    Tags {
        /// The words: those that were given, or found in the text.
        words: Vec<String>,
        /// None for a word without a token, be it that it was cut away or that it has nothing that the
        /// tokenizer keeps.
        tags: Vec<Option<Prediction>>,
        /// The spans that the tags mean.
        spans: Vec<TextSpan>,
    },
}

/// A task's answer to an input, and how much of the input it is about.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// Tokens that were read, special ones included.
    pub tokens: usize,
    /// Tokens of the input that were cut away, because the task reads no more.
    pub dropped: usize,
}

/// A text's or a word's label.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The label with the largest logit, the first of equal ones.
    pub label: String,
    /// Its place among the pack's labels.
    pub index: usize,
    /// Its probability (softmax over the logits).
    pub score: f32,
    /// The head's output, one value a label.
    pub logits: Vec<f32>,
    /// Probabilities, one a label.
    pub scores: Vec<f32>,
}

/// A span of words, such as the name of a person.
#[derive(Debug, Clone, PartialEq)]
pub struct TextSpan {
    /// What it is.
    pub label: String,
    /// The mean of its words' probabilities.
    pub score: f32,
    /// Its first character (a Unicode scalar value, as Python counts) in the text, from 0; of given words, its
    /// first word.
    pub start: usize,
    /// One after its last.
    pub end: usize,
    /// Where in the text it is, in bytes of UTF-8; none of given words.
    pub bytes: Option<Range<usize>>,
    /// What it says.
    pub text: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(prediction) => f.write_str(&prediction.label),
            Self::Labels { labels, .. } => f.write_str(&labels.join(", ")),
            Self::Value(value) => write!(f, "{value}"),
            Self::Tags { spans, .. } => {
                for (i, span) in spans.iter().enumerate() {
                    let comma = if i > 0 { ", " } else { "" };
                    write!(f, "{comma}{}: {}", span.label, span.text)?;
                }
                Ok(())
            }
        }
    }
}

impl Answer {
    /// What rows of logits say to a question: one row, or one for each word that has a token.
    pub(super) fn new(task: &Task, question: &Question, mut rows: Rows) -> Answer {
        let (kind, labels) = (task.kind(), task.labels());
        if kind == TaskKind::Tag {
            let tag = |row: Option<Vec<f32>>| row.map(|logits| Prediction::new(labels, logits));
            let tags: Vec<_> = rows.into_iter().map(tag).collect();
            let words = question.input.texts().into_iter().map(str::to_owned).collect();
            let spans = text_spans(question, &tags);
            return Answer::Tags { words, tags, spans };
        }
        let logits = rows.pop().flatten().unwrap_or_default();
        match kind {
            TaskKind::Regress => Answer::Value(logits.first().copied().unwrap_or_default()),
            TaskKind::Multilabel => {
                let chosen: Vec<usize> = (0..logits.len()).filter(|i| applies(logits[*i])).collect();
                Answer::Labels {
                    labels: chosen.iter().map(|i| labels[*i].clone()).collect(),
                    chosen,
                    scores: logits.into_iter().map(sigmoid).collect(),
                }
            }
            TaskKind::Classify | TaskKind::Tag => Answer::Label(Prediction::new(labels, logits)),
        }
    }
}

impl Prediction {
    fn new(labels: &[String], logits: Vec<f32>) -> Prediction {
        let index = largest(&logits);
        let scores = softmax(&logits);
        Prediction { label: labels[index].clone(), index, score: scores[index], logits, scores }
    }
}

/// The place of the largest logit, the first of equal ones: what one label of several is decided by.
pub fn largest(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

/// Whether a label that stands on its own applies: its probability, the sigmoid of the logit, is above
/// a half.
pub fn applies(logit: f32) -> bool {
    logit > 0.0
}

/// The spans of tagged words.
fn text_spans(question: &Question, tags: &[Option<Prediction>]) -> Vec<TextSpan> {
    let names = tags.iter().map(|tag| tag.as_ref().map_or(OUTSIDE, |tag| tag.label.as_str()));
    let words = question.input.texts();
    let span = |Span { label, start, end }: Span| {
        let scores: Vec<f32> = tags[start..end].iter().flatten().map(|tag| tag.score).collect();
        let score = scores.iter().sum::<f32>() / scores.len().max(1) as f32;
        match &question.found {
            Some((text, ranges)) => {
                let bytes = ranges[start].start..ranges[end - 1].end;
                let characters = |to: usize| text[..to].chars().count();
                let (start, end) = (characters(bytes.start), characters(bytes.end));
                TextSpan { label, score, start, end, text: text[bytes.clone()].to_owned(), bytes: Some(bytes) }
            }
            None => TextSpan { label, score, start, end, bytes: None, text: words[start..end].join(" ") },
        }
    };
    spans(names).into_iter().map(span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::Input;

    #[test]
    fn the_first_of_equal_logits_wins() {
        let labels = ["a", "b", "c"].map(String::from);
        let prediction = Prediction::new(&labels, vec![0.5, 2.0, 2.0]);
        assert_eq!((prediction.label.as_str(), prediction.index), ("b", 1));
        assert_eq!(prediction.score, prediction.scores[1]);
    }

    #[test]
    fn spans_have_offsets_in_the_text_or_among_the_given_words() {
        let labels = ["O", "B-PER", "I-PER"].map(String::from);
        // The accent at the end of a name is a character of its own, and belongs to it.
        let words = || ["é", "Ann", "Lee\u{301}", "x"].map(String::from).to_vec();
        let row = |label: usize| {
            let mut logits = vec![0.0; 3];
            logits[label] = 4.0;
            Some(logits)
        };
        let rows = || vec![row(0), row(1), row(2), None];
        let text = words().join(" ");
        let found = crate::task::words(&text);
        for (found, start, end, bytes) in [(Some((text, found)), 2, 10, Some(3..12)), (None, 1, 3, None)] {
            let question = Question { input: Input::Words { words: words() }, found };
            let tags: Vec<_> =
                rows().into_iter().map(|row| row.map(|logits| Prediction::new(&labels, logits))).collect();
            let spans = text_spans(&question, &tags);
            assert_eq!((spans[0].start, spans[0].end, spans[0].text.as_str()), (start, end, "Ann Lee\u{301}"));
            assert_eq!(spans[0].bytes, bytes);
            assert!(tags[3].is_none() && spans.len() == 1);
            let answer = Answer::Tags { words: words(), tags, spans };
            assert_eq!(answer.to_string(), "PER: Ann Lee\u{301}");
        }
    }
}
