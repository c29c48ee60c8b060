//! Texts as the words and pairs of words in them, each weighted by how often it comes here and how rarely elsewhere
//! (tf-idf, with logarithms of both), scaled to length 1.

use std::collections::HashMap;

use overmask::pack::Input;

use super::linear::Row;

/// What of a training set's texts counts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Vocabulary {
    /// The column of each term.
    columns: HashMap<String, u32>,
    /// How rare each is.
    rarity: Vec<f32>,
}

impl Vocabulary {
    /// The terms of these inputs, numbered in the order in which they first come.
    pub(super) fn of<'a>(inputs: impl Iterator<Item = &'a Input>) -> Self {
        let mut columns: HashMap<String, u32> = HashMap::new();
        let mut texts_with: Vec<u32> = Vec::new();
        let mut texts = 0u32;
        for input in inputs {
            texts += 1;
            for (term, _) in counts(input) {
                let next = columns.len() as u32;
                let column = *columns.entry(term).or_insert(next);
                if column == next {
                    texts_with.push(0);
                }
                texts_with[column as usize] += 1;
            }
        }
        let rarity = |with: &u32| ((1.0 + f64::from(texts)) / (1.0 + f64::from(*with))).ln() as f32 + 1.0;
        Vocabulary { columns, rarity: texts_with.iter().map(rarity).collect() }
    }

    /// How many terms there are.
    pub(super) fn len(&self) -> usize {
        self.rarity.len()
    }

    /// An input by its terms that are known.
    pub(super) fn row(&self, input: &Input) -> Row {
        let weight = |(term, count): (String, u32)| {
            let column = *self.columns.get(&term)?;
            Some((column, (1.0 + (count as f32).ln()) * self.rarity[column as usize]))
        };
        let mut row: Row = counts(input).into_iter().filter_map(weight).collect();
        let length = row.iter().map(|(_, x)| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|(_, x)| *x /= length.max(f32::MIN_POSITIVE));
        row
    }
}

/// How often each term comes, in the order in which they first come. Those of a second text are others.
fn counts(input: &Input) -> Vec<(String, u32)> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut counts: Vec<(String, u32)> = Vec::new();
    for (number, text) in input.texts().into_iter().enumerate() {
        // Of a list of words each is a text.
        let mark = if matches!(input, Input::Pair(..)) && number > 0 { "\n" } else { "" };
        let words: Vec<String> =
            text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
        let pairs = words.windows(2).map(|pair| pair.join(" "));
        for term in words.iter().cloned().chain(pairs).map(|term| format!("{mark}{term}")) {
            let place = *places.entry(term.clone()).or_insert(counts.len());
            match counts.get_mut(place) {
                Some((_, count)) => *count += 1,
                None => counts.push((term, 1)),
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_terms_weigh_more_and_rows_have_length_one() {
        let texts = ["The good film", "the bad film", "the, the THE plot"].map(Input::from);
        let terms = Vocabulary::of(texts.iter());
        assert_eq!(terms.len(), 6 + 5, "six words and five pairs");
        let row = terms.row(&"The bad, bad thing".into());
        let weight = |term: &str| row.iter().find(|(c, _)| *c == terms.columns[term]).map_or(0.0, |(_, x)| *x);
        assert_eq!(row.len(), 3, "what is not known is left out");
        assert!(weight("bad") > weight("the") && weight("the bad") > weight("the"));
        assert!((row.iter().map(|(_, x)| x * x).sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(terms.row(&"???".into()).is_empty());
    }

    #[test]
    fn a_second_text_has_terms_of_its_own() {
        let pair = |a: &str, b: &str| Input::Pair(a.into(), b.into());
        let terms = Vocabulary::of([pair("a", "b")].iter());
        assert_eq!((terms.row(&pair("a", "b")).len(), terms.row(&pair("b", "a")).len()), (2, 0));
    }
}
