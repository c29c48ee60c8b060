//! Spans of words, such as the names of people, out of one tag a word.
//!
//! The rules are those of `conlleval` (Tjong Kim Sang & Buchholz, *Introduction to the CoNLL-2000
//! shared task*, 2000) and of seqeval's default mode: any sequence of tags means something, so that
//! a model's slips are read the same way everywhere. The device prints the spans that the exporter
//! scores.

/// The tag of a word that is in no span; a word without an answer counts as one.
pub const OUTSIDE: &str = "O";

/// Words that belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// What they are.
    pub label: String,
    /// The first word, from 0.
    pub start: usize,
    /// The word after the last.
    pub end: usize,
}

/// How a word takes part in a span.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// `B-`: its first word.
    Begin,
    /// `I-`: a word of it, the first too unless one of its kind goes before.
    Inside,
    /// `E-`: its last word.
    End,
    /// `S-`: its only word.
    Single,
    /// The tag is the label alone.
    Plain,
}

/// The spans that the tags of a text's words mean, in the order of the words; no two overlap.
///
/// | scheme | tags |
/// | --- | --- |
/// | BIO (IOB2) | `B-PER I-PER O B-LOC` |
/// | IOB1 | `I-PER I-PER O I-LOC`, and `B-LOC` where a span follows one with the same label |
/// | BIOES | `B-PER E-PER O S-LOC` |
/// | plain | `PER PER O LOC` |
///
/// `O` is outside every span. A label is what follows `B-`, `I-`, `E-` or `S-`; `B`, `I`, `E` and `S`
/// alone have the label `_`. Any other tag is one as a whole, `L-PER` too, and neighbouring words with
/// such a tag make one span.
/// Whatever cannot continue the span before it starts one: an `I-` or `E-` after `O`, after another
/// label, or after `E-` or `S-`.
pub fn spans<'a>(tags: impl IntoIterator<Item = &'a str>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut before = None;
    for (word, tag) in tags.into_iter().enumerate() {
        let now = parse(tag);
        if let Some((part, label)) = now {
            match spans.last_mut() {
                Some(open) if before.is_some_and(|b| continues(b, (part, label))) => open.end = word + 1,
                _ => spans.push(Span { label: label.to_owned(), start: word, end: word + 1 }),
            }
        }
        before = now;
    }
    spans
}

/// A tag's place and label; none for [`OUTSIDE`].
fn parse(tag: &str) -> Option<(Place, &str)> {
    if tag == OUTSIDE {
        return None;
    }
    let prefixes = [("B-", Place::Begin), ("I-", Place::Inside), ("E-", Place::End), ("S-", Place::Single)];
    let label = |prefix: &str| if *tag == prefix[..1] { Some("_") } else { tag.strip_prefix(prefix) };
    let prefixed = prefixes.iter().find_map(|(prefix, part)| Some((*part, label(prefix)?)));
    Some(prefixed.unwrap_or((Place::Plain, tag)))
}

