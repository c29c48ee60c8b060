//! `overmask inspect`: what a pack holds.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::output::{Output, printable};
use crate::pack::{Pack, PackDocument, Pooling, TaskKind};

/// Arguments of `overmask inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The pack
    #[arg(value_name = "PACK")]
    pack: PathBuf,
    /// List the mask of each tensor, too
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    bytes: u64,
    sha256: &'a str,
    zero_weights: u64,
    masked_tensors: Vec<Tensor<'a>>,
    document: &'a PackDocument,
}

#[derive(Serialize)]
struct Tensor<'a> {
    tensor: &'a str,
    outputs: usize,
    inputs: usize,
    sparsity: f64,
    bytes: usize,
}

pub(super) fn run(args: &InspectArgs, out: &mut Output) -> anyhow::Result<()> {
    let pack = Pack::open(&args.pack)?;
    let tensors = pack.masks.iter().map(|named| Tensor {
        tensor: &named.tensor,
        outputs: named.mask.outputs(),
        inputs: named.mask.inputs(),
        sparsity: named.mask.sparsity(),
        bytes: named.mask.as_bytes().len(),
    });
    let report = Report {
        file: args.pack.display().to_string(),
        bytes: pack.file_bytes(),
        sha256: pack.digest(),
        zero_weights: pack.zero_weights(),
        masked_tensors: tensors.collect(),
        document: &pack.document,
    };
    if args.json { out.json(&report) } else { print(&report, args.tensors, out) }
}

fn print(report: &Report<'_>, tensors: bool, out: &mut Output) -> anyhow::Result<()> {
    let d = report.document;
    let kind = match d.kind {
        TaskKind::Classify => "classify",
    };
    let pooling = match d.text.pooling {
        Pooling::Mean => "mean",
        Pooling::Cls => "first token",
    };
    let mut row = |name: &str, value: String| out.line(&format!("{name:<13}{}", printable(&value)));
    row("task", format!("{}, revision {}", d.name, d.revision))?;
    row("file", format!("{}, {} bytes", report.file, report.bytes))?;
    row("sha256", report.sha256.to_owned())?;
    row("kind", kind.to_owned())?;
    row("labels", format!("{}: {}", d.labels.len(), d.labels.join(", ")))?;
    row("text", format!("at most {} tokens, pooling {pooling}", d.text.max_tokens))?;
    row("base", d.base_id.clone())?;
    row("tokenizer", d.tokenizer_sha256.clone())?;
    let count = report.masked_tensors.len();
    row("masks", format!("{count} tensors, granularity {}, codec {}", d.granularity, d.codec))?;
    row("zeros", format!("{}, {:.2} % of the maskable weights", report.zero_weights, d.sparsity * 100.0))?;
    row("golden", format!("{} texts", d.golden.len()))?;
    for (name, value) in &d.metrics {
        row("metric", format!("{name} {value}"))?;
    }
    for (name, value) in &d.provenance {
        row("provenance", format!("{name} {value}"))?;
    }
    if tensors {
        for t in &report.masked_tensors {
            let (percent, size) = (t.sparsity * 100.0, format!("[{}, {}]", t.outputs, t.inputs));
            row("tensor", format!("{} {size} {percent:.2} % zeros, {} bytes", t.tensor, t.bytes))?;
        }
    }
    Ok(())
}
