//! The programs' exit codes, and how an error finds its own.

use std::error::Error;

use overmask::base::BaseError;
use overmask::derived::DerivedError;
use overmask::engine::EngineError;
use overmask::error::ErrorKind;
use overmask::fs::StagedError;
use overmask::mask::MaskError;
use overmask::pack::PackError;
use overmask::store::StoreError;
use overmask::task::TaskError;
use overmask::trust::TrustError;

/// What a program's exit status says; the numbers are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything was done.
    Ok = 0,
    /// Anything that has no code of its own.
    Other = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The input data (texts, labels, files to read) are wrong or missing.
    InputData = 3,
    /// A file is damaged, or of a version that this program does not know.
    CorruptFile = 4,
    /// A signature is missing or wrong.
    Signature = 5,
    /// A pack was made for another base.
    BaseMismatch = 6,
    /// The engine that was asked for cannot start.
    EngineUnavailable = 7,
    /// The device or the store refuses: space, permission, lock.
    DeviceOrStore = 8,
}

impl ExitCode {
    /// The table of codes for a program's `--help`.
    pub const HELP: &'static str = "\
Exit codes:
  0  ok
  1  anything that has no code below
  2  wrong command line
  3  wrong or missing input data
  4  corrupt or unsupported file
  5  missing or wrong signature
  6  the pack was made for another base
  7  the engine is not available
  8  device or store: space, permission, lock";

    /// The code of an error: that of the first library error in its chain of causes.
    pub fn of(error: &anyhow::Error) -> ExitCode {
        Self::find(error, |_| None)
    }

    /// The same for a program with errors of its own, whose kinds `own` knows.
    pub fn find(error: &anyhow::Error, own: impl Fn(&(dyn Error + 'static)) -> Option<ErrorKind>) -> ExitCode {
        // A message given as context is not in the chain under its own type.
        let context = error.downcast_ref::<CodedError>().map(CodedError::exit_code);
        let known = |cause| own(cause).or_else(|| known(cause)).map(ExitCode::from);
        context.or_else(|| error.chain().find_map(known)).unwrap_or(ExitCode::Other)
    }
}

impl From<ErrorKind> for ExitCode {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Usage => Self::Usage,
            ErrorKind::InputData => Self::InputData,
            ErrorKind::CorruptFile => Self::CorruptFile,
            ErrorKind::Signature => Self::Signature,
            ErrorKind::BaseMismatch => Self::BaseMismatch,
            ErrorKind::EngineUnavailable => Self::EngineUnavailable,
            ErrorKind::DeviceOrStore => Self::DeviceOrStore,
            _ => Self::Other,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code as u8)
    }
}

/// The kind of one of the libraries' errors.
fn known(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    macro_rules! first_of {
        ($($kind:ty),*) => { None$(.or_else(|| error.downcast_ref::<$kind>().map(<$kind>::kind)))* };
    }
    let own = first_of!(
        TaskError,
        PackError,
        BaseError,
        EngineError,
        MaskError,
        TrustError,
        StagedError,
        StoreError,
        DerivedError
    );
    #[cfg(feature = "ort")]
    let own = own.or_else(|| error.downcast_ref().map(overmask_graph::OnnxError::kind));
    own
}

/// A message with the exit code that it asks for, for errors that only a program knows.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CodedError {
    /// What is wrong, where, and what to do.
    pub message: String,
    /// The exit code.
    pub code: ExitCode,
}

impl CodedError {
    /// A message about the input data.
    pub fn input(message: impl Into<String>) -> Self {
        CodedError { message: message.into(), code: ExitCode::InputData }
    }

    /// The exit code.
    pub fn exit_code(&self) -> ExitCode {
        self.code
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_code_is_found_below_any_context() {
        let error: anyhow::Error = CodedError::input("line 3").into();
        let error = Err::<(), _>(error).context("outer").context("outermost").unwrap_err();
        assert_eq!(ExitCode::of(&error), ExitCode::InputData);
        assert_eq!(ExitCode::of(&anyhow::anyhow!("something")), ExitCode::Other);
    }

    #[test]
    fn every_code_is_in_the_help() {
        for code in 0..=ExitCode::DeviceOrStore as u8 {
            assert!(ExitCode::HELP.contains(&format!("\n  {code}  ")));
        }
    }
}
