//! `overmask push`: packs and bases to an OCI registry.

use std::path::PathBuf;

use clap::Args;
use overmask_cli::{CodedError, ExitCode, Output};
use overmask_oci::{Access, Push, Pushed, Reference, push};
use serde::Serialize;

use super::registry::RegistryArgs;

/// Arguments of `overmask push`.
#[derive(Debug, Args)]
#[command(override_usage = "overmask push [OPTIONS] [PACK]... <REFERENCE>")]
pub(super) struct PushArgs {
    // One list: options may stand between packs and reference.
    /// Packs and sets of packs, a signature FILE.minisig beside FILE goes along; at last the artifact's name,
    /// HOST/REPOSITORY:TAG
    #[arg(value_name = "PACK|REFERENCE", required = true)]
    what: Vec<PathBuf>,
    /// Directory of a base bundle: it is put beside the packs, for devices that lack it; without packs it gets the name
    #[arg(long, value_name = "DIR")]
    base: Vec<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Print one JSON object an artifact
    #[arg(long)]
    json: bool,
}

/// What is printed of an artifact.
#[derive(Serialize)]
struct Report<'a> {
    reference: &'a str,
    sha256: &'a str,
    bytes: u64,
    sent: u64,
}

pub(super) fn run(args: &PushArgs, out: &mut Output) -> anyhow::Result<()> {
    let usage = |message: &str| CodedError { message: message.to_owned(), code: ExitCode::Usage };
    let Some((name, packs)) = args.what.split_last() else { return Err(usage("nothing is to be pushed").into()) };
    let reference: Reference = name.to_string_lossy().parse()?;
    if packs.is_empty() && args.base.is_empty() {
        return Err(usage("nothing is to be pushed: name packs before the reference, or a base with --base").into());
    }
    let registry = args.registry.open(&reference, Access::Push)?;
    let pushed = push(&registry, &Push { packs: packs.to_vec(), bases: args.base.clone() })?;
    for Pushed { reference, sha256, bytes, sent } in &pushed {
        match args.json {
            true => out.json(&Report { reference, sha256, bytes: *bytes, sent: *sent })?,
            false => out.line(&format!("{reference}: sha256:{sha256}, {bytes} bytes, {sent} sent"))?,
        }
    }
    Ok(())
}
