//! `overmask-export import`: a pre-trained model becomes a base bundle.

use std::path::PathBuf;

use anyhow::Error;
use clap::{Args, Subcommand};
use overmask::base::Base;
use overmask_cli::{CodedError, ExitCode};
use serde_json::json;

use super::output;
use crate::import::onnx::Widened;
use crate::import::{ImportError, Origin, hf, onnx};

/// How many names a message lists.
const LISTED: usize = 5;

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
    Onnx(OnnxArgs),
}

/// Import a checkpoint directory of BERT, RoBERTa, XLM-R, DistilBERT, ELECTRA, ALBERT, MPNet or ModernBERT.
///
/// It holds config.json, the weights (safetensors or pytorch_model.bin, in one file or several), and tokenizer.json (or
/// vocab.txt and tokenizer_config.json). A pytorch_model.bin is read without running the pickle in it; what holds more
/// than tensors is refused.
///
/// A classifier or another head in it is left out. Where 1_Pooling/config.json says how a text's vector is made,
/// tasks learn likewise.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export import hf checkpoint/ -o base/ --licence Apache-2.0",
    after_help = ExitCode::HELP
)]
struct HfArgs {
    /// The checkpoint directory.
    dir: PathBuf,
    #[command(flatten)]
    bundle: BundleArgs,
}

/// Import a text encoder that was exported to ONNX (PyTorch, Optimum): one model file, with or without
/// external data.
///
/// Batch and sequence must be dynamic, and the inputs input_ids, attention_mask and, where the encoder has them,
/// token_type_ids. Weights in half precision and quantised ones become float32. A text is tried alone and beside a
/// longer one: an encoder whose vectors hang on the padding is refused.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export import onnx model.onnx --tokenizer tokenizer.json -o base/",
    after_help = ExitCode::HELP
)]
struct OnnxArgs {
    /// The model file.
    model: PathBuf,
    /// The tokenizer, as the tokenizers library writes it; `tokenizer.json` beside the model if not given.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// The value to take as hidden states, [batch, sequence, width]; `last_hidden_state`, or the first
    /// output with three axes, if not given.
    #[arg(long = "output-name", value_name = "NAME")]
    value: Option<String>,
    /// The most tokens that a text may have; what the position embeddings hold if not given.
    #[arg(long, value_name = "COUNT")]
    max_positions: Option<usize>,
    /// The model's config.json; the one beside the model, or above its folder `onnx`, if not given. Where it is of a
    /// known family, and a base of that family with the model's weights computes what the model does, that base is
    /// written, which the engine `native` runs; else the graph stays as it is.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    bundle: BundleArgs,
}

/// What every import takes.
#[derive(Debug, Args)]
struct BundleArgs {
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
    match &args.format {
        Format::Hf(args) => {
            let imported = hf::import(&args.dir, &args.bundle.output, &args.bundle.origin())?;
            report(&imported.base, &args.bundle, None, &imported.left_out)?;
            if let Some(pooling) = imported.other_pooling {
                log::warn!(
                    "the checkpoint pools by `{pooling}`, which no task can: tasks learn by `mean` unless `train \
                     --pooling` says otherwise"
                );
            }
            Ok(())
        }
        Format::Onnx(args) => {
            let beside = || args.model.with_file_name("tokenizer.json");
            let options = onnx::Options {
                tokenizer: args.tokenizer.clone().unwrap_or_else(beside),
                output: args.value.clone(),
                max_positions: args.max_positions,
                config: args.config.clone(),
                origin: args.bundle.origin(),
            };
            let imported = onnx::import(&args.model, &args.bundle.output, &options).map_err(in_flags)?;
            match &imported.recognised {
                Ok(family) => log::info!("its structure is that of the family `{family}`: every engine runs it"),
                Err(reason) => {
                    let level = if args.config.is_some() { log::Level::Warn } else { log::Level::Info };
                    log::log!(level, "taken as it is, for the engines `ort` and `tract`: {reason}");
                }
            }
            say_widened(imported.widened);
            if imported.fused > 0 {
                log::info!("{} operators of ONNX Runtime's optimizer were taken apart", imported.fused);
            }
            if let Some(reason) = imported.unprobed {
                log::warn!("whether padding changes what a text gives was not tried: {reason}");
            }
            report(&imported.base, &args.bundle, imported.untrainable.map(|e| e.to_string()), &[])
        }
    }
}

/// The error in the words of the command line.
fn in_flags(error: ImportError) -> Error {
    let ImportError::Option { field, reason } = error else { return error.into() };
    let flag = if field == "output" { "--output-name".to_owned() } else { format!("--{}", field.replace('_', "-")) };
    CodedError { message: format!("{flag}: {reason}"), code: ExitCode::Usage }.into()
}

impl BundleArgs {
    fn origin(&self) -> Origin {
        Origin { licence: self.licence.clone(), source: self.source.clone() }
    }
}

/// What is another model than the file's, if only a little.
fn say_widened(widened: Widened) {
    let Widened { halves, codes, activations } = widened;
    if halves > 0 {
        log::info!("{halves} constants in half precision became f32: the base computes in f32 what the model rounds");
    }
    if codes > 0 {
        log::info!("{codes} quantised weights became f32, of their codes and scales");
    }
    if activations > 0 {
        log::info!("at {activations} places activations are no longer rounded to codes: answers differ by that");
    }
}

fn report(base: &Base, args: &BundleArgs, untrainable: Option<String>, left_out: &[String]) -> Result<(), Error> {
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
    if let Some(pooling) = m.pooling {
        log::info!(
            "tasks learn by `{pooling}` pooling, as the checkpoint does, unless `train --pooling` says otherwise"
        );
    }
    if let Some(most) = m.max_tokens {
        log::info!("the encoder was trained with texts of at most {most} tokens: `train` says so where it gets more");
    }
    if !left_out.is_empty() {
        let more = if left_out.len() > LISTED { ", ..." } else { "" };
        let (count, listed) = (left_out.len(), left_out.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", "));
        log::info!(
            "left out, as each task learns a head of its own: {count} that are no part of the encoder ({listed}{more})"
        );
    }
    if let Some(reason) = &untrainable {
        log::warn!(
            "training refuses masks whose gradients pass this place; `train --layers N-` learns those above it alone: \
             {reason}"
        );
    }
    if args.json {
        output::json(&json!({
            "base": args.output.display().to_string(),
            "base_id": m.base_id,
            "family": m.architecture.family.name(),
            "layers": m.architecture.layers,
            "hidden_size": m.architecture.hidden_size,
            "maskable_tensors": m.maskable.len(),
            "maskable_weights": weights,
            "untrainable": untrainable,
            "pooling": m.pooling,
            "max_tokens": m.max_tokens,
            "left_out": left_out,
        }))?;
    }
    Ok(())
}
