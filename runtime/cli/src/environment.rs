//! What programs read from the environment, and put into options.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[cfg(feature = "native")]
use overmask::derived::Directory;
#[cfg(feature = "native")]
use overmask::engine::native::Isa;
use overmask::engine::{EngineKind, EngineOptions};
use overmask::store::DEFAULT_STORE;
use overmask::trust::DEFAULT_KEYRING;

use crate::{CodedError, ExitCode};

/// The directory of derived files, if it is not the user's cache.
#[cfg(feature = "native")]
const CACHE: &str = "OVERMASK_CACHE";

/// The instruction set of our own kernels.
#[cfg(feature = "native")]
const ISA: &str = "OVERMASK_ISA";

/// The directory of the trusted keys.
const KEYRING: &str = "OVERMASK_KEYRING";

/// The directory of the store.
const STORE: &str = "OVERMASK_STORE";

/// Which messages to show, in env_logger's syntax.
pub(crate) const LOG: &str = "OVERMASK_LOG";

/// The file of logins of registries.
const REGISTRY_AUTH: &str = "REGISTRY_AUTH_FILE";

/// The table of what both programs read, for their `--help`.
pub const ENVIRONMENT: &str = "\
Environment:
  OVERMASK_CACHE    directory of derived files, which `native` makes of bases and packs; only its
                    user may be able to write there. Empty: none are kept
                    [default: overmask in XDG_CACHE_HOME, else in ~/.cache]
  OVERMASK_ISA      instruction set of `native`: portable, avx2, avx512, neon
                    [default: the fastest here]
  OVERMASK_KEYRING  directory of trusted keys for --require-signature [default: /etc/overmask/keys]
  OVERMASK_STORE    directory of the store [default: /var/lib/overmask]
  OVERMASK_LOG      which messages to show, in env_logger's syntax; overrides -q and -v
  ORT_DYLIB_PATH    the ONNX Runtime library for `ort` and for training
  XDG_DATA_HOME     where `overmask-export fetch onnxruntime` puts one, else ~/.local/share
  REGISTRY_AUTH_FILE
                    logins of registries [default: those of podman and docker: containers/auth.json
                    in XDG_RUNTIME_DIR, config.json in DOCKER_CONFIG, else in ~/.docker]
  HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE
                    how registries are reached, and who may vouch for them
  NO_COLOR          plain messages";

