//! `overmask-export sweep` and `report` as a user meets them: real training on a tiny encoder.

use std::fs;
use std::path::Path;
use std::process::Command;

use overmask_tests::{Ran, failed, json_lines, program, ran};
use serde_json::Value;

const SWEEP: &str = "base = 'base'\nseeds = [1, 2]\n\
    [defaults]\nmax-tokens = 16\nbatch-size = 8\ndev-fraction = 0.25\neval-fraction = 0.25\nmax-steps = 4\n\
    [[tasks]]\nname = 'film'\ndata = 'texts.jsonl'\n\
    [[methods]]\nname = 'head'\nmethod = 'head'\n\
    [[methods]]\nname = 'block'\ngranularity = 'block:4x1'\n\
    [[methods]]\nname = 'broken'\ngranularity = 'block:7x1'\n";

fn export(arguments: &[&str]) -> Command {
    let mut command = program("overmask-export");
    command.args(arguments);
    command
}

/// A directory with a base, texts and a sweep.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-bert");
    let got = ran(export(&["import", "hf"]).arg(fixture).arg("-o").arg(dir.path().join("base")));
    assert_eq!(got.code, 0, "{got:?}");
    let texts: String = (0..40)
        .map(|i| {
            let (text, label) = if i % 2 == 0 { ("good film", "up") } else { ("bad film", "down") };
            format!("{{\"text\":\"{text} {i}\",\"label\":\"{label}\"}}\n")
        })
        .collect();
    fs::write(dir.path().join("texts.jsonl"), texts).unwrap();
    fs::write(dir.path().join("sweep.toml"), SWEEP).unwrap();
    dir
}

fn sweep(dir: &Path, arguments: &[&str]) -> Ran {
    ran(export(&["sweep"]).arg(dir.join("sweep.toml")).args(arguments))
}

#[test]
fn a_sweep_trains_goes_on_and_becomes_a_page() {
    let dir = place();
    let dir = dir.path();
    let dry = sweep(dir, &["--dry-run", "--json"]);
    let dry: Vec<Value> = json_lines(&dry);
    assert_eq!((dry.len(), dry.iter().all(|run| run["runs"] == true)), (6, true), "{dry:?}");
    assert!(!dir.join("sweep").exists());

    let got = sweep(dir, &["--json", "--workers", "2", "--threads-per-worker", "1"]);
    failed(&got, 1, &["2 of 6 runs failed", "[6/6]", "--retry-failed"]);
    let printed = json_lines(&got);
    let lines = fs::read_to_string(dir.join("sweep/results.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // What is printed has the version of its schema besides.
    let versioned = lines.iter().cloned().map(|mut line| {
        line["schema"] = 1.into();
        line
    });
    assert_eq!(printed, versioned.collect::<Vec<_>>());
    for line in &lines {
        let pack = dir.join(format!("sweep/packs/{}.pack", line["run"].as_str().unwrap()));
        let broken = line["method"] == "broken";
        assert_eq!((line["status"] == "failed", pack.exists()), (broken, !broken), "{line}");
        match broken {
            true => assert!(line["error"].as_str().unwrap().contains("does not divide into block:7x1"), "{line}"),
            false => {
                assert_eq!((&line["train"]["name"], &line["threads"]), (&"film".into(), &1.into()));
                assert!(line["train"]["metrics"]["eval_accuracy"].is_number(), "{line}");
            }
        }
    }

    // Again: what is done is done, and nothing new is written.
    let again = sweep(dir, &["--json"]);
    failed(&again, 1, &["4 before", "2 of 6 runs failed"]);
    assert_eq!(again.stdout, "");
    // One run alone is the same whichever way it is run.
    let shard = sweep(
        dir,
        &["--json", "-o", dir.join("part").to_str().unwrap(), "--shard", "0/6", "--threads-per-worker", "1"],
    );
    assert_eq!(shard.code, 0, "{shard:?}");
    let alone = &json_lines(&shard)[0];
    let whole = lines.iter().find(|line| line["run"] == alone["run"]).unwrap();
    assert_eq!(alone["train"]["metrics"], whole["train"]["metrics"]);
    let pack =
        |of: &str| fs::read(dir.join(of).join(format!("packs/{}.pack", alone["run"].as_str().unwrap()))).unwrap();
    assert!(pack("part") == pack("sweep"));

    let (page, json) = (dir.join("report.html"), dir.join("report.json"));
    let results = [dir.join("sweep/results.jsonl"), dir.join("part/results-0of6.jsonl")];
    let got = ran(export(&["report"]).args(&results).arg("-o").arg(&page).arg("--json").arg(&json));
    assert_eq!((got.code, got.stdout.as_str()), (0, ""), "{got:?}");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("4 runs, 1 task, 2 methods, 2 failed runs"));
    let json: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(json["summary"].as_array().unwrap().len(), 2);
    assert_eq!(json["summary"][0]["held_out"]["n"], 2);
}

#[test]
fn what_is_wrong_is_named_with_its_exit_code() {
    let dir = place();
    let dir = dir.path();
    failed(&sweep(dir, &["--shard", "6/6"]), 2, &["shard `6/6`", "from 0 to 5"]);
    let mut auto = export(&["sweep", "--shard", "auto"]);
    auto.env_remove("SLURM_ARRAY_TASK_ID").env("JOB_COMPLETION_INDEX", "1").env_remove("OVERMASK_SHARDS");
    failed(&ran(auto.arg(dir.join("sweep.toml"))), 2, &["Set OVERMASK_SHARDS"]);
    fs::write(dir.join("sweep.toml"), SWEEP.replace("max-steps", "max-step")).unwrap();
    failed(&sweep(dir, &[]), 3, &["sweep.toml", "[defaults]", "`max-step` is no option"]);
    failed(&ran(export(&["sweep"]).arg(dir.join("absent.toml"))), 3, &["absent.toml"]);
    let report = |file: &str| ran(export(&["report"]).arg(dir.join(file)).arg("-o").arg(dir.join("r.html")));
    failed(&report("absent.jsonl"), 3, &["absent.jsonl"]);
    failed(&report("texts.jsonl"), 3, &["no runs and no analyses", "texts.jsonl"]);
    assert!(!dir.join("r.html").exists());
}

#[test]
fn a_sweep_does_not_go_into_a_base() {
    let dir = place();
    let dir = dir.path();
    let base = dir.join("base");
    let names = || fs::read_dir(&base).unwrap().count();
    let before = names();
    for out in [base.clone(), base.join("sweep")] {
        for how in [&["--dry-run"][..], &[]] {
            let got = ran(export(&["sweep"]).arg(dir.join("sweep.toml")).args(how).arg("-o").arg(&out));
            failed(&got, 8, &["-o", "is in a base bundle", "name another directory"]);
            assert_eq!((got.stdout.as_str(), names()), ("", before));
        }
    }
    // Nor where its file lies in one.
    let within = SWEEP.replace("base = 'base'", "base = '.'").replace("'texts.jsonl'", "'../texts.jsonl'");
    fs::write(base.join("sweep.toml"), within).unwrap();
    failed(&ran(export(&["sweep", "--dry-run"]).arg(base.join("sweep.toml"))), 8, &["is in a base bundle"]);
}
