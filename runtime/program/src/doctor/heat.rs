//! What slows a processor down: the power mode, heat, and too weak a supply.

use serde_json::{Value, json};

use super::finding::{Finding, Level, count};
use super::system::System;

const THERMAL: &str = "sys/class/thermal";

pub(super) fn findings(system: &System) -> Vec<Finding> {
    power_mode(system).into_iter().chain([temperature(system), throttling(system)]).collect()
}

/// The power mode of a Jetson, which sets clocks and how many cores are on.
fn power_mode(system: &System) -> Option<Finding> {
    // `pmode:0002`
    let status = system.text("var/lib/nvpmodel/status")?;
    let mode: Option<u32> =
        status.split_whitespace().find_map(|word| word.strip_prefix("pmode:")).and_then(|mode| mode.parse().ok());
    let modes = power_modes(&system.text("etc/nvpmodel.conf").unwrap_or_default());
    let name = mode.and_then(|mode| modes.iter().find(|(id, _)| *id == mode)).map(|(_, name)| name.clone());
    let facts = json!({ "mode": mode, "name": name });
    let Some(mode) = mode else { return Some(Finding::unknown("power-mode", "nvpmodel tells none", facts)) };
    let called = name.as_ref().map_or_else(String::new, |name| format!(", {name}"));
    let finding = Finding::new("power-mode", format!("{mode}{called}"), facts);
    let is_fastest = |name: &str| name.starts_with("MAXN");
    let faster = modes.iter().rfind(|(_, name)| is_fastest(name));
    Some(match (name, faster) {
        (Some(name), Some((id, faster))) if !is_fastest(&name) => {
            let advice = format!("it limits clocks or cores; `sudo nvpmodel -m {id}` ({faster}) does not");
            finding.advise(Level::Note, advice)
        }
        _ => finding,
    })
}

/// Number and name of each mode, from lines like `< POWER_MODEL ID=0 NAME=15W >`.
fn power_modes(text: &str) -> Vec<(u32, String)> {
    let mode = |line: &str| {
        let line = line.trim().strip_prefix('<')?.trim_start().strip_prefix("POWER_MODEL")?;
        let field = |name| line.split_whitespace().find_map(|word| word.strip_prefix(name));
        Some((field("ID=")?.parse().ok()?, field("NAME=")?.to_owned()))
    };
    text.lines().filter_map(mode).collect()
}

/// A thermal zone.
struct Zone {
    kind: String,
    degrees: f64,
    /// From where the system slows down, else stops.
    limit: Option<f64>,
}

impl Zone {
    /// How many degrees it is below its limit.
    fn margin(&self) -> Option<f64> {
        self.limit.map(|limit| limit - self.degrees)
    }
}

/// The zone that is nearest to its limit, else the hottest.
fn temperature(system: &System) -> Finding {
    let zones = zones(system);
    let facts = |nearest: Option<&Zone>| {
        let all = zones.iter().map(|zone| json!({ "zone": zone.kind, "celsius": zone.degrees, "limit": zone.limit }));
        json!({ "nearest_to_limit": nearest.map(|zone| &zone.kind), "zones": all.collect::<Vec<Value>>() })
    };
    let limited = zones.iter().filter_map(|zone| Some((zone, zone.margin()?)));
    let nearest = limited.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(zone, _)| zone);
    let hottest = || zones.iter().max_by(|a, b| a.degrees.total_cmp(&b.degrees));
    let Some(zone) = nearest.or_else(hottest) else {
        return Finding::unknown("temperature", "the system has no thermal zone that tells it", facts(None));
    };
    let limit = zone.limit.map_or_else(String::new, |limit| format!(", limit {limit:.1} °C"));
    let finding =
        Finding::new("temperature", format!("{} {:.1} °C{limit}", zone.kind, zone.degrees), facts(Some(zone)));
    let margin = zone.margin();
    finding
        .advise_if(margin.is_some_and(|margin| margin <= 0.0), Level::Warning, || {
            "the system slows down or stops from there on: cool the board, or choose a lower power mode".to_owned()
        })
        .advise_if(margin.is_some_and(|margin| 0.0 < margin && margin < 5.0), Level::Note, || {
            "it is close to where the system slows down".to_owned()
        })
}

