//! Writing results to stdout, and errors in words.

use std::io::{self, BufWriter, ErrorKind, IsTerminal, StdoutLock, Write};

use anyhow::Context;
use overmask::text::{is_unprintable, printable};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use crate::{CodedError, ExitCode};

/// Results go through here: a line is text or a JSON object.
///
/// The methods fail when stdout cannot be written: a full disk has its exit code, a closed pipe
/// is for [`exit`] to tell apart.
#[derive(Debug)]
pub struct Output<W: Write = BufWriter<StdoutLock<'static>>> {
    to: W,
    eager: bool,
}

impl Output {
    /// Writes to stdout; a line at a time to a terminal.
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        let eager = stdout.is_terminal();
        Output { to: BufWriter::new(stdout.lock()), eager }
    }
}

impl<W: Write> Output<W> {
    /// One line, as [`printable`] makes it, but for tabs: they part its columns.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn line(&mut self, text: &str) -> anyhow::Result<()> {
        let columns: Vec<String> = text.split('\t').map(printable).collect();
        self.whole_line(columns.join("\t").into_bytes())
    }

    /// One JSON object on a line of its own, which begins with the version of its schema and in which
    /// [unprintable](is_unprintable) characters are escaped.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        self.whole_line(json(value)?)
    }

    fn whole_line(&mut self, mut bytes: Vec<u8>) -> anyhow::Result<()> {
        bytes.push(b'\n');
        self.raw(&bytes)?;
        if self.eager { self.flush() } else { Ok(()) }
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn raw(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.to.write_all(bytes).map_err(failed)
    }

    /// Hands over what is still in the buffer.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.to.flush().map_err(failed)
    }
}

/// The JSON object that [`Output::json`] prints, without the end of its line.
///
/// # Errors
/// When the value is none.
pub fn json(value: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut writer = Serializer::with_formatter(&mut line, Printable);
    Versioned { schema: SCHEMA, value }.serialize(&mut writer).context("a result cannot be written as JSON")?;
    Ok(line)
}

/// The version of what is printed as JSON, which docs/json.md describes: when a field goes, or changes its meaning or its
/// type, it grows.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Versioned<'a, T> {
    schema: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// Escapes what a terminal acts on; `serde_json` itself does so with the controls below U+0020 alone.
struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for piece in fragment.split_inclusive(is_unprintable) {
            let mut chars = piece.chars();
            match chars.next_back() {
                Some(last) if is_unprintable(last) => {
                    writer.write_all(chars.as_str().as_bytes())?;
                    // All of them have four digits.
                    write!(writer, "\\u{:04x}", u32::from(last))?;
                }
                _ => writer.write_all(piece.as_bytes())?,
            }
        }
        Ok(())
    }

    fn write_raw_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        // Controls that JSON allows between its tokens are blanks; all others can only be in strings.
        self.write_string_fragment(writer, &fragment.replace(['\t', '\r', '\n'], " "))
    }
}

/// What an error at stdout means for a command.
pub(crate) fn failed(error: io::Error) -> anyhow::Error {
    let coded = CodedError { message: "cannot write to stdout".to_owned(), code: ExitCode::DeviceOrStore };
    anyhow::Error::new(error).context(coded)
}

/// Reports a failed command on stderr and turns the result into an exit status; `code` finds the one of an
/// error.
///
/// A closed pipe at stdout is no failure: whoever read has seen enough.
pub fn exit(result: anyhow::Result<()>, code: impl Fn(&anyhow::Error) -> ExitCode) -> std::process::ExitCode {
    match result {
        Ok(()) => ExitCode::Ok,
        Err(error) if is_closed_pipe(&error) => ExitCode::Ok,
        Err(error) => {
            log::error!("{}", describe(&error));
            code(&error)
        }
    }
    .into()
}

/// Whether a command ended because nobody reads its output any more: only [`failed`] has both an
/// error of the system and a code, any other broken pipe is an error.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.is::<CodedError>() && error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// An error with its causes in one line; a cause that the message already tells is left out.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::value::RawValue;
    use serde_json::{Value, json};

    use super::*;

    struct Closed(ErrorKind);

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_told_from_a_full_disk() {
        let mut closed = Output { to: Closed(ErrorKind::BrokenPipe), eager: false };
        assert!(is_closed_pipe(&closed.line("x").unwrap_err()));
        assert!(!is_closed_pipe(&io::Error::from(ErrorKind::BrokenPipe).into()));
        let mut full = Output { to: Closed(ErrorKind::StorageFull), eager: false };
        let error = full.line("x").unwrap_err();
        assert!(!is_closed_pipe(&error));
        assert_eq!(ExitCode::of(&error), ExitCode::DeviceOrStore);
        assert!(describe(&error).starts_with("cannot write to stdout: "));
    }

    /// What `write` puts out.
    fn written(write: impl FnOnce(&mut Output<Vec<u8>>) -> anyhow::Result<()>) -> String {
        let mut out = Output { to: Vec::new(), eager: false };
        write(&mut out).unwrap();
        String::from_utf8(out.to).unwrap()
    }

    #[test]
    fn a_line_is_one_line_whatever_it_quotes() {
        let line = written(|out| out.line("a\tnew\nline\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\u{2028}é"));
        assert_eq!(line, "a\tnew line [2J 2J   é\n");
    }

    #[test]
    fn json_reads_back_and_drives_no_terminal() {
        let all: String = (0..=0x10_ffff_u32).filter_map(char::from_u32).collect();
        let line = written(|out| out.json(&BTreeMap::from([("a", &all)])));
        let text = line.strip_suffix('\n').unwrap();
        assert_eq!(text.chars().find(|c| is_unprintable(*c)), None);
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), json!({"schema": 1, "a": all}));
        let line = written(|out| out.json(&json!({"a": ["é\u{9b}2J\u{7f}", "\u{2028}\u{202e}x", "\"\\\n"]})));
        let expected = r#"{"schema":1,"a":["é\u009b2J\u007f","\u2028\u202ex","\"\\\n"]}"#;
        assert_eq!(line.trim_end(), expected);
        // What is passed on as it was written.
        let raw: Box<RawValue> = serde_json::from_str("[1.0,\t\"\u{9b}\" , 1e400]").unwrap();
        let line = written(|out| out.json(&BTreeMap::from([("a", raw)])));
        assert_eq!(line.trim_end(), r#"{"schema":1,"a":[1.0, "\u009b" , 1e400]}"#);
    }

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file").context("run");
        assert_eq!(describe(&error), "run: cannot read x: no such file");
    }
}
