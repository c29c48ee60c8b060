//! The words of a plain text, to each of which a task that tags gives a tag.
//!
//! A tagger learns on words that were given, so a text must fall into the words that data sets have, whatever
//! the base's tokenizer makes of them: `O'Neil` and `e-mail` are one word each.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// What makes one word of those on its two sides: `e-mail`, `and/or`, `AT&T`, `a@b.org`, `10:30`, `http://b.org`.
const JOINS: [&str; 8] = ["-", "\u{2010}", "\u{2011}", "/", "&", "@", ":", "://"];

/// What belongs to the word that it stands before: a hashtag's and a user name's sign.
const SIGNS: [&str; 2] = ["#", "@"];

/// The ends that English words have as possessives, which treebanks take for words.
const POSSESSIVES: [&str; 4] = ["'s", "\u{2019}s", "'S", "\u{2019}S"];

/// The words of a text, as ranges of its bytes, in order: everything in it but white space.
///
/// They are those of Unicode's UAX #29, whose words keep inner apostrophes and full stops and end with their
/// combining accents, and in which each Han character and each mark is one by itself; but as in treebanks and the
/// data sets of CoNLL
///
/// | is one word | as in |
/// | --- | --- |
/// | words with a single hyphen, `/`, `&`, `@` or `:` between, or `://` | `e-mail`, `AT&T`, `10:30` |
/// | `#` or `@` and the word behind it | `#rust` |
/// | single letters and the full stops behind them, of one letter a capital | `U.S.`, `J.` |
/// | `'s` at a word's end | `Lima's` has two words |
/// | a mark that is repeated | `...`, `--` |
///
/// White space always parts words, so that words joined by it are found again if each is one by itself. That is
/// not so of all that data sets have (`can` and `not` of `cannot`), nor of scripts without spaces.
pub fn words(text: &str) -> Vec<Range<usize>> {
    let mut words = Words { text, found: Vec::new(), last: None };
    let mut at = 0;
    for run in text.split_inclusive(char::is_whitespace) {
        for (start, segment) in run.trim_end().split_word_bound_indices() {
            let (start, end) = (at + start, at + start + segment.len());
            match POSSESSIVES.iter().find_map(|possessive| segment.strip_suffix(possessive)) {
                Some(owner) => {
                    words.word(start..start + owner.len());
                    words.word(start + owner.len()..end);
                }
                None if segment.contains(char::is_alphanumeric) => words.word(start..end),
                None => words.mark(start..end),
            }
        }
        at += run.len();
    }
    words.found
}

/// Words as far as a text was read.
struct Words<'t> {
    text: &'t str,
    found: Vec<Range<usize>>,
    /// Which of them is the last that has a letter or a digit.
    last: Option<usize>,
}

impl Words<'_> {
    /// Takes in a segment with letters or digits.
    fn word(&mut self, segment: Range<usize>) {
        let Words { text, found, last } = self;
        if let Some(before) = *last
            && JOINS.contains(&&text[found[before].end..segment.start])
            && !text[..found[before].end].ends_with(is_east_asian)
            && !text[segment.clone()].starts_with(is_east_asian)
        {
            found.truncate(before + 1);
            found[before].end = segment.end;
            return;
        }
        match found.last_mut().filter(|mark| mark.end == segment.start) {
            Some(mark)
                if SIGNS.contains(&&text[mark.clone()]) || POSSESSIVES.contains(&&text[mark.start..segment.end]) =>
            {
                mark.end = segment.end;
            }
            _ => found.push(segment),
        }
        *last = Some(found.len() - 1);
    }

    /// Takes in a segment without.
    fn mark(&mut self, segment: Range<usize>) {
        let Words { text, found, last } = self;
        let (mark, rest) = (&text[segment.clone()], &text[segment.end..]);
        let behind_word = *last == found.len().checked_sub(1);
        let belongs = |before: &str| match behind_word {
            true => mark == "." && !rest.starts_with('.') && are_initials(before),
            false => before.ends_with(mark),
        };
        match found.last_mut().filter(|before| before.end == segment.start && belongs(&text[(**before).clone()])) {
            Some(before) => before.end = segment.end,
            None => found.push(segment),
        }
    }
}

/// Whether a word is an abbreviation, but for its last full stop: `U.S`, or a capital.
fn are_initials(word: &str) -> bool {
    let one_letter = |part: &str| part.chars().count() == 1 && part.starts_with(char::is_alphabetic);
    word.split('.').all(one_letter) && (word.contains('.') || word.starts_with(char::is_uppercase))
}

/// Whether a character is of a script in which words have no spaces between them, so that marks do not join them
/// either: Han characters and kana.
fn is_east_asian(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str) -> Vec<&str> {
        words(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn words_are_those_that_data_sets_have() {
        for (text, expected) in [
            ("Lima, the capital.", "Lima , the capital ."),
            ("(O'Neil’s e-mail)", "( O'Neil ’s e-mail )"),
            ("Lima's, and Lima 's", "Lima 's , and Lima 's"),
            ("O\u{2019}Neil didn't", "O\u{2019}Neil didn't"),
            (
                "U.S.-based, in the U.S. or the U.S.? J. Doe, e.g. a.",
                "U.S.-based , in the U.S. or the U.S. ? J. Doe , e.g. a .",
            ),
            ("Wait... no -- J... \"no!!\"", "Wait ... no -- J ... \" no !! \""),
            ("10,000 at 10:30 for $3.50, 5%", "10,000 at 10:30 for $ 3.50 , 5 %"),
            ("AT&T and/or a@b.org (http://b.org/x)", "AT&T and/or a@b.org ( http://b.org/x )"),
            ("@ann: #rust-lang", "@ann : #rust-lang"),
            ("a-b-c a--b pre- and -x", "a-b-c a -- b pre - and - x"),
            ("don\u{2011}t", "don\u{2011}t"),
            ("東京-上海 is ＡＢ", "東 京 - 上 海 is ＡＢ"),
            ("서울은 Zürich", "서울은 Zürich"),
            ("  \t\n", ""),
            ("", ""),
        ] {
            assert_eq!(found(text), expected.split_whitespace().collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn combining_marks_belong_to_their_words() {
        assert_eq!(words("cafe\u{301} Rene\u{301}."), [0..6, 7..13, 13..14]);
        assert_eq!(found("👩\u{200d}🔬 👍🏽!"), ["👩\u{200d}🔬", "👍🏽", "!"]);
        assert_eq!(words("a \u{301}"), [0..1, 2..4]);
    }

    proptest! {
        #[test]
        fn words_hold_everything_but_white_space(text in "([a-cA'’.,:/&@#s\\- 東é!\u{301}\u{200d}]|\\PC){0,30}") {
            let mut at = 0;
            for range in words(&text) {
                prop_assert!(at <= range.start && range.start < range.end);
                prop_assert_eq!(text[at..range.start].trim(), "");
                prop_assert!(!text[range.clone()].contains(char::is_whitespace));
                at = range.end;
            }
            prop_assert_eq!(text[at..].trim(), "");
        }

        #[test]
        fn words_joined_by_spaces_are_found_again(text in "([a-cA'’.,:/&@#s\\- 東é!]|\\PC){0,30}") {
            let joined = found(&text).join(" ");
            prop_assert_eq!(found(&joined).join(" "), joined);
        }
    }
}
