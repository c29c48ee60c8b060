//! Data files: JSONL, CSV and TSV.
//!
//! * `.jsonl`: one JSON object a line, with `text` (a string that is not blank) and `label` (a
//!   string, a whole number, `true` or `false`). Other fields and blank lines are skipped.
//! * `.csv`: RFC 4180 with a header that names the columns `text` and `label`; a quoted field
//!   may hold commas and line breaks.
//! * `.tsv`: the same with tabs and, as is usual for TSV, no quoting: a quotation mark is a
//!   character like others.
//!
//! A file is UTF-8, with or without a byte order mark.

use std::fs;
use std::path::Path;

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use overmask::pack::check_name;
use serde_json::{Map, Value};

use super::{DataError, Dataset, Example};

/// Reads a data file; what its name ends in says which format it has.
///
/// # Errors
/// When the file cannot be read, its format is unknown, it is not UTF-8, holds no example, or
/// a line is wrong: with file, line and field.
pub fn read(path: &Path) -> Result<Dataset, DataError> {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let parse = match extension.to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" => parse_jsonl,
        "csv" => parse_csv,
        "tsv" => parse_tsv,
        _ => {
            return Err(DataError::Format { path: path.to_owned(), extension: extension.into_owned() });
        }
    };
    let bytes = fs::read(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    let text = text(path, &bytes)?;
    let examples = parse(path, text)?;
    if examples.is_empty() {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    Ok(Dataset { path: path.to_owned(), examples })
}

/// The bytes as text, without a byte order mark.
fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, DataError> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let offset = e.valid_up_to();
        DataError::Encoding {
            path: path.to_owned(),
            line: 1 + bytes[..offset].iter().filter(|b| **b == b'\n').count(),
            offset,
            byte: bytes[offset],
        }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn parse_jsonl(path: &Path, text: &str) -> Result<Vec<Example>, DataError> {
    let mut examples = Vec::new();
    for (i, json) in text.split('\n').enumerate() {
        let line = i + 1;
        if json.trim().is_empty() {
            continue;
        }
        let object: Map<String, Value> = serde_json::from_str(json).map_err(|e| DataError::Line {
            path: path.to_owned(),
            line,
            reason: format!("not a JSON object (column {}): {}", e.column(), without_place(&e)),
        })?;
        let field =
            |field, reason: &str| DataError::Field { path: path.to_owned(), line, field, reason: reason.to_owned() };
        let text = match object.get("text") {
            Some(Value::String(text)) => text.clone(),
            Some(other) => {
                return Err(field("text", &format!("is {}, not a string", kind(other))));
            }
            None => return Err(field("text", "is missing")),
        };
        let label = match object.get("label") {
            Some(Value::String(label)) => label.clone(),
            Some(Value::Bool(label)) => label.to_string(),
            Some(Value::Number(n)) if n.is_i64() || n.is_u64() => n.to_string(),
            Some(other) => {
                let reason = format!("is {}, not a string or whole number", kind(other));
                return Err(field("label", &reason));
            }
            None => return Err(field("label", "is missing")),
        };
        examples.push(example(path, line, text, label)?);
    }
    Ok(examples)
}

/// The message without serde's "at line 1 column 2", which counts within our line.
fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message,
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

fn parse_csv(path: &Path, text: &str) -> Result<Vec<Example>, DataError> {
    parse_table(path, text, ReaderBuilder::new().delimiter(b','))
}

fn parse_tsv(path: &Path, text: &str) -> Result<Vec<Example>, DataError> {
    parse_table(path, text, ReaderBuilder::new().delimiter(b'\t').quoting(false))
}

fn parse_table(path: &Path, text: &str, format: &mut ReaderBuilder) -> Result<Vec<Example>, DataError> {
    let mut reader = format.has_headers(true).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| table_error(path, 1, &e))?.clone();
    if header.iter().all(|name| name.trim().is_empty()) {
        return Ok(Vec::new());
    }
    let text_column = column(path, &header, "text")?;
    let label_column = column(path, &header, "label")?;
    let mut examples = Vec::new();
    let mut record = StringRecord::new();
    let mut lines = Lines::new(text);
    loop {
        let line = lines.of(reader.position().byte() as usize);
        match reader.read_record(&mut record) {
            Ok(false) => return Ok(examples),
            Ok(true) => {}
            Err(e) => return Err(table_error(path, line, &e)),
        }
        // Every record has as many fields as the header: the reader checks it.
        let field = |column| record.get(column).unwrap_or_default();
        let label = field(label_column).trim().to_owned();
        examples.push(example(path, line, field(text_column).to_owned(), label)?);
    }
}

