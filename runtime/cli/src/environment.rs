//! What programs read from the environment, and put into options.

use std::env;
use std::path::PathBuf;

use overmask::engine::EngineOptions;
use overmask::trust::DEFAULT_KEYRING;

#[cfg(feature = "native")]
use crate::CodedError;

/// The directory of derived files, if it is not the user's cache.
const CACHE: &str = "OVERMASK_CACHE";

/// The instruction set of our own kernels.
#[cfg(feature = "native")]
const ISA: &str = "OVERMASK_ISA";

/// Where derived files are kept: what `OVERMASK_CACHE` names, else the user's cache; nowhere if it names
/// nothing.
pub fn derived_directory() -> Option<PathBuf> {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if env::var_os(CACHE).is_some() {
        return named(CACHE);
    }
    let user = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
    user.map(|dir| dir.join("overmask"))
}

/// Where `overmask-export fetch onnxruntime` puts the library, and the programs look for it: in the user's data, which
/// `XDG_DATA_HOME` names, else in `~/.local/share`.
pub fn onnxruntime_directory() -> Option<PathBuf> {
    let named = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = named("XDG_DATA_HOME").or_else(|| named("HOME").map(|home| home.join(".local/share")));
    data.map(|dir| dir.join("overmask/onnxruntime"))
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
    let named = env::var_os("OVERMASK_KEYRING").filter(|dir| !dir.is_empty());
    named.map_or_else(|| PathBuf::from(DEFAULT_KEYRING), PathBuf::from)
}

/// Options of an engine with what the environment says: `OVERMASK_CACHE` and `OVERMASK_ISA`.
///
/// # Errors
/// When it names an instruction set that is unknown or not there.
pub fn engine_options(threads: Option<usize>) -> anyhow::Result<EngineOptions> {
    let mut options = EngineOptions::default().threads(threads);
    options.derived = derived_directory();
    #[cfg(feature = "native")]
    if let Some(name) = env::var_os(ISA).filter(|name| !name.is_empty()) {
        let name = name.to_string_lossy();
        let isa = name.parse::<overmask::engine::native::Isa>();
        options.isa = Some(isa.map_err(|error| CodedError {
            message: format!("{ISA}: {error}"),
            code: crate::ExitCode::EngineUnavailable,
        })?);
    }
    Ok(options)
}
