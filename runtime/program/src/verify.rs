//! `overmask verify`: whether base and packs are whole, signed, belong together, and compute here
//! what they computed where they were made.

#[cfg(feature = "native")]
use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use overmask::base::{Base, Precision};
#[cfg(feature = "native")]
use overmask::engine::{Engine, native::NativeEngine};
use overmask::pack::Pack;
use overmask::task::Runner;
#[cfg(feature = "native")]
use overmask::task::{TaskError, Tokenizer};
use overmask_cli::{CodedError, EngineArgs, ExitCode, Output};
use serde::Serialize;

use super::packs::{self, Given, TrustArgs};

/// Arguments of `overmask verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The packs, pack sets, or single packs of a set (SET#NAME)
    #[arg(value_name = "PACK", required = true)]
    packs: Vec<PathBuf>,
    /// Directory of the base bundle; without one, only the packs' files are checked (and with the
    /// options below their signatures)
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object for each pack
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    pack: &'a str,
    task: &'a str,
    ok: bool,
    sha256: &'a str,
    base_id: &'a str,
    /// Identity of the key that signed, when a signature was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_comment: Option<&'a str>,
    #[serde(flatten)]
    golden: Option<GoldenReport>,
}

/// What the golden vectors told, when there is a base.
#[derive(Serialize)]
struct GoldenReport {
    golden_texts: usize,
    golden_max_difference: f32,
    golden_tolerance: f32,
    /// Of the base and of this pack.
    derived_files: usize,
    engine: String,
    precision: &'static str,
}

pub(super) fn run(args: &VerifyArgs, out: &mut Output) -> anyhow::Result<()> {
    let given = packs::read(&args.packs, &args.trust)?;
    let start = |dir: &PathBuf| -> anyhow::Result<Runner> {
        let base = Arc::new(Base::open(dir)?);
        log::info!("computing the digests of {}", dir.display());
        base.verify()?;
        given.iter().try_for_each(|given| given.file.check_base(&base))?;
        let engine = args.engine.start(&base)?;
        Ok(Runner::new(engine, base)?)
    };
    let runner = args.base.as_ref().map(start).transpose()?;
    let info = runner.as_ref().map(Runner::describe);
    // What cannot be decoded is found before anything is computed or printed.
    let base = runner.as_ref().map(Runner::base);
    let decode = |given: &Given| base.map(|base| given.file.clone().decode(Some(base))).transpose();
    let packs = given.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    // First: golden vectors may be computed with them.
    let derived = match &runner {
        Some(runner) => check_derived(runner, &given, &packs)?,
        None => vec![0; given.len()],
    };
    let mut bad = Vec::new();
    // Whoever reads the reports may stop; the exit status tells of every pack all the same.
    let mut written = Ok(());
    for ((Given { path, file, signed }, pack), derived_files) in given.iter().zip(packs).zip(derived) {
        let golden = match runner.as_ref().zip(pack) {
            None => None,
            Some((runner, pack)) => {
                let task = runner.add_pack(pack)?;
                Some(runner.check_golden(task)?)
            }
        };
        let report = Report {
            pack: path,
            task: &file.document().name,
            ok: golden.is_none_or(|golden| golden.is_ok()),
            sha256: file.digest(),
            base_id: &file.document().base_id,
            signed_by: signed.as_ref().map(|s| s.key_id.as_str()),
            trusted_comment: signed.as_ref().map(|s| s.trusted_comment.as_str()),
            golden: golden.zip(info.as_ref()).map(|(golden, info)| GoldenReport {
                golden_texts: golden.texts,
                golden_max_difference: golden.max_difference,
                golden_tolerance: golden.tolerance,
                derived_files,
                engine: info.engine.to_string(),
                precision: info.precision.name(),
            }),
        };
        if golden.is_some_and(|golden| golden.texts == 0) {
            log::warn!("{path} has no golden vectors: what it computes was not checked");
        }
        written = written.and_then(|()| if args.json { out.json(&report) } else { print(&report, out) });
        if !report.ok {
            bad.push(path.as_str());
        }
    }
    if bad.is_empty() {
        return written;
    }
    let message = format!(
        "{}: the golden vectors are not reproduced by the engine `{}`; the pack or the base was changed, or the \
         engine computes wrongly on this machine: try another --engine",
        bad.join(", "),
        info.map_or_else(String::new, |info| info.engine.to_string())
    );
    Err(CodedError { message, code: ExitCode::CorruptFile }.into())
}

/// Compares what the engine keeps of base and packs with what they give now; returns how many files that are for
/// each pack.
fn check_derived(runner: &Runner, given: &[Given], packs: &[Option<Pack>]) -> anyhow::Result<Vec<usize>> {
    #[cfg(feature = "native")]
    if let Some(engine) = (runner.engine() as &dyn Any).downcast_ref::<NativeEngine>() {
        let mut wrong = Vec::new();
        let mut check = |checked: Result<bool, TaskError>| match checked {
            Ok(is_kept) => usize::from(is_kept),
            Err(error) => {
                wrong.push(error);
                0
            }
        };
        let tokenizer = engine.derived().map_or(Ok(false), |directory| Tokenizer::verify(runner.base(), directory));
        let of_base = check(engine.verify_base().map_err(TaskError::from)) + check(tokenizer);
        let both = given.iter().zip(packs.iter().flatten());
        let counts = both
            .map(|(given, pack)| of_base + check(engine.verify_pack(&given.file, &pack.masks).map_err(TaskError::from)))
            .collect();
        // All are looked at; the last wrong one tells the exit status.
        let last = wrong.pop();
        wrong.iter().for_each(|error| log::error!("{error}"));
        return last.map_or(Ok(counts), |error| Err(error.into()));
    }
    let _ = (runner, packs);
    Ok(vec![0; given.len()])
}

fn print(report: &Report<'_>, out: &mut Output) -> anyhow::Result<()> {
    out.line(&format!("{}: {}", report.pack, if report.ok { "ok" } else { "FAILED" }))?;
    match (report.signed_by, report.trusted_comment) {
        (Some(key), Some(comment)) => out.line(&format!("  signature  of key {key}: {}", comment))?,
        _ => out.line("  signature  not checked; --key or --require-signature asks for one")?,
    }
    let Some(golden) = &report.golden else {
        out.line("  pack       structure and checksum are valid")?;
        return out.line("  base       none given: masks and golden vectors were not checked; add --base");
    };
    // The identity is computed from the values of the f32 base.
    let and_identity = if golden.precision == Precision::F32.name() { " and identity" } else { "" };
    out.line(&format!("  base       digests{and_identity} match"))?;
    out.line("  pack       structure and checksum are valid, made for this base")?;
    if golden.derived_files > 0 {
        out.line(&format!("  derived    {} checked, as base and pack give them", golden.derived_files))?;
    }
    let (texts, difference) = (golden.golden_texts, golden.golden_max_difference);
    let tolerance = format!("tolerance {:.0e}", golden.golden_tolerance);
    out.line(&format!("  golden     {texts} texts, largest difference {difference:.2e}, {tolerance}"))?;
    out.line(&format!("  engine     {}, {}", golden.engine, golden.precision))
}
