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
//! What the fields hold is the matter of `record`, soft labels are that of `soft`; [`ReadOptions`] gives fields other
//! names.
//!
//! A file is UTF-8, with or without a byte order mark.

use std::fs;
use std::path::Path;

use overmask::pack::{Input, TaskKind};
use serde_json::{Map, Value};

use super::options::Delimiter;
use super::table::{Fields, Record, Table};
use super::{DataError, Dataset, Example, Form, ReadOptions, Unlabelled, conll, encoding, record, soft};

/// What the names of data files end in.
const ENDINGS: [&str; 5] = ["jsonl", "ndjson", "csv", "tsv", "conll"];

/// How many of a directory's data files a message lists.
const LISTED: usize = 5;

/// The fields in which soft labels may be.
const SOFT: &[&str] = &["probs", "logits"];

/// A format, and what it is read by.
#[derive(Debug, Clone, Copy)]
enum Format {
    Table(Table),
    Jsonl,
    Conll,
}

const CSV: Table = Table { delimiter: Delimiter::COMMA, quoting: true };
const TSV: Table = Table { delimiter: Delimiter::TAB, quoting: false };

/// Reads a data file that is written as usual; what its name ends in says which format it has.
///
/// # Errors
/// When the file cannot be read, its format is unknown, it is not UTF-8, holds no example, or
/// a line is wrong: with file, line and field.
pub fn read(path: &Path, form: Form) -> Result<Dataset, DataError> {
    read_with(path, form, &ReadOptions::default())
}

