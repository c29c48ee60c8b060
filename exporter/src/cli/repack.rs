//! `overmask-export repack`: the same masks in another coding.

use std::path::PathBuf;

use anyhow::Error;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use overmask::base::Base;
use overmask::pack::{Codec, Pack, PackDocument, PackFile, split_name, write_file};
use overmask_cli::{CodedError, ExitCode};
use serde_json::json;

use super::{output, places};

/// Write a pack again with its masks in another coding; nothing is lost either way.
///
/// `ranked` takes the fewest bytes and can be read only together with the base; `plain` is
/// larger and can be read without.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export repack trec.pack --codec plain --base base/ -o trec-plain.pack",
    after_help = ExitCode::HELP
)]
pub(super) struct RepackArgs {
    /// The pack, or one pack of a set (SET#NAME).
    #[arg(value_name = "PACK")]
    pack: PathBuf,
    /// The coding: ranked or plain.
    #[arg(
        long,
        default_value = "ranked",
        value_parser = PossibleValuesParser::new(["ranked", "plain"]).try_map(|name| name.parse::<Codec>())
    )]
    codec: Codec,
    /// The base bundle; not needed from plain to plain.
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The pack to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print the sizes as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &RepackArgs) -> Result<(), Error> {
    // A pack may take its own place, but not that of the set that it is one of.
    let (file, name) = split_name(&args.pack);
    let set = name.map(|_| ("the set", file.as_path()));
    places::check(&[("-o", args.output.as_path())], set.as_slice())?;
    let base = args.base.as_ref().map(|dir| Base::open(dir)).transpose()?;
    let file = PackFile::open(&args.pack)?;
    let before = file.sizes().total();
    let pack = file.decode(base.as_ref())?;
    let document = PackDocument { codec: args.codec, ..pack.document.clone() };
    let pack = Pack { document, ..pack };
    let bytes = pack.to_bytes(base.as_ref())?;
    // What is written replaces what may be the only copy.
    let again = PackFile::from_bytes(&bytes)?.decode(base.as_ref())?;
    if again != pack {
        let message = format!("{}: what was coded does not come back; nothing was written", args.pack.display());
        return Err(CodedError { message, code: ExitCode::Other }.into());
    }
    write_file(&args.output, &bytes)?;
    log::info!("{}: {} bytes, {} before", args.output.display(), bytes.len(), before);
    if args.json {
        return output::json(&json!({
            "pack": args.output.display().to_string(),
            "codec": args.codec.name(),
            "bytes": bytes.len(),
            "bytes_before": before,
        }));
    }
    Ok(())
}
