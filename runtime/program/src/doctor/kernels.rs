//! Which of our kernels run on this processor.

use overmask::engine::native::Isa;
use serde_json::json;

use super::finding::{Finding, Level};
use super::processor::Features;

/// The instruction set that `native` runs with: the one that was asked for, else the best that there is.
pub(super) fn kernels(features: &Features) -> Finding {
    let available: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
    match overmask_cli::named_isa() {
        Ok(named) => chosen(named.map(|isa| isa.to_string()), &available, features),
        Err(error) => Finding::failed("kernels", &error.into(), json!({ "kernels": null, "available": available }))
            .advise(Level::Error, "unset OVERMASK_ISA"),
    }
}

/// The same for what the environment names; the fastest that is there comes last.
fn chosen(named: Option<String>, available: &[String], features: &Features) -> Finding {
    const PORTABLE: &str = "portable";
    let best = available.last().map_or(PORTABLE, String::as_str);
    let by = if named.is_some() { ", which OVERMASK_ISA names" } else { "" };
    let kernels = named.unwrap_or_else(|| best.to_owned());
    let facts = json!({ "kernels": kernels, "available": available });
    let finding = Finding::new("kernels", format!("{kernels}{by}"), facts);
    let is_portable = kernels == PORTABLE;
    if kernels != best {
        let level = if is_portable { Level::Warning } else { Level::Note };
        return finding.advise(
            level,
            format!("unset OVERMASK_ISA: this processor runs {best}, which is faster where both were measured"),
        );
    }
    finding.advise_if(is_portable, Level::Warning, || {
        let lacks = features.iter().filter(|(name, has)| !has && ["avx2", "fma", "asimd"].contains(name));
        let lacks = lacks.map(|(name, _)| *name).collect::<Vec<_>>().join(" and ");
        let why = if lacks.is_empty() { "it is of another kind".to_owned() } else { format!("it lacks {lacks}") };
        format!(
            "packs take about three times as long as they could: there are kernels for x86-64 with avx2 and fma, and \
             for 64-bit ARM, and this processor has none of them ({why}); a virtual machine may hide what its host has"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portable_kernels_are_warned_of_with_the_reason() {
        let [portable, avx2] = ["portable", "avx2"].map(str::to_owned);
        let has = |is| vec![("avx2", is), ("fma", true), ("avx_vnni", false)];
        let best = chosen(None, &[portable.clone(), avx2.clone()], &has(true));
        assert_eq!((best.level, best.found.as_str()), (Level::Ok, "avx2"));
        let none = chosen(None, std::slice::from_ref(&portable), &has(false));
        assert!(none.level == Level::Warning && none.advice[0].contains("it lacks avx2)"), "{none:?}");
        let named = chosen(Some(portable.clone()), &[portable.clone(), avx2.clone()], &has(true));
        assert!(named.level == Level::Warning && named.advice[0].contains("unset OVERMASK_ISA"), "{named:?}");
        let slower = chosen(Some(avx2.clone()), &[portable, avx2, "avx512".to_owned()], &has(true));
        assert_eq!(slower.level, Level::Note);
    }

    #[test]
    fn features_and_kernels_tell_the_same_processor() {
        let features = super::super::processor::features();
        let has = |name: &str| features.contains(&(name, true));
        let runs = |name: &str| Isa::available().iter().any(|isa| isa.to_string() == name);
        assert_eq!(runs("avx2"), has("avx2") && has("fma"));
        assert_eq!(runs("neon"), has("asimd"));
    }
}
