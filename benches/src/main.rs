//! Measurements beside others, in one run each. `cargo xtask bench` makes what they need and calls
//! them; each prints a table and writes the same rows as JSON.

mod agreement;
mod budget;
mod codec;
mod coders;
mod contenders;
mod device;
mod encoders;
mod instructions;
mod peers;
mod plans;
mod precisions;
mod rows;
#[cfg(unix)]
mod serve;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use overmask::base::{Base, Precision};

const USAGE: &str = "\
usage: bench codec REPORT BASE PACK...
       bench budget REPORT BASE TEXTS BF16-BASE INT8-BASE
       bench peers REPORT BASE TEXTS PROGRAM WEIGHT-PACK BLOCK-PACK HALF-PACK
       bench plans REPORT BASE TEXTS
       bench encoders REPORT TEXTS BASE...
       bench precisions REPORT BASE TEXTS PYTHON PYTHON BF16-BASE INT8-BASE HALF-PACK MODEL [PACK MODEL TEXTS]...
       bench instructions REPORT BASE TEXTS WEIGHT-PACK HALF-PACK INT8-BASE ONNX ONNX COMMAND...
       bench serve REPORT BASE TEXTS PROGRAM PACK PYTHON MODEL MODEL...

TEXTS is a JSONL file of texts, PROGRAM the `overmask` that is shipped; a block pack and a half pack are
of 32x1 blocks, with few zeros and with half of them. COMMAND runs a `bench` and says on stderr how many
instructions it took, as `instructions: N`; each ONNX is the base in int8 as benches/precisions_peer.py writes it. PYTHON has what benches/NAME-requirements.txt names (of `precisions`,
and then of `deepsparse`), and each MODEL is a folder of `overmask-export export`.";

/// Opens the base that is measured: the f32 one, whose weights decide how masks are coded and which some peers pack.
fn f32_base(dir: &Path) -> Result<Base> {
    let base = Base::open(dir)?;
    let precision = base.precision();
    ensure!(
        precision == Precision::F32,
        "BASE {}: is the {precision} variant of a base; name the f32 one that it was made of",
        dir.display()
    );
    Ok(base)
}

fn main() -> Result<()> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (name, args) = args.split_first().map_or((None, &args[..]), |(name, args)| (name.to_str(), args));
    match (name, args) {
        (Some("codec"), [report, base, packs @ ..]) if !packs.is_empty() => codec::run(base, packs)?.finish(report),
        (Some("budget"), [report, base, texts, bf16, int8]) => budget::run(base, [bf16, int8], texts)?.finish(report),
        (Some("encoders"), [report, texts, bases @ ..]) if !bases.is_empty() => {
            encoders::run(texts, bases)?.finish(report)
        }
        (Some("plans"), [report, base, texts]) => plans::run(base, texts)?.finish(report),
        (Some("precisions"), [report, base, texts, python, deepsparse, bf16, int8, half, model, tasks @ ..]) => {
            let (tasks, []) = tasks.as_chunks() else { bail!(USAGE) };
            let tasks = tasks.iter().map(|task| task.each_ref().map(PathBuf::as_path)).collect();
            let (variants, half): ([&Path; 2], [&Path; 2]) = ([bf16, int8], [half, model]);
            precisions::run(&precisions::Setup { base, variants, texts, python, deepsparse, half, tasks })?
                .finish(report)
        }
        (Some("peers"), [report, base, texts, program, packs @ ..]) => {
            let [weight, block, half] = packs else { bail!(USAGE) };
            let mut rows = peers::run(base, texts, [weight, block, half])?;
            device::run(base, program, weight, block, &mut rows)?;
            rows.finish(report)
        }
        // The program calls itself, as how many threads some peers take is a matter of a process.
        (Some(peers::CHILD), [out, base, texts, packs @ ..]) => {
            let [weight, block, half] = packs else { bail!(USAGE) };
            peers::child(base, texts, [weight, block, half])?.write(out)
        }
        (Some("instructions"), [report, base, texts, weight, half, int8, plain, fused, command @ ..])
            if !command.is_empty() =>
        {
            let (packs, models): ([&Path; 2], [&Path; 2]) = ([weight, half], [plain, fused]);
            instructions::run(&instructions::Setup { base, texts, packs, int8, models, command })?.finish(report)
        }
        #[cfg(unix)]
        (Some("serve"), [report, base, texts, program, pack, peer @ ..]) if peer.len() > 2 => {
            serve::run(base, texts, program, pack, peer)?.finish(report)
        }
        (Some(instructions::CHILD), args) => instructions::child(args),
        (Some(device::CHILD), args) => device::child(args),
        _ => bail!(USAGE),
    }
}