fn zones(system: &System) -> Vec<Zone> {
    let zone = |zone: String| {
        let path = |name: &str| format!("{THERMAL}/{zone}/{name}");
        // A sensor that is off says nothing, or -256 °C.
        let degrees = celsius(system.number(&path("temp"))?).filter(|degrees| *degrees > -50.0)?;
        let points = system.names(&format!("{THERMAL}/{zone}")).into_iter().filter_map(|name| {
            let n: u32 = name.strip_prefix("trip_point_")?.strip_suffix("_type")?.parse().ok()?;
            let at = celsius(system.number(&path(&format!("trip_point_{n}_temp")))?).filter(|at| *at > 0.0)?;
            Some((system.text(&path(&name))?, at))
        });
        let points: Vec<(String, f64)> = points.collect();
        let first = |kinds: &[&str]| {
            let at = points.iter().filter(|(kind, _)| kinds.contains(&kind.as_str())).map(|(_, at)| *at);
            at.min_by(f64::total_cmp)
        };
        let limit = first(&["passive", "hot"]).or_else(|| first(&["critical"]));
        Some(Zone { kind: system.text(&path("type")).unwrap_or(zone), degrees, limit })
    };
    system.numbered(THERMAL, "thermal_zone").into_iter().filter_map(zone).collect()
}

/// Thousandths of a degree in degrees, where they are any that a board can have.
fn celsius(thousandths: i64) -> Option<f64> {
    (-300_000..300_000).contains(&thousandths).then_some(thousandths as f64 / 1e3)
}

/// What the bits of a Raspberry Pi's `get_throttled` say, now; 16 bits higher, since the start.
const PI: [(u32, &str); 4] = [
    (1, "the voltage is too low"),
    (1 << 1, "the clock is capped"),
    (1 << 2, "the processor is throttled"),
    (1 << 3, "the temperature limit is reached"),
];

/// Whether the processor was slowed down, as far as the hardware keeps count.
fn throttling(system: &System) -> Finding {
    let known = raspberry_pi(system).or_else(|| over_current(system)).or_else(|| intel(system));
    known.unwrap_or_else(|| {
        Finding::unknown("throttling", "this hardware keeps no count that can be read", json!({ "source": null }))
    })
}

/// <https://www.raspberrypi.com/documentation/computers/os.html#get_throttled>
fn raspberry_pi(system: &System) -> Option<Finding> {
    let folders = system.names("sys/devices/platform");
    let places = folders.iter().filter(|name| name.starts_with("soc"));
    let text = places
        .into_iter()
        .find_map(|soc| system.text(&format!("sys/devices/platform/{soc}/soc:firmware/get_throttled")))?;
    let bits = u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()?;
    let said = |bits: u32| PI.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, words)| *words).collect::<Vec<_>>();
    let (now, before) = (said(bits), said(bits >> 16));
    let mut parts = Vec::new();
    if !now.is_empty() {
        parts.push(format!("now: {}", now.join(", ")));
    }
    if !before.is_empty() {
        parts.push(format!("since the start: {}", before.join(", ")));
    }
    let found = if parts.is_empty() { "none since the start".to_owned() } else { parts.join("; ") };
    let facts = json!({ "source": "get_throttled", "bits": bits, "now": now, "since_start": before });
    let either = bits | bits >> 16;
    let level = if bits & 0xf != 0 { Level::Warning } else { Level::Note };
    Some(
        Finding::new("throttling", found, facts)
            .advise_if(either & 1 != 0, Level::Warning, || {
                "use the board's own power supply and a short cable".to_owned()
            })
            .advise_if(either & 0b1100 != 0, level, || "cool the board".to_owned()),
    )
}

/// A Jetson counts how often it has drawn too much current.
fn over_current(system: &System) -> Option<Finding> {
    const HWMON: &str = "sys/class/hwmon";
    let is_it = |dir: &String| system.text(&format!("{HWMON}/{dir}/name")).is_some_and(|name| name == "soctherm_oc");
    let dir = system.numbered(HWMON, "hwmon").into_iter().find(is_it)?;
    let counters = system.names(&format!("{HWMON}/{dir}"));
    let counters = counters.iter().filter(|name| name.starts_with("oc") && name.ends_with("_event_cnt"));
    let events: u64 = counters.filter_map(|name| system.number::<u64>(&format!("{HWMON}/{dir}/{name}"))).sum();
    let facts = json!({ "source": "soctherm_oc", "events": events });
    let found = format!("{} of too much current since the start", count(events, "event"));
    Some(Finding::new("throttling", found, facts).advise_if(events > 0, Level::Note, || {
        "each slows the board down for a while: a lower power mode or a stronger supply prevents them".to_owned()
    }))
}

