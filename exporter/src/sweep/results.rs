//! What a sweep leaves: one JSON object a line and run, each on the disk before the next is begun.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SweepError, unreadable, unwritable};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It wrote its pack.
    Done,
    /// It did not.
    Failed,
}

/// A run that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The run's id.
    pub run: String,
    /// The task's name.
    pub task: String,
    /// The method's name.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// The options as the sweep's file has them.
    pub options: BTreeMap<String, Value>,
    /// How it ended.
    pub status: Status,
    /// What a run that failed said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the training command printed; none when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<Value>,
    /// Threads that the sweep gave it; none when it took what it found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// How long it took, from the start of its process to the end.
    pub seconds: f64,
}

/// Of a line, what decides whether its run is to be repeated.
#[derive(Deserialize)]
struct Head {
    run: String,
    status: Status,
}

/// A file of results, open for one writer.
#[derive(Debug)]
pub struct Results {
    path: PathBuf,
    file: File,
}

/// How often a lock is tried again, every 50 ms.
const PATIENCE: usize = 20;

impl Results {
    /// Opens or begins a file of results, and mends what a power cut left of its last line.
    ///
    /// # Errors
    /// When it cannot be written, or another process writes it.
    pub fn open(path: &Path) -> Result<Self, SweepError> {
        let options = OpenOptions::new().read(true).append(true).create(true).clone();
        let file = options.open(path).map_err(unwritable(path))?;
        // A process that is being started holds a copy of all open files for a moment, locks included:
        // one that was let go just now may still seem taken.
        let mut locked = file.try_lock();
        for _ in 0..PATIENCE {
            if !matches!(locked, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SweepError::Locked { path: path.to_owned() }),
            // Some network file systems have no locks; two sweeps on one file are rarer than these.
            Err(TryLockError::Error(error)) => log::warn!("{}: cannot be locked: {error}", path.display()),
        }
        let mut results = Results { path: path.to_owned(), file };
        results.mend()?;
        Ok(results)
    }

    /// Adds a line and waits until it is on the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&mut self, line: &Line) -> Result<(), SweepError> {
        let mut bytes = serde_json::to_vec(line).map_err(|e| unwritable(&self.path)(e.into()))?;
        bytes.push(b'\n');
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SweepError> {
        let before = self.file.metadata().map_err(unwritable(&self.path))?.len();
        let written = self.file.write_all(bytes).and_then(|()| self.file.flush()).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // Half a line would spoil the next one.
            let _ = self.file.set_len(before);
        }
        written.map_err(unwritable(&self.path))
    }

    /// A last line without its end is completed if only the end is missing, else taken away.
    fn mend(&mut self) -> Result<(), SweepError> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0)).map_err(unreadable(&self.path))?;
        self.file.read_to_end(&mut bytes).map_err(unreadable(&self.path))?;
        let (whole, torn) = split(&bytes);
        if torn.is_empty() {
            return Ok(());
        }
        if serde_json::from_slice::<Line>(torn).is_ok() {
            return self.write(b"\n");
        }
        log::warn!("{}: the last line was cut off; its run is repeated", self.path.display());
        self.file.set_len(whole.len() as u64).map_err(unwritable(&self.path))?;
        self.file.sync_data().map_err(unwritable(&self.path))
    }
}

/// Whole lines, and what follows the last of them.
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    bytes.split_at(end)
}

/// How each run ended, by all results in a directory: those of this part of the sweep and of
/// others. A run that was done once is done, else its last line says.
///
/// # Errors
/// When a file cannot be read, or a line that is whole is no result.
pub fn states(dir: &Path) -> Result<BTreeMap<String, Status>, SweepError> {
    let mut states = BTreeMap::new();
    if !dir.is_dir() {
        return Ok(states);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable(dir))? {
        let path = entry.map_err(unreadable(dir))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name == "results.jsonl" || (name.starts_with("results-") && name.ends_with(".jsonl")) {
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let bytes = overmask::fs::read(&path).map_err(unreadable(&path))?;
        // Another part's writer may be amid its last line.
        let (whole, _) = split(&bytes);
        for (i, line) in whole.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()) {
            let head: Head = serde_json::from_slice(line).map_err(|source| SweepError::Results {
                path: path.clone(),
                line: i + 1,
                source,
            })?;
            let state = states.entry(head.run).or_insert(head.status);
            if *state != Status::Done {
                *state = head.status;
            }
        }
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(run: &str, status: Status) -> Line {
        Line {
            run: run.to_owned(),
            task: "a <task>\n\"".to_owned(),
            method: "mask".to_owned(),
            seed: u64::MAX,
            options: BTreeMap::new(),
            status,
            error: (status == Status::Failed).then(|| "no\nspace".to_owned()),
            train: Some(serde_json::json!({"dev": 0.5})),
            threads: None,
            seconds: 1.25,
        }
    }

    #[test]
    fn a_run_that_was_done_stays_done() {
        let dir = tempfile::tempdir().unwrap();
        assert!(states(&dir.path().join("absent")).unwrap().is_empty());
        let mut results = Results::open(&dir.path().join("results-0of2.jsonl")).unwrap();
        results.append(&line("a", Status::Failed)).unwrap();
        results.append(&line("b", Status::Failed)).unwrap();
        results.append(&line("a", Status::Done)).unwrap();
        let mut other = Results::open(&dir.path().join("results-1of2.jsonl")).unwrap();
        other.append(&line("a", Status::Failed)).unwrap();
        fs::write(dir.path().join("notes.jsonl"), "no result\n").unwrap();
        let expected = [("a".to_owned(), Status::Done), ("b".to_owned(), Status::Failed)];
        assert_eq!(states(dir.path()).unwrap(), expected.into());
    }

    #[test]
    fn one_file_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.jsonl");
        let first = Results::open(&path).unwrap();
        assert!(matches!(Results::open(&path), Err(SweepError::Locked { .. })));
        drop(first);
        Results::open(&path).unwrap();
    }

    #[test]
    fn a_damaged_line_amid_others_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.jsonl");
        fs::write(&path, "\n{\"run\":\"a\",\"status\":\"done\"}\n{\"run\":\n").unwrap();
        let error = states(dir.path()).unwrap_err();
        assert!(error.to_string().contains("results.jsonl: line 3: is no result"), "{error}");
        assert_eq!(error.kind(), overmask::error::ErrorKind::CorruptFile);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Wherever the power is cut, the lines before stay, and the next one is whole.
        #[test]
        fn a_cut_costs_at_most_the_last_line(cut in 0usize..600) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("results.jsonl");
            let mut results = Results::open(&path).unwrap();
            for run in ["a", "b", "c"] {
                results.append(&line(run, Status::Done)).unwrap();
            }
            drop(results);
            let bytes = fs::read(&path).unwrap();
            let cut = cut.min(bytes.len());
            fs::write(&path, &bytes[..cut]).unwrap();
            Results::open(&path).unwrap().append(&line("d", Status::Done)).unwrap();
            let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i);
            // A line that lacks nothing but its end is whole.
            let kept = ends.filter(|&end| end <= cut).count();
            let mut expected: Vec<&str> = ["a", "b", "c"][..kept].to_vec();
            expected.push("d");
            let states = states(dir.path()).unwrap();
            prop_assert_eq!(states.keys().map(String::as_str).collect::<Vec<_>>(), expected);
        }
    }
}