fn column(path: &Path, header: &StringRecord, field: &'static str) -> Result<usize, DataError> {
    header.iter().position(|name| name.trim().eq_ignore_ascii_case(field)).ok_or_else(|| DataError::Column {
        path: path.to_owned(),
        field,
        found: header.iter().collect::<Vec<_>>().join(", "),
    })
}

/// Line numbers of ascending places in a text. The reader's own are one too low behind a line
/// that ends in CR LF.
struct Lines<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), at: 0, line: 1 }
    }

    /// The line of the first record at or after `byte`: line ends before it are skipped.
    fn of(&mut self, byte: usize) -> usize {
        while let Some(b) = self.text.get(self.at) {
            if self.at >= byte && !matches!(b, b'\r' | b'\n') {
                break;
            }
            self.line += usize::from(*b == b'\n');
            self.at += 1;
        }
        self.line
    }
}

fn table_error(path: &Path, line: usize, error: &csv::Error) -> DataError {
    let reason = match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields where the header has {expected_len}")
        }
        _ => error.to_string(),
    };
    DataError::Line { path: path.to_owned(), line, reason }
}

/// An example whose fields hold something.
fn example(path: &Path, line: usize, text: String, label: String) -> Result<Example, DataError> {
    let wrong = |field, reason| DataError::Field { path: path.to_owned(), line, field, reason };
    for (field, value) in [("text", &text), ("label", &label)] {
        if value.trim().is_empty() {
            return Err(wrong(field, "is blank".to_owned()));
        }
    }
    // Labels end up in packs.
    check_name(&label).map_err(|reason| wrong("label", reason))?;
    Ok(Example { text, label, line })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    fn read_bytes(name: &str, bytes: &[u8]) -> Result<Dataset, DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        read(&path)
    }

    fn pairs(name: &str, text: &str) -> Vec<(String, String, usize)> {
        let data = read_bytes(name, text.as_bytes()).unwrap();
        data.examples.into_iter().map(|e| (e.text, e.label, e.line)).collect()
    }

    fn expect(expected: &[(&str, &str, usize)]) -> Vec<(String, String, usize)> {
        expected.iter().map(|(t, l, n)| ((*t).to_owned(), (*l).to_owned(), *n)).collect()
    }

    #[test]
    fn jsonl_is_read() {
        let text = "\u{feff}{\"text\": \"a\", \"label\": \"x\", \"id\": 7}\r\n\n{\"label\": 1, \"text\": \"b\\nc\"}\n{\"label\": false, \"text\": \"d\"}";
        let expected = [("a", "x", 1), ("b\nc", "1", 3), ("d", "false", 4)];
        assert_eq!(pairs("a.jsonl", text), expect(&expected));
    }

    #[test]
    fn csv_is_read() {
        let text = "id,Text,label\n1,\"a, \"\"b\"\"\",x\n2,\"two\nlines\", y \r\n3,c,x\n";
        let expected = [("a, \"b\"", "x", 2), ("two\nlines", "y", 3), ("c", "x", 5)];
        assert_eq!(pairs("a.csv", text), expect(&expected));
    }

    #[test]
    fn tsv_keeps_quotation_marks() {
        let text = "label\ttext\nx\t\"half a quote\ny\tb, c\n";
        let expected = [("\"half a quote", "x", 2), ("b, c", "y", 3)];
        assert_eq!(pairs("a.TSV", text), expect(&expected));
    }

    /// Every bad file and the end of the message that it gets.
    #[test]
    fn bad_files_get_clear_errors() {
        let cases: &[(&str, &[u8], &str)] = &[
            ("a.jsonl", b"", "a.jsonl holds no example; it needs at least one line with a text and a label"),
            ("a.jsonl", b"\n \n", "a.jsonl holds no example; it needs at least one line with a text and a label"),
            ("a.csv", b"", "a.csv holds no example; it needs at least one line with a text and a label"),
            ("a.csv", b"text,label\n", "a.csv holds no example; it needs at least one line with a text and a label"),
            ("a.csv", b"text,klass\na,b\n", "a.csv:1: the header has no column `label`; it has: text, klass"),
            ("a.tsv", b"text,label\na,b\n", "a.tsv:1: the header has no column `text`; it has: text,label"),
            ("a.csv", b"text,label\na,b\na\n", "a.csv:3: 1 fields where the header has 2"),
            ("a.csv", b"text,label\n\"a\nb\",x\n ,x\n", "a.csv:4: field `text` is blank"),
            ("a.csv", b"text,label\na,\n", "a.csv:2: field `label` is blank"),
            (
                "a.jsonl",
                b"{\"text\": \"a\", \"label\": \"x\"}\n[1]\n",
                "a.jsonl:2: not a JSON object (column 0): invalid type: sequence, expected a map",
            ),
            ("a.jsonl", b"{\"text\": \"a\"\n", "a.jsonl:1: not a JSON object (column 12): EOF while parsing an object"),
            ("a.jsonl", b"{\"label\": \"a\"}\n", "a.jsonl:1: field `text` is missing"),
            ("a.jsonl", b"{\"text\": \"a\"}\n", "a.jsonl:1: field `label` is missing"),
            ("a.jsonl", b"{\"text\": 1, \"label\": \"a\"}\n", "a.jsonl:1: field `text` is a number, not a string"),
            (
                "a.jsonl",
                b"{\"text\": \"a\", \"label\": 0.5}\n",
                "a.jsonl:1: field `label` is a fraction, not a string or whole number",
            ),
            (
                "a.jsonl",
                b"{\"text\": \"a\", \"label\": null}\n",
                "a.jsonl:1: field `label` is null, not a string or whole number",
            ),
            (
                "a.jsonl",
                b"{\"text\": \"t\", \"label\": \"a\\tb\"}\n",
                "a.jsonl:1: field `label` holds the control character '\\t'",
            ),
            ("a.jsonl", b"{\"text\": \" \", \"label\": \"x\"}\n", "a.jsonl:1: field `text` is blank"),
        ];
        for (name, bytes, expected) in cases {
            let message = read_bytes(name, bytes).unwrap_err().to_string();
            assert!(message.ends_with(expected), "{message}\nnot\n{expected}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_named() {
        let bytes = b"{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"caf\xe9\", \"label\": \"x\"}\n";
        let message = read_bytes("a.jsonl", bytes).unwrap_err().to_string();
        assert!(message.contains("a.jsonl:2: byte 41 of the file (0xe9)"), "{message}");
    }

    #[test]
    fn unknown_formats_and_missing_files_are_named() {
        let message = read_bytes("a.parquet", b"").unwrap_err().to_string();
        assert!(message.contains("`parquet` is not a data format"), "{message}");
        let message = read(Path::new("absent.csv")).unwrap_err().to_string();
        assert!(message.starts_with("cannot read absent.csv: "), "{message}");
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>, format in 0usize..3) {
            let _ = read_bytes(["a.jsonl", "a.csv", "a.tsv"][format], &bytes);
        }

        #[test]
        fn what_is_written_is_read(
            rows in prop::collection::vec(("[^\0]*[a-z]", "[a-z]{1,3}"), 1..20),
        ) {
            let examples: Vec<Example> = rows
                .iter()
                .enumerate()
                .map(|(i, (text, label))| Example { text: text.clone(), label: label.clone(), line: i + 1 })
                .collect();
            let data = Dataset { path: "a.jsonl".into(), examples };
            let mut file = Vec::new();
            data.write_jsonl(&mut file).unwrap();
            prop_assert_eq!(read_bytes("a.jsonl", &file).unwrap().examples, data.examples);
        }
    }
}