/// Whether a word belongs to the span of the word before it.
fn continues(before: (Place, &str), now: (Place, &str)) -> bool {
    let parts = match (before.0, now.0) {
        (Place::Begin | Place::Inside, Place::Inside | Place::End) => true,
        (a, b) => a == Place::Plain && b == Place::Plain,
    };
    parts && before.1 == now.1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The spans of tags with spaces between them, as (label, start, end).
    fn decode(tags: &str) -> Vec<(String, usize, usize)> {
        spans(tags.split_whitespace()).into_iter().map(|s| (s.label, s.start, s.end)).collect()
    }

    fn check(tags: &str, expected: &[(&str, usize, usize)]) {
        let expected: Vec<_> = expected.iter().map(|(l, s, e)| ((*l).to_owned(), *s, *e)).collect();
        assert_eq!(decode(tags), expected, "{tags}");
    }

    #[test]
    fn every_scheme_says_the_same() {
        for tags in ["O B-PER I-PER O B-LOC B-LOC", "O I-PER I-PER O I-LOC B-LOC", "O B-PER E-PER O S-LOC S-LOC"] {
            check(tags, &[("PER", 1, 3), ("LOC", 4, 5), ("LOC", 5, 6)]);
        }
        check("B I I O B B", &[("_", 0, 3), ("_", 4, 5), ("_", 5, 6)]);
        // Plain tags cannot tell neighbours of one label apart.
        check("O PER PER O LOC LOC", &[("PER", 1, 3), ("LOC", 4, 6)]);
    }

    /// What `get_entities` of seqeval 1.2.2 says of tags that no scheme allows.
    #[test]
    fn slips_are_read_as_seqeval_does() {
        check("B-A I-B E-B B-B", &[("A", 0, 1), ("B", 1, 3), ("B", 3, 4)]);
        check("B-A I-A E-A S-B S-B O E-A I-A", &[("A", 0, 3), ("B", 3, 4), ("B", 4, 5), ("A", 6, 7), ("A", 7, 8)]);
        check("O I-A E-A E-A I-A", &[("A", 1, 3), ("A", 3, 4), ("A", 4, 5)]);
        check("S-A I-A I-A B-A E-A", &[("A", 0, 1), ("A", 1, 3), ("A", 3, 5)]);
        check("B-X-Y I-X-Y I-Y", &[("X-Y", 0, 2), ("Y", 2, 3)]);
    }

    #[test]
    fn a_tag_without_a_prefix_is_a_label() {
        check("B B I L-PER o", &[("_", 0, 1), ("_", 1, 3), ("L-PER", 3, 4), ("o", 4, 5)]);
        check("PER I-PER PER", &[("PER", 0, 1), ("PER", 1, 2), ("PER", 2, 3)]);
    }

    #[test]
    fn no_words_have_no_spans() {
        assert_eq!((decode(""), decode("O O")), (vec![], vec![]));
    }

    /// Words outside and spans of one of two labels, in the order of the text.
    fn pieces() -> impl Strategy<Value = Vec<(Option<&'static str>, usize)>> {
        prop::collection::vec((prop::option::of(prop::sample::select(&["PER", "LOC"][..])), 1usize..4), 0..20)
    }

    proptest! {
        #[test]
        fn bio_and_bioes_give_back_what_was_tagged(pieces in pieces()) {
            let (mut bio, mut bioes, mut expected) = (vec![], vec![], vec![]);
            for (label, words) in pieces {
                let start = bio.len();
                for i in 0..words {
                    let Some(label) = label else {
                        bio.push("O".to_owned());
                        bioes.push("O".to_owned());
                        continue;
                    };
                    bio.push(format!("{}-{label}", if i == 0 { 'B' } else { 'I' }));
                    let part = match (i == 0, i + 1 == words) {
                        (true, true) => 'S',
                        (true, false) => 'B',
                        (false, true) => 'E',
                        (false, false) => 'I',
                    };
                    bioes.push(format!("{part}-{label}"));
                }
                if let Some(label) = label {
                    expected.push(Span { label: label.to_owned(), start, end: start + words });
                }
            }
            prop_assert_eq!(&spans(bio.iter().map(String::as_str)), &expected);
            prop_assert_eq!(&spans(bioes.iter().map(String::as_str)), &expected);
        }

        #[test]
        fn spans_are_the_words_that_are_not_outside(
            tags in prop::collection::vec("[BIES]-[AB]|O|[AB]|.*", 0..30)
        ) {
            let mut words = vec![];
            for span in spans(tags.iter().map(String::as_str)) {
                prop_assert!(span.start < span.end);
                words.extend(span.start..span.end);
            }
            let expected: Vec<usize> = (0..tags.len()).filter(|i| tags[*i] != "O").collect();
            prop_assert_eq!(words, expected);
        }
    }
}
