//! `overmask-export quantize`: a variant of a base in another precision.

use std::path::PathBuf;

use anyhow::Error;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueHint};
use overmask::base::{Base, Precision, file};
use overmask_cli::ExitCode;
use serde_json::json;

use super::output;
use crate::quantize::quantize;

/// Write a base in another precision; the same packs run on it.
///
/// Matrices become bf16 (half the size) or int8 with a scale an output (a quarter), norms and biases stay f32. A zero
/// is a zero in every precision, so a pack made for the f32 base fits each of its variants; packs themselves are learnt
/// on the f32 one.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export quantize --base base/ --dtype int8 -o base-int8/\n  \
                   overmask run --base base-int8/ --pack trec.pack 'Where is Lima?'",
    after_help = ExitCode::HELP
)]
pub(super) struct QuantizeArgs {
    /// The f32 base bundle.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    base: PathBuf,
    /// The precision.
    #[arg(
        long,
        value_parser = PossibleValuesParser::new(["bf16", "int8"]).try_map(|name| name.parse::<Precision>())
    )]
    dtype: Precision,
    /// Where to write it; must not exist, or be empty.
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    output: PathBuf,
    /// Print what was written as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &QuantizeArgs) -> Result<(), Error> {
    let base = Base::open(&args.base)?;
    let variant = quantize(&base, args.dtype, &args.output)?;
    let bytes = |base: &Base| std::fs::metadata(base.dir().join(file::WEIGHTS)).map(|file| file.len());
    let (bytes, before) = (bytes(&variant)?, bytes(&base)?);
    let share = bytes as f64 / before as f64;
    log::info!(
        "{}: {} of base {}, {bytes} bytes of weights, {share:.2} of f32",
        args.output.display(),
        variant.precision(),
        &variant.base_id()[..12],
    );
    if args.json {
        return output::json(&json!({
            "base": args.output.display().to_string(),
            "base_id": variant.base_id(),
            "precision": variant.precision().name(),
            "bytes": bytes,
            "bytes_of_f32": before,
        }));
    }
    Ok(())
}
