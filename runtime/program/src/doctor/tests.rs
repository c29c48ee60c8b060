//! Whole machines, as trees of their files.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::finding::Level;
use super::*;

/// A system of these files.
pub(super) fn tree(files: &[(&str, &str)]) -> (TempDir, System) {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let system = System::new(dir.path());
    (dir, system)
}

/// What is found of a machine, by check.
fn found(files: &[(&str, &str)], features: &Features, usable: usize) -> Vec<Finding> {
    let (_dir, system) = tree(files);
    machine(&system, features, Some(usable))
}

#[track_caller]
fn of<'a>(found: &'a [Finding], check: &str) -> &'a Finding {
    found.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("no {check}: {found:?}"))
}

/// The checks whose findings are of this level.
fn at(found: &[Finding], level: Level) -> Vec<&str> {
    found.iter().filter(|finding| finding.level == level).map(|finding| finding.check).collect()
}

#[test]
fn a_jetson_orin_in_a_low_power_mode() {
    let cores = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n\n".repeat(4);
    let files = [
        ("proc/device-tree/model", "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit\0"),
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"),
        ("etc/os-release", "PRETTY_NAME=\"Ubuntu 22.04.5 LTS\"\n"),
        ("proc/sys/kernel/osrelease", "5.15.148-tegra\n"),
        ("proc/cpuinfo", &cores),
        ("sys/devices/system/cpu/present", "0-5\n"),
        ("sys/devices/system/cpu/online", "0-3\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/affected_cpus", "0 1 2 3\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "729600\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_min_freq", "115200\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "1510400\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "960000\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "schedutil\n"),
        ("var/lib/nvpmodel/status", "pmode:0001"),
        (
            "etc/nvpmodel.conf",
            "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >",
        ),
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal"),
        ("sys/class/thermal/thermal_zone0/temp", "48531"),
        ("sys/class/thermal/thermal_zone0/trip_point_0_type", "passive"),
        ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "99000"),
        ("sys/class/hwmon/hwmon2/name", "soctherm_oc"),
        ("sys/class/hwmon/hwmon2/oc1_event_cnt", "0"),
        (
            "proc/meminfo",
            "MemTotal: 7802348 kB\nMemAvailable: 5900000 kB\nSwapTotal: 3901168 kB\nSwapFree: 3901168 kB\n",
        ),
    ];
    let features = vec![("asimd", true), ("asimddp", true), ("fphp", true), ("i8mm", false), ("bf16", false)];
    let found = found(&files, &features, 4);
    assert_eq!(of(&found, "jetpack").facts, json!({ "jetpack": "6", "l4t": "36.4.3" }));
    assert!(
        of(&found, "board").found.starts_with("NVIDIA Jetson Orin Nano") && !of(&found, "board").found.contains('\0')
    );
    assert_eq!(of(&found, "processor").found, "4 x Cortex-A78AE; has asimd, asimddp, fphp; lacks i8mm, bf16");
    assert_eq!(at(&found, Level::Warning), ["clock"]);
    assert!(of(&found, "clock").advice[0].starts_with("held at 0.96 GHz"));
    assert!(of(&found, "power-mode").advice[0].contains("nvpmodel -m 2"));
    assert!(of(&found, "cores").advice[0].starts_with("2 of 6 are switched off"));
    assert_eq!(of(&found, "temperature").level, Level::Ok);
    assert_eq!(of(&found, "throttling").facts["events"], 0);
}

#[test]
fn a_raspberry_pi_with_too_weak_a_supply() {
    let cores = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n\n".repeat(4);
    let files = [
        ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
        ("proc/cpuinfo", &cores),
        ("sys/devices/system/cpu/present", "0-3"),
        ("sys/devices/system/cpu/online", "0-3"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n"),
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal"),
        ("sys/class/thermal/thermal_zone0/temp", "61345"),
        ("sys/class/thermal/thermal_zone0/trip_point_0_type", "critical"),
        ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "110000"),
    ];
    let found = found(&files, &vec![("asimd", true)], 4);
    assert!(!found.iter().any(|finding| ["jetpack", "power-mode"].contains(&finding.check)), "{found:?}");
    assert_eq!(at(&found, Level::Warning), ["throttling"]);
    assert!(of(&found, "throttling").found.starts_with("now: the voltage is too low, the processor is throttled"));
    assert!(of(&found, "temperature").found.ends_with("61.3 °C, limit 110.0 °C"));
}

#[test]
fn a_box_with_x86() {
    let files = [
        ("sys/class/dmi/id/sys_vendor", "LENOVO"),
        ("sys/class/dmi/id/product_name", "11JJ"),
        ("proc/cpuinfo", "processor\t: 0\nmodel name\t: Intel(R) Core(TM) i5-10500T\nflags\t\t: fpu avx2\n"),
        ("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "3\n"),
    ];
    let found = found(&files, &vec![("avx2", true), ("avx512f", false)], 12);
    assert_eq!(of(&found, "board").found, "LENOVO 11JJ");
    assert_eq!(of(&found, "processor").facts["name"], "Intel(R) Core(TM) i5-10500T");
    assert_eq!(of(&found, "throttling").found, "slowed down by heat 3 times since the start");
    assert_eq!(at(&found, Level::Warning), [""; 0]);
}

#[test]
fn where_nothing_can_be_read_all_is_unknown_and_nothing_wrong() {
    let found = found(&[], &Vec::new(), 1);
    assert!(found.iter().all(|finding| finding.level <= Level::Note), "{found:?}");
    for check in ["board", "clock", "temperature", "throttling", "pages"] {
        assert!(of(&found, check).found.starts_with("unknown: "), "{check}");
        let facts = of(&found, check).facts.as_object().unwrap();
        assert!(facts.values().all(|value| value.is_null() || *value == json!([])), "{facts:?}");
    }
    for check in ["system", "processor", "cores", "memory"] {
        assert!(of(&found, check).found.contains("unknown"), "{check}");
    }
}

#[test]
fn facts_are_objects_with_fields_of_one_type() {
    // What is unknown is null, and the same fields are there.
    let nothing = found(&[], &Vec::new(), 1);
    let here = machine(&System::new("/"), &processor::features(), Some(1));
    for finding in nothing.iter().filter(|finding| !["clock", "throttling"].contains(&finding.check)) {
        let fields = |finding: &Finding| finding.facts.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(fields(finding), fields(of(&here, finding.check)), "{}", finding.check);
    }
    assert!(here.iter().all(|finding| matches!(finding.facts, Value::Object(_))));
}

#[test]
fn what_is_no_base_and_no_pack_is_an_error_of_its_own() {
    let device = Device::new(&tree(&[]).1);
    let dir = tempfile::tempdir().unwrap();
    let (findings, base) = base::findings(dir.path(), &device);
    assert!(base.is_none() && findings.len() == 1 && findings[0].level == Level::Error, "{findings:?}");
    std::fs::write(dir.path().join("a.pack"), "no pack").unwrap();
    for name in ["a.pack", "absent.pack"] {
        let findings = pack::findings(&dir.path().join(name), &[], 0, &device);
        assert!(findings[0].level == Level::Error && findings[0].found.contains(name), "{findings:?}");
    }
    let findings = pack::findings(Path::new("/dev/null"), &[], 0, &device);
    assert!(findings[0].found.contains("a device"), "{findings:?}");
}
