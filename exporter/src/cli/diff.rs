//! `overmask-export diff`: two packs side by side.

use std::path::PathBuf;

use anyhow::Error;
use clap::Args;
use overmask::base::Base;
use overmask::pack::PackFile;
use overmask_cli::ExitCode;
use serde::Serialize;
use serde_json::Value;

use super::output;
use crate::analyze::{self, Difference, Overlap};

/// The longest value of a field that is shown in full.
const MAX_SHOWN: usize = 48;

/// Compare two packs: how their masks overlap, sizes, labels, metrics, how they were made.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export diff trec-1.pack trec-2.pack --base base/",
    after_help = ExitCode::HELP
)]
pub(super) struct DiffArgs {
    /// The first pack; one of a set as SET#NAME.
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The second pack.
    #[arg(value_name = "B")]
    b: PathBuf,
    /// The base bundle; not needed when both packs code their masks plainly.
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Compare the masks of each tensor, too.
    #[arg(long)]
    tensors: bool,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    files: [String; 2],
    #[serde(flatten)]
    difference: &'a Difference,
    jaccard: Option<f64>,
}

pub(super) fn run(args: &DiffArgs) -> Result<(), Error> {
    let base = args.base.as_ref().map(|dir| Base::open(dir)).transpose()?;
    let (a, b) = (PackFile::open(&args.a)?, PackFile::open(&args.b)?);
    let difference = analyze::diff(&a, &b, base.as_ref())?;
    if args.json {
        let jaccard = difference.overlap.map(|overlap| overlap.jaccard());
        let files = [&args.a, &args.b].map(|path| path.display().to_string());
        return output::json(&Report { files, difference: &difference, jaccard });
    }
    let mut lines = Vec::new();
    let mut row =
        |name: &str, a: String, b: String| lines.push(format!("{name:<24}  {a:<32}  {b}").trim_end().to_owned());
    row("file", args.a.display().to_string(), args.b.display().to_string());
    row("bytes", difference.a.bytes.to_string(), difference.b.bytes.to_string());
    row("  masks", difference.a.sizes.masks.to_string(), difference.b.sizes.masks.to_string());
    row("  head", difference.a.sizes.head.to_string(), difference.b.sizes.head.to_string());
    for (name, [a, b]) in &difference.fields {
        row(name, shown(a), shown(b));
    }
    row("labels of both", difference.shared_labels.len().to_string(), String::new());
    match &difference.overlap {
        Some(overlap) => zeros("all tensors", overlap, &mut lines),
        None => lines.push("The packs are for different bases: their masks were not compared.".to_owned()),
    }
    if args.tensors {
        difference.tensors.iter().for_each(|(name, overlap)| zeros(name, overlap, &mut lines));
    }
    lines.iter().try_for_each(|line| output::line(line))
}

/// A line about the zeros of both packs.
fn zeros(name: &str, overlap: &Overlap, lines: &mut Vec<String>) {
    let share = |zeros: u64| 100.0 * zeros as f64 / overlap.weights.max(1) as f64;
    lines.push(format!(
        "{name}: zeros {:.2} % and {:.2} %, both {:.2} % ({:.2} % by chance), Jaccard {:.3}",
        share(overlap.zeros_a),
        share(overlap.zeros_b),
        share(overlap.zeros_both),
        100.0 * overlap.zeros_both_by_chance / overlap.weights.max(1) as f64,
        overlap.jaccard(),
    ));
}

/// A value, cut if it is long.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
