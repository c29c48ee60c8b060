//! `overmask verify`: whether base and packs are whole, belong together, and compute here what
//! they computed where they were made.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::output::Output;
use super::{BaseArgs, EngineArgs};
use crate::base::Base;
use crate::engine;
use crate::error::{CodedError, ExitCode};
use crate::pack::Pack;
use crate::task::{GOLDEN_TOLERANCE, Runner};

/// Arguments of `overmask verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The packs
    #[arg(value_name = "PACK", required = true)]
    packs: Vec<PathBuf>,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print one JSON object for each pack
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    pack: String,
    task: &'a str,
    ok: bool,
    sha256: &'a str,
    base_id: &'a str,
    golden_texts: usize,
    golden_max_difference: f32,
    golden_tolerance: f32,
    engine: &'a str,
    precision: &'a str,
}

pub(super) fn run(args: &VerifyArgs, out: &mut Output) -> anyhow::Result<()> {
    let base = Arc::new(Base::open(&args.base.base)?);
    log::info!("computing the digests of {}", args.base.base.display());
    base.verify()?;
    let packs = args.packs.iter().map(|path| Pack::open(path)).collect::<Result<Vec<_>, _>>()?;
    packs.iter().try_for_each(|pack| crate::task::check_base(pack, &base))?;
    let engine = engine::start(args.engine.engine, Arc::clone(&base), &args.engine.options())?;
    let mut runner = Runner::new(engine, Arc::clone(&base))?;
    let info = runner.describe();
    let mut bad = Vec::new();
    // Whoever reads the reports may stop; the exit status tells of every pack all the same.
    let mut written = Ok(());
    for (pack, path) in packs.into_iter().zip(&args.packs) {
        let sha256 = pack.digest().to_owned();
        let task = runner.add_pack(pack)?;
        let golden = runner.check_golden(task)?;
        let report = Report {
            pack: path.display().to_string(),
            task: runner.name(task)?,
            ok: golden.is_ok(),
            sha256: &sha256,
            base_id: base.base_id(),
            golden_texts: golden.texts,
            golden_max_difference: golden.max_difference,
            golden_tolerance: GOLDEN_TOLERANCE,
            engine: &info.engine,
            precision: &info.precision,
        };
        if golden.texts == 0 {
            log::warn!("{} has no golden vectors: what it computes was not checked", report.pack);
        }
        written = written.and_then(|()| if args.json { out.json(&report) } else { print(&report, out) });
        if !report.ok {
            bad.push(report.pack);
        }
    }
    if bad.is_empty() {
        return written;
    }
    let message = format!(
        "{}: the golden vectors are not reproduced by the engine `{}`; the pack or the base was changed, or the \
         engine computes wrongly on this machine: try another --engine",
        bad.join(", "),
        info.engine
    );
    Err(CodedError { message, code: ExitCode::CorruptFile }.into())
}

fn print(report: &Report<'_>, out: &mut Output) -> anyhow::Result<()> {
    out.line(&format!("{}: {}", report.pack, if report.ok { "ok" } else { "FAILED" }))?;
    out.line("  base       digests and identity match")?;
    out.line("  pack       structure is valid, made for this base")?;
    let (texts, difference) = (report.golden_texts, report.golden_max_difference);
    let tolerance = format!("tolerance {:.0e}", report.golden_tolerance);
    out.line(&format!("  golden     {texts} texts, largest difference {difference:.2e}, {tolerance}"))?;
    out.line(&format!("  engine     {}, {}", report.engine, report.precision))
}
