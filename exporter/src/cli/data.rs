//! Data files as commands take them: how they are written is said by the same options everywhere.

use std::path::Path;

use anyhow::Error;
use clap::Args;
use overmask_cli::CodedError;

use crate::data::{self, DataError, Dataset, Delimiter, Form, ReadOptions, Unlabelled};

/// How the data files are written, all that a command reads.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data files")]
pub(super) struct DataArgs {
    /// What stands between the fields of .csv and .tsv files: one character, such as `;`, or `tab`; default: a
    /// comma in .csv, a tab in .tsv.
    #[arg(long, value_name = "CHAR")]
    delimiter: Option<Delimiter>,
    /// The column (of JSONL the field) that holds the text, or the words; default: `text`, of tags `tokens`.
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// The column that holds the second text of a pair; default: `text_pair`.
    #[arg(long, value_name = "NAME")]
    pair_column: Option<String>,
    /// The column that holds what is to be learnt; default: `label`, `labels`, `value` or `tags`.
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
}

impl DataArgs {
    /// Reads a data file.
    pub(super) fn read(&self, path: &Path, form: Form) -> Result<Dataset, Error> {
        data::read_with(path, form, &self.options()).map_err(in_flags)
    }

    /// Reads one whose examples may have soft labels.
    pub(super) fn read_soft(&self, path: &Path, form: Form) -> Result<Dataset, Error> {
        data::read_with(path, form, &ReadOptions { soft: true, ..self.options() }).map_err(in_flags)
    }

    /// Reads one for its texts alone.
    pub(super) fn read_unlabelled(&self, path: &Path, form: Form) -> Result<Unlabelled, Error> {
        data::read_unlabelled(path, form, &self.options()).map_err(in_flags)
    }

    fn options(&self) -> ReadOptions {
        ReadOptions {
            delimiter: self.delimiter,
            text_column: self.text_column.clone(),
            pair_column: self.pair_column.clone(),
            label_column: self.label_column.clone(),
            soft: false,
        }
    }
}

/// The error in the words of the command line.
pub(super) fn in_flags(error: DataError) -> Error {
    let library = error.to_string();
    let message = ReadOptions::FIELDS.iter().fold(library.clone(), |said, field| {
        said.replace(&format!("`{field}`"), &format!("--{}", field.replace('_', "-")))
    });
    match message == library {
        true => error.into(),
        false => CodedError { message, code: error.kind().into() }.into(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use overmask_cli::ExitCode;

    use super::*;

    #[derive(Debug, Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: DataArgs,
    }

    fn read(name: &str, text: &str, form: Form, options: &[&str]) -> Result<Dataset, Error> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        Wrapper::try_parse_from([&["x"], options].concat())?.args.read(&path, form)
    }

    #[test]
    fn columns_have_the_names_that_are_given() {
        let pair = Form { pair: true, ..Form::CLASSIFY };
        let csv = "id;Question;Reply;Class\n1;a;\"b;c\";x\n";
        let jsonl = "{\"question\":\"a\",\"reply\":\"b;c\",\"class\":\"x\",\"text\":7}\n";
        let names = ["--text-column", "question", "--pair-column", "reply", "--label-column", "class"];
        let of_csv = [&["--delimiter", ";"], &names[..]].concat();
        let data = read("a.csv", csv, pair, &of_csv).unwrap();
        assert_eq!(serde_json::to_string(&data.examples[0]).unwrap(), r#"{"text":"a","text_pair":"b;c","label":"x"}"#);
        assert_eq!(data::digest(&data), data::digest(&read("a.jsonl", jsonl, pair, &names).unwrap()));
        // With the quoting of CSV and the tabs of TSV; and the other way round.
        for (name, delimiter, text) in [("a.csv", "tab", "a\tb"), ("a.tsv", ";", "\"a\tb\"")] {
            let table = format!("text{0}label\n\"a\tb\"{0}x\n", if delimiter == "tab" { "\t" } else { delimiter });
            let data = read(name, &table, Form::CLASSIFY, &["--delimiter", delimiter]).unwrap();
            assert_eq!(data.examples[0].input.texts(), [text]);
        }
    }

    #[test]
    fn errors_say_what_to_type() {
        let tags = Form { kind: overmask::pack::TaskKind::Tag, pair: false };
        for (name, text, form, options, said, code) in [
            (
                "a.csv",
                "text;label\na;x\n",
                Form::CLASSIFY,
                &[][..],
                "`;` stands between its fields, say so with --delimiter",
                3,
            ),
            (
                "a.csv",
                "sentence,label\na,x\n",
                Form::CLASSIFY,
                &[],
                "if another is meant, say which with --text-column",
                3,
            ),
            (
                "a.csv",
                "text,class\na,x\n",
                Form::CLASSIFY,
                &["--label-column", "klass"],
                "no column `klass`; it has: text, class",
                3,
            ),
            (
                "a.tsv",
                "\"text\"\t\"label\"\na\tx\n",
                Form::CLASSIFY,
                &[],
                "name the file .csv, with --delimiter tab",
                3,
            ),
            (
                "a.jsonl",
                "{\"text\":\"a\"}\n",
                Form::CLASSIFY,
                &[],
                ":1: field `label` is missing; if it has another name, say so with --label-column",
                3,
            ),
            ("a.jsonl", "{\"t\":\" \"}\n", Form::CLASSIFY, &["--text-column", "t"], "field `t` is blank", 3),
            ("a.jsonl", "", Form::CLASSIFY, &["--delimiter", ";"], "--delimiter is for .csv and .tsv files", 2),
            ("a.csv", "", Form::CLASSIFY, &["--pair-column", "b"], "--pair-column is for tasks on pairs of texts", 2),
            ("a.conll", "", tags, &["--text-column", "b"], "--text-column is for files whose fields have names", 2),
        ] {
            let error = read(name, text, form, options).unwrap_err();
            assert!(error.to_string().contains(said), "{error}\nnot\n{said}");
            assert_eq!(ExitCode::find(&error, |e| e.downcast_ref().map(DataError::kind)) as u8, code, "{error}");
        }
        assert!(Wrapper::try_parse_from(["x", "--delimiter", ";;"]).is_err());
    }
}
