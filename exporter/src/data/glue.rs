//! The tasks of GLUE (Wang et al., *GLUE: A Multi-Task Benchmark and Analysis Platform for Natural
//! Language Understanding*, 2018), from the folders that its download script makes.
//!
//! Fields are apart by tabs and nothing is quoted. Only `train.tsv` and the development files have
//! labels, so they are what is read; MNLI has two of the latter. Labels stay as they are in the files.

use std::collections::BTreeMap;
use std::path::Path;

use overmask::error::ErrorKind;
use overmask::fs::{Staged, StagedError};
use overmask::pack::TaskKind;
use serde_json::Value;

use super::{DataError, Dataset, Form, ReadOptions, encoding, record};

/// Why a task cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GlueError {
    /// A file of the task.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The converted files cannot be written.
    #[error(transparent)]
    Staged(#[from] StagedError),
}

impl GlueError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Data(e) => e.kind(),
            Self::Staged(e) => e.kind(),
        }
    }
}

/// A task of GLUE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlueTask {
    /// Its name here, in lower case.
    pub name: &'static str,
    /// What its examples are.
    pub form: Form,
    /// The metrics by which GLUE judges it, by the names that `evaluate` gives them.
    pub metrics: &'static [&'static str],
    columns: Columns,
    /// Every label that there is; none for a number.
    labels: &'static [&'static str],
    /// The files to read, and what becomes of each; only those of [`Need::Must`] have to be there.
    files: &'static [(&'static str, &'static str, Need)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Must,
    May,
}

/// Where the fields of an example are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Columns {
    /// By the names in the header: the texts and what they are.
    Named(&'static [&'static str], &'static str),
    /// In a file without a header, of so many columns: the text and its label.
    Numbered(usize, usize, usize),
}

const FILES: &[(&str, &str, Need)] = &[("train.tsv", "train.jsonl", Need::Must), ("dev.tsv", "dev.jsonl", Need::Must)];
const PAIR: Form = Form { kind: TaskKind::Classify, pair: true };
const BINARY: &[&str] = &["0", "1"];
const ENTAILMENT: &[&str] = &["entailment", "not_entailment"];
const SENTENCES: &[&str] = &["sentence1", "sentence2"];

/// The largest similarity of STS-B.
const MOST_SIMILAR: f64 = 5.0;

/// All tasks of GLUE that have labels.
pub const TASKS: [GlueTask; 9] = [
    GlueTask {
        name: "cola",
        form: Form::CLASSIFY,
        metrics: &["matthews"],
        columns: Columns::Numbered(4, 3, 1),
        labels: BINARY,
        files: FILES,
    },
    GlueTask {
        name: "sst-2",
        form: Form::CLASSIFY,
        metrics: &["accuracy"],
        columns: Columns::Named(&["sentence"], "label"),
        labels: BINARY,
        files: FILES,
    },
    GlueTask {
        name: "mrpc",
        form: PAIR,
        metrics: &["accuracy", "f1"],
        columns: Columns::Named(&["#1 String", "#2 String"], "Quality"),
        labels: BINARY,
        files: FILES,
    },
    GlueTask {
        name: "qqp",
        form: PAIR,
        metrics: &["accuracy", "f1"],
        columns: Columns::Named(&["question1", "question2"], "is_duplicate"),
        labels: BINARY,
        files: FILES,
    },
    GlueTask {
        name: "sts-b",
        form: Form { kind: TaskKind::Regress, pair: true },
        metrics: &["pearson", "spearman"],
        columns: Columns::Named(SENTENCES, "score"),
        labels: &[],
        files: FILES,
    },
    GlueTask {
        name: "mnli",
        form: PAIR,
        metrics: &["accuracy"],
        columns: Columns::Named(SENTENCES, "gold_label"),
        labels: &["contradiction", "entailment", "neutral"],
        files: &[
            ("train.tsv", "train.jsonl", Need::Must),
            ("dev_matched.tsv", "dev.jsonl", Need::Must),
            ("dev_mismatched.tsv", "dev_mismatched.jsonl", Need::May),
        ],
    },
    GlueTask {
        name: "qnli",
        form: PAIR,
        metrics: &["accuracy"],
        columns: Columns::Named(&["question", "sentence"], "label"),
        labels: ENTAILMENT,
        files: FILES,
    },
    GlueTask {
        name: "rte",
        form: PAIR,
        metrics: &["accuracy"],
        columns: Columns::Named(SENTENCES, "label"),
        labels: ENTAILMENT,
        files: FILES,
    },
    GlueTask {
        name: "wnli",
        form: PAIR,
        metrics: &["accuracy"],
        columns: Columns::Named(SENTENCES, "label"),
        labels: BINARY,
        files: FILES,
    },
];

