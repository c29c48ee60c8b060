//! Recipes: published data sets become `train.jsonl` and `test.jsonl`.
//!
//! Every recipe reads examples, drops repeated inputs *before* the split (else a held-out text could
//! be among those to train on), and splits by a fixed seed. Inputs count as the same when they differ
//! only in case and white space; the first is kept. An input that comes with different targets says
//! nothing and is dropped altogether.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io::BufWriter;
use std::path::Path;

use csv::ReaderBuilder;
use overmask::pack::Input;

use super::manifest::{Format, Output, Recipe};
use super::{FetchError, unreadable, unwritable};
use crate::data::{self, DataError, Dataset, Example, Target, rng};

/// The texts to train on.
pub(super) const TRAIN: &str = "train.jsonl";
/// The texts held out.
pub(super) const TEST: &str = "test.jsonl";

/// How small a mean rating is too close to neutral to be a label.
const CLEAR_RATING: f64 = 0.5;

/// Converts the only file in `from` into the two files in `to`, and checks them.
pub(super) fn convert(recipe: &Recipe, from: &Path, to: &Path) -> Result<(), FetchError> {
    let raw = fs::read_dir(from)
        .and_then(|mut files| files.next().transpose())
        .map_err(unreadable(from))?
        .ok_or_else(|| FetchError::Absent { place: from.to_owned(), name: "file".to_owned() })?
        .path();
    let text = overmask::fs::read_to_string(&raw).map_err(unreadable(&raw))?;
    let mut examples = unique(parse(recipe.format, &raw, &text, recipe.seed)?);
    if let Some(take) = recipe.take {
        let mut taken = rng::permutation(recipe.seed, rng::stream::TAKEN, 0, examples.len());
        taken.truncate(take);
        taken.sort_unstable();
        examples = taken.into_iter().map(|i| examples[i].clone()).collect();
    }
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

fn parse(format: Format, path: &Path, text: &str, seed: u64) -> Result<Vec<Example>, DataError> {
    let parse_line = match format {
        Format::Trec => trec_line,
        Format::TrecFine => trec_fine_line,
        Format::Vader => vader_line,
        Format::VaderRating => rating_line,
        Format::Conll => return data::parse_conll(path, text),
        Format::Dialogue => return dialogue(path, text, seed),
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
        let example =
            |(text, target): (&str, _)| Example { input: Input::from(text.trim()), target, soft: None, line: i + 1 };
        examples.extend(parsed.map(example));
    }
    Ok(examples)
}

/// A text and what it is, or nothing where the line is to be left out.
type Parsed<'a> = Result<Option<(&'a str, Target)>, &'static str>;

fn trec_line(line: &str) -> Parsed<'_> {
    let (coarse, _, text) = trec_fields(line)?;
    Ok(Some((text, Target::Label(coarse.to_owned()))))
}

fn trec_fine_line(line: &str) -> Parsed<'_> {
    let (coarse, fine, text) = trec_fields(line)?;
    Ok(Some((text, Target::Label(format!("{coarse}:{fine}")))))
}

fn trec_fields(line: &str) -> Result<(&str, &str, &str), &'static str> {
    let form = "not of the form `COARSE:fine text`";
    let (label, text) = line.split_once(' ').ok_or(form)?;
    let (coarse, fine) = label.split_once(':').ok_or(form)?;
    if coarse.is_empty() || text.trim().is_empty() {
        return Err(form);
    }
    Ok((coarse, fine, text))
}

fn vader_line(line: &str) -> Parsed<'_> {
    let (rating, text) = vader_fields(line)?;
    let label = if rating > 0.0 { "positive" } else { "negative" };
    Ok((rating.abs() >= CLEAR_RATING).then(|| (text, Target::Label(label.to_owned()))))
}

fn rating_line(line: &str) -> Parsed<'_> {
    let (rating, text) = vader_fields(line)?;
    Ok(Some((text, Target::Value(rating))))
}

fn vader_fields(line: &str) -> Result<(f64, &str), &'static str> {
    let form = "not of the form `id TAB rating TAB text`";
    let mut fields = line.splitn(3, '\t').skip(1);
    let rating: f64 = fields.next().and_then(|r| r.parse().ok()).ok_or(form)?;
    let text = fields.next().ok_or(form)?;
    if !rating.is_finite() || text.trim().is_empty() {
        return Err(form);
    }
    Ok((rating, text))
}

