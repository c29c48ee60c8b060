//! `overmask-export export`: a task as one plain ONNX model.

use std::path::PathBuf;

use anyhow::Error;
use clap::Args;
use overmask::pack::Pack;
use overmask_cli::ExitCode;
use serde_json::json;

use super::{output, places};
use crate::export::{self, Extent};

/// Write a task as a plain ONNX model, for programs that know neither packs nor bases.
///
/// The folder holds model.onnx with its weights in model.safetensors, masks and deltas applied, tokenizer.json,
/// which cuts texts as the task does, and config.json with the labels. The output `logits` is [batch,
/// labels]; of a task that tags words it is [batch, sequence, labels], and a word's row is that of its
/// first token.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export export --base base/ --pack trec.pack -o model/",
    after_help = ExitCode::HELP
)]
pub(super) struct ExportArgs {
    /// The base bundle.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// The pack, or one pack of a set (SET#NAME).
    #[arg(long, value_name = "FILE")]
    pack: PathBuf,
    /// Where to write the model; must not exist, or be empty.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Leave out pooling and head: the output is `last_hidden_state`, [batch, sequence, width].
    #[arg(long)]
    encoder_only: bool,
    /// Print what was written as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ExportArgs) -> Result<(), Error> {
    let base = places::f32_base(&args.base)?;
    base.verify()?;
    let pack = Pack::open(&args.pack, &base)?;
    let extent = if args.encoder_only { Extent::Encoder } else { Extent::Whole };
    export::export(&base, &pack, &args.output, extent)?;
    let (document, output) = (&pack.document, extent.output());
    log::info!("{}: `{}` as an ONNX model, output `{output}`", args.output.display(), document.name);
    if args.json {
        return output::json(&json!({
            "model": args.output.display().to_string(),
            "name": document.name,
            "task": document.kind,
            "output": output,
            "zero_weights": pack.zero_weights(),
            "deltas": pack.deltas.len(),
        }));
    }
    Ok(())
}
