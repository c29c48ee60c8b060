//! What is kept of a base or a pack in the directory of derived files, and what the first start costs without it.

use overmask::derived::{Kept, KeptState};
use overmask_cli::ExitCode;
use serde_json::json;

use super::Device;
use super::finding::{Finding, Level, size};

/// A finding about a derived file of `made_of`, which `overmask prepare` makes with these arguments.
pub(super) fn finding(check: &'static str, made_of: &str, kept: &Kept, prepare: &str, device: &Device) -> Finding {
    let path = kept.path.as_ref().map(|path| path.display().to_string());
    let (bytes, seconds) = (size(kept.bytes), kept.making.as_secs_f64());
    let state = match kept.state {
        KeptState::Missing => "missing",
        KeptState::Useless(_) => "useless",
        KeptState::Wrong => "wrong",
        KeptState::Right => "right",
    };
    let facts = json!({
        "made_of": made_of, "path": path, "state": state, "bytes": kept.bytes, "making_seconds": seconds,
    });
    let cost = format!("{bytes}, which took {seconds:.2} s to make here");
    let new = |found: String| Finding::new(check, found, facts);
    match (&kept.state, path) {
        (KeptState::Right, path) => new(format!("{}: {bytes}, as {made_of} gives it", path.unwrap_or_default())),
        (KeptState::Missing, None) if device.derived_path.is_none() || device.derived.is_err() => {
            new(format!("nothing is kept of {made_of}: {cost}"))
                .advise(Level::Note, "each start makes it in its memory until there is a directory (see `derived`)")
        }
        (KeptState::Missing, _) => {
            let dir = device.derived_path.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default();
            let advice =
                format!("the first start makes it; `overmask prepare {prepare} --derived {dir}` makes it ahead");
            new(format!("of {made_of} there is none yet: {cost}")).advise(Level::Note, advice)
        }
        (KeptState::Useless(why), path) => new(format!("{} {why}: {cost}", path.unwrap_or_default()))
            .advise(Level::Warning, "the next start makes it again"),
        (KeptState::Wrong, path) => {
            let path = path.unwrap_or_default();
            new(format!("{path} holds other values than {made_of} gives, so what ran with it may be wrong"))
                .with_code(ExitCode::CorruptFile)
                .advise(Level::Error, "delete it, and find out who changed it; the next start makes it again")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::tree;
    use super::*;

    #[test]
    fn what_is_kept_is_as_good_as_it_was_found() {
        let (_tree, system) = tree(&[]);
        let of = |state, path: Option<&str>, derived_path: Option<&str>| {
            let device =
                Device { derived: Ok(None), derived_path: derived_path.map(Into::into), ..Device::new(&system) };
            let kept =
                Kept { path: path.map(Into::into), bytes: 42_000_000, state, making: Duration::from_millis(250) };
            finding("base-derived", "base/", &kept, "--base base/", &device)
        };
        let (file, dir) = (Some("/cache/panels32-0"), Some("/cache"));
        let right = of(KeptState::Right, file, dir);
        assert_eq!((right.level, right.found.as_str()), (Level::Ok, "/cache/panels32-0: 42.0 MB, as base/ gives it"));
        for path in [file, None] {
            let missing = of(KeptState::Missing, path, dir);
            assert!(missing.found.contains("42.0 MB, which took 0.25 s to make here"), "{missing:?}");
            let advice = "the first start makes it; `overmask prepare --base base/ --derived /cache` makes it ahead";
            assert_eq!((missing.level, missing.advice.as_slice()), (Level::Note, &[advice.to_owned()][..]));
        }
        let nowhere = of(KeptState::Missing, None, None);
        assert!(nowhere.level == Level::Note && nowhere.advice[0].starts_with("each start makes it"), "{nowhere:?}");
        let damaged = of(KeptState::Useless("is damaged".to_owned()), file, dir);
        assert!(damaged.level == Level::Warning && damaged.found.contains("panels32-0 is damaged"), "{damaged:?}");
        let wrong = of(KeptState::Wrong, file, dir);
        assert!(wrong.level == Level::Error && wrong.advice[0].starts_with("delete it"), "{wrong:?}");
        assert_eq!(wrong.facts["state"], "wrong");
    }
}
