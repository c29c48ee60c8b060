//! What a data file's name does not say: how its fields are set apart, and what they are called.

use std::path::Path;
use std::str::FromStr;

use super::{DataError, Form};

/// How a data file is written, where that is not as usual.
///
/// Messages name these fields between backticks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// What stands between the fields of a table.
    pub delimiter: Option<Delimiter>,
    /// The column, or field of JSONL, that holds the text (for tags the words).
    pub text_column: Option<String>,
    /// The one that holds the second text.
    pub pair_column: Option<String>,
    /// The one that holds what an example is: its label, labels, value or tags.
    pub label_column: Option<String>,
    /// Whether examples to classify may have soft labels ([`super::Soft`]), in `probs` or `logits`, beside their
    /// label or in its place. Without it these are fields like others, which are skipped.
    pub soft: bool,
}

impl ReadOptions {
    /// The fields, as messages name them.
    pub const FIELDS: [&str; 4] = ["delimiter", "text_column", "pair_column", "label_column"];

    /// What a file calls one of [`Form::fields`].
    pub(super) fn name<'a>(&'a self, field: &'a str) -> &'a str {
        self.of(field).1.as_deref().unwrap_or(field)
    }

    /// Which of these fields gives one of [`Form::fields`] another name.
    pub(super) fn option(&self, field: &str) -> &'static str {
        self.of(field).0
    }

    fn of(&self, field: &str) -> (&'static str, &Option<String>) {
        match field {
            "text" | "tokens" => ("text_column", &self.text_column),
            "text_pair" => ("pair_column", &self.pair_column),
            // These have no other names.
            "probs" | "logits" => ("label_column", &None),
            _ => ("label_column", &self.label_column),
        }
    }

    /// Refuses what would have no effect on a file: who gave it expects one.
    pub(super) fn check(&self, path: &Path, form: Form, table: bool, named: bool) -> Result<(), DataError> {
        for (option, given, fits, of) in [
            ("delimiter", self.delimiter.is_some(), table, ".csv and .tsv files"),
            ("text_column", self.text_column.is_some(), named, "files whose fields have names"),
            ("pair_column", self.pair_column.is_some(), form.pair, "tasks on pairs of texts"),
            ("label_column", self.label_column.is_some(), named, "files whose fields have names"),
        ] {
            if given && !fits {
                return Err(DataError::Option { path: path.to_owned(), option, of });
            }
        }
        Ok(())
    }
}

/// What stands between the fields of a table: one ASCII character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delimiter(u8);

impl Delimiter {
    /// What stands there in `.csv` files.
    pub(super) const COMMA: Delimiter = Delimiter(b',');
    /// What stands there in `.tsv` files.
    pub(super) const TAB: Delimiter = Delimiter(b'\t');

    /// The character.
    pub(super) fn byte(self) -> u8 {
        self.0
    }
}

impl FromStr for Delimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            b"tab" | b"\\t" => Ok(Self::TAB),
            [b'\t' | b' '] => Ok(Self(text.as_bytes()[0])),
            [one] if one.is_ascii_punctuation() && *one != b'"' => Ok(Self(*one)),
            _ => Err("is neither `tab` nor one ASCII character such as `;` or `|`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delimiter_is_one_character() {
        for (text, byte) in [(";", b';'), ("|", b'|'), ("tab", b'\t'), ("\\t", b'\t'), ("\t", b'\t'), (" ", b' ')] {
            assert_eq!(text.parse::<Delimiter>().map(Delimiter::byte), Ok(byte), "{text:?}");
        }
        for wrong in ["", ";;", "\"", "\n", "a", "0", "·", "comma"] {
            assert!(wrong.parse::<Delimiter>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_field_has_its_option() {
        let options = ReadOptions {
            delimiter: None,
            text_column: Some("a".into()),
            pair_column: Some("b".into()),
            label_column: Some("c".into()),
            soft: true,
        };
        for (field, name, option) in [
            ("text", "a", "text_column"),
            ("tokens", "a", "text_column"),
            ("text_pair", "b", "pair_column"),
            ("label", "c", "label_column"),
            ("labels", "c", "label_column"),
            ("value", "c", "label_column"),
            ("tags", "c", "label_column"),
            ("probs", "probs", "label_column"),
            ("logits", "logits", "label_column"),
        ] {
            assert_eq!((options.name(field), options.option(field)), (name, option));
            assert_eq!(ReadOptions::default().name(field), field);
            assert!(ReadOptions::FIELDS.contains(&option));
        }
    }
}
