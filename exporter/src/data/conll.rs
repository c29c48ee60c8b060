//! CoNLL columns: a word a line, its tag in the last column, sentences apart by blank lines.
//!
//! Columns are separated by spaces or tabs; the first is the word, the last the tag, those in between
//! (parts of speech, chunks) are skipped. A line that starts with `-DOCSTART-`, as in the files of
//! CoNLL-2003, separates documents, and so ends a sentence.

use std::path::Path;

use overmask::pack::{Input, check_name};

use super::{DataError, Example, Target};

/// Reads sentences of words with tags; `path` is for messages.
///
/// # Errors
/// At the first word without a tag.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Example>, DataError> {
    let mut examples = Vec::new();
    let (mut words, mut tags, mut first) = (Vec::new(), Vec::new(), 1);
    // A blank line after the last sentence ends it.
    for (i, line) in text.split('\n').chain([""]).enumerate() {
        // No other white space: a no-break space may be part of a word.
        let columns: Vec<&str> = line.trim_end_matches('\r').split([' ', '\t']).filter(|c| !c.is_empty()).collect();
        match columns.as_slice() {
            [] | ["-DOCSTART-", ..] if words.is_empty() => {}
            [] | ["-DOCSTART-", ..] => {
                let input = Input::Words { words: std::mem::take(&mut words) };
                let target = Target::Tags(std::mem::take(&mut tags));
                examples.push(Example { input, target, line: first });
            }
            [word, .., tag] => {
                if words.is_empty() {
                    first = i + 1;
                }
                check_name(tag).map_err(|reason| wrong(path, i + 1, format!("the tag {reason}")))?;
                words.push((*word).to_owned());
                tags.push((*tag).to_owned());
            }
            [word] => return Err(wrong(path, i + 1, format!("the word `{word}` has no tag in a second column"))),
        }
    }
    Ok(examples)
}

fn wrong(path: &Path, line: usize, reason: String) -> DataError {
    DataError::Line { path: path.to_owned(), line, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Example>, DataError> {
        parse(Path::new("a.conll"), text)
    }

    #[test]
    fn sentences_are_what_lies_between_blank_lines() {
        let text = "-DOCSTART- -X- O\n\nLima NNP B-LOC\nis\tVBZ\tO\r\n\n-DOCSTART- O\n. O\n-DOCSTART- O\nso O";
        let found = read(text).unwrap();
        let lines: Vec<_> =
            found.iter().map(|e| (e.input.texts().join(" "), e.target.labels().join(" "), e.line)).collect();
        let sentence = |words: &str, tags: &str, line| (words.to_owned(), tags.to_owned(), line);
        assert_eq!(lines, [sentence("Lima is", "B-LOC O", 3), sentence(".", "O", 7), sentence("so", "O", 9)]);
    }

    #[test]
    fn a_word_without_a_tag_is_named() {
        let message = read("a O\nb\n").unwrap_err().to_string();
        assert_eq!(message, "a.conll:2: the word `b` has no tag in a second column");
        assert!(read("\n\n").unwrap().is_empty());
    }
}