/// Reads a data file.
///
/// # Errors
/// As [`read()`], and when an option is not for such a file.
pub fn read_with(path: &Path, form: Form, options: &ReadOptions) -> Result<Dataset, DataError> {
    let (format, bytes) = open(path, form, options)?;
    let text = encoding::text(path, &bytes)?;
    let mut fields = Fields { needed: form.fields(), instead: &[] };
    let examples = if options.soft && form.kind == TaskKind::Classify {
        fields.instead = SOFT;
        let drafts =
            records(format, path, text, fields, options, &|line, get| soft::draft(path, line, form, options, get))?;
        soft::settle(path, drafts)?
    } else if let Format::Conll = format {
        conll::parse(path, text)?
    } else {
        records(format, path, text, fields, options, &|line, get| record::example(path, line, form, options, get))?
    };
    if examples.is_empty() {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    Ok(Dataset { path: path.to_owned(), examples })
}

/// Reads a data file for its texts alone: what they are is not looked at, if the file says it at all. A `.conll` file
/// has its tags all the same; a `.txt` file has a text a line.
///
/// # Errors
/// As [`read_with()`].
pub fn read_unlabelled(path: &Path, form: Form, options: &ReadOptions) -> Result<Unlabelled, DataError> {
    if ending(path) == "txt" && form.inputs().len() == 1 && form.kind != TaskKind::Tag && !path.is_dir() {
        return lines(path);
    }
    let (format, bytes) = open(path, form, options)?;
    let text = encoding::text(path, &bytes)?;
    let fields = Fields { needed: form.inputs(), instead: &[] };
    let inputs: Vec<(Input, usize)> = match format {
        Format::Conll => {
            conll::parse(path, text)?.into_iter().map(|Example { input, line, .. }| (input, line)).collect()
        }
        _ => records(format, path, text, fields, options, &|line, get| {
            Ok((record::input(path, line, form, options, get)?, line))
        })?,
    };
    if inputs.is_empty() {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    Ok(Unlabelled { path: path.to_owned(), inputs })
}

/// The lines of a file that are not blank. It has neither fields nor what parts them: options that say how these are are
/// for a command's other files.
fn lines(path: &Path) -> Result<Unlabelled, DataError> {
    let bytes = overmask::fs::read(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    let lines = encoding::text(path, &bytes)?.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let inputs: Vec<(Input, usize)> =
        lines.map(|(line, number)| (Input::Text(line.trim().to_owned()), number)).collect();
    match inputs.is_empty() {
        true => Err(DataError::Empty { path: path.to_owned() }),
        false => Ok(Unlabelled { path: path.to_owned(), inputs }),
    }
}

/// A file's format, which its name tells, and its bytes.
fn open(path: &Path, form: Form, options: &ReadOptions) -> Result<(Format, Vec<u8>), DataError> {
    if path.is_dir() {
        return Err(DataError::Directory { path: path.to_owned(), files: data_files(path) });
    }
    let format = match ending(path).as_str() {
        "csv" => Format::Table(CSV),
        "tsv" => Format::Table(TSV),
        "jsonl" | "ndjson" => Format::Jsonl,
        "conll" if form.kind == TaskKind::Tag => Format::Conll,
        "conll" => return Err(DataError::NotTags { path: path.to_owned(), kind: form.kind }),
        _ => return Err(DataError::Format { path: path.to_owned() }),
    };
    options.check(path, form, matches!(format, Format::Table(_)), !matches!(format, Format::Conll))?;
    let bytes = overmask::fs::read(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    Ok((format, bytes))
}

/// What `read` makes of the records of a file whose fields have names.
fn records<T>(
    format: Format,
    path: &Path,
    text: &str,
    fields: Fields,
    options: &ReadOptions,
    read: Record<'_, T>,
) -> Result<Vec<T>, DataError> {
    match format {
        Format::Table(table) => table.parse(path, text, fields, options, read),
        Format::Jsonl => parse_jsonl(path, text, options, read),
        // Its fields have none.
        Format::Conll => Err(DataError::Format { path: path.to_owned() }),
    }
}

/// What a file's name ends in, in lower case.
fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

/// The data files of a directory, for a message.
fn data_files(dir: &Path) -> String {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = entries.filter(|path| ENDINGS.contains(&ending(path).as_str()));
    let mut names: Vec<String> =
        files.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    names.sort_unstable();
    match names.len() {
        0 => "there is none in it".to_owned(),
        1..=LISTED => format!("it holds {}", names.join(", ")),
        more => format!("it holds {} and {} more", names[..LISTED].join(", "), more - LISTED),
    }
}

fn parse_jsonl<T>(path: &Path, text: &str, options: &ReadOptions, read: Record<'_, T>) -> Result<Vec<T>, DataError> {
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
        let get = |field: &str| object.get(options.name(field)).cloned();
        examples.push(read(line, &get)?);
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

#[cfg(test)]
mod tests {
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
    fn lines_are_texts_where_no_label_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        fs::write(&path, "\u{feff}a, b\r\n\n \n  c\n").unwrap();
        let texts = read_unlabelled(&path, Form::CLASSIFY, &ReadOptions::default()).unwrap();
        let expected = [("a, b", 1), ("c", 4)].map(|(text, line)| (Input::Text(text.into()), line));
        assert_eq!(texts.inputs, expected);
        // Nobody would know what they are, or where the second text begins.
        assert!(matches!(read(&path, Form::CLASSIFY), Err(DataError::Format { .. })));
        let pair = Form { pair: true, ..Form::CLASSIFY };
        assert!(matches!(read_unlabelled(&path, pair, &ReadOptions::default()), Err(DataError::Format { .. })));
        let column = ReadOptions { text_column: Some("body".into()), ..ReadOptions::default() };
        assert_eq!(read_unlabelled(&path, Form::CLASSIFY, &column).unwrap(), texts);
        let absent = read_unlabelled(&dir.path().join("b.txt"), Form::CLASSIFY, &column);
        assert!(matches!(absent, Err(DataError::Io { .. })));
        fs::write(&path, "\n").unwrap();
        let empty = read_unlabelled(&path, Form::CLASSIFY, &ReadOptions::default());
        assert!(matches!(empty, Err(DataError::Empty { .. })));
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
            (
                "a.csv",
                b"text,klass\na,b\n",
                "a.csv:1: the header has no column `label`; it has: text, klass; the first line names the columns; if another is meant, say which with `label_column`",
            ),
            (
                "a.tsv",
                b"text,label\na,b\n",
                "a.tsv:1: the header has no column `text`; it has: text,label; if `,` stands between its fields, say so with `delimiter`",
            ),
            ("a.csv", b"text,label\na,b\na\n", "a.csv:3: 1 fields where the header has 2"),
            ("a.csv", b"text,label\n\"a\nb\",x\n ,x\n", "a.csv:4: field `text` is blank"),
            ("a.csv", b"text,label\na,\n", "a.csv:2: field `label` is blank"),
            (
                "a.jsonl",
                b"{\"text\": \"a\", \"label\": \"x\"}\n[1]\n",
                "a.jsonl:2: not a JSON object (column 0): invalid type: sequence, expected a map",
            ),
            ("a.jsonl", b"{\"text\": \"a\"\n", "a.jsonl:1: not a JSON object (column 12): EOF while parsing an object"),
            (
                "a.jsonl",
                b"{\"label\": \"a\"}\n",
                "a.jsonl:1: field `text` is missing; if it has another name, say so with `text_column`",
            ),
            (
                "a.jsonl",
                b"{\"text\": \"a\"}\n",
                "a.jsonl:1: field `label` is missing; if it has another name, say so with `label_column`",
            ),
            ("a.jsonl", b"{\"text\": 1, \"label\": \"a\"}\n", "a.jsonl:1: field `text` is a number, not a string"),
            (
                "a.jsonl",
                b"{\"text\": \"a\", \"label\": [\"x\"]}\n",
                "a.jsonl:1: field `label` is a list, not a string, number or truth value",
            ),
            (
                "a.jsonl",
                b"{\"text\": \"a\", \"label\": null}\n",
                "a.jsonl:1: field `label` is null, not a string, number or truth value",
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
        assert!(message.contains("a.parquet: the name says no format"), "{message}");
        let message = read(Path::new("absent.csv"), Form::CLASSIFY).unwrap_err().to_string();
        assert!(message.starts_with("cannot read absent.csv: "), "{message}");
    }

    #[test]
    fn a_directory_is_no_data_file() {
        let dir = tempfile::tempdir().unwrap();
        let said = || read(dir.path(), Form::CLASSIFY).unwrap_err().to_string();
        assert!(said().ends_with("is a directory, not a data file; there is none in it"), "{}", said());
        for name in ["train.jsonl", "dev.CSV", "notes.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert!(said().ends_with("it holds dev.CSV, train.jsonl"), "{}", said());
        (0..9).for_each(|i| fs::write(dir.path().join(format!("x{i}.tsv")), "").unwrap());
        assert!(said().ends_with("it holds dev.CSV, train.jsonl, x0.tsv, x1.tsv, x2.tsv and 6 more"), "{}", said());
    }

    /// The same rows in each format are the same data set.
    #[test]
    fn formats_agree() {
        let jsonl =
            "{\"text\":\"a b\",\"label\":true}\n{\"text\":\"c\",\"label\":1.0}\n{\"text\":\"d\",\"label\":\" x \"}\n";
        let expected = read_bytes("a.jsonl", jsonl.as_bytes()).unwrap();
        for (name, table) in [
            ("a.csv", "text,label\na b,True\nc,1.0\n\"d\",\" x\"\n"),
            ("a.csv", "label, Text \r\nTRUE,a b\r\n1,c\r\nx,d\r\n"),
            ("a.tsv", "text\tlabel\na b\ttrue\nc\t1\nd\tx \n"),
        ] {
            let found = read_bytes(name, table.as_bytes()).unwrap();
            assert_eq!(crate::data::digest(&found), crate::data::digest(&expected), "{table}");
        }
    }

    #[test]
    fn a_column_of_exactly_the_name_comes_first() {
        assert_eq!(pairs("a.csv", "Text,text,label\nA,b,x\n"), expect(&[("b", "x", 2)]));
        let message = read_bytes("a.csv", b"Text,TEXT,label\nA,b,x\n").unwrap_err().to_string();
        assert!(message.ends_with("a.csv:1: has several columns `text`; rename or remove all but one"), "{message}");
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
