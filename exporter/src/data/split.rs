//! Splits, and texts that are on both sides of one.

use std::collections::{BTreeMap, HashMap, HashSet};

use overmask::pack::Input;

use super::rng::{self, stream};
use super::{Dataset, Example};

/// How many labels a warning lists.
const LISTED: usize = 5;

/// Which of `n` examples stay and which `held` are held out, each in ascending order.
///
/// The examples are shuffled by ChaCha with the seed ([`rng`]); the first `held` of the
/// shuffled order are held out. The same on every platform.
pub fn split_indices(n: usize, held: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut order = rng::permutation(seed, stream::SPLIT, 0, n);
    let mut rest = order.split_off(held.min(n));
    order.sort_unstable();
    rest.sort_unstable();
    (rest, order)
}

/// Splits a data set into what remains and what is held out (`fraction` of it, rounded).
///
/// Both keep the file's order and line numbers; labels are not balanced. But a label that would be in what is held
/// out alone could not be learnt: its first example there stays in what remains, and a warning names it. One side may
/// be empty: whoever needs both checks. A fraction outside 0 to 1 counts as the nearer of the two.
pub fn split(dataset: &Dataset, fraction: f64, seed: u64) -> (Dataset, Dataset) {
    // A float beyond the range of integers becomes the nearest, a NaN 0.
    let held = (dataset.len() as f64 * fraction).round() as usize;
    let (mut rest, mut held) = split_indices(dataset.len(), held, seed);
    let kept = only_examples(dataset, &rest, &held);
    if !rest.is_empty() && !kept.is_empty() {
        let named = |(i, label): &(usize, &str)| format!("`{label}` (line {})", dataset.examples[*i].line);
        let listed: Vec<String> = kept.iter().take(LISTED).map(named).collect();
        let more = if kept.len() > LISTED { ", ..." } else { "" };
        log::warn!(
            "{}: not held out, as no other example to learn from has the label: {}{more}",
            dataset.path.display(),
            listed.join(", "),
        );
        held.retain(|i| kept.iter().all(|(kept, _)| kept != i));
        rest.extend(kept.iter().map(|(i, _)| *i));
        rest.sort_unstable();
    }
    (pick(dataset, rest), pick(dataset, held))
}

/// Splits a data set as [`split`] does, but holds the same part of each label out, as far as whole examples allow.
///
/// Of an example with several labels, or tags, the rarest counts; numbers are cut into ten ranges of equally many. Of
/// each label one example stays, so that one that is there once is never held out.
pub fn split_stratified(dataset: &Dataset, fraction: f64, seed: u64) -> (Dataset, Dataset) {
    let wanted = ((dataset.len() as f64 * fraction).round() as usize).min(dataset.len());
    let fraction = fraction.clamp(0.0, 1.0);
    let part = |length: usize, _| length as f64 * fraction;
    stratified(dataset, wanted, part, rng::permutation(seed, stream::STRATA, 0, dataset.len()))
}

/// So many examples of a data set: one of each label, and of what is left of each the same part. All of them if there are
/// no more; more of them where there are more labels than that, or where examples have several. What counts as a label
/// [`split_stratified`] says.
pub fn sample(dataset: &Dataset, examples: usize, seed: u64) -> Dataset {
    let left = dataset.len().saturating_sub(examples);
    let part = |length: usize, strata: usize| {
        let spare = (dataset.len() - strata).max(1) as f64;
        (length - 1) as f64 * (left as f64 / spare).min(1.0)
    };
    stratified(dataset, left, part, rng::permutation(seed, stream::SAMPLE, 0, dataset.len())).0
}

/// What remains and what is held out when `wanted` examples are held out; of each label those that come first in an order,
/// as many as `part` says, which is told how many there are and how many labels.
fn stratified(
    dataset: &Dataset,
    wanted: usize,
    part: impl Fn(usize, usize) -> f64,
    order: Vec<usize>,
) -> (Dataset, Dataset) {
    let mut strata: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let names = strata_of(dataset);
    order.into_iter().for_each(|i| strata.entry(names[i].clone()).or_default().push(i));
    // Whole examples first, then one more where most is missing.
    let most = |stratum: &Vec<usize>| stratum.len().saturating_sub(1);
    let exact = |stratum: &Vec<usize>| part(stratum.len(), strata.len());
    let mut shares: Vec<(usize, f64, &Vec<usize>)> = strata
        .values()
        .map(|stratum| {
            let whole = (exact(stratum) as usize).min(most(stratum));
            (whole, exact(stratum) - whole as f64, stratum)
        })
        .collect();
    let taken: usize = shares.iter().map(|(whole, _, _)| whole).sum();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    let room = shares.iter_mut().filter(|(whole, _, stratum)| *whole < most(stratum));
    room.take(wanted.saturating_sub(taken)).for_each(|(whole, _, _)| *whole += 1);
    let mut held: Vec<usize> = shares.iter().flat_map(|(whole, _, stratum)| stratum[..*whole].to_vec()).collect();
    held.sort_unstable();
    let is_held: HashSet<usize> = held.iter().copied().collect();
    let mut rest: Vec<usize> = (0..dataset.len()).filter(|i| !is_held.contains(i)).collect();
    // A label that is the rarest of none of its examples may still be in what is held out alone.
    let kept: HashSet<usize> = only_examples(dataset, &rest, &held).into_iter().map(|(i, _)| i).collect();
    held.retain(|i| !kept.contains(i));
    rest.extend(kept);
    rest.sort_unstable();
    (pick(dataset, rest), pick(dataset, held))
}

