//! Whether packs are whole and fit their base, and what is derived of them.

use std::path::Path;

use overmask::base::Base;
use overmask::engine::EngineError;
use serde_json::json;

use super::super::packs::{self, Given};
use super::Device;
use super::finding::{Finding, size};

/// What is found of the packs of one file; `bases` are those that are whole, of as many as were given.
pub(super) fn findings(given: &Path, bases: &[Base], bases_given: usize, device: &Device) -> Vec<Finding> {
    match packs::read_one(given, None) {
        Ok(packs) => packs.iter().flat_map(|pack| of_pack(pack, bases, bases_given, device)).collect(),
        Err(error) => vec![Finding::failed("pack", &error, json!({ "pack": given.display().to_string() }))],
    }
}

fn of_pack(given: &Given, bases: &[Base], bases_given: usize, device: &Device) -> Vec<Finding> {
    let Given { path, file, .. } = given;
    let document = file.document();
    // Of a pack that fits none of them, the first one says why.
    let base = bases.iter().find(|base| base.base_id() == document.base_id).or(bases.first());
    let derived = match base.map(|base| fits(given, base, device)).transpose() {
        Ok(derived) => derived.flatten(),
        Err(error) => return vec![Finding::failed("pack", &error.into(), json!({ "pack": path }))],
    };
    let fits = match base {
        Some(base) => format!("fits {}", base.dir().display()),
        None if bases_given == 0 => "no --base to compare it with".to_owned(),
        None => "not compared, as no base is whole".to_owned(),
    };
    let bytes = file.sizes().total();
    let found = format!(
        "{path}: {}, {}, granularity {}, {:.1} % zeros, {}, checksum matches; {fits}",
        document.name,
        document.kind,
        document.granularity,
        100.0 * document.sparsity,
        size(bytes as u64),
    );
    let facts = json!({
        "pack": path, "task": document.name, "kind": document.kind.to_string(), "bytes": bytes,
        "sha256": file.digest(), "granularity": document.granularity.to_string(), "sparsity": document.sparsity,
        "base_id": document.base_id, "base": base.map(|base| base.dir().display().to_string()),
    });
    std::iter::once(Finding::new("pack", found, facts)).chain(derived).collect()
}

/// Decodes a pack for a base, and says what is kept of it where something is.
fn fits(given: &Given, base: &Base, device: &Device) -> Result<Option<Finding>, EngineError> {
    let Given { path, file, .. } = given;
    #[cfg(feature = "native")]
    if overmask::engine::native::NativeEngine::knows(base) {
        let kept = overmask::engine::native::NativeEngine::kept_of_pack(base, file, device.directory())?;
        let prepare = format!("--base {} --pack {path}", base.dir().display());
        return Ok(Some(super::kept::finding("pack-derived", path, &kept, &prepare, device)));
    }
    let _ = (path, device);
    file.check_base(base)?;
    overmask::engine::check_changes(base, &file.masks(Some(base))?, file.deltas())?;
    Ok(None)
}
