//! Recipes: published data sets become `train.jsonl` and `test.jsonl`.
//!
//! Every recipe reads (text, label) pairs, drops repeated texts *before* the split (else a
//! held-out text could be among those to train on), and splits by a fixed seed. Texts count as
//! the same when they differ only in case and white space; the first is kept. A text that comes
//! with different labels says nothing and is dropped altogether.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io::BufWriter;
use std::path::Path;

use serde::Deserialize;

use super::manifest::{Output, Recipe};
use super::{FetchError, unreadable, unwritable};
use crate::data::{self, DataError, Dataset, Example};

/// The texts to train on.
pub(super) const TRAIN: &str = "train.jsonl";
/// The texts held out.
pub(super) const TEST: &str = "test.jsonl";

/// How small a mean rating is too close to neutral to be a label.
const CLEAR_RATING: f64 = 0.5;

/// The formats that there are recipes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lines `COARSE:fine text`; the label is the coarse class. (Li & Roth, *Learning question
    /// classifiers*, 2002.)
    Trec,
    /// Lines `id TAB mean rating TAB text`; the label is the rating's sign, and texts rated
    /// closer to neutral than half a point are left out. (Hutto & Gilbert, *VADER*, 2014.)
    Vader,
}

/// Converts the only file in `from` into the two files in `to`, and checks them.
pub(super) fn convert(recipe: &Recipe, from: &Path, to: &Path) -> Result<(), FetchError> {
    let raw = fs::read_dir(from)
        .and_then(|mut files| files.next().transpose())
        .map_err(unreadable(from))?
        .ok_or_else(|| FetchError::Absent { place: from.to_owned(), name: "file".to_owned() })?
        .path();
    let text = fs::read_to_string(&raw).map_err(unreadable(&raw))?;
    let examples = unique(parse(recipe.format, &raw, &text)?);
    let (train, test) = data::split_indices(examples.len(), recipe.test.examples, recipe.seed);
    fs::create_dir_all(to).map_err(unwritable(to))?;
    for (name, indices, expected) in [(TRAIN, train, &recipe.train), (TEST, test, &recipe.test)] {
        let path = to.join(name);
        let part = Dataset { path: path.clone(), examples: indices.into_iter().map(|i| examples[i].clone()).collect() };
        write(&part).map_err(unwritable(&path))?;
        check(&part, name, expected)?;
    }
    Ok(())
}

fn write(part: &Dataset) -> std::io::Result<()> {
    let mut out = BufWriter::new(fs::File::create(&part.path)?);
    part.write_jsonl(&mut out)?;
    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
}

fn check(part: &Dataset, name: &str, expected: &Output) -> Result<(), FetchError> {
    let found = data::digest(part);
    if found == expected.sha256 {
        return Ok(());
    }
    Err(FetchError::Digest {
        name: name.to_owned(),
        origin: "the recipe".to_owned(),
        found,
        expected: expected.sha256.clone(),
    })
}

fn parse(format: Format, path: &Path, text: &str) -> Result<Vec<Example>, DataError> {
    let parse_line = match format {
        Format::Trec => trec_line,
        Format::Vader => vader_line,
    };
    let mut examples = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let parsed = parse_line(line).map_err(|reason| DataError::Line {
            path: path.to_owned(),
            line: i + 1,
            reason: reason.to_owned(),
        })?;
        examples.extend(parsed.map(|(text, label)| Example {
            text: text.trim().to_owned(),
            label: label.to_owned(),
            line: i + 1,
        }));
    }
    Ok(examples)
}

/// A text and its label, or nothing where the line is to be left out.
type Parsed<'a> = Result<Option<(&'a str, &'a str)>, &'static str>;

fn trec_line(line: &str) -> Parsed<'_> {
    let form = "not of the form `COARSE:fine text`";
    let (label, text) = line.split_once(' ').ok_or(form)?;
    let (coarse, _fine) = label.split_once(':').ok_or(form)?;
    if coarse.is_empty() || text.trim().is_empty() {
        return Err(form);
    }
    Ok(Some((text, coarse)))
}

fn vader_line(line: &str) -> Parsed<'_> {
    let form = "not of the form `id TAB rating TAB text`";
    let mut fields = line.splitn(3, '\t').skip(1);
    let rating: f64 = fields.next().and_then(|r| r.parse().ok()).ok_or(form)?;
    let text = fields.next().ok_or(form)?;
    if rating.is_nan() || text.trim().is_empty() {
        return Err(form);
    }
    let label = if rating > 0.0 { "positive" } else { "negative" };
    Ok((rating.abs() >= CLEAR_RATING).then_some((text, label)))
}

/// Each text once, in the order of its first coming.
fn unique(examples: Vec<Example>) -> Vec<Example> {
    let mut places: HashMap<String, usize> = HashMap::with_capacity(examples.len());
    let mut kept: Vec<(Example, bool)> = Vec::new();
    for example in examples {
        match places.entry(data::normalise(&example.text)) {
            Entry::Occupied(place) => {
                let (first, agrees) = &mut kept[*place.get()];
                *agrees &= first.label == example.label;
            }
            Entry::Vacant(place) => {
                place.insert(kept.len());
                kept.push((example, true));
            }
        }
    }
    kept.into_iter().filter_map(|(example, agrees)| agrees.then_some(example)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn pairs(examples: Vec<Example>) -> Vec<(String, String)> {
        examples.into_iter().map(|e| (e.text, e.label)).collect()
    }

    fn own(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(t, l)| ((*t).to_owned(), (*l).to_owned())).collect()
    }

    #[test]
    fn trec_lines_give_the_coarse_class() {
        let text = "LOC:city What city is it ?\nNUM:date When ?\n\n";
        let examples = parse(Format::Trec, Path::new("q"), text).unwrap();
        assert_eq!(pairs(examples), own(&[("What city is it ?", "LOC"), ("When ?", "NUM")]));
    }

    #[test]
    fn vader_lines_give_the_sign_of_a_clear_rating() {
        let text = "1\t0.5\tgood\r\n2\t-0.49\tso so\r\n3\t-2.1\tbad\ttabs\r\n";
        let examples = parse(Format::Vader, Path::new("m"), text).unwrap();
        assert_eq!(pairs(examples), own(&[("good", "positive"), ("bad\ttabs", "negative")]));
    }

    #[test]
    fn wrong_lines_are_named() {
        for (format, text) in [
            (Format::Trec, "LOC:city What ?\nnothing here\n"),
            (Format::Trec, "LOC:city What ?\nLOC:city  \n"),
            (Format::Vader, "1\t0.5\tgood\n2\tx\ty\n"),
            (Format::Vader, "1\t0.5\tgood\n2\tNaN\ty\n"),
            (Format::Vader, "1\t0.5\tgood\n2\t3\n"),
        ] {
            let message = parse(format, Path::new("file.txt"), text).unwrap_err().to_string();
            assert!(message.starts_with("file.txt:2: not of the form"), "{message}");
        }
    }

    #[test]
    fn repeated_texts_go_and_contradictions_go_altogether() {
        let text = "A:a One\nB:b two\nA:x  one\nB:b three\nC:c TWO\n";
        let examples = unique(parse(Format::Trec, Path::new("q"), text).unwrap());
        assert_eq!(pairs(examples), own(&[("One", "A"), ("three", "B")]));
    }
}
