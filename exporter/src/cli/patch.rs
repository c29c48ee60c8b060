//! `overmask-export patch`: a new revision of a pack as what changes in it.

use std::path::PathBuf;

use anyhow::Error;
use clap::Args;
use overmask::base::Base;
use overmask::pack::{PackFile, Patch, read_file, write_file};
use overmask::trust::read_signature;
use overmask_cli::{CodedError, ExitCode};
use serde_json::json;

use super::{output, places};

/// Write what changes from one revision of a pack to the next, for devices that have the old one.
///
/// `overmask flash` takes the patch, alone or beside the new pack: then each device gets what is smaller for it. What comes
/// out is the new pack, byte by byte; if NEW.minisig lies beside it, the signature goes along.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export patch trec-1.pack trec-2.pack --base base/ -o trec-1-2.patch\n  \
                   overmask flash trec-2.pack trec-1-2.patch --to user@board",
    after_help = ExitCode::HELP
)]
pub(super) struct PatchArgs {
    /// The pack that devices have.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The pack that takes its place; no set.
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// The base bundle of both.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// The patch to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print the sizes as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PatchArgs) -> Result<(), Error> {
    let read = [("OLD", args.old.as_path()), ("NEW", args.new.as_path())];
    places::check(&[("-o", args.output.as_path())], &read)?;
    let base = Base::open(&args.base)?;
    let old = PackFile::open(&args.old)?;
    // For messages that name the file.
    PackFile::open(&args.new)?.check_base(&base)?;
    let new = read_file(&args.new)?;
    let bytes = Patch::new(&old, &new, read_signature(&args.new)?, &base)?.to_bytes()?;
    if bytes.len() >= new.len() {
        let (patch, whole) = (bytes.len(), new.len());
        let message =
            format!("the patch would have {patch} bytes, the pack has {whole}; flash that. Nothing was written");
        return Err(CodedError { message, code: ExitCode::InputData }.into());
    }
    write_file(&args.output, &bytes)?;
    log::info!("{}: {} bytes, {} the whole pack", args.output.display(), bytes.len(), new.len());
    if args.json {
        return output::json(&json!({
            "patch": args.output.display().to_string(),
            "bytes": bytes.len(),
            "bytes_of_pack": new.len(),
        }));
    }
    Ok(())
}
