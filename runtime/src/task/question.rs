//! What a task takes an input for: texts become words for a task that tags, a line with a tab two texts for
//! one that reads two.

use std::ops::Range;

use super::{Task, TaskError, words};
use crate::pack::{Input, TaskKind};

/// An input in the form that a task reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The input.
    pub input: Input,
    /// The text in which words were found, and where in it each is, in bytes; none where words were given, or
    /// the task tags none.
    pub found: Option<(String, Vec<Range<usize>>)>,
}

impl Question {
    /// An input as a task reads it.
    ///
    /// | the task reads | it takes |
    /// | --- | --- |
    /// | one text | a text |
    /// | two texts | a pair, or a text with a tab between the two |
    /// | words | words, or a text, in which [`words`] finds them |
    ///
    /// # Errors
    /// When it reads something else.
    pub fn new(task: &Task, input: &Input) -> Result<Self, TaskError> {
        let (kind, text) = (task.kind(), task.text());
        if let (TaskKind::Tag, Input::Text(given)) = (kind, input) {
            let ranges = words(given);
            let words = ranges.iter().map(|range| given[range.clone()].to_owned()).collect();
            return Ok(Question { input: Input::Words { words }, found: Some((given.clone(), ranges)) });
        }
        let input = match input {
            Input::Text(given) if text.pair => match given.split_once('\t') {
                Some((first, second)) => Input::Pair(first.to_owned(), second.to_owned()),
                None => input.clone(),
            },
            other => other.clone(),
        };
        if !text.takes(kind, &input) {
            let reads = match (kind, text.pair) {
                (TaskKind::Tag, _) => "a list of words, or one text to find them in",
                (_, true) => "two texts, a pair or one text with a tab between them",
                (_, false) => "one text",
            };
            let reason = format!("the task `{}` reads {reads}; this is {}", task.name(), input.what());
            return Err(TaskError::Text { index: 0, source: reason.into() });
        }
        Ok(Question { input, found: None })
    }
}
