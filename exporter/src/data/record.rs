//! The fields of an example.
//!
//! | field | what it holds |
//! | --- | --- |
//! | `text`, `text_pair` | a string that is not blank |
//! | `label` | a string, a number, `true` or `false`; [`spelling`] makes them one label whatever the format |
//! | `labels` | a list of such; in a table, and in a string, `|` stands between them, and nothing is none |
//! | `value` | a finite number, or a string that is one |
//! | `tokens`, `tags` | lists of strings, as many of the one as of the other; in a table words with spaces between them |
//!
//! What `probs` and `logits` hold is the matter of `soft`.

use std::path::Path;

use overmask::pack::{Input, TaskKind, check_name};
use serde_json::Value;

use super::{DataError, Example, Form, ReadOptions, Target};

/// What gives the fields of a record by our names for them.
pub(super) type Get<'a> = &'a dyn Fn(&str) -> Option<Value>;

/// An example whose fields, which `get` gives by our names for them, hold what its form asks for.
pub(super) fn example(
    path: &Path,
    line: usize,
    form: Form,
    options: &ReadOptions,
    get: Get<'_>,
) -> Result<Example, DataError> {
    let read = Reader { path, line, options, get };
    let input = read.input(form)?;
    let target = match form.kind {
        TaskKind::Classify => Target::Label(read.label("label", &read.field("label")?)?),
        TaskKind::Multilabel => Target::Labels(read.labels()?),
        TaskKind::Regress => Target::Value(read.value()?),
        TaskKind::Tag => Target::Tags(read.tags(input.rows())?),
    };
    Ok(Example { input, target, soft: None, line })
}

/// Its input alone.
pub(super) fn input(
    path: &Path,
    line: usize,
    form: Form,
    options: &ReadOptions,
    get: Get<'_>,
) -> Result<Input, DataError> {
    Reader { path, line, options, get }.input(form)
}

/// Whether a field holds nothing, as one does in a table with gaps.
pub(super) fn is_absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        _ => false,
    }
}

pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) line: usize,
    pub(super) options: &'a ReadOptions,
    pub(super) get: Get<'a>,
}

impl Reader<'_> {
    pub(super) fn input(&self, form: Form) -> Result<Input, DataError> {
        Ok(match (form.kind, form.pair) {
            (TaskKind::Tag, _) => Input::Words { words: self.words("tokens")? },
            (_, false) => Input::Text(self.text("text")?),
            (_, true) => Input::Pair(self.text("text")?, self.text("text_pair")?),
        })
    }

    pub(super) fn wrong(&self, field: &str, reason: impl Into<String>) -> DataError {
        let field = self.options.name(field).to_owned();
        DataError::Field { path: self.path.to_owned(), line: self.line, field, reason: reason.into() }
    }

    pub(super) fn field(&self, field: &str) -> Result<Value, DataError> {
        let missing = || format!("is missing; if it has another name, say so with `{}`", self.options.option(field));
        (self.get)(field).ok_or_else(|| self.wrong(field, missing()))
    }

    fn text(&self, field: &str) -> Result<String, DataError> {
        match self.field(field)? {
            Value::String(text) if text.trim().is_empty() => Err(self.wrong(field, "is blank")),
            Value::String(text) => Ok(text),
            other => Err(self.wrong(field, format!("is {}, not a string", kind(&other)))),
        }
    }

    pub(super) fn label(&self, field: &str, value: &Value) -> Result<String, DataError> {
        let label = match value {
            Value::String(label) => spelling(label),
            Value::Bool(label) => label.to_string(),
            Value::Number(number) => spelling(&number.to_string()),
            other => return Err(self.wrong(field, format!("is {}, not a string, number or truth value", kind(other)))),
        };
        if label.is_empty() {
            return Err(self.wrong(field, "is blank"));
        }
        // Labels end up in packs.
        check_name(&label).map_err(|reason| self.wrong(field, reason))?;
        Ok(label)
    }

    /// A list, or a string that is cut into one.
    fn list(&self, field: &str, cut: impl Fn(&str) -> Vec<Value>) -> Result<Vec<Value>, DataError> {
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

    fn words(&self, field: &str) -> Result<Vec<String>, DataError> {
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
        let tags: Vec<String> = self.words("tags")?.iter().map(|tag| tag.trim().to_owned()).collect();
        if tags.len() != words {
            return Err(self.wrong("tags", format!("has {} tags for {words} tokens", tags.len())));
        }
        for tag in &tags {
            check_name(tag).map_err(|reason| self.wrong("tags", format!("holds a tag that {reason}")))?;
        }
        Ok(tags)
    }
}