/// The part of each example, below `parts`, when a data set is cut into as many, each with the same share of each label
/// as far as whole examples allow ([`split_stratified`] says what counts as a label).
///
/// With fewer examples than parts some parts are empty. The same on every platform.
pub fn folds(dataset: &Dataset, parts: usize, seed: u64) -> Vec<usize> {
    let names = strata_of(dataset);
    let mut order = rng::permutation(seed, stream::FOLDS, 0, dataset.len());
    // Stable: within a label the random order stays. Dealt on from label to label, so that parts are of one size.
    order.sort_by(|a, b| names[*a].cmp(&names[*b]));
    let mut folds = vec![0; dataset.len()];
    order.into_iter().enumerate().for_each(|(place, i)| folds[i] = place % parts.max(1));
    folds
}

/// Ranges of the numbers of a regression.
const RANGES: usize = 10;

/// What each example counts as when a data set is split: its label, its rarest one, or the range of its number.
fn strata_of(dataset: &Dataset) -> Vec<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let labels = dataset.examples.iter().flat_map(|example| example.target.labels());
    labels.for_each(|label| *counts.entry(label).or_default() += 1);
    let mut numbers: Vec<f64> = dataset.examples.iter().filter_map(|e| e.target.value()).collect();
    numbers.sort_by(f64::total_cmp);
    let of = |example: &Example| match example.target.value() {
        Some(value) => {
            let rank = numbers.partition_point(|other| *other < value);
            (rank * RANGES / numbers.len().max(1)).to_string()
        }
        None => {
            let rarest = example.target.labels().into_iter().min_by_key(|label| (counts[label], *label));
            rarest.unwrap_or_default().to_owned()
        }
    };
    dataset.examples.iter().map(of).collect()
}

/// The examples with these numbers.
fn pick(dataset: &Dataset, indices: Vec<usize>) -> Dataset {
    let examples = indices.into_iter().map(|i| dataset.examples[i].clone()).collect();
    Dataset { path: dataset.path.clone(), examples }
}

/// Which examples are the first held out of a label that no other has, and that label.
fn only_examples<'a>(dataset: &'a Dataset, rest: &[usize], held: &[usize]) -> Vec<(usize, &'a str)> {
    let labels = |i: &usize| dataset.examples[*i].target.labels();
    let mut seen: HashSet<&str> = rest.iter().flat_map(labels).collect();
    let mut only = Vec::new();
    for i in held {
        if let Some(label) = labels(i).into_iter().find(|label| !seen.contains(label)) {
            seen.extend(labels(i));
            only.push((*i, label));
        }
    }
    only
}

/// A text without what does not count when texts are compared: case, and the kind and amount
/// of white space.
pub fn normalise(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ")
}

/// The inputs of `b` that are in `a` too, after [`normalise`]: the line of the first such input
/// in `a`, and the line in `b`, in the order of `b`.
pub fn duplicates(a: &Dataset, b: &Dataset) -> Vec<(usize, usize)> {
    let first = first_lines(a);
    b.examples.iter().filter_map(|e| Some((*first.get(&key(&e.input))?, e.line))).collect()
}

/// The texts of a data set that came before, after [`normalise`]: the line of the first and of
/// the repetition. A split may put one on each side.
pub fn repetitions(dataset: &Dataset) -> Vec<(usize, usize)> {
    let mut pairs = duplicates(dataset, dataset);
    pairs.retain(|(first, line)| first != line);
    pairs
}

/// An input for comparing: its texts, normalised, with what no normalised text holds in between.
pub fn key(input: &Input) -> String {
    let texts: Vec<String> = input.texts().into_iter().map(normalise).collect();
    texts.join("\n")
}

