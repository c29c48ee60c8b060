//! `overmask-export evaluate`: how good a pack is on labelled texts.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Error;
use clap::Args;
use overmask::base::Base;
use overmask::cli::Verbosity;
use overmask::engine::{self, EngineKind, EngineOptions};
use overmask::error::{ExitCode, printable};
use overmask::pack::Pack;

use super::output;
use crate::data::{self, Form};
use crate::evaluate::{self, Report};
use crate::metrics::Scores;

/// Measure a pack on labelled examples, through the code that runs on devices.
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
    /// Labelled examples, with the fields that the pack's kind asks for: see `train --help`.
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
    let base = Arc::new(Base::open(&args.base)?);
    let pack = Pack::open(&args.pack, &base)?;
    let form = Form { kind: pack.document.kind, pair: pack.document.text.pair };
    let dataset = data::read(&args.data, form)?;
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
        log::info!("{}: {} predictions", path.display(), report.card.n);
    }
    if args.json {
        return output::json(&report);
    }
    let Report { card, engine, precision, .. } = &report;
    let figure = |(name, value): (&&str, &f64)| {
        let [low, high] = card.intervals.get(*name).map_or([*value; 2], |interval| [interval.low, interval.high]);
        format!("{:<20} {value:>7.4}  95 % {low:.4} to {high:.4}\n", name.replace('_', " "))
    };
    let figures: String = card.metrics.iter().map(figure).collect();
    output::line(&format!("{figures}{} examples, {engine} {precision}", card.n))?;
    for class in &card.classes {
        let Scores { precision, recall, f1, support } = class.scores;
        let label = printable(&class.label);
        output::line(&format!(
            "  {label:<18} precision {precision:.4}, recall {recall:.4}, F1 {f1:.4}, {support} examples"
        ))?;
    }
    Ok(())
}
