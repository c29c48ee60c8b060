//! CoNLL columns: a word a line, its tag in the last column, sentences apart by blank lines.
//!
//! Columns are separated by spaces or tabs; the first is the word, the last the tag, those in between
//! (parts of speech, chunks) are skipped. A line that starts with `-DOCSTART-`, as in the files of
//! CoNLL-2003, separates documents, and so ends a sentence.
//!
//! Before a sentence there may be comments as in CoNLL-U: lines that are `#` alone, or begin with `# `. The word `#`
//! may begin a sentence, too; its line has a tab behind it, or a tag that other words of the file have and as many
//! columns as they have.

use std::collections::HashSet;
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
    let known: HashSet<(usize, &str)> = text.split('\n').filter(|line| !is_marked(line)).filter_map(shape).collect();
    let mut comments = 0;
    // A blank line after the last sentence ends it.
    for (i, line) in text.split('\n').chain([""]).enumerate() {
        if words.is_empty() && is_marked(line) && !shape(line).is_some_and(|shape| known.contains(&shape)) {
            comments += 1;
            continue;
        }
        match columns(line).as_slice() {
            [] | ["-DOCSTART-", ..] if words.is_empty() => {}
            [] | ["-DOCSTART-", ..] => {
                let input = Input::Words { words: std::mem::take(&mut words) };
                let target = Target::Tags(std::mem::take(&mut tags));
                examples.push(Example { input, target, soft: None, line: first });
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
    if comments > 0 {
        log::info!("{}: {comments} lines of comments before sentences (`# ...`) are skipped", path.display());
    }
    Ok(examples)
}

/// The columns of a line.
fn columns(line: &str) -> Vec<&str> {
    // No other white space: a no-break space may be part of a word.
    line.trim_end_matches('\r').split([' ', '\t']).filter(|column| !column.is_empty()).collect()
}

/// Whether a line begins as comments do.
fn is_marked(line: &str) -> bool {
    line.trim_end_matches('\r') == "#" || line.starts_with("# ")
}

/// How many columns a word's line has, and its tag.
fn shape(line: &str) -> Option<(usize, &str)> {
    let columns = columns(line);
    let tag = columns.get(1..)?.last()?;
    Some((columns.len(), *tag))
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
    fn comments_are_no_words_and_words_are_no_comments() {
        let text = "# sent_id = 1\n# text = #1 is Lima\n#\n#1 O\nis O\nLima B-LOC\n\n# newdoc\n# O\n# O\n#tag O\n\n\
                    #\tO\nLima\tB-LOC\n# B-LOC\n";
        let found = read(text).unwrap();
        let words: Vec<_> = found.iter().map(|e| (e.input.texts().join(" "), e.line)).collect();
        let sentence = |words: &str, line| (words.to_owned(), line);
        assert_eq!(words, [sentence("#1 is Lima", 4), sentence("# # #tag", 9), sentence("# Lima #", 13)]);
        // Within a sentence there is none.
        assert!(read("a O\n# text\n").unwrap()[0].target.labels().contains(&"text"));
    }

    #[test]
    fn a_word_without_a_tag_is_named() {
        let message = read("a O\nb\n").unwrap_err().to_string();
        assert_eq!(message, "a.conll:2: the word `b` has no tag in a second column");
        assert!(read("\n\n").unwrap().is_empty());
    }
}
