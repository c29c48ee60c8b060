//! Texts from stdin, one a line.

use std::io::{BufRead, BufReader, Read};

use overmask_cli::CodedError;

/// Lines that are handed over at once, at most.
const MAX_CHUNK: usize = 256;

/// The longest line, in bytes; far more than any base reads.
const MAX_LINE: u64 = 1 << 20;

/// Reads lines in chunks: as many as have arrived, so that a slow writer gets its answers at
/// once and a fast one gets batches.
pub(super) struct Lines<R: Read> {
    from: BufReader<R>,
    name: String,
    /// Number of the line read last, from 1.
    number: usize,
    /// An error that is reported after the lines before it.
    failed: Option<CodedError>,
}

/// A line's number, from 1, and its text without the line ending.
pub(super) type Line = (usize, String);

impl<R: Read> Lines<R> {
    pub(super) fn new(from: R, name: &str) -> Self {
        // A chunk's worth of usual lines fits into the buffer.
        Lines { from: BufReader::with_capacity(1 << 16, from), name: name.to_owned(), number: 0, failed: None }
    }

    /// The next lines; none at the end.
    ///
    /// # Errors
    /// When a line is not UTF-8 or too long, or reading fails; after the lines before it.
    pub(super) fn next_chunk(&mut self) -> Result<Vec<Line>, CodedError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut chunk = Vec::new();
        loop {
            match self.next_line() {
                Ok(Some(line)) => chunk.push(line),
                Ok(None) => break,
                Err(error) if chunk.is_empty() => return Err(error),
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
            // Only what is there already: waiting for more would hold back the answers.
            if chunk.len() == MAX_CHUNK || !self.from.buffer().contains(&b'\n') {
                break;
            }
        }
        Ok(chunk)
    }

    fn next_line(&mut self) -> Result<Option<Line>, CodedError> {
        let mut bytes = Vec::new();
        let read = self.from.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut bytes);
        let at = self.number + 1;
        let wrong = |reason: String| Err(CodedError::input(format!("{}, line {at}: {reason}", self.name)));
        match read {
            Err(error) => return wrong(error.to_string()),
            Ok(0) => return Ok(None),
            Ok(_) => self.number = at,
        }
        if bytes.len() as u64 > MAX_LINE {
            return wrong(format!("is longer than {} KiB; put one text on a line", MAX_LINE >> 10));
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some((at, text))),
            Err(error) => {
                let byte = error.utf8_error().valid_up_to() + 1;
                wrong(format!("is not UTF-8 from byte {byte} on; convert the text, for example with iconv"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> (Vec<Line>, Option<String>) {
        let mut lines = Lines::new(input, "stdin");
        let mut got = Vec::new();
        loop {
            match lines.next_chunk() {
                Ok(chunk) if chunk.is_empty() => return (got, None),
                Ok(chunk) => got.extend(chunk),
                Err(error) => return (got, Some(error.to_string())),
            }
        }
    }

    #[test]
    fn lines_are_numbered_and_their_endings_dropped() {
        let (lines, error) = all(b"one\r\n\ntwo\nlast");
        let expected = [(1, "one"), (2, ""), (3, "two"), (4, "last")];
        assert_eq!(lines, expected.map(|(n, t)| (n, t.to_owned())));
        assert_eq!(error, None);
        assert_eq!(all(b""), (vec![], None));
    }

    #[test]
    fn a_bad_line_is_reported_after_the_good_ones() {
        let (lines, error) = all(b"one\ntwo\nth\xffree\nfour\n");
        assert_eq!(lines.len(), 2);
        assert!(error.unwrap().starts_with("stdin, line 3: is not UTF-8 from byte 3 on"));
    }

    #[test]
    fn an_endless_line_is_not_read_to_its_end() {
        let mut lines = Lines::new(std::io::repeat(b'a'), "stdin");
        assert!(lines.next_chunk().unwrap_err().to_string().contains("line 1: is longer than 1024 KiB"));
    }

    #[test]
    fn many_lines_come_in_bounded_chunks() {
        let input = b"x\n".repeat(1000);
        let mut lines = Lines::new(input.as_slice(), "stdin");
        assert_eq!(lines.next_chunk().unwrap().len(), MAX_CHUNK);
        assert_eq!(all(&input).0.len(), 1000);
    }

    /// Gives one line a call, as a person at a terminal does.
    struct Slow(usize);

    impl Read for Slow {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            to[..2].copy_from_slice(b"a\n");
            Ok(2)
        }
    }

    #[test]
    fn a_slow_writer_is_answered_line_by_line() {
        let mut lines = Lines::new(Slow(0), "stdin");
        assert_eq!(lines.next_chunk().unwrap().len(), 1);
        assert_eq!(lines.next_chunk().unwrap(), [(2, "a".to_owned())]);
    }
}