/// The value of a variable; none if it is empty.
fn named(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The text that a variable has; none if it is empty.
///
/// # Errors
/// When it is not UTF-8.
pub(crate) fn text(name: &str) -> Result<Option<String>, CodedError> {
    let wrong = |value: OsString| CodedError {
        message: format!("the environment variable {name} is not UTF-8: {}", value.display()),
        code: ExitCode::Usage,
    };
    named(name).map(|value| value.into_string().map_err(wrong)).transpose()
}

/// Where derived files are to be kept: in the directory that `OVERMASK_CACHE` names, else in the user's cache; nowhere
/// if it names nothing.
#[cfg(feature = "native")]
pub fn derived_path() -> Option<PathBuf> {
    match env::var_os(CACHE) {
        Some(path) => (!path.is_empty()).then(|| PathBuf::from(path)),
        None => {
            let home = || named("HOME").map(|home| PathBuf::from(home).join(".cache"));
            named("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).map(|cache| cache.join("overmask"))
        }
    }
}

/// The directory at [`derived_path`]; none, with a warning, if it will not do.
#[cfg(feature = "native")]
fn derived_directory() -> Option<Directory> {
    let warn = |error: &_| log::warn!("{error}. Nothing is kept this time; {CACHE} names another directory, or none");
    derived_path().and_then(|path| Directory::open(path).inspect_err(warn).ok())
}

/// The instruction set that `OVERMASK_ISA` names, if it names one.
///
/// # Errors
/// When it is unknown or not there.
#[cfg(feature = "native")]
pub fn named_isa() -> Result<Option<Isa>, CodedError> {
    let isa = text(ISA)?.map(|name| name.parse::<Isa>()).transpose();
    isa.map_err(|error| CodedError { message: format!("{ISA}: {error}"), code: ExitCode::EngineUnavailable })
}

/// Where `overmask-export fetch onnxruntime` puts the library, and the programs look for it: in the user's data, which
/// `XDG_DATA_HOME` names, else in `~/.local/share`.
pub fn onnxruntime_directory() -> Option<PathBuf> {
    let home = || named("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let data = named("XDG_DATA_HOME").map(PathBuf::from).or_else(home);
    data.filter(|data| data.is_absolute()).map(|data| data.join("overmask/onnxruntime"))
}

/// Has ONNX Runtime's library looked for in [`onnxruntime_directory`], too.
#[cfg(feature = "ort")]
pub fn find_onnxruntime() {
    if let Some(directory) = onnxruntime_directory() {
        overmask_ort::look_in(directory);
    }
}

/// The directory of the trusted keys: what `OVERMASK_KEYRING` names, else [`DEFAULT_KEYRING`].
pub fn keyring_directory() -> PathBuf {
    named(KEYRING).map_or_else(|| PathBuf::from(DEFAULT_KEYRING), PathBuf::from)
}

/// The directory of the store: what `OVERMASK_STORE` names, else [`DEFAULT_STORE`].
pub fn store_directory() -> PathBuf {
    named(STORE).map_or_else(|| PathBuf::from(DEFAULT_STORE), PathBuf::from)
}

/// The files of logins of registries: the one that `REGISTRY_AUTH_FILE` names, else podman's and docker's.
pub fn registry_auth_files() -> Vec<PathBuf> {
    if let Some(file) = named(REGISTRY_AUTH) {
        return vec![file.into()];
    }
    let under = |name: &str, rest: &str| named(name).map(|dir| PathBuf::from(dir).join(rest));
    let podman = [under("XDG_RUNTIME_DIR", "containers/auth.json"), under("HOME", ".config/containers/auth.json")];
    let docker = under("DOCKER_CONFIG", "config.json").or_else(|| under("HOME", ".docker/config.json"));
    podman.into_iter().chain([docker]).flatten().collect()
}

/// Options of an engine with what the environment says: `OVERMASK_CACHE` and `OVERMASK_ISA`, which are for `native`.
///
/// # Errors
/// When it names an instruction set that is unknown or not there.
pub fn engine_options(kind: EngineKind, threads: Option<usize>) -> anyhow::Result<EngineOptions> {
    options(kind, threads, None)
}

/// The same, with derived files in a directory of a store instead, if that is this user's to use.
///
/// # Errors
/// As [`engine_options`].
pub fn engine_options_in(kind: EngineKind, threads: Option<usize>, derived: &Path) -> anyhow::Result<EngineOptions> {
    options(kind, threads, Some(derived))
}

fn options(kind: EngineKind, threads: Option<usize>, derived: Option<&Path>) -> anyhow::Result<EngineOptions> {
    let options = EngineOptions::default().threads(threads);
    #[cfg(feature = "native")]
    if kind == EngineKind::Native {
        let note = |error: &_| log::info!("{error}; they are kept where those of other bases are");
        let directory = derived.and_then(|path| Directory::open(path).inspect_err(note).ok());
        return Ok(options.isa(named_isa()?).derived(directory.or_else(derived_directory)));
    }
    let _ = (kind, derived);
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_in_the_help() {
        for name in [KEYRING, LOG, STORE, REGISTRY_AUTH] {
            assert!(ENVIRONMENT.lines().any(|line| line.split_whitespace().next() == Some(name)), "{name}");
        }
        #[cfg(feature = "native")]
        for name in [CACHE, ISA] {
            assert!(ENVIRONMENT.contains(&format!("\n  {name} ")), "{name}");
        }
    }
}