/// A file that was converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its name.
    pub name: &'static str,
    /// How many examples it has.
    pub examples: usize,
    /// The lines of the source without a text or a label, which have no example.
    pub left_out: Vec<usize>,
}

impl GlueTask {
    /// The task of a name.
    pub fn find(name: &str) -> Option<GlueTask> {
        TASKS.into_iter().find(|task| task.name == name)
    }

    /// Converts the task's files in `dir` into JSONL files in the folder `out`, which appears whole or
    /// not at all.
    ///
    /// # Errors
    /// When a file is missing or not what the task's files are, or `out` is taken or cannot be written.
    pub fn convert(&self, dir: &Path, out: &Path) -> Result<Vec<Written>, GlueError> {
        let staged = Staged::new(out)?;
        let mut all = Vec::new();
        for (from, name, need) in self.files {
            let path = dir.join(from);
            if *need == Need::May && !path.exists() {
                continue;
            }
            let (dataset, left_out) = self.read(&path)?;
            staged.file(name, |out| dataset.write_jsonl(out))?;
            all.push(Written { name, examples: dataset.len(), left_out });
        }
        staged.publish()?;
        Ok(all)
    }

    /// Reads one of the task's files: its examples, and the lines that have none.
    ///
    /// # Errors
    /// When the file cannot be read or is not one of this task's, with file, line and field.
    pub fn read(&self, path: &Path) -> Result<(Dataset, Vec<usize>), DataError> {
        let bytes = overmask::fs::read(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
        let text = encoding::text(path, &bytes)?;
        let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        let mut lines = lines.enumerate().map(|(i, line)| (i + 1, line)).filter(|(_, line)| !line.trim().is_empty());
        let places = match self.columns {
            Columns::Numbered(count, text, target) => Places { count, texts: vec![text], target },
            Columns::Named(texts, target) => {
                let header: Vec<&str> = lines.next().map_or_else(Vec::new, |(_, line)| line.split('\t').collect());
                let place = |field: &&'static str| place(path, &header, field);
                let texts = texts.iter().map(place).collect::<Result<_, _>>()?;
                Places { count: header.len(), texts, target: place(&target)? }
            }
        };
        let (mut examples, mut left_out) = (Vec::new(), Vec::new());
        for (number, line) in lines {
            let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
            let wrong = |reason: String| DataError::Line { path: path.to_owned(), line: number, reason };
            // In QQP some questions have lost the rest of their line.
            if fields.len() != places.count && self.name != "qqp" {
                return Err(wrong(format!("{} fields where `{}` has {}", fields.len(), self.name, places.count)));
            }
            let field = |place: usize| fields.get(place).copied().unwrap_or_default();
            let target = field(places.target);
            let whole = fields.len() == places.count && places.texts.iter().all(|text| !field(*text).is_empty());
            // MNLI's mark of sentences about which its annotators did not agree.
            if !whole || matches!(target, "" | "-") {
                left_out.push(number);
                continue;
            }
            self.check(target).map_err(wrong)?;
            let values: BTreeMap<&str, &str> = self
                .form
                .fields()
                .iter()
                .copied()
                .zip(places.texts.iter().map(|t| field(*t)).chain([target]))
                .collect();
            let get = |name: &str| values.get(name).map(|value| Value::from(*value));
            examples.push(record::example(path, number, self.form, &ReadOptions::default(), &get)?);
        }
        if examples.is_empty() {
            return Err(DataError::Empty { path: path.to_owned() });
        }
        Ok((Dataset { path: path.to_owned(), examples }, left_out))
    }

    /// Whether the task has such a label, or such a number.
    fn check(&self, target: &str) -> Result<(), String> {
        let number = || target.parse::<f64>().is_ok_and(|value| (0.0..=MOST_SIMILAR).contains(&value));
        match self.form.kind {
            TaskKind::Regress if !number() => Err(format!("{target:?} is no number from 0 to {MOST_SIMILAR}")),
            TaskKind::Classify if !self.labels.contains(&target) => {
                let known = self.labels.join(", ");
                Err(format!("{target:?} is no label of `{}`, which has {known}; is it another task's file?", self.name))
            }
            _ => Ok(()),
        }
    }
}

/// Which fields of a line make an example.
struct Places {
    count: usize,
    texts: Vec<usize>,
    target: usize,
}

fn place(path: &Path, header: &[&str], field: &'static str) -> Result<usize, DataError> {
    let absent = || DataError::Column {
        path: path.to_owned(),
        field: field.to_owned(),
        found: header.join(", "),
        advice: "is it another task's file?".to_owned(),
    };
    header.iter().position(|name| name.trim() == field).ok_or_else(absent)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::{self, Target};

    fn task(name: &str) -> GlueTask {
        GlueTask::find(name).unwrap()
    }

    /// The examples of a file, as JSON, and the lines that were left out.
    fn read_text(name: &str, text: &str) -> Result<(Vec<String>, Vec<usize>), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.tsv");
        fs::write(&path, text).unwrap();
        let (dataset, left_out) = task(name).read(&path).map_err(|e| e.to_string())?;
        Ok((dataset.examples.iter().map(|e| serde_json::to_string(e).unwrap()).collect(), left_out))
    }

