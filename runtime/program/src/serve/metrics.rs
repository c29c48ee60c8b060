//! What Prometheus reads: counters of the server, in its text format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use overmask::engine::CacheUse;

use super::failure::Code;

/// Upper bounds of the buckets of times, in seconds.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Upper bounds of the buckets of batches, in answers.
const ANSWERS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// What the server counts.
pub(super) struct Metrics {
    started: Instant,
    requests: AtomicU64,
    answers: AtomicU64,
    failures: [AtomicU64; Code::ALL.len()],
    refused_connections: AtomicU64,
    switches: AtomicU64,
    failed_switches: AtomicU64,
    took: Histogram<14>,
    computed: Histogram<14>,
    batches: Histogram<9>,
}

/// What is so at the moment.
pub(super) struct Now {
    pub(super) generation: u64,
    pub(super) tasks: usize,
    pub(super) unavailable: usize,
    /// What is remembered of texts, by the ids of bases.
    pub(super) caches: BTreeMap<String, CacheUse>,
    pub(super) waiting: usize,
    pub(super) connections: usize,
    pub(super) held_bytes: usize,
}

struct Histogram<const N: usize> {
    bounds: [f64; N],
    /// How many values were in each bucket, and beyond the last at the end.
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    /// The sum of all values, in millionths.
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [f64; N]) -> Self {
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        Histogram { bounds, counts, beyond: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }

    fn add(&self, value: f64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound);
        add(bucket.map_or(&self.beyond, |bucket| &self.counts[bucket]), 1);
        add(&self.sum, (value * 1e6) as u64);
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        head(name, "histogram", help, out);
        let mut count = 0;
        for (bound, of_bucket) in self.bounds.iter().zip(&self.counts) {
            count += get(of_bucket);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        count += get(&self.beyond);
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum {}", get(&self.sum) as f64 / 1e6);
        let _ = writeln!(out, "{name}_count {count}");
    }
}

impl Metrics {
    pub(super) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Metrics {
            started: Instant::now(),
            requests: zero(),
            answers: zero(),
            failures: std::array::from_fn(|_| zero()),
            refused_connections: zero(),
            switches: zero(),
            failed_switches: zero(),
            took: Histogram::new(SECONDS),
            computed: Histogram::new(SECONDS),
            batches: Histogram::new(ANSWERS),
        }
    }

    /// A request was answered, with so many answers, so long after it was read.
    pub(super) fn answered(&self, answers: usize, took: Duration) {
        add(&self.requests, 1);
        add(&self.answers, answers as u64);
        self.took.add(took.as_secs_f64());
    }

    /// A request, or a part of one, has no answer.
    pub(super) fn failed(&self, code: Code) {
        add(&self.failures[code as usize], 1);
    }

    /// A batch of so many answers was computed.
    pub(super) fn batch(&self, answers: usize, took: Duration) {
        self.batches.add(answers as f64);
        self.computed.add(took.as_secs_f64());
    }

    /// A connection was closed for the sake of others, or not taken.
    pub(super) fn refused_connection(&self) {
        add(&self.refused_connections, 1);
    }

    /// Another generation became the one that answers, or could not be opened.
    pub(super) fn switched(&self, ok: bool) {
        add(if ok { &self.switches } else { &self.failed_switches }, 1);
    }

    /// All of it as text.
    pub(super) fn text(&self, now: &Now) -> String {
        let mut out = String::new();
        let counters = [
            ("overmask_requests_total", "Requests that were answered.", get(&self.requests)),
            ("overmask_answers_total", "Answers that were given: texts times tasks.", get(&self.answers)),
            (
                "overmask_connections_refused_total",
                "Connections that were closed in favour of others, or not taken.",
                get(&self.refused_connections),
            ),
            ("overmask_switches_total", "Switches to a generation of the store.", get(&self.switches)),
            (
                "overmask_switches_failed_total",
                "Generations that could not be opened, so that the one before went on.",
                get(&self.failed_switches),
            ),
        ];
        for (name, help, value) in counters {
            single(name, "counter", help, value as f64, &mut out);
        }
        head("overmask_errors_total", "counter", "Requests and answers that failed, by their code.", &mut out);
        for ((_, name, _), count) in Code::ALL.iter().zip(&self.failures) {
            let _ = writeln!(out, "overmask_errors_total{{code=\"{name}\"}} {}", get(count));
        }
        let gauges = [
            ("overmask_generation", "Number of the generation that answers.", now.generation as f64),
            ("overmask_tasks", "Tasks of that generation.", now.tasks as f64),
            ("overmask_tasks_unavailable", "Tasks of it that cannot answer.", now.unavailable as f64),
            ("overmask_queue_answers", "Answers that wait to be computed.", now.waiting as f64),
            ("overmask_connections", "Connections that are open.", now.connections as f64),
            ("overmask_held_bytes", "Bytes of requests that arrive or wait.", now.held_bytes as f64),
        ];
        for (name, help, value) in gauges {
            single(name, "gauge", help, value, &mut out);
        }
        caches(&now.caches, &mut out);
        self.took.write("overmask_request_seconds", "Time from a request that was read to its reply.", &mut out);
        self.computed.write("overmask_batch_seconds", "Time to compute a batch.", &mut out);
        self.batches.write("overmask_batch_answers", "Answers of a batch.", &mut out);
        self.process(&mut out);
        out
    }

    fn process(&self, out: &mut String) {
        let since =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(self.started.elapsed());
        let help = "Start time of the process since 1970.";
        single("process_start_time_seconds", "gauge", help, since.as_secs_f64(), out);
        if let Some(bytes) = resident_bytes() {
            single("process_resident_memory_bytes", "gauge", "Resident memory.", bytes as f64, out);
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // But for the one that counts them.
            let open = open.count().saturating_sub(1);
            single("process_open_fds", "gauge", "Open file descriptors.", open as f64, out);
        }
    }
}

