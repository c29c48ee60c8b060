//! How much memory there is, and in what pages.

use serde_json::json;

use super::finding::{Finding, Level, or_unknown, size};
use super::system::System;

/// Memory that programs can still get, in bytes.
pub(super) fn available(system: &System) -> Option<u64> {
    let free = field(system, "MemAvailable")?;
    Some(limit(system).map_or(free, |limit| free.min(limit)))
}

pub(super) fn findings(system: &System) -> Vec<Finding> {
    vec![memory(system), pages(system)]
}

fn memory(system: &System) -> Finding {
    let [total, available, swap, swap_free] =
        ["MemTotal", "MemAvailable", "SwapTotal", "SwapFree"].map(|name| field(system, name));
    let limit = limit(system).filter(|limit| total.is_none_or(|total| *limit < total));
    let facts = json!({
        "total_bytes": total, "available_bytes": available, "limit_bytes": limit,
        "swap_bytes": swap, "swap_free_bytes": swap_free,
    });
    let words = |bytes: Option<u64>| or_unknown(bytes.map(size));
    let swap = if swap == Some(0) { "no swap".to_owned() } else { format!("swap {}", words(swap)) };
    let found = format!("{}, {} available, {swap}", words(total), words(available));
    let finding = Finding::new("memory", found, facts);
    match limit {
        Some(limit) => finding.advise(
            Level::Note,
            format!("this process's group may take {} (`docker --memory`, a service's MemoryMax)", size(limit)),
        ),
        None => finding,
    }
}

/// A line of /proc/meminfo, in bytes.
fn field(system: &System, name: &str) -> Option<u64> {
    let kilobytes = system.value("proc/meminfo", name, ':')?;
    kilobytes.strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least that the control groups of this process allow, in either version of them.
fn limit(system: &System) -> Option<u64> {
    let groups = system.text("proc/self/cgroup")?;
    let limits = groups.lines().filter_map(|line| {
        // `0::/user.slice/a.service` or `4:memory:/docker/1234`
        let mut fields = line.splitn(3, ':').skip(1);
        let (folder, file) = match fields.next()? {
            "" => ("sys/fs/cgroup", "memory.max"),
            names if names.split(',').any(|name| name == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        // A group keeps to the limits of those above it. In a container, what it calls its own may not be there.
        let path = std::path::Path::new(fields.next()?.trim_start_matches('/'));
        let above = path.ancestors().filter_map(|group| group.to_str());
        above.filter_map(|group| system.number::<u64>(&format!("{folder}/{group}/{file}"))).min()
    });
    limits.min()
}

/// The size of pages, which the kernel tells each process.
fn pages(system: &System) -> Finding {
    /// What comes before the size, <https://man7.org/linux/man-pages/man3/getauxval.3.html>.
    const PAGE_SIZE: usize = 6;
    let vector = system.bytes("proc/self/auxv").unwrap_or_default();
    let (words, _) = vector.as_chunks::<{ size_of::<usize>() }>();
    let words: Vec<usize> = words.iter().map(|word| usize::from_ne_bytes(*word)).collect();
    let bytes = words.as_chunks().0.iter().find(|[name, _]| *name == PAGE_SIZE).map(|[_, value]| *value);
    let facts = json!({ "bytes": bytes });
    match bytes {
        Some(bytes) => Finding::new("pages", format!("{} kB", bytes / 1024), facts),
        None => Finding::unknown("pages", "the kernel does not tell their size", facts),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    #[test]
    fn memory_is_told_in_bytes() {
        let text = "MemTotal:        7990000 kB\nMemFree: 1 kB\nMemAvailable:    5100000 kB\nSwapTotal: 0 kB\n";
        let (_dir, system) = tree(&[("proc/meminfo", text)]);
        let found = memory(&system);
        assert_eq!((found.level, found.found.as_str()), (Level::Ok, "8.2 GB, 5.2 GB available, no swap"));
        assert_eq!(found.facts["available_bytes"], 5_100_000u64 * 1024);
        assert_eq!((available(&system), &found.facts["swap_free_bytes"]), (Some(5_100_000 * 1024), &json!(null)));
        let (_dir, nothing) = tree(&[]);
        assert_eq!(memory(&nothing).found, "unknown, unknown available, swap unknown");
        assert_eq!(available(&nothing), None);
    }

    #[test]
    fn the_least_limit_of_the_groups_counts() {
        let meminfo = ("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\n");
        let of = |files: &[(&str, &str)]| {
            let (_dir, system) = tree(&[&[meminfo][..], files].concat());
            (limit(&system), memory(&system).level, available(&system).unwrap())
        };
        let own = ("proc/self/cgroup", "0::/system.slice/a.service\n");
        let none = (None, Level::Ok, 6_000_000 * 1024);
        assert_eq!(of(&[own, ("sys/fs/cgroup/system.slice/a.service/memory.max", "max\n")]), none);
        let two = [
            ("sys/fs/cgroup/system.slice/memory.max", "1000000\n"),
            ("sys/fs/cgroup/system.slice/a.service/memory.max", "2000000\n"),
        ];
        assert_eq!(of(&[&[own][..], &two].concat()), (Some(1_000_000), Level::Note, 1_000_000));
        // In a container its own group lies at the root.
        assert_eq!(of(&[own, ("sys/fs/cgroup/memory.max", "3000000")]).0, Some(3_000_000));
        let old = ("proc/self/cgroup", "5:cpuset:/x\n4:memory,other:/docker/1\n");
        assert_eq!(of(&[old, ("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "4096")]).0, Some(4096));
        // What version 1 says where there is none.
        let all = ("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "9223372036854771712");
        assert_eq!(of(&[old, all]).1, Level::Ok);
    }

    #[test]
    fn pages_may_be_large() {
        let of = |words: &[usize]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let (dir, system) = tree(&[("proc/self/auxv", "")]);
            std::fs::write(dir.path().join("proc/self/auxv"), bytes).unwrap();
            pages(&system).found
        };
        assert_eq!(of(&[3, 6, 6, 65536, 0, 0]), "64 kB");
        assert_eq!(of(&[33, 1, 6, 4096, 0, 0]), "4 kB");
        assert!(of(&[33, 1]).starts_with("unknown") && of(&[]).starts_with("unknown"));
    }
}