    #[test]
    fn every_task_is_read_by_its_columns() {
        let mnli = "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t\
                    sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n\
                    0\t1\t1n\tfiction\t( a )\t( b )\t(R a)\t(R b)\ta\tb\tneutral\tneutral\n";
        let sts = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n\
                   0\tmain\tf\t2012\t1\tnone\tnone\ta \"b\tc\t4.750\r\n";
        for (name, text, expected) in [
            ("cola", "gj04\t1\t\tThey sang.\ngj04\t0\t*\tSang they.\n", r#"{"text":"They sang.","label":"1"}"#),
            ("sst-2", "sentence\tlabel\na fine film \t1\n", r#"{"text":"a fine film","label":"1"}"#),
            (
                "mrpc",
                "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n0\t7\t8\ta \"b\" c\td\r\n",
                r#"{"text":"a \"b\" c","text_pair":"d","label":"0"}"#,
            ),
            (
                "qqp",
                "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\tHow?\t0\n",
                r#"{"text":"Why?","text_pair":"How?","label":"0"}"#,
            ),
            ("sts-b", sts, r#"{"text":"a \"b","text_pair":"c","value":4.75}"#),
            ("mnli", mnli, r#"{"text":"a","text_pair":"b","label":"neutral"}"#),
            (
                "qnli",
                "index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n",
                r#"{"text":"a","text_pair":"b","label":"entailment"}"#,
            ),
            (
                "rte",
                "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n",
                r#"{"text":"a","text_pair":"b","label":"not_entailment"}"#,
            ),
            ("wnli", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n", r#"{"text":"a","text_pair":"b","label":"1"}"#),
        ] {
            let (examples, left_out) = read_text(name, text).unwrap();
            assert_eq!((examples[0].as_str(), left_out), (expected, vec![]), "{name}");
        }
    }

    #[test]
    fn lines_without_a_text_or_a_label_are_left_out() {
        let qqp = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n\
                   1\t2\t3\tWhy\n1\t2\t3\tWhy?\t\t1\nlost\n1\t2\t3\ta\tb\t1\n1\t2\t3\ta\tb\t\n";
        assert_eq!(read_text("qqp", qqp).unwrap().1, [2, 3, 4, 6]);
        let mnli = "sentence1\tsentence2\tgold_label\na\tb\t-\na\tb\tneutral\n";
        assert_eq!(read_text("mnli", mnli).unwrap().1, [2]);
    }

    #[test]
    fn another_tasks_file_is_refused_by_line() {
        let wnli = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n";
        for (name, text, said) in [
            ("rte", wnli, "train.tsv:2: \"1\" is no label of `rte`, which has entailment, not_entailment"),
            ("qnli", wnli, "no column `question`; it has: index, sentence1"),
            ("cola", wnli, "train.tsv:1: \"sentence1\" is no label of `cola`"),
            ("cola", "a\t1\tb\n", "train.tsv:1: 3 fields where `cola` has 4"),
            ("wnli", "index\tsentence1\tsentence2\tlabel\n0\ta\t\tb\t1\n", "train.tsv:2: 5 fields where"),
            ("sts-b", "sentence1\tsentence2\tscore\na\tb\t5.2\n", "train.tsv:2: \"5.2\" is no number from 0 to 5"),
            ("sts-b", "sentence1\tsentence2\tscore\na\tb\tNaN\n", "train.tsv:2: \"NaN\" is no number"),
            ("sst-2", "sentence\tlabel\n", "holds no example"),
            ("sst-2", "", "no column `sentence`"),
        ] {
            let message = read_text(name, text).unwrap_err();
            assert!(message.contains(said), "{name}: {message}");
        }
    }

    #[test]
    fn a_folder_is_converted_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let [from, out] = ["MNLI", "mnli"].map(|name| dir.path().join(name));
        fs::create_dir(&from).unwrap();
        let rows = "sentence1\tsentence2\tgold_label\na\tb\tneutral\nc\td\tentailment\n";
        fs::write(from.join("train.tsv"), rows).unwrap();
        let error = task("mnli").convert(&from, &out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InputData);
        assert!(error.to_string().contains("dev_matched.tsv"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let converted = |files: &[&str]| {
            let written = task("mnli").convert(&from, &out).unwrap();
            assert_eq!(written.iter().map(|w| w.name).collect::<Vec<_>>(), files);
            for Written { name, examples, .. } in written {
                let dataset = data::read(&out.join(name), task("mnli").form).unwrap();
                assert_eq!((dataset.len(), examples), (2, 2));
                assert_eq!(dataset.examples[0].target, Target::Label("neutral".into()));
            }
        };
        fs::write(from.join("dev_matched.tsv"), rows).unwrap();
        converted(&["train.jsonl", "dev.jsonl"]);
        assert_eq!(task("mnli").convert(&from, &out).unwrap_err().kind(), ErrorKind::InputData);
        fs::remove_dir_all(&out).unwrap();
        fs::write(from.join("dev_mismatched.tsv"), rows).unwrap();
        converted(&["train.jsonl", "dev.jsonl", "dev_mismatched.jsonl"]);
    }

    #[test]
    fn the_example_sweep_has_every_task_as_it_is() {
        let text = include_str!("../../../docs/examples/glue.toml");
        let sweep: toml::Table = text.parse().unwrap();
        let tasks = sweep["tasks"].as_array().unwrap();
        assert_eq!(tasks.len(), TASKS.len());
        for (given, task) in tasks.iter().zip(TASKS) {
            let text = |field: &str| given.get(field).and_then(|value| value.as_str());
            assert_eq!(text("name"), Some(task.name));
            assert_eq!(text("data"), Some(format!("{}/train.jsonl", task.name).as_str()));
            assert_eq!(text("eval-data"), Some(format!("{}/dev.jsonl", task.name).as_str()));
            assert_eq!(text("task").unwrap_or("classify"), task.form.kind.name());
            assert_eq!(given.get("pair").and_then(|pair| pair.as_bool()).unwrap_or(false), task.form.pair);
        }
    }
}