/// Each normalised input and the line on which it comes first.
fn first_lines(dataset: &Dataset) -> HashMap<String, usize> {
    let mut first = HashMap::with_capacity(dataset.len());
    for example in &dataset.examples {
        first.entry(key(&example.input)).or_insert(example.line);
    }
    first
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::tests::dataset;
    use crate::data::{LabelSet, Target};

    #[test]
    fn duplicates_are_found_whatever_their_case_and_spaces() {
        let a = dataset(&[("What is  love ?", "x"), ("other", "x"), ("other", "x")]);
        let b = dataset(&[("new", "x"), (" what IS love\t? ", "y"), ("OTHER", "x")]);
        assert_eq!(duplicates(&a, &b), [(1, 2), (2, 3)]);
        assert_eq!(duplicates(&a, &dataset(&[("what is love?", "x")])), [], "words differ");
    }

    #[test]
    fn fractions_are_rounded_and_clamped() {
        let data = dataset(&[("a", "x"), ("b", "x"), ("c", "x"), ("d", "x")]);
        for (fraction, expected) in
            [(0.0, 0), (0.1, 0), (0.13, 1), (0.5, 2), (1.0, 4), (7.0, 4), (-1.0, 0), (f64::NAN, 0)]
        {
            let (rest, held) = split(&data, fraction, 1);
            assert_eq!((rest.len(), held.len()), (4 - expected, expected));
        }
    }

    #[test]
    fn a_labels_only_example_is_learnt_from() {
        let mut data = dataset(&[("a", "x"), ("b", "y"), ("c", "x"), ("d", "y"), ("e", "rare"), ("f", "x")]);
        for seed in 0..50 {
            let (rest, held) = split(&data, 0.34, seed);
            assert_eq!(rest.len() + held.len(), 6);
            assert!(rest.examples.iter().any(|e| e.line == 5), "seed {seed}");
            assert!(rest.examples.is_sorted_by_key(|e| e.line));
            let learnt = LabelSet::from(&rest);
            assert!(held.examples.iter().all(|e| e.target.labels().iter().all(|l| learnt.index(l).is_some())));
        }
        // Tags are many in an example, and one of them is enough.
        let tags = |tags: &[&str]| Target::Tags(tags.iter().map(|t| (*t).to_owned()).collect());
        for example in &mut data.examples {
            example.target = tags(if example.line == 2 { &["O", "B-x"] } else { &["O", "O"] });
        }
        for seed in 0..50 {
            assert!(split(&data, 0.34, seed).0.examples.iter().any(|e| e.line == 2), "seed {seed}");
        }
        // A number is no label.
        data.examples.iter_mut().for_each(|e| e.target = Target::Value(e.line as f64));
        assert_eq!(split(&data, 0.34, 1).1.len(), 2);
    }

    #[test]
    fn a_stratified_split_takes_the_same_part_of_each_label() {
        let labels: Vec<String> =
            (0..100).map(|i| ["a", "b", "b", "c"][i % 4].to_owned() + ["", "!"][i / 99]).collect();
        let data = dataset(&labels.iter().map(|label| ("x", label.as_str())).collect::<Vec<_>>());
        for seed in 0..20 {
            let (rest, held) = split_stratified(&data, 0.2, seed);
            let count = |label: &str| held.examples.iter().filter(|e| e.target.labels() == [label]).count();
            assert_eq!((rest.len(), held.len(), count("a"), count("b"), count("c!")), (80, 20, 5, 10, 0));
            assert!(rest.examples.is_sorted_by_key(|e| e.line) && held.examples.is_sorted_by_key(|e| e.line));
            assert_eq!((rest, held), split_stratified(&data, 0.2, seed));
        }
        assert_ne!(split_stratified(&data, 0.2, 1), split_stratified(&data, 0.2, 2));
        // One example of each label is learnt from, whatever is asked for.
        let (rest, held) = split_stratified(&data, 1.0, 1);
        assert_eq!((rest.len(), held.len()), (4, 96));
        assert_eq!(split_stratified(&data, f64::NAN, 1).1.len(), 0);
    }

    #[test]
    fn a_sample_has_the_same_part_of_each_label_and_one_at_least() {
        let labels: Vec<&str> = (0..400).map(|i| if i == 7 { "rare" } else { ["a", "b", "b", "c"][i % 4] }).collect();
        let data = dataset(&labels.iter().map(|label| ("x", *label)).collect::<Vec<_>>());
        for seed in 0..20 {
            let few = sample(&data, 41, seed);
            let count = |label: &str| few.examples.iter().filter(|e| e.target.labels() == [label]).count();
            assert_eq!((few.len(), count("rare"), count("b")), (41, 1, 20), "seed {seed}");
            assert!(few.examples.is_sorted_by_key(|e| e.line));
            assert_eq!(few, sample(&data, 41, seed));
        }
        assert_ne!(sample(&data, 41, 1), sample(&data, 41, 2));
        assert_eq!(sample(&data, 1, 1).len(), 4, "one of each label");
        // Labels that are rarer than one in a sample take places of others.
        let labels: Vec<String> = (0..400).map(|i| if i < 30 { i.to_string() } else { "many".to_owned() }).collect();
        let rare = dataset(&labels.iter().map(|label| ("x", label.as_str())).collect::<Vec<_>>());
        assert_eq!(sample(&rare, 40, 1).len(), 40);
        let labels = (0..5_600).map(|i| if i < 50 { i.to_string() } else { ["many", "some"][i % 11 / 10].to_owned() });
        let labels: Vec<String> = labels.collect();
        let uneven = dataset(&labels.iter().map(|label| ("x", label.as_str())).collect::<Vec<_>>());
        let few = sample(&uneven, 150, 1);
        let count = |label: &str| few.examples.iter().filter(|e| e.target.labels() == [label]).count();
        assert_eq!((few.len(), count("many"), count("some")), (150, 90, 10));
        assert_eq!((sample(&data, 400, 1), sample(&data, 500, 1)), (data.clone(), data.clone()));
        assert_eq!(sample(&dataset(&[]), 3, 1).len(), 0);
    }

    #[test]
    fn folds_have_the_same_share_of_each_label() {
        let labels: Vec<&str> = (0..103).map(|i| ["a", "b", "b", "c"][i % 4]).collect();
        let data = dataset(&labels.iter().map(|label| ("x", *label)).collect::<Vec<_>>());
        for seed in 0..20 {
            let folds = folds(&data, 5, seed);
            for label in ["a", "b", "c"] {
                let count = |part| (0..103).filter(|i| labels[*i] == label && folds[*i] == part).count();
                let counts: Vec<usize> = (0..5).map(count).collect();
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{label}: {counts:?}");
            }
            let sizes: Vec<usize> = (0..5).map(|part| folds.iter().filter(|fold| **fold == part).count()).collect();
            assert_eq!(sizes, [21, 21, 21, 20, 20]);
            assert_eq!(folds, super::folds(&data, 5, seed));
        }
        assert_ne!(folds(&data, 5, 1), folds(&data, 5, 2));
    }

    #[test]
    fn sets_tags_and_numbers_have_strata_too() {
        let mut data = dataset(&[("x", "x"); 40]);
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        for (i, example) in data.examples.iter_mut().enumerate() {
            let rare: &[&str] = if i % 10 == 0 { &["any", "rare"] } else { &["any"] };
            example.target = Target::Labels(names(rare));
        }
        let has =
            |data: &Dataset, label: &str| data.examples.iter().filter(|e| e.target.labels().contains(&label)).count();
        for seed in 0..20 {
            let (rest, held) = split_stratified(&data, 0.25, seed);
            assert_eq!((held.len(), has(&held, "rare"), has(&rest, "rare")), (10, 1, 3));
        }
        // A label that is never the rarest of an example stays, too.
        data.examples.iter_mut().for_each(|e| e.target = Target::Tags(names(&["O"])));
        data.examples[3].target = Target::Tags(names(&["O", "B-x", "I-x"]));
        for seed in 0..20 {
            assert_eq!(has(&split_stratified(&data, 0.5, seed).1, "B-x"), 0);
        }
        data.examples.iter_mut().enumerate().for_each(|(i, e)| e.target = Target::Value(i as f64));
        let (_, held) = split_stratified(&data, 0.25, 1);
        let low = held.examples.iter().filter(|e| e.target.value().is_some_and(|v| v < 20.0)).count();
        assert_eq!((held.len(), low), (10, 5));
    }

    #[test]
    fn repetitions_within_a_file_are_found() {
        let data = dataset(&[("a", "x"), ("b", "x"), ("A ", "x"), ("a", "y")]);
        assert_eq!(repetitions(&data), [(1, 3), (1, 4)]);
    }

    #[test]
    fn lines_survive() {
        let five = dataset(&[("a", "x"), ("b", "x"), ("c", "x"), ("d", "x"), ("e", "x")]);
        let (rest, held) = split(&five, 0.4, 9);
        for example in rest.examples.iter().chain(&held.examples) {
            assert_eq!(five.examples[example.line - 1], *example);
        }
    }

    proptest! {
        #[test]
        fn both_sides_make_up_the_whole(n in 2usize..200, held in 1usize..200, seed: u64) {
            let (rest, out) = split_indices(n, held, seed);
            prop_assert_eq!(out.len(), held.min(n));
            prop_assert!(rest.is_sorted() && out.is_sorted());
            let mut all = [rest, out].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn normalising_twice_changes_nothing(text: String) {
            // Lower case is not stable for every letter that exists; white space is.
            let once = normalise(&text);
            let spaces_of = |t: &str| t.chars().filter(|c| c.is_whitespace()).count();
            prop_assert_eq!(spaces_of(&normalise(&once)), spaces_of(&once));
            prop_assert_eq!(once.trim(), once.as_str());
        }
    }
}
