//! `overmask-export evaluate`: how good a pack is on labelled texts.

use std::fmt::Write as _;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Error;
use clap::Args;
use overmask::base::Base;
use overmask::pack::{Pack, TaskKind};
use overmask::text::printable;
use overmask_cli::{CodedError, EngineArgs, ExitCode, Verbosity};
use serde::Serialize;

use super::data::DataArgs;
use super::{output, places};
use crate::data::Form;
use crate::evaluate::{self, AsText, Report};
use crate::metrics::Scores;
use crate::score::Confusion;

/// The most labels of a confusion matrix that is printed as a table: more would not fit a terminal's line.
const MAX_COLUMNS: usize = 12;

/// Measure a pack on labelled examples, through the code that runs on devices.
#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  overmask-export evaluate --base base/ --pack trec.pack --data trec/test.jsonl --json\n  \
                   overmask-export evaluate --base base/ --pack trec.pack --data trec/test.jsonl --baseline head.pack \
                   --record out.pack",
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
    #[command(flatten)]
    engine: EngineArgs,
    /// Write each text, its label and the predicted label, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Write the pack again with what was measured: what it promises, which a device holds a later pack to
    /// (`overmask flash`). Only texts that training never saw make an honest promise.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// With --record: a pack of the head alone (`train --method head`), measured on the same texts, to be
    /// recorded beside.
    #[arg(long, value_name = "PACK", requires = "record")]
    baseline: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    files: DataArgs,
}

pub(super) fn run(args: &EvaluateArgs, verbosity: Verbosity) -> Result<(), Error> {
    if let Some(path) = &args.predictions {
        let read = [("--data", args.data.as_path()), ("--pack", args.pack.as_path())];
        places::check(&[("--predictions", path.as_path())], &read)?;
    }
    // What a pack promises is said of the f32 base.
    let is_promise = args.record.is_some();
    let base = Arc::new(if is_promise { places::f32_base(&args.base)? } else { Base::open(&args.base)? });
    let pack = Pack::open(&args.pack, &base)?;
    let name = pack.document.name.clone();
    let form = Form { kind: pack.document.kind, pair: pack.document.text.pair };
    let dataset = args.files.read(&args.data, form)?;
    if let Some(path) = &args.record {
        let read = [("--data", args.data.as_path()), ("--pack", args.pack.as_path())];
        places::check(&[("--record", path.as_path())], &read)?;
    }
    let baseline = args.baseline.as_ref().map(|path| baseline(path, &base, &pack)).transpose()?;
    let bar = output::bar(verbosity, dataset.len() as u64, "{wide_bar} {pos}/{len} texts, {eta} left")?;
    let engine = args.engine.start(&base)?;
    let measure = |pack| {
        evaluate::evaluate(&base, pack, &dataset, Arc::clone(&engine), &mut |done| {
            bar.set_position(done as u64);
        })
    };
    let report = measure(pack.clone());
    let head = baseline.map(measure).transpose();
    bar.finish_and_clear();
    let (report, head) = (report?, head?);
    if let Some(path) = &args.record {
        let head = head.map(|report| report.card);
        evaluate::record(pack, &dataset, &report.card, head.as_ref()).write(path, Some(&base))?;
        log::info!("{}: the pack, with what was measured", path.display());
    }
    if let Some(path) = &args.predictions {
        evaluate::write_predictions(path, &dataset, &report)?;
        log::info!("{}: {} predictions", path.display(), report.card.n);
    }
    if let Some(AsText { sentences, words, example, found }) = &report.as_text {
        let (all, example, found) = (dataset.len(), printable(example), printable(&found.join(" ")));
        log::warn!(
            "{sentences} of {all} sentences have words that `overmask run` finds otherwise in a plain text, {words} in \
             all, as `{example}` becomes `{found}`: these figures are of sentences that are given as `tokens`"
        );
    }
    if args.json {
        let (pack, data) = (args.pack.display().to_string(), args.data.display().to_string());
        return output::json(&Row { pack, name, data, report: &report });
    }
    print(&report)
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Row<'a> {
    pack: String,
    name: String,
    data: String,
    #[serde(flatten)]
    report: &'a Report,
}

