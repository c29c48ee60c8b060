//! `overmask-export analyze`: what masks and fine-tuning did to a base.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Error;
use clap::{Args, Subcommand};
use overmask::pack::Pack;
use overmask_cli::{EngineArgs, ExitCode, Verbosity};

use super::data::DataArgs;
use super::{output, places};
use crate::analyze::{self, By, SharedZeros, Solution, SparsityGroup, TensorDistance, Total};
use crate::data::Form;
use crate::report::Stat;

/// Analyse packs: how close they are to the base, how many zeros they share, what in them matters, and how
/// many are good.
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
    Sensitivity(SensitivityArgs),
    Solutions(SolutionsArgs),
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

/// Which layers or modules of a pack matter: the metric without each.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export analyze sensitivity trec.pack --base base/ --data trec/test.jsonl",
    after_help = ExitCode::HELP
)]
struct SensitivityArgs {
    /// The pack; one of a set as SET#NAME.
    #[arg(value_name = "PACK")]
    pack: PathBuf,
    /// The base bundle.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Labelled examples, as `evaluate` takes them.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// What is taken away together: layer, module or both (a module of a layer).
    #[arg(long, default_value = "layer")]
    by: By,
    /// Keep only the group instead of taking it away.
    #[arg(long)]
    only: bool,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    files: DataArgs,
}

/// How good packs of one task are that were learnt with different seeds and at different sparsities, and
/// how far their zeros are the same.
///
/// Packs with the same whole per cent of zeros make a group. Of each it prints the mean, the sample standard
/// deviation, the lowest and the highest metric, and the mean share of zeros that two packs have in common,
/// beside what chance would give, and chance among weights of the same magnitude.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export analyze solutions runs/packs/*.pack --base base/ --data trec/test.jsonl",
    after_help = ExitCode::HELP
)]
struct SolutionsArgs {
    /// Two packs of the task or more; one of a set as SET#NAME.
    #[arg(value_name = "PACK", num_args = 2.., required = true)]
    packs: Vec<PathBuf>,
    /// The base bundle.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Labelled examples, as `evaluate` takes them.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print the result as JSON, for `report`.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    files: DataArgs,
}

pub(super) fn run(args: &AnalyzeArgs, verbosity: Verbosity) -> Result<(), Error> {
    match &args.what {
        What::Closeness(args) => closeness(args),
        What::Overlap(args) => overlap(args),
        What::Sensitivity(args) => sensitivity(args, verbosity),
        What::Solutions(args) => solutions(args, verbosity),
    }
}

fn closeness(args: &ClosenessArgs) -> Result<(), Error> {
    let base = places::f32_base(&args.base)?;
    let found = analyze::closeness(&base, &Pack::open(&args.pack, &base)?, args.seed)?;
    if args.json {
        return output::json(&found);
    }
    let by_layer = |tensor: &TensorDistance| format!("layer {}", tensor.layer);
    output::line("group               mean |change|  angle/rad   of random init  angle/rad    same f16")?;
    for (name, total) in found.totals(by_layer).iter().chain(&found.totals(|tensor| tensor.module.clone())) {
        let Total { l1, angle, l1_random, angle_random, unchanged } = total;
        output::line(&format!(
            "{name:<18}  {l1:>13.6}  {angle:>9.4}  {l1_random:>15.6}  {angle_random:>9.4}  {:>8.2} %",
            100.0 * unchanged
        ))?;
    }
    Ok(())
}

fn overlap(args: &OverlapArgs) -> Result<(), Error> {
    let base = places::f32_base(&args.base)?;
    let packs: Vec<Pack> = args.packs.iter().map(|path| Pack::open(path, &base)).collect::<Result<_, _>>()?;
    let found = analyze::overlaps(&base, &packs)?;
    if args.json {
        return output::json(&found);
    }
    for (i, a) in found.packs.iter().enumerate() {
        for (j, b) in found.packs.iter().enumerate().skip(i + 1) {
            output::line(&format!(
                "{a}, {b}: {:.2} % of the zeros are shared; by chance {:.2} %, by magnitude {:.2} %",
                100.0 * found.observed[i][j],
                100.0 * found.chance[i][j],
                100.0 * found.chance_by_magnitude[i][j],
            ))?;
        }
    }
    Ok(())
}

fn sensitivity(args: &SensitivityArgs, verbosity: Verbosity) -> Result<(), Error> {
    let base = Arc::new(places::f32_base(&args.base)?);
    let pack = Pack::open(&args.pack, &base)?;
    let data = args.files.read(&args.data, Form { kind: pack.document.kind, pair: pack.document.text.pair })?;
    let engine = args.engine.start(&base)?;
    let bar = output::bar(verbosity, 0, "{wide_bar} {pos}/{len} groups, {eta} left")?;
    let found = analyze::sensitivity(&base, &pack, &data, (args.by, args.only), engine, &mut |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let found = found?;
    if args.json {
        return output::json(&found);
    }
    output::line(&format!("{}: {:.4} of the whole pack", found.metric, found.base))?;
    let how = if found.only { "only" } else { "without" };
    found.groups.iter().try_for_each(|group| {
        output::line(&format!("{how} {:<28} {:.4}, drop {:+.4}", group.group, group.metric, group.drop))
    })
}

fn solutions(args: &SolutionsArgs, verbosity: Verbosity) -> Result<(), Error> {
    let base = Arc::new(places::f32_base(&args.base)?);
    let open = |path: &PathBuf| Ok((path.clone(), Pack::open(path, &base)?));
    let packs = args.packs.iter().map(open).collect::<Result<Vec<_>, Error>>()?;
    let data = args.files.read(&args.data, analyze::common_form(&packs)?)?;
    let engine = args.engine.start(&base)?;
    let bar = output::bar(verbosity, packs.len() as u64, "{wide_bar} {pos}/{len} packs, {eta} left")?;
    let found = analyze::solutions(&base, &packs, &data, engine, &mut |done| bar.set_position(done as u64));
    bar.finish_and_clear();
    let found = found?;
    if args.json {
        return output::json(&found);
    }
    output::line(&format!("   zeros  seed  {:>10}  pack", found.metric))?;
    for Solution { sparsity, seed, metric, pack, .. } in &found.points {
        let seed = seed.map_or_else(|| "-".to_owned(), |seed| seed.to_string());
        output::line(&format!("{:>6.2} %  {seed:>4}  {metric:>10.4}  {pack}", 100.0 * sparsity))?;
    }
    output::line("")?;
    output::line("zeros  packs    mean  deviation  lowest  highest  shared zeros  by chance  by magnitude")?;
    for SparsityGroup { sparsity, metric: Stat { n, mean, sd, min, max }, overlap, .. } in &found.groups {
        let sd = sd.map_or_else(|| "-".to_owned(), |sd| format!("{sd:.4}"));
        let share = |of: fn(&SharedZeros) -> f64| {
            overlap.as_ref().map_or_else(|| "-".to_owned(), |shared| format!("{:.2} %", 100.0 * of(shared)))
        };
        let shared = share(|zeros| zeros.observed);
        let (chance, by_magnitude) = (share(|zeros| zeros.chance), share(|zeros| zeros.chance_by_magnitude));
        output::line(&format!(
            "{:>3.0} %  {n:>5}  {mean:>6.4}  {sd:>9}  {min:>6.4}  {max:>7.4}  {shared:>12}  {chance:>9}  {by_magnitude:>12}",
            100.0 * sparsity
        ))?;
    }
    Ok(())
}