/// A label as it is spelt in whatever format: without white space around it, `True` and `TRUE` as `true`, and a whole
/// number without the zeros after its point, as programs write one into a column that has gaps.
fn spelling(label: &str) -> String {
    let label = label.trim();
    if ["true", "false"].iter().any(|truth| label.eq_ignore_ascii_case(truth)) {
        return label.to_ascii_lowercase();
    }
    let digits = |text: &str, of: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(of);
    match label.split_once('.') {
        Some((whole, zeros))
            if digits(whole.strip_prefix('-').unwrap_or(whole), u8::is_ascii_digit)
                && digits(zeros, |b| *b == b'0') =>
        {
            whole.to_owned()
        }
        _ => label.to_owned(),
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
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
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(form: Form, record: Value) -> Result<Example, String> {
        let get = |field: &str| record.get(field).cloned();
        example(Path::new("a.jsonl"), 7, form, &ReadOptions::default(), &get).map_err(|e| e.to_string())
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
    fn a_label_is_the_same_in_every_format() {
        for (in_json, in_a_table, label) in [
            (json!(" x "), " x ", "x"),
            (json!("\u{a0}two  words\n"), "two  words", "two  words"),
            (json!(true), "True", "true"),
            (json!("FALSE"), "false", "false"),
            (json!(1), "1", "1"),
            (json!(1.0), "1.0", "1"),
            (json!(-3.0), "-3.00", "-3"),
            (json!(0.5), "0.5", "0.5"),
            // Numbers of sections: two labels.
            (json!("1.1"), "1.1", "1.1"),
            (json!("1.10"), "1.10", "1.10"),
            (json!("v1.0"), "v1.0", "v1.0"),
            (json!("1."), "1.", "1."),
            (json!(".0"), ".0", ".0"),
            (json!("truer"), "truer", "truer"),
        ] {
            for value in [in_json, json!(in_a_table)] {
                let found = read(form(TaskKind::Classify, false), json!({"text": "a", "label": value})).unwrap();
                assert_eq!(found.target, Target::Label(label.to_owned()), "{value}");
                let found = read(form(TaskKind::Multilabel, false), json!({"text": "a", "labels": [value]})).unwrap();
                assert_eq!(found.target.labels(), [label]);
            }
        }
        let twice = read(form(TaskKind::Multilabel, false), json!({"text": "a", "labels": ["x", "x "]}));
        assert_eq!(twice.unwrap_err(), "a.jsonl:7: field `labels` has a label twice");
        let tags = read(form(TaskKind::Tag, false), json!({"tokens": ["a", "b "], "tags": ["O", " B-x "]})).unwrap();
        assert_eq!((tags.input.texts(), tags.target.labels()), (vec!["a", "b "], vec!["O", "B-x"]));
    }

    proptest! {
        #[test]
        fn a_spelling_is_spelt_as_itself(label: String) {
            let once = spelling(&label);
            prop_assert_eq!(spelling(&once), once);
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        use TaskKind::{Classify, Multilabel, Regress, Tag};
        for (form, record, expected) in [
            (
                form(Classify, true),
                json!({"text": "a", "label": "x"}),
                "field `text_pair` is missing; if it has another name, say so with `pair_column`",
            ),
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
