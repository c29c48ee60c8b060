//! `overmask-export import`: a pre-trained model becomes a base bundle.

use std::path::PathBuf;

use anyhow::Error;
use clap::{Args, Subcommand};
use overmask::error::ExitCode;
use serde_json::json;

use super::output;
use crate::import::hf::{self, Origin};

/// Import a pre-trained encoder as a base bundle.
#[derive(Debug, Args)]
#[command(before_help = "Example:\n  overmask-export import hf checkpoint/ -o base/",
    after_help = ExitCode::HELP
)]
pub(super) struct ImportArgs {
    #[command(subcommand)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Format {
    Hf(HfArgs),
}

/// Import a BERT-family checkpoint directory: config.json, model.safetensors, tokenizer.json.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export import hf checkpoint/ -o base/ --licence Apache-2.0",
    after_help = ExitCode::HELP
)]
struct HfArgs {
    /// The checkpoint directory.
    dir: PathBuf,
    /// Where to write the base bundle; must not exist, or be empty.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// The weights' licence, for the bundle's manifest.
    #[arg(long)]
    licence: Option<String>,
    /// Where the weights come from, for the bundle's manifest.
    #[arg(long)]
    source: Option<String>,
    /// Print what was written as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ImportArgs) -> Result<(), Error> {
    let Format::Hf(args) = &args.format;
    let origin = Origin { licence: args.licence.clone(), source: args.source.clone() };
    let base = hf::import(&args.dir, &args.output, &origin)?;
    let m = base.manifest();
    let weights: usize = m.maskable.iter().map(|t| t.outputs * t.inputs).sum();
    log::info!(
        "{}: base {}, {} layers, {} wide, {} maskable weights in {} tensors",
        args.output.display(),
        m.base_id.get(..12).unwrap_or(&m.base_id),
        m.architecture.layers,
        m.architecture.hidden_size,
        weights,
        m.maskable.len(),
    );
    if args.json {
        output::json(&json!({
            "base": args.output,
            "base_id": m.base_id,
            "layers": m.architecture.layers,
            "hidden_size": m.architecture.hidden_size,
            "maskable_tensors": m.maskable.len(),
            "maskable_weights": weights,
        }))?;
    }
    Ok(())
}
