//! Finding and loading ONNX Runtime's shared library.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ort::environment::Environment;
use ort::logging::LogLevel;
use overmask::engine::{Device, EngineError, EngineKind};

use super::trusted;

/// The variable that names the library.
const VARIABLE: &str = "ORT_DYLIB_PATH";

#[cfg(target_os = "windows")]
const NAME: &str = "onnxruntime.dll";
#[cfg(target_os = "macos")]
const NAME: &str = "libonnxruntime.dylib";
#[cfg(not(any(target_os = "windows", target_os = "macos")))]
const NAME: &str = "libonnxruntime.so";

/// The folder of the user's own that is looked through, too.
static OWN: OnceLock<PathBuf> = OnceLock::new();

/// Has a folder looked through for the library, before those of the system. For programs, which know where their user
/// keeps such things; the first that is named counts, and only before the library is loaded.
pub fn look_in(folder: PathBuf) {
    // A second one is no error: tests of one program may each name theirs.
    let _ = OWN.set(folder);
}

/// The process's ONNX Runtime environment; loads the library on the first call: the file that [`library`] finds.
///
/// # Errors
/// When there is no library, or it cannot be loaded, or it is too old.
pub fn environment() -> Result<&'static Environment, EngineError> {
    static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
    ENVIRONMENT
        .get_or_init(load)
        .as_ref()
        .map_err(|reason| EngineError::Unavailable { engine: EngineKind::Ort(Device::Cpu), reason: reason.clone() })
}

fn load() -> Result<Environment, String> {
    let path = library()?;
    log::debug!("loading ONNX Runtime from {}", path.display());
    let environment = ort::init_from(&path)
        .map_err(|e| e.to_string())?
        .with_name("overmask")
        .with_telemetry(false)
        .with_logger(Arc::new(log_message))
        .build()
        .map_err(|e| format!("{}: {e}", path.display()))?;
    // What nobody asked to see is not even formatted.
    environment.set_log_level(match log::max_level() {
        log::LevelFilter::Trace => LogLevel::Verbose,
        log::LevelFilter::Debug => LogLevel::Info,
        _ => LogLevel::Warning,
    });
    Ok(environment)
}

/// The library's own messages go where all others go.
fn log_message(level: LogLevel, _category: &str, _id: &str, location: &str, message: &str) {
    let level = match level {
        LogLevel::Fatal | LogLevel::Error => log::Level::Error,
        // Its warnings are about its own inner life (unused initializers, node placement).
        LogLevel::Warning => log::Level::Info,
        LogLevel::Info => log::Level::Debug,
        LogLevel::Verbose => log::Level::Trace,
    };
    log::log!(target: "onnxruntime", level, "{message} ({location})");
}

/// The library's file, as [`find`] finds it; a warning names what is passed over.
///
/// # Errors
/// When there is none, with what to do.
pub fn library() -> Result<PathBuf, String> {
    let found = find()?;
    found.passed_over.iter().for_each(|why| log::warn!("{why}"));
    found.path.ok_or_else(|| {
        format!(
            "no ONNX Runtime library ({NAME}) was found; `overmask-export fetch onnxruntime` puts one where it is \
             looked for, or set {VARIABLE} to the file of version 1.22 or newer"
        )
    })
}

/// What looking for the library came to.
#[derive(Debug, Default)]
pub struct Found {
    /// The library's file, if there is one that may be loaded.
    pub path: Option<PathBuf>,
    /// Files that are passed over, each with the reason and what to do.
    pub passed_over: Vec<String>,
}

