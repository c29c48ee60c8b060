//! Data files: JSONL, CSV, TSV and CoNLL columns.
//!
//! * `.jsonl`: one JSON object a line. Other fields than those of the examples' form, and blank
//!   lines, are skipped.
//! * `.csv`: RFC 4180 with a header that names the columns; a quoted field may hold commas and line
//!   breaks.
//! * `.tsv`: the same with tabs and, as is usual for TSV, no quoting: a quotation mark is a
//!   character like others.
//! * `.conll`: for tags alone; see `conll`.
//!
//! What the fields hold is the matter of `record`.
//!
//! A file is UTF-8, with or without a byte order mark.

use std::path::Path;

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use overmask::pack::TaskKind;
use serde_json::{Map, Value};

use super::{DataError, Dataset, Example, Form, conll, record};

/// Reads a data file; what its name ends in says which format it has.
///
/// # Errors
/// When the file cannot be read, its format is unknown, it is not UTF-8, holds no example, or
/// a line is wrong: with file, line and field.
pub fn read(path: &Path, form: Form) -> Result<Dataset, DataError> {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let parse = match extension.to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" => parse_jsonl,
        "csv" => parse_csv,
        "tsv" => parse_tsv,
        "conll" if form.kind == TaskKind::Tag => |path: &Path, text: &str, _: Form| conll::parse(path, text),
        "conll" => return Err(DataError::NotTags { path: path.to_owned(), kind: form.kind }),
        _ => {
            return Err(DataError::Format { path: path.to_owned(), extension: extension.into_owned() });
        }
    };
    let bytes = overmask::fs::read(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    let text = text(path, &bytes)?;
    let examples = parse(path, text, form)?;
    if examples.is_empty() {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    Ok(Dataset { path: path.to_owned(), examples })
}

/// The bytes as text, without a byte order mark.
pub(super) fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, DataError> {
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

fn parse_jsonl(path: &Path, text: &str, form: Form) -> Result<Vec<Example>, DataError> {
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
        examples.push(record::example(path, line, form, &|field| object.get(field).cloned())?);
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

fn parse_csv(path: &Path, text: &str, form: Form) -> Result<Vec<Example>, DataError> {
    parse_table(path, text, form, ReaderBuilder::new().delimiter(b','))
}

fn parse_tsv(path: &Path, text: &str, form: Form) -> Result<Vec<Example>, DataError> {
    parse_table(path, text, form, ReaderBuilder::new().delimiter(b'\t').quoting(false))
}

fn parse_table(path: &Path, text: &str, form: Form, format: &mut ReaderBuilder) -> Result<Vec<Example>, DataError> {
    let mut reader = format.has_headers(true).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| table_error(path, 1, &e))?.clone();
    if header.iter().all(|name| name.trim().is_empty()) {
        return Ok(Vec::new());
    }
    let mut columns = Vec::new();
    for field in form.fields() {
        columns.push((*field, column(path, &header, field)?));
    }
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
        let cell = |field: &str| {
            let (_, column) = columns.iter().find(|(name, _)| *name == field)?;
            let cell = record.get(*column).unwrap_or_default();
            Some(Value::String(if field.starts_with("text") { cell } else { cell.trim() }.to_owned()))
        };
        examples.push(record::example(path, line, form, &cell)?);
    }
}

fn column(path: &Path, header: &StringRecord, field: &'static str) -> Result<usize, DataError> {
    let mut found = header.iter().enumerate().filter(|(_, name)| name.trim().eq_ignore_ascii_case(field));
    match (found.next(), found.next()) {
        (Some((column, _)), None) => Ok(column),
        (Some(_), Some(_)) => Err(DataError::Line {
            path: path.to_owned(),
            line: 1,
            reason: format!("has several columns `{field}`; rename or remove all but one"),
        }),
        (None, _) => {
            let found = header.iter().collect::<Vec<_>>().join(", ");
            Err(DataError::Column { path: path.to_owned(), field, found })
        }
    }
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

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn read_bytes(name: &str, bytes: &[u8]) -> Result<Dataset, DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        read(&path, Form::CLASSIFY)
    }

    fn pairs(name: &str, text: &str) -> Vec<(String, String, usize)> {
        let data = read_bytes(name, text.as_bytes()).unwrap();
        data.examples.iter().map(|e| (e.input.texts().concat(), e.target.labels().concat(), e.line)).collect()
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
            ("a.jsonl", b"", "a.jsonl holds no example; it needs at least one"),
            ("a.jsonl", b"\n \n", "a.jsonl holds no example; it needs at least one"),
            ("a.csv", b"", "a.csv holds no example; it needs at least one"),
            ("a.csv", b"text,label\n", "a.csv holds no example; it needs at least one"),
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
        let message = read(Path::new("absent.csv"), Form::CLASSIFY).unwrap_err().to_string();
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
                .map(|(i, (text, label))| Example::labelled(text, label, i + 1))
                .collect();
            let data = Dataset { path: "a.jsonl".into(), examples };
            let mut file = Vec::new();
            data.write_jsonl(&mut file).unwrap();
            prop_assert_eq!(read_bytes("a.jsonl", &file).unwrap().examples, data.examples);
        }
    }
}