/// The pack of a head alone, which must be of the task that is measured.
fn baseline(path: &Path, base: &Base, pack: &Pack) -> Result<Pack, Error> {
    let head = Pack::open(path, base)?;
    let (of_head, of_pack) = (&head.document, &pack.document);
    let is_same =
        of_head.kind == of_pack.kind && of_head.labels == of_pack.labels && of_head.text.pair == of_pack.text.pair;
    if !is_same || !head.masks.is_empty() || !head.deltas.is_empty() {
        let what = if is_same { "changes the encoder" } else { "is of another task: its labels or inputs differ" };
        let message = format!("--baseline: {} {what}; name a pack of `train --method head`", path.display());
        return Err(CodedError { message, code: ExitCode::InputData }.into());
    }
    Ok(head)
}

/// Prints what was measured, as text.
fn print(Report { card, engine, precision, .. }: &Report) -> Result<(), Error> {
    for (name, value) in &card.metrics {
        let [low, high] = card.intervals.get(*name).map_or([*value; 2], |interval| [interval.low, interval.high]);
        let name = match (&card.f1_label, *name) {
            (Some(label), "f1") => format!("f1 of {label}"),
            (_, name) => name.replace('_', " "),
        };
        output::line(&format!("{name:<20} {value:>7.4}  95 % {low:.4} to {high:.4}"))?;
    }
    output::line(&format!("{} examples, {engine} {precision}", card.n))?;
    let counted = if card.task == TaskKind::Tag { "spans" } else { "examples" };
    for class in &card.classes {
        let Scores { precision, recall, f1, support } = class.scores;
        output::line(&format!(
            "  {:<18} precision {precision:.4}, recall {recall:.4}, F1 {f1:.4}, {support} {counted}",
            class.label
        ))?;
    }
    card.confusion.as_ref().map_or(Ok(()), |confusion| matrix(confusion).lines().try_for_each(output::line))
}

/// A confusion matrix as lines of aligned columns, or where else it is.
fn matrix(Confusion { labels, counts }: &Confusion) -> String {
    if labels.len() > MAX_COLUMNS {
        return format!("confusion matrix: too wide for {} labels, --json has it", labels.len());
    }
    let heading: Vec<String> = iter::once(String::new()).chain(labels.iter().cloned()).collect();
    let row = |(name, counts): (&String, &Vec<u64>)| {
        iter::once(name.clone()).chain(counts.iter().map(u64::to_string)).collect()
    };
    let rows: Vec<Vec<String>> = iter::once(heading).chain(labels.iter().zip(counts).map(row)).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..=labels.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = "confusion matrix, rows: true label, columns: predicted label".to_owned();
    for row in &rows {
        text.push('\n');
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(text, "  {cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confusion(labels: &[&str], counts: &[&[u64]]) -> Confusion {
        Confusion {
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            counts: counts.iter().map(|row| row.to_vec()).collect(),
        }
    }

    #[test]
    fn a_confusion_matrix_is_aligned() {
        let text = matrix(&confusion(&["no", "größer", "a b"], &[&[120, 7, 0], &[1, 1234567, 2], &[0, 0, 3]]));
        let expected = [
            "confusion matrix, rows: true label, columns: predicted label",
            "           no   größer  a b",
            "  no      120        7    0",
            "  größer    1  1234567    2",
            "  a b       0        0    3",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_matrix_that_is_too_wide_is_named() {
        let square =
            |n: usize| Confusion { labels: (0..n).map(|i| i.to_string()).collect(), counts: vec![vec![0; n]; n] };
        assert_eq!(matrix(&square(MAX_COLUMNS)).lines().count(), MAX_COLUMNS + 2);
        let said = "confusion matrix: too wide for 13 labels, --json has it";
        assert_eq!(matrix(&square(MAX_COLUMNS + 1)), said);
    }
}