fn dialogue(path: &Path, text: &str, seed: u64) -> Result<Vec<Example>, DataError> {
    let mut turns = Vec::new();
    for (i, record) in ReaderBuilder::new().from_reader(text.as_bytes()).into_records().enumerate() {
        let wrong = |reason: String| DataError::Line { path: path.to_owned(), line: i + 2, reason };
        let record = record.map_err(|e| wrong(e.to_string()))?;
        let [Some(statement), Some(reply)] = [record.get(1), record.get(2)].map(|cell| cell.map(str::trim)) else {
            return Err(wrong("not of the form `number,statement,reply`".to_owned()));
        };
        if !statement.is_empty() && !reply.is_empty() {
            turns.push((statement.to_owned(), reply.to_owned(), i + 2));
        }
    }
    let exchanged = rng::uniform(seed, rng::stream::EXCHANGED, 0, turns.len());
    let others = rng::permutation(seed, rng::stream::EXCHANGED, 1, turns.len());
    let example = |i: usize| {
        let (statement, reply, line) = &turns[i];
        let (second, label) = match exchanged[i] < 0.5 {
            true => (&turns[others[i]].1, "other"),
            false => (reply, "reply"),
        };
        let input = Input::Pair(statement.clone(), second.clone());
        Example { input, target: Target::Label(label.to_owned()), soft: None, line: *line }
    };
    Ok((0..turns.len()).map(example).collect())
}

/// Each input once, in the order of its first coming.
fn unique(examples: Vec<Example>) -> Vec<Example> {
    let mut places: HashMap<String, usize> = HashMap::with_capacity(examples.len());
    let mut kept: Vec<(Example, bool)> = Vec::new();
    for example in examples {
        match places.entry(data::key(&example.input)) {
            Entry::Occupied(place) => {
                let (first, agrees) = &mut kept[*place.get()];
                *agrees &= first.target == example.target;
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
    use super::*;

    fn pairs(examples: Vec<Example>) -> Vec<(String, String)> {
        examples.iter().map(|e| (e.input.texts().concat(), e.target.labels().concat())).collect()
    }

    fn own(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(t, l)| ((*t).to_owned(), (*l).to_owned())).collect()
    }

    #[test]
    fn trec_lines_give_the_coarse_class() {
        let text = "LOC:city What city is it ?\nNUM:date When ?\n\n";
        let examples = parse(Format::Trec, Path::new("q"), text, 1).unwrap();
        assert_eq!(pairs(examples), own(&[("What city is it ?", "LOC"), ("When ?", "NUM")]));
    }

    #[test]
    fn vader_lines_give_the_sign_of_a_clear_rating() {
        let text = "1\t0.5\tgood\r\n2\t-0.49\tso so\r\n3\t-2.1\tbad\ttabs\r\n";
        let examples = parse(Format::Vader, Path::new("m"), text, 1).unwrap();
        assert_eq!(pairs(examples), own(&[("good", "positive"), ("bad\ttabs", "negative")]));
    }

    #[test]
    fn the_same_lines_give_fine_classes_and_ratings() {
        let examples = parse(Format::TrecFine, Path::new("q"), "LOC:city What city is it ?\n", 1).unwrap();
        assert_eq!(pairs(examples), own(&[("What city is it ?", "LOC:city")]));
        let examples = parse(Format::VaderRating, Path::new("m"), "2\t-0.49\tso so\n", 1).unwrap();
        assert_eq!(examples[0].target, Target::Value(-0.49));
    }

    #[test]
    fn about_half_of_the_replies_are_another_statements() {
        let rows: String = (0..200).map(|i| format!("{i},\"s, {i}\",r{i}\n")).collect();
        let text = format!(",statement,reply\n{rows}");
        let examples = parse(Format::Dialogue, Path::new("d"), &text, 1).unwrap();
        assert_eq!(examples, parse(Format::Dialogue, Path::new("d"), &text, 1).unwrap());
        let mut replies = 0;
        for (i, example) in examples.iter().enumerate() {
            let own = example.input == Input::Pair(format!("s, {i}"), format!("r{i}"));
            // A reply may be exchanged for itself.
            assert!(own || example.target == Target::Label("other".to_owned()));
            replies += usize::from(example.target == Target::Label("reply".to_owned()));
        }
        assert!((70..130).contains(&replies), "{replies}");
    }

    #[test]
    fn wrong_lines_are_named() {
        for (format, text) in [
            (Format::Trec, "LOC:city What ?\nnothing here\n"),
            (Format::Trec, "LOC:city What ?\nLOC:city  \n"),
            (Format::Vader, "1\t0.5\tgood\n2\tx\ty\n"),
            (Format::Vader, "1\t0.5\tgood\n2\tNaN\ty\n"),
            (Format::Vader, "1\t0.5\tgood\n2\t3\n"),
            (Format::VaderRating, "1\t0.5\tgood\n2\tinf\ty\n"),
        ] {
            let message = parse(format, Path::new("file.txt"), text, 1).unwrap_err().to_string();
            assert!(message.starts_with("file.txt:2: not of the form"), "{message}");
        }
    }

    #[test]
    fn repeated_texts_go_and_contradictions_go_altogether() {
        let text = "A:a One\nB:b two\nA:x  one\nB:b three\nC:c TWO\n";
        let examples = unique(parse(Format::Trec, Path::new("q"), text, 1).unwrap());
        assert_eq!(pairs(examples), own(&[("One", "A"), ("three", "B")]));
    }
}
