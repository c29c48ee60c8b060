//! What is told of a fleet: a line a device as it ends, how far the others are, and at last a table.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use overmask::store::StoreError;
use overmask::store::transport::Outcome;
use overmask::text::printable;
use overmask_cli::{CodedError, ExitCode, Output};
use serde::Serialize;

use super::devices::Device;

/// How far a device is.
#[derive(Default)]
pub(super) struct Progress {
    tries: AtomicU32,
    sent: AtomicU64,
    step: Mutex<String>,
}

impl Progress {
    pub(super) fn tries(&self) -> u32 {
        self.tries.load(Ordering::Relaxed)
    }

    pub(super) fn try_again(&self) {
        self.tries.fetch_add(1, Ordering::Relaxed);
    }

    /// So many bytes more were sent.
    pub(super) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A step was done.
    pub(super) fn step(&self, name: &str) {
        name.clone_into(&mut self.step.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// In a few words.
    fn short(&self) -> String {
        let step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        if step.is_empty() { format!("{:.1} MB", self.sent_bytes() as f64 / 1e6) } else { printable(&step) }
    }
}

/// What became of a device.
pub(super) enum Verdict {
    /// It has what was flashed.
    Ok { outcome: Outcome, sent: u64, seconds: f64, tries: u32 },
    /// It has what it had, unless the connection broke at the very end.
    Failed { error: String, sent: u64, seconds: f64, tries: u32 },
    /// It had it, as the state says.
    Skipped { generation: u64 },
    /// It was not begun.
    NotTried,
}

/// How many devices of which kind.
#[derive(Default, Clone, Copy, Serialize)]
struct Counts {
    devices: usize,
    ok: usize,
    failed: usize,
    skipped: usize,
    not_tried: usize,
    sent: u64,
}

#[derive(Serialize)]
struct DeviceReport<'a> {
    device: &'a str,
    host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    canary: bool,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_new: Option<bool>,
    sent: u64,
    seconds: f64,
    tries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    counts: Counts,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<&'a str>,
}

/// Tells it.
pub(super) struct Report<'a> {
    devices: &'a [Device],
    canaries: &'a [bool],
    json: bool,
    out: &'a mut Output,
    /// That stdout cannot be written ends no flash.
    written: anyhow::Result<()>,
    /// When those that are being flashed began.
    running: BTreeMap<usize, Instant>,
    verdicts: BTreeMap<usize, Verdict>,
    /// Stderr is a terminal: a line there is written over again and again.
    is_live: bool,
}

/// The longest line that is written over, in characters: it must not wrap.
const LIVE_LINE: usize = 79;

impl<'a> Report<'a> {
    pub(super) fn new(devices: &'a [Device], canaries: &'a [bool], json: bool, out: &'a mut Output) -> Self {
        let is_live = std::io::stderr().is_terminal() && log::log_enabled!(log::Level::Warn);
        let (running, verdicts) = (BTreeMap::new(), BTreeMap::new());
        Report { devices, canaries, json, out, written: Ok(()), running, verdicts, is_live }
    }

    pub(super) fn begin(&mut self, device: usize) {
        self.running.insert(device, Instant::now());
    }

    pub(super) fn end(&mut self, device: usize, progress: &Progress, result: Result<Outcome, StoreError>) {
        let begun = self.running.remove(&device);
        let seconds = begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        let (sent, tries) = (progress.sent_bytes(), progress.tries());
        self.tell(
            device,
            match result {
                Ok(outcome) => Verdict::Ok { outcome, sent, seconds, tries },
                Err(error) => Verdict::Failed { error: error.to_string(), sent, seconds, tries },
            },
        );
    }

    /// Something for whoever watches.
    pub(super) fn say(&mut self, text: &str) {
        self.clear();
        log::warn!("{text}");
    }

    /// How far all is, where somebody watches.
    pub(super) fn show(&mut self, progress: &[Progress]) {
        if !self.is_live {
            return;
        }
        let failed = self.verdicts.values().filter(|verdict| matches!(verdict, Verdict::Failed { .. })).count();
        let mut line = format!("{} of {}, {failed} failed", self.verdicts.len(), self.devices.len());
        for &i in self.running.keys() {
            line += &format!("; {} {}", self.devices[i].name, progress[i].short());
        }
        let line: String = printable(&line).chars().take(LIVE_LINE).collect();
        let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
    }

