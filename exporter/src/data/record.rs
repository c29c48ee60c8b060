//! The fields of an example.
//!
//! | field | what it holds |
//! | --- | --- |
//! | `text`, `text_pair` | a string that is not blank |
//! | `label` | a string, a whole number, `true` or `false` |
//! | `labels` | a list of such; in a table, and in a string, `|` stands between them, and nothing is none |
//! | `value` | a finite number, or a string that is one |
//! | `tokens`, `tags` | lists of strings, as many of the one as of the other; in a table words with spaces between them |

use std::path::Path;

use overmask::pack::{Input, TaskKind, check_name};
use serde_json::Value;

use super::{DataError, Example, Form, Target};

/// An example whose fields hold what its form asks for.
pub(super) fn example(
    path: &Path,
    line: usize,
    form: Form,
    get: &dyn Fn(&str) -> Option<Value>,
) -> Result<Example, DataError> {
    let read = Reader { path, line, get };
    let input = match (form.kind, form.pair) {
        (TaskKind::Tag, _) => Input::Words { words: read.words("tokens")? },
        (_, false) => Input::Text(read.text("text")?),
        (_, true) => Input::Pair(read.text("text")?, read.text("text_pair")?),
    };
    let target = match form.kind {
        TaskKind::Classify => Target::Label(read.label("label", &read.field("label")?)?),
        TaskKind::Multilabel => Target::Labels(read.labels()?),
        TaskKind::Regress => Target::Value(read.value()?),
        TaskKind::Tag => Target::Tags(read.tags(input.rows())?),
    };
    Ok(Example { input, target, line })
}

struct Reader<'a> {
    path: &'a Path,
    line: usize,
    get: &'a dyn Fn(&str) -> Option<Value>,
}

