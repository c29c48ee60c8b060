//! Writing results to stdout, and errors in words.

use std::io::{self, BufWriter, ErrorKind, IsTerminal, StdoutLock, Write};

use anyhow::Context;
use serde::Serialize;

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
    /// One line.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn line(&mut self, text: &str) -> anyhow::Result<()> {
        self.raw(text.as_bytes())?;
        self.raw(b"\n")?;
        if self.eager { self.flush() } else { Ok(()) }
    }

    /// One JSON object on a line of its own.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(&serde_json::to_string(value).context("a result cannot be written as JSON")?)
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

fn failed(error: io::Error) -> anyhow::Error {
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

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file").context("run");
        assert_eq!(describe(&error), "run: cannot read x: no such file");
    }
}
