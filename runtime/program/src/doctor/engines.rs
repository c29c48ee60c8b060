//! What this program was built with and finds: engines, ONNX Runtime, keys.

use std::path::Path;

use overmask::trust::{Keyring, TrustError};
use serde_json::{Value, json};

use super::finding::{Finding, Level, count};

pub(super) fn engines() -> Finding {
    let all =
        [("native", cfg!(feature = "native")), ("ort", cfg!(feature = "ort")), ("tract", cfg!(feature = "tract"))];
    let engines: Vec<&str> = all.into_iter().filter(|(_, is_in)| *is_in).map(|(name, _)| name).collect();
    let found = if engines.is_empty() { "none".to_owned() } else { engines.join(", ") };
    Finding::new("engines", found, json!({ "engines": engines })).advise_if(engines.is_empty(), Level::Warning, || {
        "this program runs no pack: build it with `--features native`".to_owned()
    })
}

/// The keys whose signatures `--require-signature` takes.
pub(super) fn keys(dir: &Path) -> Finding {
    let place = dir.display().to_string();
    match Keyring::open(dir) {
        Ok(keyring) => {
            let keys: Vec<Value> =
                keyring.keys().iter().map(|key| json!({ "key_id": key.key_id(), "file": key.source() })).collect();
            let found = format!("{} in {place}", count(keys.len() as u64, "key"));
            Finding::new("keys", found, json!({ "dir": place, "keys": keys }))
        }
        Err(TrustError::NoKeys { .. }) => {
            let advice = "put the makers' *.pub there before you ask for signatures (--require-signature)";
            Finding::new("keys", format!("none in {place}"), json!({ "dir": place, "keys": [] }))
                .advise(Level::Note, advice)
        }
        Err(error) => Finding::new("keys", error.to_string(), json!({ "dir": place, "keys": null }))
            .advise(Level::Warning, "until then --require-signature takes no pack"),
    }
}

/// The library of the engine `ort`. It is loaded to be asked what it is.
#[cfg(feature = "ort")]
pub(super) fn onnxruntime(has_gpu: bool) -> Finding {
    const CHECK: &str = "onnxruntime";
    let unknown = |path: Option<&Path>| {
        let path = path.map(|path| path.display().to_string());
        json!({ "path": path, "version": null, "providers": null })
    };
    let found = match overmask_ort::find() {
        Ok(found) => found,
        Err(reason) => {
            let advice = "set ORT_DYLIB_PATH to the library's file, or unset it";
            return Finding::new(CHECK, reason, unknown(None)).advise(Level::Warning, advice);
        }
    };
    let passed_over = |finding: Finding| found.passed_over.iter().fold(finding, |f, why| f.advise(Level::Warning, why));
    let Some(path) = &found.path else {
        let advice = "only the engine `ort` needs one: ORT_DYLIB_PATH names it, `overmask-export fetch onnxruntime` \
                      puts one on a workstation";
        return passed_over(Finding::new(CHECK, "not found", unknown(None)).advise(Level::Note, advice));
    };
    match overmask_ort::about() {
        Ok(about) => {
            let names: Vec<&str> =
                about.providers.iter().map(|name| name.strip_suffix("ExecutionProvider").unwrap_or(name)).collect();
            let found = format!("{}, version {}, providers {}", path.display(), about.version, names.join(", "));
            let facts = json!({
                "path": path.display().to_string(), "version": about.version, "api": about.api(),
                "needed_api": overmask_ort::API, "providers": about.providers,
            });
            let lacks_cuda = has_gpu && !names.contains(&"CUDA");
            passed_over(Finding::new(CHECK, found, facts).advise_if(lacks_cuda, Level::Note, || {
                "there is an NVIDIA GPU, and this library was built without CUDA: for `--engine ort:cuda`, let \
                 ORT_DYLIB_PATH name NVIDIA's build"
                    .to_owned()
            }))
        }
        Err(error) => {
            let advice = format!("set ORT_DYLIB_PATH to the file of version 1.{} or newer", overmask_ort::API);
            passed_over(Finding::new(CHECK, error.to_string(), unknown(Some(path))).advise(Level::Warning, advice))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_and_a_wrong_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(keys(&dir.path().join("absent")).level, Level::Note);
        assert_eq!(keys(dir.path()).facts["keys"], json!([]));
        std::fs::write(dir.path().join("a.pub"), "no key").unwrap();
        let wrong = keys(dir.path());
        assert!(wrong.level == Level::Warning && wrong.found.contains("a.pub"), "{wrong:?}");
    }

    #[test]
    fn a_program_without_engines_says_so() {
        let has_some = cfg!(any(feature = "native", feature = "ort", feature = "tract"));
        assert_eq!(engines().level, if has_some { Level::Ok } else { Level::Warning });
    }
}