impl Reader<'_> {
    fn wrong(&self, field: &'static str, reason: impl Into<String>) -> DataError {
        DataError::Field { path: self.path.to_owned(), line: self.line, field, reason: reason.into() }
    }

    fn field(&self, field: &'static str) -> Result<Value, DataError> {
        (self.get)(field).ok_or_else(|| self.wrong(field, "is missing"))
    }

    fn text(&self, field: &'static str) -> Result<String, DataError> {
        match self.field(field)? {
            Value::String(text) if text.trim().is_empty() => Err(self.wrong(field, "is blank")),
            Value::String(text) => Ok(text),
            other => Err(self.wrong(field, format!("is {}, not a string", kind(&other)))),
        }
    }

    fn label(&self, field: &'static str, value: &Value) -> Result<String, DataError> {
        let label = match value {
            Value::String(label) => label.clone(),
            Value::Bool(label) => label.to_string(),
            Value::Number(n) if n.is_i64() || n.is_u64() => n.to_string(),
            other => return Err(self.wrong(field, format!("is {}, not a string or whole number", kind(other)))),
        };
        if label.trim().is_empty() {
            return Err(self.wrong(field, "is blank"));
        }
        // Labels end up in packs.
        check_name(&label).map_err(|reason| self.wrong(field, reason))?;
        Ok(label)
    }

    /// A list, or a string that is cut into one.
    fn list(&self, field: &'static str, cut: impl Fn(&str) -> Vec<Value>) -> Result<Vec<Value>, DataError> {
        match self.field(field)? {
            Value::Array(values) => Ok(values),
            Value::String(text) => Ok(cut(&text)),
            other => Err(self.wrong(field, format!("is {}, not a list", kind(&other)))),
        }
    }

    fn labels(&self) -> Result<Vec<String>, DataError> {
        let parts = |text: &str| text.split('|').map(str::trim).filter(|p| !p.is_empty()).map(Value::from).collect();
        let labels = self.list("labels", parts)?;
        let mut labels = labels.iter().map(|label| self.label("labels", label)).collect::<Result<Vec<_>, _>>()?;
        let given = labels.len();
        labels.sort_unstable();
        labels.dedup();
        if labels.len() < given {
            return Err(self.wrong("labels", "has a label twice"));
        }
        Ok(labels)
    }

    fn value(&self) -> Result<f64, DataError> {
        let value = match self.field("value")? {
            Value::Number(n) => n.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            other => return Err(self.wrong("value", format!("is {}, not a number", kind(&other)))),
        };
        // Training and packs have f32.
        let finite = value.filter(|value| (*value as f32).is_finite());
        finite.ok_or_else(|| self.wrong("value", "is not a finite number"))
    }

    fn words(&self, field: &'static str) -> Result<Vec<String>, DataError> {
        let words = self
            .list(field, |text| text.split([' ', '\t']).filter(|word| !word.is_empty()).map(Value::from).collect())?;
        let word = |word: Value| match word {
            Value::String(word) if !word.trim().is_empty() => Ok(word),
            Value::String(_) => Err(self.wrong(field, "holds a blank string")),
            other => Err(self.wrong(field, format!("holds {}, not only strings", kind(&other)))),
        };
        let words = words.into_iter().map(word).collect::<Result<Vec<_>, _>>()?;
        if words.is_empty() { Err(self.wrong(field, "is empty")) } else { Ok(words) }
    }

    fn tags(&self, words: usize) -> Result<Vec<String>, DataError> {
        let tags = self.words("tags")?;
        if tags.len() != words {
            return Err(self.wrong("tags", format!("has {} tags for {words} tokens", tags.len())));
        }
        for tag in &tags {
            check_name(tag).map_err(|reason| self.wrong("tags", format!("holds a tag that {reason}")))?;
        }
        Ok(tags)
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(n) if n.is_f64() => "a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(form: Form, record: Value) -> Result<Example, String> {
        let get = |field: &str| record.get(field).cloned();
        example(Path::new("a.jsonl"), 7, form, &get).map_err(|e| e.to_string())
    }

    fn form(kind: TaskKind, pair: bool) -> Form {
        Form { kind, pair }
    }

    #[test]
    fn every_form_is_read_and_written() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let text = || Input::from("a");
        for (form, record, input, target) in [
            (
                form(TaskKind::Classify, true),
                json!({"text": "a", "text_pair": "b", "label": "x"}),
                Input::Pair("a".into(), "b".into()),
                Target::Label("x".into()),
            ),
            (
                form(TaskKind::Multilabel, false),
                json!({"text": "a", "labels": ["x", "y"]}),
                text(),
                Target::Labels(names(&["x", "y"])),
            ),
            (form(TaskKind::Multilabel, false), json!({"text": "a", "labels": []}), text(), Target::Labels(vec![])),
            (form(TaskKind::Regress, false), json!({"text": "a", "value": -2.5}), text(), Target::Value(-2.5)),
            (
                form(TaskKind::Tag, false),
                json!({"tokens": ["a", "b"], "tags": ["O", "B-x"]}),
                Input::Words { words: names(&["a", "b"]) },
                Target::Tags(names(&["O", "B-x"])),
            ),
        ] {
            let found = read(form, record.clone()).unwrap();
            assert_eq!((&found.input, &found.target, found.line), (&input, &target, 7));
            assert_eq!(serde_json::to_value(&found).unwrap(), record);
            assert_eq!(record.as_object().unwrap().len(), form.fields().len());
        }
    }

    #[test]
    fn strings_stand_for_lists_and_numbers() {
        let labels = read(form(TaskKind::Multilabel, false), json!({"text": "a", "labels": " y | x |"})).unwrap();
        assert_eq!(labels.target.labels(), ["x", "y"]);
        let value = read(form(TaskKind::Regress, false), json!({"text": "a", "value": " 3.5 "})).unwrap();
        assert_eq!(value.target, Target::Value(3.5));
        let tags = read(form(TaskKind::Tag, false), json!({"tokens": "New York is", "tags": "B I O"})).unwrap();
        assert_eq!(tags.target.labels(), ["B", "I", "O"]);
    }

    #[test]
    fn wrong_fields_are_named() {
        use TaskKind::{Classify, Multilabel, Regress, Tag};
        for (form, record, expected) in [
            (form(Classify, true), json!({"text": "a", "label": "x"}), "field `text_pair` is missing"),
            (form(Multilabel, false), json!({"text": "a", "labels": ["x", "x"]}), "field `labels` has a label twice"),
            (form(Multilabel, false), json!({"text": "a", "labels": 1.5}), "field `labels` is a fraction, not a list"),
            (form(Regress, false), json!({"text": "a", "value": "high"}), "field `value` is not a finite number"),
            (form(Regress, false), json!({"text": "a", "value": "inf"}), "field `value` is not a finite number"),
            (form(Tag, false), json!({"tokens": ["a"], "tags": ["O", "O"]}), "field `tags` has 2 tags for 1 tokens"),
            (form(Tag, false), json!({"tokens": [], "tags": []}), "field `tokens` is empty"),
            (
                form(Tag, false),
                json!({"tokens": ["a", 1], "tags": []}),
                "field `tokens` holds a number, not only strings",
            ),
        ] {
            let message = read(form, record).unwrap_err();
            assert_eq!(message, format!("a.jsonl:7: {expected}"));
        }
    }
}
