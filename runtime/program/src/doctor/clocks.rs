//! How many cores there are, and how fast they may run.

use serde_json::json;

use super::finding::{Finding, Level, or_unknown};
use super::system::{System, listed, ranges};

const CPU: &str = "sys/devices/system/cpu";

/// A cluster whose cores reach less than this part of the fastest ones' clock is a slower one: cores of one kind
/// differ by a few percent.
const SLOWER: f64 = 0.9;

/// The cores that there are, that are switched on, and that this process may use.
pub(super) fn cores(system: &System, usable: Option<usize>) -> Finding {
    let count = |name| system.text(&format!("{CPU}/{name}")).as_deref().and_then(listed);
    let (present, online) = (count("present"), count("online"));
    let less = |a: Option<usize>, b: Option<usize>| a.zip(b).filter(|(a, b)| a < b);
    let found = format!("{} online, {} usable", or_unknown(online), or_unknown(usable));
    let mut finding = Finding::new("cores", found, json!({ "present": present, "online": online, "usable": usable }));
    if let Some((online, present)) = less(online, present) {
        let off = present - online;
        finding = finding.advise(
            Level::Note,
            format!("{off} of {present} are switched off: by the power mode (`nvpmodel` on a Jetson) or by hand"),
        );
    }
    if less(usable, online).is_some() {
        let advice =
            "a cpuset or a quota keeps this process to them (`taskset`, `docker --cpus`, a service's CPUQuota)";
        finding = finding.advise(Level::Note, advice);
    }
    finding
}

/// Cores that share limits and a governor; clocks in kHz.
#[derive(Debug)]
struct Cluster {
    cores: Vec<u32>,
    /// What the cores do now, the slowest and the fastest.
    now: Option<(u64, u64)>,
    settings: Settings,
}

#[derive(Debug, PartialEq)]
struct Settings {
    /// What the hardware can do.
    slowest: Option<u64>,
    fastest: Option<u64>,
    /// What it is allowed to do.
    limit: Option<u64>,
    governor: Option<String>,
    driver: Option<String>,
}

/// A finding for each cluster, and one about there being several kinds.
pub(super) fn clocks(system: &System) -> Vec<Finding> {
    let clusters = clusters(system);
    if clusters.is_empty() {
        let facts = json!({ "cores": null });
        return vec![Finding::unknown("clock", "the system tells none (a virtual machine hides it)", facts)];
    }
    clusters.iter().map(clock).chain(kinds(&clusters)).collect()
}

fn clusters(system: &System) -> Vec<Cluster> {
    let mut clusters: Vec<Cluster> = Vec::new();
    for policy in system.numbered(&format!("{CPU}/cpufreq"), "policy") {
        let path = |name: &str| format!("{CPU}/cpufreq/{policy}/{name}");
        let number = |name| system.number::<u64>(&path(name));
        let text = |name| system.text(&path(name));
        let cores = text("affected_cpus").unwrap_or_default();
        let cores = cores.split_whitespace().filter_map(|core| core.parse().ok());
        let settings = Settings {
            slowest: number("cpuinfo_min_freq"),
            fastest: number("cpuinfo_max_freq"),
            limit: number("scaling_max_freq"),
            governor: text("scaling_governor"),
            driver: text("scaling_driver"),
        };
        let now = number("scaling_cur_freq");
        match clusters.iter_mut().find(|cluster| cluster.settings == settings) {
            Some(cluster) => {
                cluster.cores.extend(cores);
                let both = cluster.now.zip(now).map(|((low, high), now)| (low.min(now), high.max(now)));
                cluster.now = both.or(cluster.now).or(now.map(|now| (now, now)));
            }
            None => clusters.push(Cluster { cores: cores.collect(), now: now.map(|now| (now, now)), settings }),
        }
    }
    clusters.iter_mut().for_each(|cluster| cluster.cores.sort_unstable());
    clusters
}

fn clock(cluster: &Cluster) -> Finding {
    let Cluster { cores, now, settings: Settings { slowest, fastest, limit, governor, driver } } = cluster;
    let ghz = |khz: Option<u64>| khz.map_or_else(|| "unknown".to_owned(), |khz| format!("{:.2}", gigahertz(khz)));
    let now_words = match now {
        Some((low, high)) if low != high => format!("{} to {}", ghz(Some(*low)), ghz(Some(*high))),
        now => ghz(now.map(|(low, _)| low)),
    };
    let found = format!(
        "cores {}: now {now_words}, range {} to {} GHz, governor {}",
        ranges(cores),
        ghz(*slowest),
        ghz(*fastest),
        or_unknown(governor.as_ref())
    );
    let finding = Finding::new(
        "clock",
        found,
        json!({
            "cores": cores, "now_khz": now.map(|(_, high)| high), "min_khz": slowest, "max_khz": fastest,
            "limit_khz": limit, "governor": governor, "driver": driver,
        }),
    );
    let limited = limit.zip(*fastest).filter(|(limit, fastest)| limit < fastest);
    let finding = match limited {
        Some((limit, _)) => finding.advise(
            Level::Warning,
            format!(
                "held at {:.2} GHz: by heat, the power mode (`nvpmodel` on a Jetson) or scaling_max_freq below \
                 /{CPU}/cpufreq",
                gigahertz(limit)
            ),
        ),
        None => finding,
    };
    // With these drivers the processor chooses by itself, whatever the governor is called.
    let chooses = driver.as_ref().is_some_and(|driver| driver.contains("pstate"));
    let is_slow = governor.as_deref() == Some("powersave") && !chooses;
    finding.advise_if(is_slow, Level::Warning, || {
        "this governor keeps the lowest clock: `sudo cpupower frequency-set -g schedutil` ends that".to_owned()
    })
}