/// What each base's engine remembers of texts; nothing where none does.
fn caches(caches: &BTreeMap<String, CacheUse>, out: &mut String) {
    if caches.is_empty() {
        return;
    }
    let mut write = |name: &str, kind: &str, help: &str, value: fn(&CacheUse) -> u64| {
        head(name, kind, help, out);
        for (base, cache) in caches {
            let _ = writeln!(out, "{name}{{base=\"{base}\"}} {}", value(cache));
        }
    };
    let help = "Texts that started behind the layers that their task leaves alone.";
    write("overmask_cache_hits_total", "counter", help, |cache| cache.hits);
    let help = "Texts that had not come before, so that these layers were computed.";
    write("overmask_cache_misses_total", "counter", help, |cache| cache.misses);
    write("overmask_cache_texts", "gauge", "Texts that are remembered.", |cache| cache.texts as u64);
    write("overmask_cache_bytes", "gauge", "Bytes of what is remembered of them.", |cache| cache.bytes as u64);
}

/// Resident memory of this process, where the system tells it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn head(name: &str, kind: &str, help: &str, out: &mut String) {
    // Writing to a text does not fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn single(name: &str, kind: &str, help: &str, value: f64, out: &mut String) {
    head(name, kind, help, out);
    let _ = writeln!(out, "{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let metrics = Metrics::new();
        for answers in [1, 2, 3, 300] {
            metrics.batch(answers, Duration::from_millis(3));
        }
        metrics.answered(2, Duration::from_secs(20));
        metrics.failed(Code::Overloaded);
        let cache = CacheUse { hits: 3, misses: 2, texts: 1, bytes: 1536 };
        let caches = BTreeMap::from([("ab".to_owned(), cache)]);
        let now = Now { generation: 7, tasks: 2, unavailable: 1, caches, waiting: 0, connections: 3, held_bytes: 0 };
        let text = metrics.text(&now);
        for line in [
            "overmask_batch_answers_bucket{le=\"1\"} 1",
            "overmask_batch_answers_bucket{le=\"4\"} 3",
            "overmask_batch_answers_bucket{le=\"256\"} 3",
            "overmask_batch_answers_bucket{le=\"+Inf\"} 4",
            "overmask_batch_answers_sum 306",
            "overmask_batch_seconds_bucket{le=\"0.002\"} 0",
            "overmask_batch_seconds_bucket{le=\"0.005\"} 4",
            "overmask_request_seconds_count 1",
            "overmask_errors_total{code=\"overloaded\"} 1",
            "overmask_generation 7",
            "# TYPE overmask_cache_hits_total counter",
            "overmask_cache_hits_total{base=\"ab\"} 3",
            "overmask_cache_misses_total{base=\"ab\"} 2",
            "# TYPE overmask_cache_texts gauge",
            "overmask_cache_texts{base=\"ab\"} 1",
            "overmask_cache_bytes{base=\"ab\"} 1536",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        #[cfg(target_os = "linux")]
        assert!(text.contains("process_resident_memory_bytes ") && text.contains("process_open_fds "));
    }
}
