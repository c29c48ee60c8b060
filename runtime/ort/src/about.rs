//! What the library that was loaded says of itself, for whoever looks a machine over. `ort` has no safe form for it.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::Library;
use ort::{Error, sys};
use overmask::engine::{Device, EngineError};

use super::library::{environment, find};
use super::{failed, refused};

/// ONNX Runtime as it was loaded.
#[derive(Debug)]
pub struct About {
    /// The library's file.
    pub path: PathBuf,
    /// Its version, `1.31.1` for example.
    pub version: String,
    /// The execution providers that it was built with, the one that it prefers first. Whether one starts depends on the
    /// machine.
    pub providers: Vec<String>,
}

impl About {
    /// The level of its API: the second number of its version.
    pub fn api(&self) -> Option<u32> {
        self.version.split('.').nth(1)?.parse().ok()
    }
}

/// The level of the API that a library must have at least.
pub const API: u32 = ort::MINOR_VERSION;

/// Loads the library, as [`environment`] does, and asks it what it is.
///
/// # Errors
/// When there is no library, or it cannot be loaded, or it is too old.
pub fn about() -> Result<About, EngineError> {
    environment()?;
    // What was loaded a moment ago is still found.
    let path = find().map_err(|reason| refused(Device::Cpu, reason))?.path.unwrap_or_default();
    let version = version(&path).map_err(|error| refused(Device::Cpu, error))?;
    let providers = providers().map_err(|error| failed(Device::Cpu, error))?;
    Ok(About { path, version, providers })
}

/// The version of a library that is loaded.
fn version(path: &Path) -> Result<String, libloading::Error> {
    // SAFETY: it is loaded already, so nothing of it runs now.
    let library = unsafe { Library::new(path) }?;
    // SAFETY: ONNX Runtime's C API declares it so, in every version; `ort` has called it.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const sys::OrtApiBase>(b"OrtGetApiBase") }?;
    // SAFETY: as above. The base is static, and not null: `ort` has seen that.
    let text = unsafe { ((*base()).GetVersionString)() };
    Ok(owned(text))
}

fn providers() -> Result<Vec<String>, Error> {
    let (mut names, mut count) = (ptr::null_mut::<*mut c_char>(), 0);
    // SAFETY: the out-pointers are ours; the status is consumed here.
    unsafe { Error::result_from_status((ort::api().GetAvailableProviders)(&mut names, &mut count)) }?;
    if names.is_null() {
        return Ok(Vec::new());
    }
    let all = (0..usize::try_from(count).unwrap_or(0)).map(|i| {
        // SAFETY: there are `count` names, which live until they are released below.
        owned(unsafe { *names.add(i) })
    });
    let all = all.collect();
    // SAFETY: what was handed out above is given back once.
    unsafe { Error::result_from_status((ort::api().ReleaseAvailableProviders)(names, count)) }?;
    Ok(all)
}

/// A C string of the library, copied.
fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the library's strings end with a zero and live as long as it is asked about them.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_says_what_it_is() {
        let about = about().unwrap_or_else(|e| panic!("{e}\n`cargo xtask test` sets everything up"));
        assert!(about.api().unwrap() >= API, "{about:?}");
        assert!(about.providers.iter().any(|name| name == "CPUExecutionProvider"), "{about:?}");
        assert!(about.path.is_file());
    }
}
