//! Why there is no answer: what a client hears, and what it is counted as.

use overmask::error::ErrorKind;
use overmask::task::TaskError;
use serde::Serialize;

use crate::answer::reason;

/// Why a request, or a part of it, has no answer.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
}

/// What sort of failure it is; each has a name in replies and metrics, and a status of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Code {
    BadRequest,
    UnknownTask,
    NotFound,
    MethodNotAllowed,
    TooSlow,
    TooLarge,
    Overloaded,
    EngineFailed,
    TaskUnavailable,
    TimedOut,
    Stopping,
}

impl Code {
    /// All of them: name and status.
    pub(super) const ALL: [(Code, &'static str, u16); 11] = [
        (Code::BadRequest, "bad_request", 400),
        (Code::UnknownTask, "unknown_task", 404),
        (Code::NotFound, "not_found", 404),
        (Code::MethodNotAllowed, "method_not_allowed", 405),
        (Code::TooSlow, "too_slow", 408),
        (Code::TooLarge, "too_large", 413),
        (Code::Overloaded, "overloaded", 429),
        (Code::EngineFailed, "engine_failed", 500),
        (Code::TaskUnavailable, "task_unavailable", 503),
        (Code::TimedOut, "timed_out", 503),
        (Code::Stopping, "stopping", 503),
    ];

    /// Its status of HTTP.
    pub(super) fn status(self) -> u16 {
        Self::ALL[self as usize].2
    }
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into() }
    }

    /// Memory or queue are full.
    pub(super) fn overloaded(what: &str) -> Self {
        Failure::new(Code::Overloaded, format!("{what} is full; ask again in a moment"))
    }

    /// A request that has more bytes than it may have.
    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("a request may have {limit} bytes (--max-body); put fewer texts into each");
        Failure::new(Code::TooLarge, message)
    }

    /// Asked of a server that is about to end.
    pub(super) fn stopping() -> Self {
        Failure::new(Code::Stopping, "the server is stopping; connect again")
    }
}

impl From<&TaskError> for Failure {
    fn from(error: &TaskError) -> Self {
        let code = match error {
            TaskError::NoTask => Code::UnknownTask,
            error if error.kind() == ErrorKind::InputData => Code::BadRequest,
            _ => Code::EngineFailed,
        };
        Failure::new(code, reason(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_own_names() {
        for (place, (code, name, _)) in Code::ALL.into_iter().enumerate() {
            assert_eq!((code as usize, serde_json::to_value(code).unwrap()), (place, name.into()));
        }
    }
}
