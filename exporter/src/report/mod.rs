//! Reports: results of sweeps and analyses of packs as one page of figures and tables, and the same
//! numbers as JSON.
//!
//! The page is a single HTML file that needs neither network nor scripts. [`read`] takes the lines
//! in, [`Report`] holds the numbers, [`html`] draws them. What is read was written by others:
//! all of it is escaped, and whatever may be missing is left out.

mod analyses;
mod chart;
mod html;
mod input;
mod page;
mod palette;
mod runs;
mod scale;
mod summary;
#[cfg(test)]
mod tests;
mod tiles;

use std::path::PathBuf;

use overmask::error::ErrorKind;

pub use input::{
    Analysis, Class, Closeness, Confusion, CurvePoint, Group, Input, Overlap, Sensitivity, SharedZeros, Solution,
    SparsityGroup, TensorDistance, read,
};
pub use page::html;
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
        "no runs and no analyses in {files}; `overmask-export sweep` writes the first, \
         `overmask-export analyze --json` the second"
    )]
    Empty {
        /// The files.
        files: String,
    },
    /// A figure cannot be drawn.
    #[error("figure `{figure}` cannot be drawn: {reason}")]
    Draw {
        /// The figure's title.
        figure: String,
        /// Why.
        reason: String,
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
