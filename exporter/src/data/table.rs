//! Tables: lines of fields, with a header that names the columns.

use std::path::Path;

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use serde_json::Value;

use super::options::Delimiter;
use super::record::Get;
use super::{DataError, ReadOptions};

/// Which fields a file has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    /// Those that must be there, ...
    pub(super) needed: &'static [&'static str],
    /// ... and those that may be: with one of them the last that is needed may be missing.
    pub(super) instead: &'static [&'static str],
}

/// What makes something of a record: its line, and what gives its fields.
pub(super) type Record<'a, T> = &'a dyn Fn(usize, Get<'_>) -> Result<T, DataError>;

/// What may stand between fields where the header seems to be a single one.
const OTHERS: [(char, &str); 4] = [(';', ";"), ('\t', "tab"), (',', ","), ('|', "|")];

/// A kind of table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    /// What usually stands between fields.
    pub(super) delimiter: Delimiter,
    /// Whether a field may be in quotation marks, which then are not part of it.
    pub(super) quoting: bool,
}

impl Table {
    /// What `read` makes of the records of a table.
    pub(super) fn parse<T>(
        self,
        path: &Path,
        text: &str,
        fields: Fields,
        options: &ReadOptions,
        read: Record<'_, T>,
    ) -> Result<Vec<T>, DataError> {
        let delimiter = options.delimiter.unwrap_or(self.delimiter).byte();
        let mut reader = ReaderBuilder::new().delimiter(delimiter).quoting(self.quoting).from_reader(text.as_bytes());
        let header = reader.headers().map_err(|e| wrong(path, 1, &e))?.clone();
        if header.iter().all(|name| name.trim().is_empty()) {
            return Ok(Vec::new());
        }
        let mut columns = Vec::new();
        for field in fields.instead {
            columns.extend(self.find(path, &header, field, options)?.map(|column| (*field, column)));
        }
        let replaced = fields.needed.last().filter(|_| !columns.is_empty());
        for field in fields.needed {
            match self.find(path, &header, field, options)? {
                Some(column) => columns.push((*field, column)),
                None if replaced == Some(field) => {}
                None => return Err(self.missing(path, &header, field, options)),
            }
        }
        let (mut examples, mut quoted) = (Vec::new(), None);
        let mut record = StringRecord::new();
        let mut lines = Lines::new(text);
        loop {
            let line = lines.of(reader.position().byte() as usize);
            match reader.read_record(&mut record) {
                Ok(false) => break,
                Ok(true) => {}
                Err(e) => return Err(wrong(path, line, &e)),
            }
            // Every record has as many fields as the header: the reader checks it.
            let cell = |field: &str| {
                let (_, column) = columns.iter().find(|(name, _)| *name == field)?;
                record.get(*column)
            };
            if !self.quoting && columns.iter().filter_map(|(_, column)| record.get(*column)).any(is_quoted) {
                quoted.get_or_insert(line);
            }
            examples.push(read(line, &|field| cell(field).map(Value::from))?);
        }
        if let Some(line) = quoted {
            log::warn!(
                "{}:{line}: a field is in quotation marks, and in a .tsv file they are part of it; if they only \
                 enclose it, name the file .csv and say that its delimiter is a tab",
                path.display()
            );
        }
        Ok(examples)
    }

    /// The column of a field, if there is one: that of exactly its name, else of its name in other letters' case.
    fn find(
        self,
        path: &Path,
        header: &StringRecord,
        field: &'static str,
        options: &ReadOptions,
    ) -> Result<Option<usize>, DataError> {
        let name = options.name(field);
        let places = |same: fn(&str, &str) -> bool| -> Vec<usize> {
            let named = header.iter().enumerate().filter(|(_, found)| same(found.trim(), name));
            named.map(|(place, _)| place).collect()
        };
        let mut found = places(|a, b| a == b);
        if found.is_empty() {
            found = places(str::eq_ignore_ascii_case);
        }
        match found[..] {
            [] => Ok(None),
            [column] => Ok(Some(column)),
            _ => Err(DataError::Line {
                path: path.to_owned(),
                line: 1,
                reason: format!("has several columns `{name}`; rename or remove all but one"),
            }),
        }
    }

    /// That a column is not there.
    fn missing(self, path: &Path, header: &StringRecord, field: &'static str, options: &ReadOptions) -> DataError {
        let name = options.name(field);
        DataError::Column {
            path: path.to_owned(),
            field: name.to_owned(),
            found: header.iter().collect::<Vec<_>>().join(", "),
            advice: self.advice(header, name, options.option(field)),
        }
    }

    /// What to do about a column that is not there.
    fn advice(self, header: &StringRecord, name: &str, option: &str) -> String {
        let alone = header.iter().next().filter(|_| header.len() == 1);
        if let Some((_, other)) = OTHERS.iter().find(|(c, _)| alone.is_some_and(|alone| alone.contains(*c))) {
            return format!("if `{other}` stands between its fields, say so with `delimiter`");
        }
        if !self.quoting && header.iter().any(|found| is_quoted(found) && found.trim_matches('"') == name) {
            return "in a .tsv file quotation marks are part of a field; name the file .csv, with `delimiter` tab"
                .to_owned();
        }
        format!("the first line names the columns; if another is meant, say which with `{option}`")
    }
}

/// Whether quotation marks seem to enclose a field.
fn is_quoted(field: &str) -> bool {
    let field = field.trim();
    field.len() > 1 && field.starts_with('"') && field.ends_with('"')
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

fn wrong(path: &Path, line: usize, error: &csv::Error) -> DataError {
    let reason = match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields where the header has {expected_len}")
        }
        _ => error.to_string(),
    };
    DataError::Line { path: path.to_owned(), line, reason }
}
