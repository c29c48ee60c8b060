//! Which processor it is, and what it can do.

use std::collections::BTreeMap;

use serde_json::json;

use super::finding::{Finding, or_unknown};
use super::system::System;

/// Features that kernels for encoders use, by the names of Linux, and whether this processor has them.
pub(super) type Features = Vec<(&'static str, bool)>;

/// What the processor that this program runs on has.
pub(super) fn features() -> Features {
    #[cfg(target_arch = "x86_64")]
    return vec![
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512_vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512_bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx_vnni", is_x86_feature_detected!("avxvnni")),
    ];
    #[cfg(target_arch = "aarch64")]
    return vec![
        ("asimd", std::arch::is_aarch64_feature_detected!("neon")),
        ("asimddp", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("fphp", std::arch::is_aarch64_feature_detected!("fp16")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Vec::new();
}

pub(super) fn processor(system: &System, features: &Features) -> Finding {
    let name = name(system);
    let list = |has| features.iter().filter(|(_, is)| *is == has).map(|(name, _)| *name).collect::<Vec<_>>();
    let (has, lacks) = (list(true), list(false));
    let words = |list: &[&str]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let found = format!("{}; has {}; lacks {}", or_unknown(name.as_ref()), words(&has), words(&lacks));
    Finding::new("processor", found, json!({ "name": name, "has": has, "lacks": lacks }))
}

/// The processor's name; on ARM that of its cores, whose numbers Arm and others give.
fn name(system: &System) -> Option<String> {
    const CPUINFO: &str = "proc/cpuinfo";
    if let Some(name) = system.value(CPUINFO, "model name", ':') {
        return Some(name);
    }
    let text = system.text(CPUINFO)?;
    let mut cores = BTreeMap::<String, usize>::new();
    for processor in text.split("\n\n") {
        let number = |name: &str| {
            let pairs = processor.lines().filter_map(|line| line.split_once(':'));
            let hex = pairs.filter(|(found, _)| found.trim() == name).find_map(|(_, v)| v.trim().strip_prefix("0x"))?;
            u32::from_str_radix(hex, 16).ok()
        };
        if let Some((implementer, part)) = number("CPU implementer").zip(number("CPU part")) {
            let unnamed = || format!("core {part:#05x} of implementer {implementer:#04x}");
            *cores.entry(core(implementer, part).map_or_else(unnamed, str::to_owned)).or_default() += 1;
        }
    }
    let all = cores.into_iter().map(|(name, n)| format!("{n} x {name}")).collect::<Vec<_>>().join(" + ");
    (!all.is_empty()).then_some(all)
}

/// The names of cores that boards have; the numbers stand in the manuals of each, and in util-linux's `lscpu-arm.c`.
fn core(implementer: u32, part: u32) -> Option<&'static str> {
    Some(match (implementer, part) {
        (0x41, 0xd03) => "Cortex-A53",
        (0x41, 0xd04) => "Cortex-A35",
        (0x41, 0xd05) => "Cortex-A55",
        (0x41, 0xd07) => "Cortex-A57",
        (0x41, 0xd08) => "Cortex-A72",
        (0x41, 0xd09) => "Cortex-A73",
        (0x41, 0xd0a) => "Cortex-A75",
        (0x41, 0xd0b) => "Cortex-A76",
        (0x41, 0xd0c) => "Neoverse-N1",
        (0x41, 0xd0d) => "Cortex-A77",
        (0x41, 0xd40) => "Neoverse-V1",
        (0x41, 0xd41) => "Cortex-A78",
        (0x41, 0xd42) => "Cortex-A78AE",
        (0x41, 0xd46) => "Cortex-A510",
        (0x41, 0xd47) => "Cortex-A710",
        (0x41, 0xd49) => "Neoverse-N2",
        (0x41, 0xd4b) => "Cortex-A78C",
        (0x41, 0xd4f) => "Neoverse-V2",
        (0x41, 0xd80) => "Cortex-A520",
        (0x41, 0xd81) => "Cortex-A720",
        (0x41, 0xd83) => "Neoverse-V3AE",
        (0x41, 0xd84) => "Neoverse-V3",
        (0x4e, 0x003) => "Denver 2",
        (0x4e, 0x004) => "Carmel",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    #[test]
    fn cores_have_names_and_numbers_where_they_have_none() {
        let of = |cpuinfo: &str| {
            let (_dir, system) = tree(&[("proc/cpuinfo", cpuinfo)]);
            name(&system)
        };
        let x86 = "processor\t: 0\nmodel name\t: Intel(R) N100\nflags\t: fpu\n\nprocessor\t: 1\nmodel name\t: other";
        assert_eq!(of(x86).unwrap(), "Intel(R) N100");
        let arm = |part: &str| format!("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n");
        assert_eq!(
            of(&[arm("0xd05").repeat(4), arm("0xd0b").repeat(2)].concat()).unwrap(),
            "4 x Cortex-A55 + 2 x Cortex-A76"
        );
        assert_eq!(of(&arm("0xfff")).unwrap(), "1 x core 0xfff of implementer 0x41");
        assert_eq!(of("processor\t: 0\nFeatures : fp"), None);
    }

    #[test]
    fn what_the_processor_lacks_is_said() {
        let (_dir, system) = tree(&[]);
        let found = processor(&system, &vec![("asimd", true), ("i8mm", false)]);
        assert_eq!(found.found, "unknown; has asimd; lacks i8mm");
        assert_eq!(found.facts, json!({ "name": null, "has": ["asimd"], "lacks": ["i8mm"] }));
    }
}
