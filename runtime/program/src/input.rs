//! Texts from stdin, one a line.

use std::io::{self, BufRead, BufReader, Read};

/// Lines that are handed over at once, at most.
const MAX_CHUNK: usize = 256;

/// The longest line, in bytes without its ending; far more than any base reads.
const MAX_LINE: usize = 1 << 20;

/// What some programs put before UTF-8.
const BOM: &[u8] = "\u{feff}".as_bytes();

/// Reads lines in chunks: as many as have arrived, so that a slow writer gets its answers at
/// once and a fast one gets batches.
pub(super) struct Lines<R: Read> {
    from: BufReader<R>,
    /// Number of the line read last, from 1.
    number: usize,
    /// Whether the rest of that line is still to be passed over.
    skipping: bool,
    /// An error that is reported after the lines before it.
    failed: Option<io::Error>,
}

/// A line's number, from 1, and its text without the line ending; or what is wrong with the line.
pub(super) type Line = (usize, Result<String, String>);

impl<R: Read> Lines<R> {
    pub(super) fn new(from: R) -> Self {
        // A chunk's worth of usual lines fits into the buffer.
        Lines { from: BufReader::with_capacity(1 << 16, from), number: 0, skipping: false, failed: None }
    }

    /// The next lines; none at the end.
    ///
    /// # Errors
    /// When reading fails; after the lines before it.
    pub(super) fn next_chunk(&mut self) -> io::Result<Vec<Line>> {
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

    fn next_line(&mut self) -> io::Result<Option<Line>> {
        if std::mem::take(&mut self.skipping) {
            self.from.skip_until(b'\n')?;
        }
        let mut bytes = Vec::new();
        // With room for an ending, "\r\n".
        if self.from.by_ref().take(MAX_LINE as u64 + 2).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let ended = bytes.pop_if(|byte| *byte == b'\n').is_some();
        if ended {
            bytes.pop_if(|byte| *byte == b'\r');
        }
        if bytes.len() > MAX_LINE {
            self.skipping = !ended;
            let reason = format!("is longer than {} KiB; put one text on a line", MAX_LINE >> 10);
            return Ok(Some((self.number, Err(reason))));
        }
        if self.number == 1 && bytes.starts_with(BOM) {
            bytes.drain(..BOM.len());
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let byte = error.utf8_error().valid_up_to() + 1;
            format!("is not UTF-8 from byte {byte} on; convert the text, for example with iconv")
        });
        Ok(Some((self.number, text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> Vec<Line> {
        let mut lines = Lines::new(input);
        let mut got = Vec::new();
        loop {
            match lines.next_chunk().unwrap() {
                chunk if chunk.is_empty() => return got,
                chunk => got.extend(chunk),
            }
        }
    }

    fn good(lines: &[(usize, &str)]) -> Vec<Line> {
        lines.iter().map(|(number, text)| (*number, Ok((*text).to_owned()))).collect()
    }

    #[test]
    fn lines_are_numbered_and_their_endings_dropped() {
        assert_eq!(all(b"one\r\n\ntwo\nlast"), good(&[(1, "one"), (2, ""), (3, "two"), (4, "last")]));
        assert_eq!(all("\u{feff}a\n\u{feff}b".as_bytes()), good(&[(1, "a"), (2, "\u{feff}b")]));
        assert_eq!(all(b""), []);
    }

    #[test]
    fn a_bad_line_costs_no_other() {
        let mut lines = all(b"one\ntwo\nth\xffree\nfour\n");
        let (number, bad) = lines.remove(2);
        assert!(number == 3 && bad.unwrap_err().starts_with("is not UTF-8 from byte 3 on"));
        assert_eq!(lines, good(&[(1, "one"), (2, "two"), (4, "four")]));
    }

    #[test]
    fn a_line_may_have_a_mebibyte_whatever_its_ending() {
        for (more, ok) in [(0, true), (1, false)] {
            let long = "a".repeat(MAX_LINE + more);
            for ending in ["", "\n", "\r\n"] {
                let lines = all(format!("x\n{long}{ending}").as_bytes());
                assert_eq!((lines.len(), lines[1].1.is_ok()), (2, ok), "{more} {ending:?}");
            }
            let lines = all(format!("{long}{long}\nnext\n").as_bytes());
            assert_eq!((lines.len(), lines[0].1.is_ok()), (2, false));
            assert_eq!(lines[1..], good(&[(2, "next")]));
        }
    }

    #[test]
    fn an_endless_line_is_told_of_before_its_end() {
        let mut lines = Lines::new(io::repeat(b'a'));
        let (number, line) = lines.next_chunk().unwrap().remove(0);
        assert!(number == 1 && line.unwrap_err().contains("is longer than 1024 KiB"));
    }

    #[test]
    fn many_lines_come_in_bounded_chunks() {
        let input = b"x\n".repeat(1000);
        assert_eq!(Lines::new(input.as_slice()).next_chunk().unwrap().len(), MAX_CHUNK);
        assert_eq!(all(&input).len(), 1000);
    }

    /// Gives one line a call, as a person at a terminal does; then it fails.
    struct Slow(usize);

    impl Read for Slow {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 2 {
                return Err(io::Error::other("unplugged"));
            }
            to[..2].copy_from_slice(b"a\n");
            Ok(2)
        }
    }

    #[test]
    fn a_slow_writer_is_answered_line_by_line() {
        let mut lines = Lines::new(Slow(0));
        assert_eq!(lines.next_chunk().unwrap(), good(&[(1, "a")]));
        assert_eq!(lines.next_chunk().unwrap(), good(&[(2, "a")]));
        assert_eq!(lines.next_chunk().unwrap_err().to_string(), "unplugged");
    }
}