/// Processors of Intel count how often heat has slowed them down.
fn intel(system: &System) -> Option<Finding> {
    let path = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count";
    let events: u64 = system.number(path)?;
    let facts = json!({ "source": "thermal_throttle", "events": events });
    let found = format!("slowed down by heat {} since the start", count(events, "time"));
    let advice = || "cool the machine if it goes up while packs run".to_owned();
    Some(Finding::new("throttling", found, facts).advise_if(events > 0, Level::Note, advice))
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    const GET_THROTTLED: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";

    #[test]
    fn a_raspberry_pi_says_what_slows_it() {
        let of = |text: &str| {
            let (_dir, system) = tree(&[(GET_THROTTLED, text)]);
            throttling(&system)
        };
        let good = of("0\n");
        assert_eq!((good.level, good.found.as_str()), (Level::Ok, "none since the start"));
        let weak = of("50005\n");
        assert_eq!((weak.level, weak.advice.len()), (Level::Warning, 2));
        let twice = "the voltage is too low, the processor is throttled";
        assert_eq!(weak.found, format!("now: {twice}; since the start: {twice}"));
        let hot_before = of("0x80000");
        assert_eq!((hot_before.level, hot_before.advice.as_slice()), (Level::Note, &["cool the board".to_owned()][..]));
        assert!(of("else").found.starts_with("unknown"));
    }

    #[test]
    fn a_zone_is_judged_by_its_own_limits() {
        let zone = |n: u32, kind: &str, temp: &str, trips: &[(&str, &str)]| {
            let path = |name: &str| format!("{THERMAL}/thermal_zone{n}/{name}");
            let mut files = vec![(path("type"), kind.to_owned()), (path("temp"), temp.to_owned())];
            for (i, (kind, at)) in trips.iter().enumerate() {
                files.push((path(&format!("trip_point_{i}_type")), (*kind).to_owned()));
                files.push((path(&format!("trip_point_{i}_temp")), (*at).to_owned()));
            }
            files
        };
        let of = |zones: &[Vec<(String, String)>]| {
            let files = zones.concat();
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            let (_dir, system) = tree(&files);
            temperature(&system)
        };
        let cpu = |temp: &str| {
            zone(0, "cpu-thermal", temp, &[("active", "50000"), ("passive", "80000"), ("critical", "90000")])
        };
        // Hotter, and further from its limit; off; without a limit.
        let others = [
            zone(1, "PMIC-Die", "100000", &[("critical", "150000"), ("passive", "-274000")]),
            zone(2, "gpu-thermal", "-256000", &[("passive", "80000")]),
            zone(3, "iwlwifi", "70000", &[]),
        ]
        .concat();
        let found = of(&[cpu("51200"), others.clone()]);
        assert_eq!((found.level, found.found.as_str()), (Level::Ok, "cpu-thermal 51.2 °C, limit 80.0 °C"));
        assert_eq!(found.facts["zones"].as_array().unwrap().len(), 3);
        assert_eq!(of(&[cpu("76000"), others.clone()]).level, Level::Note);
        assert_eq!(of(&[cpu("80000"), others]).level, Level::Warning);
        assert_eq!(of(&[zone(0, "a", "40000", &[]), zone(1, "b", "50000", &[])]).found, "b 50.0 °C");
        assert!(of(&[zone(0, "a", "x", &[])]).found.starts_with("unknown"));
    }

    #[test]
    fn a_faster_power_mode_is_named() {
        let conf = "# comment\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n\
                    < POWER_MODEL ID=2 NAME=MAXN_SUPER >\n\
                    < PM_CONFIG DEFAULT=0 >\n";
        let of = |status: &str| {
            let (_dir, system) = tree(&[("var/lib/nvpmodel/status", status), ("etc/nvpmodel.conf", conf)]);
            power_mode(&system).unwrap()
        };
        let slow = of("pmode:0000 fmode:quiet\n");
        assert_eq!((slow.level, slow.found.as_str()), (Level::Note, "0, 15W"));
        assert!(slow.advice[0].contains("`sudo nvpmodel -m 2` (MAXN_SUPER)"), "{slow:?}");
        assert_eq!((of("pmode:0002").level, of("pmode:0007").found.as_str()), (Level::Ok, "7"));
        assert!(of("else").found.starts_with("unknown"));
        assert!(power_mode(&tree(&[]).1).is_none());
    }

    #[test]
    fn counters_of_other_hardware_are_read() {
        let (_dir, jetson) = tree(&[
            ("sys/class/hwmon/hwmon0/name", "ina3221"),
            ("sys/class/hwmon/hwmon1/name", "soctherm_oc"),
            ("sys/class/hwmon/hwmon1/oc1_event_cnt", "2"),
            ("sys/class/hwmon/hwmon1/oc3_event_cnt", "1"),
        ]);
        let found = throttling(&jetson);
        assert_eq!((found.level, &found.facts["events"]), (Level::Note, &json!(3)));
        let (_dir, intel) = tree(&[("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "0")]);
        assert_eq!(
            (throttling(&intel).level, throttling(&intel).found.as_str()),
            (Level::Ok, "slowed down by heat 0 times since the start")
        );
        assert_eq!(throttling(&tree(&[]).1).level, Level::Note);
    }
}
