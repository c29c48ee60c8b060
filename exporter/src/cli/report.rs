//! `overmask-export report`: results and analyses as a page.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error};
use clap::Args;
use overmask::fs::write_atomically;
use overmask_cli::{CodedError, ExitCode};

use super::places;
use crate::report::{self, Report};

/// Make one page of figures and tables out of results of sweeps, of single runs, of evaluations and of analyses.
///
/// The page is a single file without scripts; any browser shows it without a network.
#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  overmask-export report sweep/results.jsonl closeness.jsonl -o report.html\n  \
                   overmask-export report trec.train.json trec.evaluate.json -o report.html",
    after_help = ExitCode::HELP
)]
pub(super) struct ReportArgs {
    /// JSON lines of `overmask-export sweep`, and of `train`, `evaluate`, `baseline` and `analyze` with --json.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The page to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Write the same numbers as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(super) fn run(args: &ReportArgs) -> Result<(), Error> {
    args.check_places()?;
    let input = report::read(&args.files)?;
    input.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let report = Report::new(input);
    let html = report::html(&report)?;
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&report).context("a report cannot be written as JSON")?;
        write(path, &json)?;
    }
    write(&args.output, html.as_bytes())?;
    let others = report.evaluations.len() + report.baselines.len();
    let (runs, analyses) = (report.runs.len(), report.analyses.len());
    log::info!("{}: {runs} runs, {others} evaluations and baselines, {analyses} analyses", args.output.display());
    Ok(())
}

impl ReportArgs {
    /// Checks that what is written takes the place of nothing that is read.
    fn check_places(&self) -> Result<(), Error> {
        let mut written = vec![("-o", self.output.as_path())];
        written.extend(self.json.as_deref().map(|file| ("--json", file)));
        let read: Vec<_> = self.files.iter().map(|file| ("an input", file.as_path())).collect();
        places::check(&written, &read)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let message = || format!("cannot write {}", path.display());
    write_atomically::<io::Error>(path, |file| file.write_all(bytes))
        .with_context(|| CodedError { message: message(), code: ExitCode::DeviceOrStore })
}
