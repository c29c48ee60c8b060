//! Reports: results of sweeps and analyses of packs as one page of figures and tables, and the same
//! numbers as JSON.
//!
//! The page is a single HTML file that needs neither network nor scripts. [`read`] takes the lines
//! in, [`Report`] holds the numbers, [`html()`] draws them. What is read was written by others:
//! all of it is escaped, and whatever may be missing is left out.

mod analyses;
mod chart;
mod evaluations;
mod html;
mod input;
mod measured;
mod page;
mod palette;
mod runs;
mod scale;
mod summary;
#[cfg(test)]
mod tests;
mod tiles;

use std::error::Error;
use std::path::PathBuf;

use overmask::error::ErrorKind;

use self::page::Page;

pub use input::{
    Analysis, Closeness, CurvePoint, Group, Input, Overlap, Sensitivity, SharedZeros, Solution, SparsityGroup,
    TensorDistance, read,
};
pub use measured::{Class, Confusion, Evaluation, Mistake, Rival, Simple};
pub use summary::{Best, Failure, Report, RunRow, Stat, SummaryRow};

/// What can go wrong when a report is made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("{}: line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// There is nothing to report.
    #[error(
        "no runs and no analyses in {files}; `overmask-export sweep` writes the first, `train`, `evaluate`, `baseline` \
         and `analyze` print lines with --json"
    )]
    Empty {
        /// The files.
        files: String,
    },
    /// A figure cannot be drawn.
    #[error("figure `{figure}` cannot be drawn: {source}")]
    Draw {
        /// The figure's title.
        figure: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ReportError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } | Self::Line { .. } | Self::Empty { .. } => ErrorKind::InputData,
            Self::Draw { .. } => ErrorKind::Other,
        }
    }
}

/// The page of a report.
///
/// # Errors
/// When a figure cannot be drawn.
pub fn html(report: &Report) -> Result<String, ReportError> {
    let mut page = Page::default();
    if !report.runs.is_empty() || !report.failures.is_empty() {
        runs::sections(&mut page, report)?;
    }
    evaluations::sections(&mut page, report)?;
    analyses::sections(&mut page, &report.analyses)?;
    let about = [
        count(report.runs.len(), "run", "runs"),
        count(report.tasks().len(), "task", "tasks"),
        count(report.methods().len(), "method", "methods"),
        count(report.failures.len(), "failed run", "failed runs"),
        count(report.evaluations.len(), "evaluation", "evaluations"),
        count(report.baselines.len(), "baseline", "baselines"),
        count(report.analyses.len(), "analysis", "analyses"),
    ];
    let about: Vec<String> = about.into_iter().filter(|part| !part.starts_with("0 ")).collect();
    Ok(page.finish("Overmask report", &format!("{}.", about.join(", "))))
}

/// How many of what, in words.
fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
