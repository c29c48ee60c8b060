//! `overmask inspect`: what a pack holds, and what its bytes are spent on.

use std::path::PathBuf;

use clap::Args;
use overmask::base::Base;
use overmask::pack::{Codec, PackDocument, Pooling, Sizes};
use overmask_cli::Output;
use serde::Serialize;

use super::packs::{self, Given, TrustArgs};

/// Width of the longest bar, in characters.
const BAR: u64 = 40;

/// Arguments of `overmask inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The pack, a pack set, or one pack of a set (SET#NAME)
    #[arg(value_name = "PACK")]
    pack: PathBuf,
    /// Directory of the base bundle: shows the zeros of each tensor, too, which the coding
    /// `ranked` tells only together with its base
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object for each pack
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    bytes: usize,
    sha256: &'a str,
    /// Identity of the key that signed, when a signature was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_by: Option<&'a str>,
    sizes: &'a Sizes,
    head_dtype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    zero_weights: Option<u64>,
    /// The fraction of zeros over all maskable tensors that the masks have, when there is a base to tell them from;
    /// what the pack says of it is in the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    sparsity: Option<f64>,
    masked_tensors: Vec<Tensor<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    replaced_tensors: Vec<Replaced<'a>>,
    document: &'a PackDocument,
}

#[derive(Serialize)]
struct Tensor<'a> {
    tensor: &'a str,
    outputs: usize,
    inputs: usize,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    sparsity: Option<f64>,
}

#[derive(Serialize)]
struct Replaced<'a> {
    tensor: &'a str,
    shape: &'a [usize],
    dtype: &'static str,
}

pub(super) fn run(args: &InspectArgs, out: &mut Output) -> anyhow::Result<()> {
    let base = args.base.as_ref().map(|dir| Base::open(dir)).transpose()?;
    let given = packs::read(std::slice::from_ref(&args.pack), &args.trust)?;
    for (i, Given { path, file, signed }) in given.iter().enumerate() {
        let document = file.document();
        let masks = match (&base, document.codec) {
            (None, Codec::Ranked) => None,
            (base, _) => Some(file.clone().decode(base.as_ref())?),
        };
        let tensors = document.masks.iter().enumerate().map(|(i, entry)| Tensor {
            tensor: &entry.tensor,
            outputs: entry.outputs,
            inputs: entry.inputs,
            bytes: entry.length,
            sparsity: masks.as_ref().map(|pack| pack.masks[i].mask.sparsity()),
        });
        let zero_weights = masks.as_ref().map(|pack| pack.zero_weights());
        let maskable =
            |base: &Base| base.manifest().maskable.iter().map(|t| (t.outputs * t.inputs) as f64).sum::<f64>();
        let sparsity = zero_weights.zip(base.as_ref()).map(|(zeros, base)| zeros as f64 / maskable(base));
        if let Some(found) = sparsity.filter(|found| (found - document.sparsity).abs() > 1e-9) {
            log::warn!("{path}: field `sparsity` is {}, its masks have {found}", document.sparsity);
        }
        let report = Report {
            file: path,
            bytes: file.sizes().total(),
            sha256: file.digest(),
            signed_by: signed.as_ref().map(|signed| signed.key_id.as_str()),
            sizes: file.sizes(),
            head_dtype: file.head().dtype.name(),
            zero_weights,
            sparsity,
            masked_tensors: tensors.collect(),
            replaced_tensors: file
                .deltas()
                .iter()
                .map(|delta| Replaced { tensor: &delta.tensor, shape: &delta.shape, dtype: delta.dtype.name() })
                .collect(),
            document,
        };
        if args.json {
            out.json(&report)?;
            continue;
        }
        if i > 0 {
            out.line("")?;
        }
        print(&report, out)?;
    }
    Ok(())
}

fn print(report: &Report<'_>, out: &mut Output) -> anyhow::Result<()> {
    let d = report.document;
    let pooling = match d.text.pooling {
        Pooling::Mean => "mean",
        Pooling::Cls => "first token",
        Pooling::First => "first token of each word",
    };
    let mut row = |name: &str, value: String| out.line(&format!("{name:<13}{}", value));
    row("task", format!("{}, revision {}", d.name, d.revision))?;
    row("file", format!("{}, {} bytes", report.file, report.bytes))?;
    row("sha256", report.sha256.to_owned())?;
    if let Some(key) = report.signed_by {
        row("signed by", key.to_owned())?;
    }
    row("kind", d.kind.to_string())?;
    row("labels", format!("{}: {}", d.labels.len(), d.labels.join(", ")))?;
    let what = if d.text.pair { "two texts, " } else { "" };
    row("text", format!("{what}at most {} tokens, pooling {pooling}", d.text.max_tokens))?;
    row("base", d.base_id.clone())?;
    row("tokenizer", d.tokenizer_sha256.clone())?;
    let count = report.masked_tensors.len();
    row("masks", format!("{count} tensors, granularity {}, codec {}", d.granularity, d.codec.name()))?;
    if !report.replaced_tensors.is_empty() {
        row("deltas", format!("{} tensors of the base are replaced", report.replaced_tensors.len()))?;
    }
    let (sparsity, said) = report.sparsity.map_or((d.sparsity, ", as the pack says"), |found| (found, ""));
    row("zeros", format!("{:.2} % of the maskable weights{said}", sparsity * 100.0))?;
    row("golden", format!("{} texts", d.golden.len()))?;
    for (name, value) in &d.metrics {
        row("metric", format!("{name} {value}"))?;
    }
    for (name, value) in &d.provenance {
        row("provenance", format!("{name} {value}"))?;
    }
    out.line("")?;
    sizes(report, out)
}

/// The bytes of each part, and of each mask.
fn sizes(report: &Report<'_>, out: &mut Output) -> anyhow::Result<()> {
    let s = report.sizes;
    let head = format!("head, {}", report.head_dtype);
    let mut rows = vec![
        ("masks", s.masks, None),
        (head.as_str(), s.head, None),
        ("document", s.document, None),
        ("deltas", s.deltas, None),
        ("golden logits", s.golden, None),
        ("container", s.container, None),
        ("checksum", s.checksum, None),
    ];
    table(&rows, out)?;
    out.line("")?;
    rows = report.masked_tensors.iter().map(|t| (t.tensor, t.bytes, t.sparsity)).collect();
    table(&rows, out)
}

/// A bar a row; the longest is for the most bytes.
fn table(rows: &[(&str, usize, Option<f64>)], out: &mut Output) -> anyhow::Result<()> {
    let width = rows.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
    let most = rows.iter().map(|(_, bytes, _)| *bytes).max().unwrap_or(0).max(1);
    for (name, bytes, sparsity) in rows {
        let bar = "#".repeat((*bytes as u64 * BAR).div_ceil(most as u64) as usize);
        let zeros = sparsity.map_or_else(String::new, |s| format!("{:>6.2} % zeros  ", 100.0 * s));
        out.line(format!("{:<width$}  {bytes:>8}  {zeros}{bar}", name).trim_end())?;
    }
    Ok(())
}
