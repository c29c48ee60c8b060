//! `overmask-export merge`: several packs in one file.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Error;
use clap::Args;
use overmask::pack::{PackSet, write_file};
use overmask_cli::ExitCode;
use serde_json::json;

use super::{output, places};

/// Put several packs into one pack set, for one flash.
///
/// Each stays what it is, byte for byte, and is named by its task: `--pack SET#TASK` runs one
/// of them, `--pack SET` all. A set among the packs gives its own.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export merge trec.pack movie.pack -o all.packset",
    after_help = ExitCode::HELP
)]
pub(super) struct MergeArgs {
    /// The packs.
    #[arg(value_name = "PACK", required = true)]
    packs: Vec<PathBuf>,
    /// The pack set to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print what it holds as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &MergeArgs) -> Result<(), Error> {
    // A set may take the place of a pack that is in it.
    places::check(&[("-o", args.output.as_path())], &[])?;
    let files = args.packs.iter().map(|path| Ok((path.clone(), places::read_whole(path)?)));
    let set = PackSet::new(&files.collect::<Result<Vec<_>, Error>>()?)?;
    let bases: BTreeSet<&str> = set.packs().map(|pack| pack.document().base_id.as_str()).collect();
    if bases.len() > 1 {
        log::warn!("the packs are for {} different bases: name the one to run as SET#NAME", bases.len());
    }
    let bytes = set.to_bytes()?;
    write_file(&args.output, &bytes)?;
    log::info!("{}: {} packs, {} bytes", args.output.display(), set.packs().len(), bytes.len());
    if args.json {
        let packs: Vec<_> = set
            .packs()
            .map(|pack| json!({"name": pack.document().name, "sha256": pack.digest(), "bytes": pack.sizes().total()}))
            .collect();
        return output::json(&json!({"set": args.output.display().to_string(), "bytes": bytes.len(), "packs": packs}));
    }
    Ok(())
}
