//! How many instructions a pass takes, of the native engine and of its peers.
//!
//! A time in emulation says nothing of a board, but the instructions that a program executes are the same there and
//! here. A whole process is counted, with two passes and with three: the difference is one pass, of caches and plans
//! that are warm.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use overmask::pack::Pack;

use crate::contenders::{Contender, OnnxRuntime, Ours, Peer, Texts};
use crate::f32_base;
use crate::rows::Rows;

/// How the counted program is called.
pub(crate) const CHILD: &str = "passes";

/// What comes before the number.
const COUNTED: &str = "instructions: ";

/// Who takes part beside ours.
const PEERS: [Peer; 3] = [Peer::OnnxRuntime, Peer::Rten, Peer::Tract];

/// Our tasks, by name.
const DENSE: &str = "dense";
const MASKED: [&str; 2] = ["weight", "block:32x1 50 %"];

/// ONNX Runtime on a model of its own, such as one in int8.
const MODEL: &str = "ONNX Runtime on a model";

/// The variable that has the native engine take its portable kernels.
const PORTABLE: [(&str, &str); 1] = [("OVERMASK_ISA", "portable")];

/// What is counted beside the base.
pub(crate) struct Setup<'a> {
    pub(crate) base: &'a Path,
    pub(crate) texts: &'a Path,
    /// A pack of weights, and one of 32x1 blocks of which half are zero.
    pub(crate) packs: [&'a Path; 2],
    /// The base in int8.
    pub(crate) int8: &'a Path,
    /// The base in int8 as ONNX Runtime has it: plain, and of its own operators.
    pub(crate) models: [&'a Path; 2],
    /// What counts.
    pub(crate) command: &'a [PathBuf],
}

/// Counts each of ours and each peer at each length.
pub(crate) fn run(setup: &Setup<'_>) -> Result<Rows> {
    let Setup { base: f32, texts, packs: [weight, half], int8, models, command } = *setup;
    let mut rows = Rows::default();
    for tokens in ["16", "64", "128"] {
        let of_base = |base: &Path, who: &str, more: Option<&Path>, environment: &[(&str, &str)]| -> Result<f64> {
            let count = |passes: &str| {
                let args = [CHILD, who, passes, tokens].map(OsString::from);
                let paths = [base, texts].into_iter().chain(more).map(OsString::from);
                counted(command, args.into_iter().chain(paths), environment)
            };
            let pass = (count("3")? - count("2")?) / 1e6;
            eprintln!("{tokens} tokens: {who}: {pass:.1} million instructions");
            Ok(pass)
        };
        let of = |who: &str, pack: Option<&Path>, environment: &[(&str, &str)]| of_base(f32, who, pack, environment);
        let peers = PEERS.iter().map(|peer| of(peer.name(), None, &[])).collect::<Result<Vec<_>>>()?;
        let ours = [of(DENSE, None, &[])?, of(MASKED[0], Some(weight), &[])?, of(MASKED[1], Some(half), &[])?];
        for (name, ours) in [DENSE, MASKED[0], MASKED[1]].into_iter().zip(ours) {
            for (peer, theirs) in PEERS.iter().zip(&peers) {
                let reach = match (name, peer, tokens) {
                    ("weight", Peer::OnnxRuntime, _) => "<= 1.0",
                    ("block:32x1 50 %", Peer::OnnxRuntime, "64" | "128") => "<= 0.65",
                    (_, Peer::Rten | Peer::Tract, _) => "< 1.0",
                    _ => "",
                };
                let name = format!("{tokens} tokens: {name}, against {}", peer.name());
                rows.add(name, "million", ours, Some(*theirs), reach);
            }
        }
        let portable = of(MASKED[0], Some(weight), &PORTABLE)?;
        let name = format!("{tokens} tokens: weight, portable kernels, against the fastest");
        rows.add(name, "million", portable, Some(ours[1]), ">= 3");
        let [plain, fused] = models.map(|model| of_base(f32, MODEL, Some(model), &[]));
        // Whichever takes less.
        let theirs = plain?.min(fused?);
        for (name, pack, reach) in [(MASKED[0], weight, "<= 1.0"), (MASKED[1], half, "")] {
            let ours = of_base(int8, name, Some(pack), &[])?;
            rows.add(
                format!("{tokens} tokens: int8, {name}, against ONNX Runtime int8"),
                "million",
                ours,
                Some(theirs),
                reach,
            );
        }
    }
    Ok(rows)
}

/// The number that a command says on stderr.
fn counted(command: &[PathBuf], args: impl Iterator<Item = OsString>, environment: &[(&str, &str)]) -> Result<f64> {
    let [program, before @ ..] = command else { bail!("no command") };
    let mut run = Command::new(program);
    run.args(before).args(args).envs(environment.iter().copied());
    let output = run.output().with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{run:?}: {}: {said}", output.status);
    let number = said.lines().find_map(|line| line.strip_prefix(COUNTED));
    Ok(number.with_context(|| format!("{run:?} says no `{COUNTED}N`: {said}"))?.trim().parse::<u64>()? as f64)
}

/// Runs so many passes of one of them, with one thread.
pub(crate) fn child(args: &[PathBuf]) -> Result<()> {
    let [who, passes, tokens, base, texts, more @ ..] = args else { bail!("too few arguments") };
    let text = |arg: &PathBuf| arg.as_os_str().to_str().map(str::to_owned).context("an argument is not UTF-8");
    let (who, passes, tokens) = (text(who)?, text(passes)?.parse::<u32>()?, text(tokens)?.parse::<usize>()?);
    let base = Arc::new(f32_base(base)?);
    let (_, batch) = Texts::read(&base, texts)?.batch(Some(tokens))?;
    if who == MODEL {
        let mut session = OnnxRuntime::open(more.first().context("no model")?, 1)?;
        return (0..passes).try_for_each(|_| session.pass(&batch));
    }
    let pack = more.first().map(|pack| Pack::open(pack, &base)).transpose()?;
    let masks = pack.as_ref().map_or(&[][..], |pack| &pack.masks);
    let mut contender: Box<dyn Contender> = match Peer::ALL.into_iter().find(|peer| peer.name() == who) {
        Some(peer) => peer.start(&base, 1, masks)?,
        None if who == DENSE || MASKED.contains(&&*who) => Box::new(Ours::new("native", &base, 1, masks)?),
        None => bail!("nobody is called {}", OsStr::new(&who).display()),
    };
    (0..passes).try_for_each(|_| contender.pass(&batch))
}
