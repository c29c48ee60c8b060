//! `overmask-export evaluate`: how good a pack is on labelled texts.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Error;
use clap::Args;
use overmask::base::Base;
use overmask::cli::Verbosity;
use overmask::engine::{self, EngineKind, EngineOptions};
use overmask::error::ExitCode;
use overmask::pack::Pack;

use super::output;
use crate::{data, evaluate};

/// Measure a pack on labelled texts, through the code that runs on devices.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export evaluate --base base/ --pack trec.pack \
                   --data trec/test.jsonl --json",
    after_help = ExitCode::HELP
)]
pub(super) struct EvaluateArgs {
    /// The base bundle.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// The pack.
    #[arg(long, value_name = "FILE")]
    pack: PathBuf,
    /// Labelled texts: .jsonl with `text` and `label`, or .csv or .tsv with these columns.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// What computes: native, ort (the same as ort:cpu), ort:cuda or tract; default: native for the
    /// bases that it knows, else ort.
    #[arg(long)]
    engine: Option<EngineKind>,
    /// Threads to compute with; `tract` always takes one; default: the engine decides.
    #[arg(long, value_name = "N", value_parser = super::threads())]
    threads: Option<u16>,
    /// Write each text, its label and the predicted label, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EvaluateArgs, verbosity: Verbosity) -> Result<(), Error> {
    let dataset = data::read(&args.data)?;
    let base = Arc::new(Base::open(&args.base)?);
    let pack = Pack::open(&args.pack, &base)?;
    let options = EngineOptions { threads: args.threads.map(usize::from) };
    let bar = output::bar(verbosity, dataset.len() as u64, "{wide_bar} {pos}/{len} texts, {eta} left")?;
    let engine = args.engine.unwrap_or_else(|| engine::default_for(&base));
    let report = evaluate::evaluate(&base, pack, &dataset, engine, &options, &mut |done| {
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let report = report?;
    if let Some(path) = &args.predictions {
        evaluate::write_predictions(path, &dataset, &report)?;
        log::info!("{}: {} predictions", path.display(), report.n);
    }
    if args.json {
        return output::json(&report);
    }
    output::line(&format!(
        "accuracy {:.2} %, macro F1 {:.2} %, {} texts, {} {}",
        100.0 * report.accuracy,
        100.0 * report.macro_f1,
        report.n,
        report.engine,
        report.precision,
    ))
}