    fn clear(&self) {
        if self.is_live {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    /// What became of a device.
    pub(super) fn tell(&mut self, i: usize, verdict: Verdict) {
        self.clear();
        let device = &self.devices[i];
        let (result, text) = match &verdict {
            Verdict::Ok { outcome, sent, seconds, .. } => {
                let new = if outcome.is_new { "" } else { ", which it had" };
                ("ok", format!("generation {}{new}, {sent} bytes sent, {seconds:.1} s", outcome.generation))
            }
            Verdict::Failed { error, sent, seconds, .. } => {
                ("failed", format!("{error}; {sent} bytes sent, {seconds:.1} s"))
            }
            Verdict::Skipped { generation } => ("skipped", format!("generation {generation}, as the state says")),
            Verdict::NotTried => ("not_tried", String::new()),
        };
        let written = match self.json {
            true => {
                let mut report = DeviceReport {
                    device: &device.name,
                    host: &device.host,
                    group: device.group.as_deref(),
                    canary: self.canaries[i],
                    result,
                    generation: None,
                    is_new: None,
                    sent: 0,
                    seconds: 0.0,
                    tries: 0,
                    error: None,
                };
                match &verdict {
                    Verdict::Ok { outcome, sent, seconds, tries } => {
                        (report.generation, report.is_new) = (Some(outcome.generation), Some(outcome.is_new));
                        (report.sent, report.seconds, report.tries) = (*sent, *seconds, *tries);
                    }
                    Verdict::Failed { error, sent, seconds, tries } => {
                        report.error = Some(error);
                        (report.sent, report.seconds, report.tries) = (*sent, *seconds, *tries);
                    }
                    Verdict::Skipped { generation } => report.generation = Some(*generation),
                    Verdict::NotTried => {}
                }
                self.out.json(&report)
            }
            // The table tells how many they are.
            false if result == "not_tried" => Ok(()),
            false => self.out.line(&format!("{}  {result}  {text}", device.name)),
        };
        self.write(written);
        let flushed = self.out.flush();
        self.write(flushed);
        self.verdicts.insert(i, verdict);
    }

    fn write(&mut self, done: anyhow::Result<()>) {
        if self.written.is_ok() {
            self.written = done;
        }
    }

    /// The devices that were not begun, and the sums; an error if one does not have what was flashed.
    pub(super) fn finish(mut self, stopped: Option<String>, time: Duration) -> anyhow::Result<()> {
        for i in 0..self.devices.len() {
            if !self.verdicts.contains_key(&i) {
                self.tell(i, Verdict::NotTried);
            }
        }
        self.clear();
        let counts = self.count(|_| true);
        let seconds = time.as_secs_f64();
        let written = match self.json {
            true => self.out.json(&Summary { counts, seconds, stopped: stopped.as_deref() }),
            false => self.table(counts, seconds),
        };
        self.write(written);
        let Counts { devices, failed, not_tried, .. } = counts;
        if failed + not_tried == 0 {
            return self.written;
        }
        let why = stopped.map_or_else(String::new, |why| format!(" ({why})"));
        let message = format!(
            "{failed} of {devices} devices failed, {not_tried} were not tried{why}; the same command goes on with them"
        );
        Err(CodedError { message, code: ExitCode::DeviceOrStore }.into())
    }

    fn count(&self, which: impl Fn(usize) -> bool) -> Counts {
        let mut counts = Counts::default();
        for (_, verdict) in self.verdicts.iter().filter(|(i, _)| which(**i)) {
            counts.devices += 1;
            match verdict {
                Verdict::Ok { sent, .. } => (counts.ok, counts.sent) = (counts.ok + 1, counts.sent + sent),
                Verdict::Failed { sent, .. } => (counts.failed, counts.sent) = (counts.failed + 1, counts.sent + sent),
                Verdict::Skipped { .. } => counts.skipped += 1,
                Verdict::NotTried => counts.not_tried += 1,
            }
        }
        counts
    }

    /// A row for the canaries, each group of the others, and all.
    fn table(&mut self, all: Counts, seconds: f64) -> anyhow::Result<()> {
        let canary = |i: usize| self.canaries[i];
        let mut rows = Vec::new();
        if self.canaries.contains(&true) {
            rows.push(("canary".to_owned(), self.count(canary)));
        }
        let others = (0..self.devices.len()).filter(|&i| !canary(i));
        let groups: BTreeSet<_> = others.map(|i| self.devices[i].group.as_deref()).collect();
        // One group of others without a name is what the last row tells, unless there were some first.
        if groups.len() > 1 || groups.iter().any(Option::is_some) || !rows.is_empty() {
            for group in groups {
                let counts = self.count(|i| !canary(i) && self.devices[i].group.as_deref() == group);
                rows.push((group.unwrap_or("others").to_owned(), counts));
            }
        }
        rows.push(("all".to_owned(), all));
        let wide = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        self.out.line(&format!(
            "{:wide$}  {:>7}  {:>7}  {:>7}  {:>7}  {:>9}  {:>12}",
            "", "devices", "ok", "failed", "skipped", "not tried", "bytes sent"
        ))?;
        for (name, Counts { devices, ok, failed, skipped, not_tried, sent }) in rows {
            self.out.line(&format!(
                "{name:wide$}  {devices:>7}  {ok:>7}  {failed:>7}  {skipped:>7}  {not_tried:>9}  {sent:>12}"
            ))?;
        }
        self.out.line(&format!("{seconds:.1} s"))
    }
}
