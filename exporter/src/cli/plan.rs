//! `overmask-export plan`: what a set of tasks costs together.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Error, ensure};
use clap::Args;
use overmask::base::Base;
use overmask::task::Runner;
use overmask_cli::together::{self, Together};
use overmask_cli::{CodedError, EngineArgs, ExitCode};
use serde::Serialize;

use super::output;

/// Tell what a set of tasks costs on one text: which layers they have in common, and the time here.
///
/// Tasks that leave the lower layers as they are (`train --layers 3-`) share these: they are computed once for all of them.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export plan trec.pack movie.pack people.pack --base base/",
    after_help = ExitCode::HELP
)]
pub(super) struct PlanArgs {
    /// The packs, in the order in which a device takes them.
    #[arg(value_name = "PACK", required = true)]
    packs: Vec<PathBuf>,
    /// The base bundle.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Tokens in the text.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    seq: u16,
    /// Passes that are timed.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    passes: u32,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report {
    engine: String,
    precision: &'static str,
    tokens: u16,
    plan: Vec<String>,
    #[serde(flatten)]
    together: Together,
}

pub(super) fn run(args: &PlanArgs) -> Result<(), Error> {
    let base = Arc::new(Base::open(&args.base)?);
    let limit = base.manifest().architecture.max_positions;
    let long = || format!("--seq {}: the base takes texts of {limit} tokens at most", args.seq);
    ensure!(usize::from(args.seq) <= limit, CodedError { message: long(), code: ExitCode::Usage });
    let runner = Runner::new(args.engine.start(&base)?, base)?;
    let tasks = args.packs.iter().map(|pack| runner.add(pack)).collect::<Result<Vec<_>, _>>()?;
    let plan = together::explain(&runner, &tasks)?;
    let texts = together::texts(&runner, args.seq.into(), 1)?;
    let together = Together::measure(&runner, &tasks, &texts, args.passes)?;
    let info = runner.describe();
    let (engine, precision) = (info.engine.to_string(), info.precision.name());
    let report = Report { engine, precision, tokens: args.seq, plan, together };
    output::print(|out| {
        if args.json {
            return out.json(&report);
        }
        report.plan.iter().try_for_each(|line| out.line(line))?;
        let Report { tokens, together: Together { tasks, layers, median_ms, apart_ms, one_ms }, .. } = &report;
        out.line(&format!("layers          {layers} for each text"))?;
        out.line(&format!("all {tasks} together  {median_ms:.3} ms, {tokens} tokens, {}, {precision}", report.engine))?;
        out.line(&format!("one by one      {apart_ms:.3} ms"))?;
        out.line(&format!("the first alone {one_ms:.3} ms"))
    })
}
