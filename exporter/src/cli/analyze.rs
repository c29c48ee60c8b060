//! `overmask-export analyze`: what masks and fine-tuning did to a base.

use std::path::PathBuf;

use anyhow::Error;
use clap::{Args, Subcommand};
use overmask::base::Base;
use overmask::error::{ExitCode, printable};
use overmask::pack::Pack;

use super::output;
use crate::analyze::{self, TensorDistance, Total};

/// Analyse packs: how close they are to the base, and how many zeros they share.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export analyze closeness trec.pack --base base/",
    after_help = ExitCode::HELP
)]
pub(super) struct AnalyzeArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Closeness(ClosenessArgs),
    Overlap(OverlapArgs),
}

/// How far a pack's weights are from the base's, beside a random initialisation.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export analyze closeness trec.pack --base base/ --json",
    after_help = ExitCode::HELP
)]
struct ClosenessArgs {
    /// The pack; one of a set as SET#NAME.
    #[arg(value_name = "PACK")]
    pack: PathBuf,
    /// The base bundle.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Draws the random initialisation.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print the distances of each tensor as JSON.
    #[arg(long)]
    json: bool,
}

/// How many zeros packs share, pair by pair, beside what chance would give.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export analyze overlap trec.pack movie.pack --base base/",
    after_help = ExitCode::HELP
)]
struct OverlapArgs {
    /// Two packs or more.
    #[arg(value_name = "PACK", num_args = 2.., required = true)]
    packs: Vec<PathBuf>,
    /// The base bundle.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &AnalyzeArgs) -> Result<(), Error> {
    match &args.what {
        What::Closeness(args) => closeness(args),
        What::Overlap(args) => overlap(args),
    }
}

fn closeness(args: &ClosenessArgs) -> Result<(), Error> {
    let base = Base::open(&args.base)?;
    let found = analyze::closeness(&base, &Pack::open(&args.pack, &base)?, args.seed)?;
    if args.json {
        return output::json(&found);
    }
    let by_layer = |tensor: &TensorDistance| format!("layer {}", tensor.layer);
    output::line("group               mean |change|   angle     of random init   angle     same f16")?;
    for (name, total) in found.totals(by_layer).iter().chain(&found.totals(|tensor| tensor.module.clone())) {
        let Total { l1, angle, l1_random, angle_random, unchanged } = total;
        output::line(&printable(&format!(
            "{name:<18}  {l1:>13.6}  {angle:>6.4}  {l1_random:>17.6}  {angle_random:>6.4}  {:>9.2} %",
            100.0 * unchanged
        )))?;
    }
    Ok(())
}

fn overlap(args: &OverlapArgs) -> Result<(), Error> {
    let base = Base::open(&args.base)?;
    let packs: Vec<Pack> = args.packs.iter().map(|path| Pack::open(path, &base)).collect::<Result<_, _>>()?;
    let found = analyze::overlaps(&base, &packs)?;
    if args.json {
        return output::json(&found);
    }
    for (i, a) in found.packs.iter().enumerate() {
        for (j, b) in found.packs.iter().enumerate().skip(i + 1) {
            output::line(&printable(&format!(
                "{a}, {b}: {:.2} % of the zeros are shared; by chance {:.2} %, by magnitude {:.2} %",
                100.0 * found.observed[i][j],
                100.0 * found.chance[i][j],
                100.0 * found.chance_by_magnitude[i][j],
            )))?;
        }
    }
    Ok(())
}