/// What to think of where some cores are much faster than others.
fn kinds(clusters: &[Cluster]) -> Option<Finding> {
    let fastest = clusters.iter().filter_map(|cluster| cluster.settings.fastest).max()?;
    let is_slower =
        |cluster: &&Cluster| cluster.settings.fastest.is_some_and(|own| (own as f64) < SLOWER * fastest as f64);
    let (slow, fast): (Vec<&Cluster>, Vec<&Cluster>) = clusters.iter().partition(is_slower);
    let cores = |clusters: &[&Cluster]| {
        let mut all: Vec<u32> = clusters.iter().flat_map(|cluster| cluster.cores.iter().copied()).collect();
        all.sort_unstable();
        all
    };
    let (slow, fast) = (cores(&slow), cores(&fast));
    if slow.is_empty() {
        return None;
    }
    let (list, n) = (ranges(&fast), fast.len());
    let found = format!("cores {list} are faster than cores {}", ranges(&slow));
    let advice = format!(
        "slower cores can hold the others up: compare `overmask bench` with `taskset -c {list} overmask bench \
         --threads {n}`"
    );
    Some(Finding::new("clusters", found, json!({ "fast": fast, "slow": slow })).advise(Level::Note, advice))
}

fn gigahertz(khz: u64) -> f64 {
    khz as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    /// The files of a policy.
    fn policy(n: u32, cores: &str, max: u64, limit: u64, governor: &str, driver: &str) -> Vec<(String, String)> {
        let files = [
            ("affected_cpus", cores.to_owned()),
            ("scaling_cur_freq", (max / 2).to_string()),
            ("cpuinfo_min_freq", "600000".to_owned()),
            ("cpuinfo_max_freq", max.to_string()),
            ("scaling_max_freq", limit.to_string()),
            ("scaling_governor", governor.to_owned()),
            ("scaling_driver", driver.to_owned()),
        ];
        files.map(|(name, text)| (format!("{CPU}/cpufreq/policy{n}/{name}"), text)).to_vec()
    }

    fn of(policies: &[Vec<(String, String)>]) -> Vec<Finding> {
        let files = policies.concat();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let (_dir, system) = tree(&files);
        clocks(&system)
    }

    #[test]
    fn policies_of_one_kind_are_one_line() {
        let each = |n: u32| policy(n, &n.to_string(), 3_000_000, 3_000_000, "powersave", "intel_pstate");
        let found = of(&[each(0), each(1), each(2)]);
        assert_eq!((found.len(), found[0].level), (1, Level::Ok));
        assert_eq!(found[0].found, "cores 0-2: now 1.50, range 0.60 to 3.00 GHz, governor powersave");
    }

    #[test]
    fn limits_slow_governors_and_slower_cores_are_told() {
        let slow = policy(0, "0 1 2 3", 1_800_000, 1_800_000, "powersave", "cpufreq-dt");
        let fast = policy(4, "4 5", 2_400_000, 1_200_000, "ondemand", "cpufreq-dt");
        let found = of(&[slow, fast]);
        assert_eq!(found.iter().map(|f| f.level).collect::<Vec<_>>(), [Level::Warning, Level::Warning, Level::Note]);
        assert!(found[0].advice[0].contains("lowest clock"), "{found:?}");
        assert!(found[1].advice[0].starts_with("held at 1.20 GHz"), "{found:?}");
        assert!(found[2].advice[0].contains("taskset -c 4-5 overmask bench --threads 2"), "{found:?}");
    }

    #[test]
    fn no_policies_are_no_guess() {
        let found = of(&[]);
        assert_eq!((found.len(), found[0].level), (1, Level::Note));
        let odd = of(&[vec![(format!("{CPU}/cpufreq/policy0/affected_cpus"), "0 x".to_owned())]]);
        assert_eq!(odd[0].found, "cores 0: now unknown, range unknown to unknown GHz, governor unknown");
    }

    #[test]
    fn cores_that_are_off_or_denied_are_told() {
        let (_dir, system) = tree(&[(&format!("{CPU}/present"), "0-5\n"), (&format!("{CPU}/online"), "0-3\n")]);
        let found = cores(&system, Some(2));
        assert_eq!((found.level, found.advice.len()), (Level::Note, 2));
        assert!(found.advice[0].starts_with("2 of 6 are switched off"), "{found:?}");
        assert_eq!(cores(&system, Some(4)).advice.len(), 1);
        let (_dir, nothing) = tree(&[]);
        assert_eq!(cores(&nothing, None).found, "unknown online, unknown usable");
    }
}
