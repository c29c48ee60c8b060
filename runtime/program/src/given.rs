//! What `overmask run` is given: a plain text, or an object of `--jsonl`.

use std::fmt;

use overmask::pack::Input;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

const FORM: &str = "--jsonl takes objects with `text`, `text` and `text_pair`, or `tokens`";

/// An input as it was given.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) input: Input,
    /// The fields of its object that are none of `run`'s.
    pub(super) rest: Fields,
}

/// Fields of a JSON object, in their order, as they are written: a number keeps all its digits.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(String, Box<RawValue>)>);

impl Given {
    /// A line's text, or with `json` the object in it.
    ///
    /// # Errors
    /// In words, when it is not such an object.
    pub(super) fn read(line: &str, json: bool) -> Result<Given, String> {
        if !json {
            return Ok(Given { input: line.into(), rest: Fields::default() });
        }
        let mut rest: Fields = serde_json::from_str(line).map_err(|e| format!("is no JSON object: {e}; {FORM}"))?;
        let text = rest.take::<String>("text", "a string")?;
        let text_pair = rest.take::<String>("text_pair", "a string")?;
        let tokens = rest.take::<Words>("tokens", "a list of words, or words with spaces between them")?;
        let input = match (text, text_pair, tokens) {
            (Some(first), Some(second), None) => Input::Pair(first, second),
            (Some(text), None, None) => Input::Text(text),
            (None, None, Some(words)) => Input::Words { words: words.into() },
            (None, Some(_), Some(_)) => return Err("`text_pair` goes with `text`, not with `tokens`".to_owned()),
            _ => return Err(format!("must have either `text` or `tokens`; {FORM}")),
        };
        Ok(Given { input, rest })
    }
}

/// Words as data files have them, too.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Words {
    List(Vec<String>),
    Line(String),
}

impl From<Words> for Vec<String> {
    fn from(words: Words) -> Self {
        match words {
            Words::List(words) => words,
            Words::Line(line) => line.split([' ', '\t']).filter(|word| !word.is_empty()).map(str::to_owned).collect(),
        }
    }
}

impl Fields {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the value of a field out, if it is there and not null.
    fn take<T: DeserializeOwned>(&mut self, name: &str, what: &str) -> Result<Option<T>, String> {
        let mut values = self.0.extract_if(.., |(found, _)| found == name).map(|(_, value)| value);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(format!("`{name}` comes twice"));
        }
        serde_json::from_str(value.get()).map_err(|_| format!("`{name}` must be {what}"))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<(Input, String), String> {
        Given::read(line, true).map(|given| (given.input, serde_json::to_string(&given.rest).unwrap()))
    }

    #[test]
    fn what_is_not_read_is_kept_as_it_is_written() {
        let line = r#" {"id": 12345678901234567890123, "text": "a", "é": [1.50, {"x": null}], "text_pair": null} "#;
        let rest = r#"{"id":12345678901234567890123,"é":[1.50, {"x": null}]}"#;
        assert_eq!(read(line).unwrap(), ("a".into(), rest.to_owned()));
        let words = Input::Words { words: vec!["New".to_owned(), "York".to_owned()] };
        for line in [r#"{"tokens": ["New", "York"]}"#, r#"{"tokens": " New  York"}"#] {
            assert_eq!(read(line).unwrap(), (words.clone(), "{}".to_owned()));
        }
        assert_eq!(Given::read(line, false).unwrap().input, line.into());
    }

    #[test]
    fn what_is_no_input_is_said() {
        for (line, said) in [
            ("text", "is no JSON object"),
            (r#"["a"]"#, "expected an object"),
            (r#"{"text": "a""#, "is no JSON object"),
            (r#"{"text": 1}"#, "`text` must be a string"),
            (r#"{"tokens": [1]}"#, "`tokens` must be a list of words"),
            (r#"{"text": "a", "text": "b"}"#, "`text` comes twice"),
            ("{}", "either `text` or `tokens`"),
            (r#"{"text": "a", "tokens": ["a"]}"#, "either `text` or `tokens`"),
            (r#"{"tokens": ["a"], "text_pair": "b"}"#, "`text_pair` goes with `text`"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
