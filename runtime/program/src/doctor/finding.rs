//! What a check has found: in words, as facts for programs, and with what to do.

use overmask_cli::{CodedError, ExitCode, Output, describe};
use serde::Serialize;
use serde_json::Value;

/// How good or bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing, or unknown; nothing is wrong.
    Note,
    /// Packs run, but not as well or as safely as they could.
    Warning,
    /// What was asked for does not run.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) level: Level,
    /// What was found, in words.
    pub(super) found: String,
    /// What to do about it, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) advice: Vec<String>,
    /// The same as numbers and names; `null` is what cannot be read.
    pub(super) facts: Value,
    /// The exit code of an error.
    #[serde(skip)]
    code: ExitCode,
}

impl Finding {
    /// Something that is as it should be, unless advice says otherwise.
    pub(super) fn new(check: &'static str, found: impl Into<String>, facts: Value) -> Self {
        Finding { check, level: Level::Ok, found: found.into(), advice: Vec::new(), facts, code: ExitCode::Ok }
    }

    /// What cannot be read on this system.
    pub(super) fn unknown(check: &'static str, why: &str, facts: Value) -> Self {
        Finding { level: Level::Note, ..Self::new(check, format!("unknown: {why}"), facts) }
    }

    /// What does not run.
    pub(super) fn failed(check: &'static str, error: &anyhow::Error, facts: Value) -> Self {
        Self::new(check, describe(error), facts).with_code(ExitCode::of(error))
    }

    /// Makes an error of it.
    pub(super) fn with_code(self, code: ExitCode) -> Self {
        Finding { level: Level::Error, code, ..self }
    }

    /// With what to do; it is of this level at least.
    pub(super) fn advise(mut self, level: Level, advice: impl Into<String>) -> Self {
        self.level = self.level.max(level);
        self.advice.push(advice.into());
        self
    }

    /// The same where something is so.
    pub(super) fn advise_if(self, is_so: bool, level: Level, advice: impl FnOnce() -> String) -> Self {
        if is_so { self.advise(level, advice()) } else { self }
    }

    fn line(&self) -> String {
        let parts = std::iter::once(&self.found).chain(&self.advice);
        let text = parts.map(String::as_str).collect::<Vec<_>>().join("; ");
        format!("{:<8} {:<12} {text}", self.level.name(), self.check)
    }
}

/// Where findings go, as soon as they are made.
pub(super) struct Report<'a> {
    out: &'a mut Output,
    json: bool,
    /// Checks that found an error.
    errors: Vec<&'static str>,
    code: ExitCode,
}

impl<'a> Report<'a> {
    pub(super) fn new(out: &'a mut Output, json: bool) -> Self {
        Report { out, json, errors: Vec::new(), code: ExitCode::Ok }
    }

    /// Prints what was found.
    pub(super) fn add(&mut self, findings: impl IntoIterator<Item = Finding>) -> anyhow::Result<()> {
        for finding in findings {
            if finding.level == Level::Error {
                self.errors.push(finding.check);
                // The first one decides, as it does where a command ends at it.
                self.code = if self.code == ExitCode::Ok { finding.code } else { self.code };
            }
            if self.json { self.out.json(&finding) } else { self.out.line(&finding.line()) }?;
        }
        Ok(())
    }

    /// Hands over what was printed so far.
    #[cfg(feature = "ort")]
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        self.out.flush()
    }

    /// The command's result: an error if one was found.
    pub(super) fn end(self) -> anyhow::Result<()> {
        if self.errors.is_empty() {
            return Ok(());
        }
        let message = format!("errors were found, which the report tells: {}", self.errors.join(", "));
        Err(CodedError { message, code: self.code }.into())
    }
}

/// Bytes for people, in powers of ten.
pub(super) fn size(bytes: u64) -> String {
    let in_units = |unit: f64| bytes as f64 / unit;
    match bytes {
        0..1_000_000 => format!("{:.1} kB", in_units(1e3)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", in_units(1e6)),
        _ => format!("{:.1} GB", in_units(1e9)),
    }
}

/// A number of things, and their name in the singular or the plural.
pub(super) fn count(n: u64, name: &str) -> String {
    if n == 1 { format!("{n} {name}") } else { format!("{n} {name}s") }
}

/// What is known, or the word for what is not.
pub(super) fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_finding_is_one_line_and_as_bad_as_its_worst_advice() {
        let finding = Finding::new("memory", "1 GB", json!({}));
        assert_eq!(finding.line(), "ok       memory       1 GB");
        let finding = finding.advise(Level::Warning, "buy more").advise(Level::Note, "or less");
        assert_eq!(finding.line(), "warning  memory       1 GB; buy more; or less");
        let error: anyhow::Error = CodedError::input("no such file").into();
        let failed = Finding::failed("base", &error, json!({})).advise(Level::Note, "look again");
        assert_eq!((failed.level, failed.code), (Level::Error, ExitCode::InputData));
        assert_eq!(failed.line(), "error    base         no such file; look again");
    }

    #[test]
    fn sizes_have_a_digit_after_the_point() {
        let sizes = [0, 999_999, 42_500_128, 7_990_000_000].map(size);
        assert_eq!(sizes, ["0.0 kB", "1000.0 kB", "42.5 MB", "8.0 GB"]);
    }
}
