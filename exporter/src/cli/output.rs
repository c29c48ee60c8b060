//! What commands share when they speak: data on stdout, all else on stderr.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Error};
use indicatif::{ProgressBar, ProgressStyle};
use overmask::text::is_unprintable;
use overmask_cli::{Output, Verbosity};
use serde::Serialize;

use crate::data::Dataset;

/// How many pairs of lines a warning lists.
const LISTED: usize = 5;

/// Prints data, and sees that they arrive.
pub(super) fn print(write: impl FnOnce(&mut Output) -> Result<(), Error>) -> Result<(), Error> {
    let mut out = Output::stdout();
    write(&mut out)?;
    out.flush()
}

/// Prints one line of data.
pub(super) fn line(text: &str) -> Result<(), Error> {
    print(|out| out.line(text))
}

/// Prints a JSON object on one line.
pub(super) fn json(value: &impl Serialize) -> Result<(), Error> {
    print(|out| out.json(value))
}

/// A progress bar on a terminal; nothing elsewhere or when told to be quiet.
pub(super) fn bar(verbosity: Verbosity, length: u64, template: &str) -> Result<ProgressBar, Error> {
    if verbosity.quiet || !io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template(template).context("progress bar")?;
    let bar = ProgressBar::new(length).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(500));
    Ok(bar)
}

/// Warns of texts that are in both data sets.
pub(super) fn warn_of_duplicates(pairs: &[(usize, usize)], a: &Path, b: &Dataset) {
    if pairs.is_empty() {
        return;
    }
    let listed: Vec<String> = pairs.iter().take(LISTED).map(|(one, other)| format!("{one} = {other}")).collect();
    let more = if pairs.len() > LISTED { ", ..." } else { "" };
    log::warn!(
        "{} of {} texts of {} are in {} too (lines {}{more}): figures on them flatter",
        pairs.len(),
        b.len(),
        b.path.display(),
        a.display(),
        listed.join(", "),
    );
}

/// A word that a shell takes as it is.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    if !word.contains(is_unprintable) {
        return format!("'{}'", word.replace('\'', "'\\''"));
    }
    let escaped = word.chars().map(|c| match c {
        '\'' | '\\' => format!("\\{c}"),
        c if is_unprintable(c) => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    });
    format!("$'{}'", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_a_shell_reads_them() {
        for (word, expected) in [
            ("a/b-1.pack", "a/b-1.pack"),
            ("", "''"),
            ("my file", "'my file'"),
            ("it's", "'it'\\''s'"),
            ("it's\na\\b\u{9b}", "$'it\\'s\\u000aa\\\\b\\u009b'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }
}