/// Looks for the library: the file that `ORT_DYLIB_PATH` names; without it, the first found of: the program's own
/// folder, `../lib`, `../onnxruntime` and `../../onnxruntime` from there, the folder of [`look_in`], and the system's
/// library folders.
///
/// A file that is found is only taken if it, its folder and all above belong to the user or root and nobody else can
/// write there.
///
/// # Errors
/// When `ORT_DYLIB_PATH` names no file.
pub fn find() -> Result<Found, String> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        // Made absolute: the loader would look for a bare name in the program's folder first.
        let path = std::path::absolute(&named).map_err(|e| format!("{VARIABLE}: {e}"))?;
        if !path.is_file() {
            return Err(format!("{VARIABLE} names {}, which is not a file", path.display()));
        }
        return Ok(Found { path: Some(path), passed_over: Vec::new() });
    }
    let program = std::env::current_exe().ok();
    Ok(first_trusted(&folders(program.as_deref().and_then(Path::parent), OWN.get())))
}

/// The library of the first folder that has one and in which nobody else can have put it.
fn first_trusted(folders: &[PathBuf]) -> Found {
    let mut passed_over = Vec::new();
    let path = folders.iter().filter_map(|folder| library_in(folder)).find(|library| {
        let objection = trusted::objection(library);
        passed_over.extend(objection.iter().map(|objection| {
            let name = library.display();
            format!("{name} is not loaded: {objection}; if it is what you want, set {VARIABLE} to it")
        }));
        objection.is_none()
    });
    Found { path, passed_over }
}

/// The folders that are looked through, in order.
fn folders(program: Option<&Path>, own: Option<&PathBuf>) -> Vec<PathBuf> {
    let beside = program.into_iter().flat_map(|dir| {
        let relative = ["", "../lib", "../onnxruntime", "../../onnxruntime"];
        relative.map(|r| dir.join(r))
    });
    let arch = std::env::consts::ARCH;
    let system = [
        "/usr/local/lib".to_owned(),
        format!("/usr/lib/{arch}-linux-gnu"),
        "/usr/lib64".to_owned(),
        "/usr/lib".to_owned(),
    ];
    beside.chain(own.cloned()).chain(system.map(PathBuf::from)).collect()
}

/// The library in a folder: under its plain name, or the newest with a version after it.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(NAME);
    if plain.is_file() {
        return Some(plain);
    }
    let versioned = std::fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version: Vec<u32> =
            name.strip_prefix(NAME)?.strip_prefix('.')?.split('.').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        Some((version, entry.path()))
    });
    versioned.max().map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_folder_comes_before_the_systems() {
        let own = PathBuf::from("/home/user/own");
        let found = folders(Some(Path::new("/opt/bin")), Some(&own));
        let place = |folder: &str| found.iter().position(|f| f == Path::new(folder)).unwrap();
        assert!(place("/opt/bin/../onnxruntime") < place("/home/user/own"));
        assert!(place("/home/user/own") < place("/usr/local/lib"));
        assert!(!folders(None, None).contains(&own));
    }

    #[cfg(unix)]
    #[test]
    fn a_library_that_others_can_write_is_passed_over() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let folders = ["none", "open", "own"].map(|name| dir.path().join(name));
        for (folder, mode) in folders[1..].iter().zip([0o777, 0o755]) {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join(NAME), "").unwrap();
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
            std::fs::set_permissions(folder.join(NAME), std::fs::Permissions::from_mode(0o644)).unwrap();
        }
        let found = first_trusted(&folders);
        assert_eq!(found.path, Some(folders[2].join(NAME)));
        assert!(found.passed_over[0].contains(&folders[1].join(NAME).display().to_string()), "{found:?}");
        assert_eq!(first_trusted(&folders[..2]).path, None);
    }

    #[test]
    fn the_newest_version_in_a_folder_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(library_in(dir.path()), None);
        for name in [".1.9.0", ".1.31.1", ".1.31", ".old", ".1.x"] {
            std::fs::write(dir.path().join(format!("{NAME}{name}")), "").unwrap();
        }
        std::fs::write(dir.path().join("libonnxruntime_providers_shared.so"), "").unwrap();
        assert_eq!(library_in(dir.path()).unwrap(), dir.path().join(format!("{NAME}.1.31.1")));
        std::fs::write(dir.path().join(NAME), "").unwrap();
        assert_eq!(library_in(dir.path()).unwrap(), dir.path().join(NAME));
        assert_eq!(library_in(&dir.path().join("none")), None);
    }
}
