//! Whether a base is whole, what runs it, what memory it takes, and what is derived of it.

use std::path::Path;
use std::time::{Duration, Instant};

use overmask::base::{Base, file};
use overmask::engine::EngineKind;
use overmask_cli::{ExitCode, default_engine};
use serde_json::{Value, json};

use super::Device;
use super::finding::{Finding, Level, or_unknown, size};

/// What is found of a base, and the base, if it is whole.
pub(super) fn findings(dir: &Path, device: &Device) -> (Vec<Finding>, Option<Base>) {
    let failed = |error| (vec![Finding::failed("base", &error, json!({ "base": dir.display().to_string() }))], None);
    let base = match Base::open(dir) {
        Ok(base) => base,
        Err(error) => return failed(error.into()),
    };
    let start = Instant::now();
    if let Err(error) = base.verify() {
        return failed(error.into());
    }
    let kept = derived(&base, dir, start.elapsed(), device);
    let all = std::iter::once(whole(&base, dir, device)).chain(kept).collect();
    (all, Some(base))
}

/// A base whose files are those of its manifest.
fn whole(base: &Base, dir: &Path, device: &Device) -> Finding {
    let (manifest, engine) = (base.manifest(), default_engine(base));
    let architecture = &manifest.architecture;
    let runs = engine != EngineKind::Native || knows(base);
    let bytes = dir.join(file::WEIGHTS).metadata().ok().map(|found| found.len());
    let (family, precision, available) = (architecture.family.name(), manifest.variant.name(), device.available);
    let mut facts = json!({
        "base": dir.display().to_string(), "base_id": base.base_id(), "family": family, "precision": precision,
        "layers": architecture.layers, "hidden_size": architecture.hidden_size, "weights_bytes": bytes,
        "available_bytes": available,
    });
    facts["engine"] = if runs { Value::String(engine.to_string()) } else { Value::Null };
    let runs_on = if runs { format!("runs on {engine}") } else { "runs on no engine of this program".to_owned() };
    // `native` has each weight in memory once, in panels or as the file has it; others keep copies besides.
    let take = if engine == EngineKind::Native { "take" } else { "take more than" };
    let words = |bytes: Option<u64>| or_unknown(bytes.map(size));
    let found = format!(
        "{}: {family}, {} layers of width {}, {precision}, digests match; {runs_on}; its weights {take} {} of memory, \
         {} available",
        dir.display(),
        architecture.layers,
        architecture.hidden_size,
        words(bytes),
        words(available),
    );
    let too_large = bytes.zip(available).is_some_and(|(bytes, available)| bytes > available);
    let finding = Finding::new("base", found, facts).advise_if(too_large, Level::Warning, || {
        "it does not fit into memory: end other programs, or use a smaller base".to_owned()
    });
    match runs {
        true => finding,
        false => finding
            .with_code(ExitCode::EngineUnavailable)
            .advise(Level::Error, "`native` does not know this encoder: build with `--features ort` or `tract`"),
    }
}

#[cfg(feature = "native")]
fn knows(base: &Base) -> bool {
    overmask::engine::native::NativeEngine::knows(base)
}

#[cfg(not(feature = "native"))]
fn knows(_: &Base) -> bool {
    false
}

/// What is kept of the base; `checking` is how long its digests took.
#[cfg(feature = "native")]
fn derived(base: &Base, dir: &Path, checking: Duration, device: &Device) -> Vec<Finding> {
    use overmask::derived::Kept;
    use overmask::engine::native::NativeEngine;
    use overmask::task::Tokenizer;

    if !knows(base) {
        return Vec::new();
    }
    let shown = dir.display().to_string();
    let finding = |check, kept: anyhow::Result<Option<Kept>>| match kept {
        Ok(kept) => kept.map(|kept| super::kept::finding(check, &shown, &kept, &format!("--base {shown}"), device)),
        Err(error) => Some(Finding::failed(check, &error, json!({ "made_of": shown }))),
    };
    let weights = NativeEngine::kept_of_base(base, device.directory());
    let weights = weights.map(|kept| Some(Kept { making: kept.making + checking, ..kept }));
    let tokenizer = Tokenizer::kept(base, device.directory());
    let all = [
        finding("base-derived", weights.map_err(anyhow::Error::from)),
        finding("tokenizer-derived", tokenizer.map_err(anyhow::Error::from)),
    ];
    all.into_iter().flatten().collect()
}

#[cfg(not(feature = "native"))]
fn derived(_: &Base, _: &Path, _: Duration, _: &Device) -> Vec<Finding> {
    Vec::new()
}
