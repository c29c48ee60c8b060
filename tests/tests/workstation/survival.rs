//! Training runs that are killed, and disks that are full: at most the work since the last checkpoint is
//! lost.

#![cfg(unix)]
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use overmask_tests::{program, ran};
use tempfile::TempDir;

/// A base and texts.
fn place() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-bert");
    let import =
        ran(program("overmask-export").args(["import", "hf"]).arg(tiny).arg("-o").arg(dir.path().join("base")));
    assert_eq!(import.code, 0, "{import:?}");
    let lines: String = (0..200)
        .map(|i| format!("{{\"text\":\"{} film {i}\",\"label\":\"{}\"}}\n", ["good", "bad"][i % 2], i % 2))
        .collect();
    fs::write(dir.path().join("texts.jsonl"), lines).unwrap();
    dir
}

/// A run of 500 steps.
fn train(dir: &Path, pack: &str) -> Vec<String> {
    let file = |name: &str| dir.join(name).into_os_string().into_string().unwrap();
    let mut words =
        vec!["train".to_owned(), "--base".to_owned(), file("base"), "--data".to_owned(), file("texts.jsonl")];
    words.extend(
        [
            "--granularity",
            "weight",
            "--epochs",
            "20",
            "--batch-size",
            "8",
            "--threads",
            "1",
            "--max-tokens",
            "32",
            "--name",
            "task",
            "-o",
        ]
        .map(str::to_owned),
    );
    words.push(file(pack));
    words
}

fn checkpointed(dir: &Path, pack: &str, checkpoint: &Path, every: &str) -> Vec<String> {
    let mut words = train(dir, pack);
    words.extend(["--checkpoint".to_owned(), checkpoint.display().to_string(), "--resume".to_owned()]);
    words.extend(["--checkpoint-every".to_owned(), every.to_owned()]);
    words
}

#[test]
fn a_run_that_is_killed_goes_on_to_the_same_pack() {
    let dir = place();
    let state = dir.path().join("run.state");
    let unbroken = ran(program("overmask-export").args(train(dir.path(), "unbroken.pack")));
    assert_eq!(unbroken.code, 0, "{unbroken:?}");

    let killed = checkpointed(dir.path(), "killed.pack", &state, "7");
    let mut child = program("overmask-export").args(&killed).stderr(Stdio::null()).spawn().unwrap();
    wait_for(&state, &mut child);
    // SIGKILL: the program has no say in it.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(state.exists() && !dir.path().join("killed.pack").exists());

    let resumed = ran(program("overmask-export").args(&killed));
    assert_eq!(resumed.code, 0, "{resumed:?}");
    assert!(resumed.stderr.contains("going on after step"), "{resumed:?}");
    let bytes = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert!(bytes("killed.pack") == bytes("unbroken.pack"), "the packs differ");
    assert!(!state.exists(), "nobody goes on from a run that has ended");
}

/// Waits until a run has written its first checkpoint.
fn wait_for(state: &Path, child: &mut Child) {
    let started = Instant::now();
    while !state.exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint was written");
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first checkpoint");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// As job systems end what runs too long; and a terminal that closes does not, under `nohup`.
#[test]
fn a_run_that_is_asked_to_end_keeps_its_best_state() {
    let dir = place();
    let state = dir.path().join("run.state");
    let exporter = program("overmask-export");
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "bash"]).arg(exporter.get_program());
    command.args(checkpointed(dir.path(), "asked.pack", &state, "7")).arg("--json");
    command.envs(exporter.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&state, &mut child);
    let signal = |name: &str| {
        assert!(Command::new("kill").arg(name).arg(child.id().to_string()).status().unwrap().success());
    };
    signal("-HUP");
    signal("-TERM");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(result["stopped"] == true && said.contains("stopped after"), "{result} {said}");
    assert!(said.contains("run.state has the run: the same command with --resume goes on"), "{said}");
    assert!(dir.path().join("asked.pack").exists() && state.exists());
}

/// No file may grow beyond some kilobytes: to who writes, that is a disk that is full.
fn with_small_files(words: &[String]) -> Command {
    let exporter = program("overmask-export");
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' XFSZ; ulimit -f 40; exec \"$@\"", "bash"]);
    command.arg(exporter.get_program()).args(words);
    command.env_remove("OVERMASK_LOG").env("NO_COLOR", "1");
    command
}

#[test]
fn a_full_disk_loses_a_checkpoint_and_not_the_run() {
    let dir = place();
    let state: PathBuf = dir.path().join("run.state");
    let words = checkpointed(dir.path(), "small.pack", &state, "100");
    let got = ran(&mut with_small_files(&words));
    assert_eq!(got.code, 0, "{got:?}");
    assert!(got.stderr.contains("step 100: cannot write"), "{got:?}");
    assert!(dir.path().join("small.pack").exists() && !state.exists());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "base, texts and pack: {left:?}");
}
