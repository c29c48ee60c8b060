//! `cargo xtask test`: every test of the workspace, on real models and data.

use anyhow::{Result, bail};

use crate::setup;
use crate::work::{Run, Work};

/// Counts of a test run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Sets up, runs all tests, prints how many there were. `more` goes to `cargo test`.
pub(crate) fn run(work: &Work, more: &[&str]) -> Result<()> {
    let ready = setup::for_tests(work)?;
    let run = more.iter().fold(work.tests().arg("--no-fail-fast"), Run::arg);
    let mut counts = Counts::default();
    let ended_well = work.timed("testing", || ready.prepare(run).stream(|line| counts.add(line)))?;
    println!("{}", work.times());
    println!("tests: {} passed, {} failed, {} ignored", counts.passed, counts.failed, counts.ignored);
    if !ended_well || counts.failed > 0 {
        bail!("tests failed, see above");
    }
    Ok(())
}

impl Counts {
    /// Takes in a line of a test program; only its summary counts.
    fn add(&mut self, line: &str) {
        let Some(summary) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        for part in summary.split([';', '.']) {
            let mut words = part.split_whitespace();
            let Some(Ok(n)) = words.next().map(str::parse::<u64>) else {
                continue;
            };
            match words.next() {
                Some("passed") => self.passed += n,
                Some("failed") => self.failed += n,
                Some("ignored") => self.ignored += n,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_added_up() {
        let mut counts = Counts::default();
        for line in [
            "running 5 tests",
            "test result: ok. 3 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.0s",
            "test result: FAILED. 1 passed; 4 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.23s",
        ] {
            counts.add(line);
        }
        let expected = Counts { passed: 4, failed: 4, ignored: 2 };
        assert_eq!(counts, expected);
    }
}
