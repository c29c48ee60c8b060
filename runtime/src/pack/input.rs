//! What a task reads: a text, two texts, or words.

use serde::{Deserialize, Serialize};

/// An input of a task. In JSON: a string, an array of two strings, or `{"words": [strings]}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Input {
    /// A text.
    Text(String),
    /// Two texts, which the encoder sees as two segments.
    Pair(String, String),
    /// Words, each of which gets an answer of its own.
    Words {
        /// The words in order.
        words: Vec<String>,
    },
}

impl Input {
    /// How many rows of logits a task has for it.
    pub fn rows(&self) -> usize {
        match self {
            Self::Text(_) | Self::Pair(..) => 1,
            Self::Words { words } => words.len(),
        }
    }

    /// What kind of input it is, for messages.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Text(_) => "one text",
            Self::Pair(..) => "a pair of texts",
            Self::Words { .. } => "a list of words",
        }
    }

    /// Its texts, in order.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => vec![text],
            Self::Pair(first, second) => vec![first, second],
            Self::Words { words } => words.iter().map(String::as_str).collect(),
        }
    }
}

impl From<&Input> for Input {
    fn from(input: &Input) -> Self {
        input.clone()
    }
}

impl From<String> for Input {
    fn from(text: String) -> Self {
        Input::Text(text)
    }
}

impl From<&str> for Input {
    fn from(text: &str) -> Self {
        Input::Text(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_has_its_json() {
        let words = || ["a", "b"].map(String::from).to_vec();
        for (input, json) in [
            (Input::from("a"), r#""a""#),
            (Input::Pair("a".into(), "b".into()), r#"["a","b"]"#),
            (Input::Words { words: words() }, r#"{"words":["a","b"]}"#),
        ] {
            assert_eq!(serde_json::to_string(&input).unwrap(), json);
            assert_eq!(serde_json::from_str::<Input>(json).unwrap(), input);
        }
        for wrong in ["1", r#"["a"]"#, r#"["a","b","c"]"#, r#"{"words":"a"}"#] {
            assert!(serde_json::from_str::<Input>(wrong).is_err(), "{wrong}");
        }
    }
}
