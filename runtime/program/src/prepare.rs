//! `overmask prepare`: the derived files of a base and of packs, made before a device starts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use overmask::base::Base;
use overmask::derived::Directory;
use overmask::engine::native::NativeEngine;
use overmask::engine::{Changes, Engine, EngineOptions};
use overmask::task::Tokenizer;
use overmask_cli::{CodedError, ExitCode, Output};
use serde::Serialize;

use super::packs::{self, TrustArgs};

/// Arguments of `overmask prepare`.
#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    /// Directory of the base bundle
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// A pack, a pack set, or one pack of a set (SET#NAME); give it again for more
    #[arg(long = "pack", value_name = "FILE")]
    packs: Vec<PathBuf>,
    /// Directory to write to, the one that OVERMASK_CACHE names on the device; made if it is not there
    #[arg(long, value_name = "DIR")]
    derived: PathBuf,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object for each file
    #[arg(long)]
    json: bool,
}

/// A derived file that is there now.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    bytes: u64,
    /// The base's directory or the pack's file.
    made_of: &'a str,
}

pub(super) fn run(args: &PrepareArgs, out: &mut Output) -> anyhow::Result<()> {
    let base = Arc::new(Base::open(&args.base)?);
    let given = packs::read(&args.packs, &args.trust)?;
    given.iter().try_for_each(|given| given.file.check_base(&base))?;
    base.verify_once()?;
    let directory = Directory::open(&args.derived)?;
    let engine = NativeEngine::new(Arc::clone(&base), &EngineOptions::default().derived(directory.clone()))?;
    // Files that are there already are compared, too: a device will believe them.
    let is_there = engine.verify_base()?;
    let base_dir = args.base.display().to_string();
    report(is_there, engine.derived_of_base(), &base_dir, args, out)?;
    Tokenizer::open_in(&base, Some(&directory))?;
    let is_there = Tokenizer::verify(&base, &directory)?;
    if let Some(kept) = Tokenizer::kept(&base, Some(&directory))? {
        report(is_there, kept.path, &base_dir, args, out)?;
    }
    for packs::Given { path, file, .. } in &given {
        let task = engine.add(Changes::from(file))?;
        let is_there = engine.verify_pack(file, &file.masks(Some(&base))?)?;
        engine.remove(task)?;
        report(is_there, engine.derived_of_pack(file), path, args, out)?;
    }
    Ok(())
}

fn report(
    is_there: bool,
    file: Option<PathBuf>,
    made_of: &str,
    args: &PrepareArgs,
    out: &mut Output,
) -> anyhow::Result<()> {
    let Some(path) = file.filter(|_| is_there) else {
        let message = format!("{}: what `{made_of}` gives could not be written there", args.derived.display());
        return Err(CodedError { message, code: ExitCode::DeviceOrStore }.into());
    };
    let bytes = size(&path).with_context(|| path.display().to_string())?;
    let file = path.display().to_string();
    match args.json {
        true => out.json(&Report { file, bytes, made_of }),
        false => out.line(&format!("{file}  {bytes:>12}  {made_of}")),
    }
}

fn size(path: &Path) -> std::io::Result<u64> {
    Ok(path.metadata()?.len())
}
