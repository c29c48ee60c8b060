//! What `overmask` does in every form that it is built in. `cargo xtask features` runs these tests on the program with
//! the native engine alone, as it is shipped, and the last one on the program without any engine.

use std::path::{Path, PathBuf};
use std::process::Command;

use overmask::pack::Golden;
use overmask::task::Runner;
use overmask_tests::{Recipe, base, base_dir, classify, engine, failed, json_lines, program, ran};
use tempfile::TempDir;

use crate::kinds;

const TEXTS: [&str; 2] = ["Where is Lima?", "Who wrote Hamlet?"];

/// A folder with a pack that has golden vectors, and the labels that it gives to the texts.
fn folder() -> (TempDir, PathBuf, Vec<String>) {
    let recipe = Recipe { name: "demo", ..Default::default() };
    let runner = Runner::new(engine("native", &base()), base()).unwrap();
    let task = runner.add_pack(recipe.pack(&base())).unwrap();
    let predictions = classify(&runner, task, &TEXTS);
    let labels = predictions.iter().map(|prediction| prediction.label.clone()).collect();
    let golden = TEXTS.iter().zip(predictions).map(|(t, p)| Golden { input: (*t).into(), logits: p.logits });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("demo.pack");
    recipe.pack_with(&base(), golden.collect()).write(&path, Some(&base())).unwrap();
    (dir, path, labels)
}

fn overmask(command: &str, pack: &Path) -> Command {
    let mut program = program("overmask");
    program.arg(command).args(["--json", "--base"]).arg(base_dir());
    match command {
        "run" | "bench" => program.arg("--pack").arg(pack),
        _ => program.arg(pack),
    };
    program
}

#[test]
fn tasks_run_on_the_native_engine() {
    let (dir, pack, labels) = folder();
    let names = dir.path().join("names.pack");
    kinds::tag().write(&names, Some(&base())).unwrap();
    let got = ran(overmask("run", &pack).arg("--pack").arg(&names).args(TEXTS));
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
    let rows = json_lines(&got);
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row["engine"] == "native"), "{rows:?}");
    let said: Vec<_> = rows.iter().filter(|row| row["task"] == "demo").map(|row| row["label"].clone()).collect();
    assert_eq!(said, labels);
    assert!(rows.iter().filter(|row| row["task"] == "names").all(|row| row["spans"].is_array()), "{rows:?}");
}

#[test]
fn packs_are_verified_inspected_and_measured() {
    let (_dir, pack, _) = folder();
    let verified = ran(&mut overmask("verify", &pack));
    assert_eq!((verified.code, &json_lines(&verified)[0]["engine"]), (0, &"native".into()), "{verified:?}");
    let inspected = ran(&mut overmask("inspect", &pack));
    assert_eq!((inspected.code, &json_lines(&inspected)[0]["document"]["name"]), (0, &"demo".into()), "{inspected:?}");
    let measured = ran(overmask("bench", &pack).args(["--seq", "8", "--passes", "10", "--threads", "1"]));
    assert_eq!((measured.code, &json_lines(&measured)[0]["engine"]), (0, &"native".into()), "{measured:?}");
}

#[test]
fn a_machine_is_looked_over() {
    let (dir, pack, _) = folder();
    let mut doctor = program("overmask");
    doctor.args(["doctor", "--json", "--base"]).arg(base_dir()).arg("--pack").arg(&pack);
    let got = ran(doctor.env("OVERMASK_CACHE", dir.path().join("cache")));
    assert_eq!((got.code, got.stderr.as_str()), (0, ""), "{got:?}");
    let row = |check: &str| json_lines(&got).into_iter().find(|row| row["check"] == check).unwrap();
    assert_eq!(
        (&row("base")["facts"]["engine"], &row("base-derived")["facts"]["state"]),
        (&"native".into(), &"missing".into())
    );
    assert_eq!(row("pack")["facts"]["task"], "demo");
    assert!(!dir.path().join("cache").exists(), "nothing is made");
}

#[test]
fn an_engine_answers_or_says_how_to_get_it() {
    let (_dir, pack, labels) = folder();
    for engine in ["native", "ort", "tract"] {
        let got = ran(overmask("run", &pack).args(["--engine", engine, TEXTS[0]]));
        match got.code {
            0 => assert_eq!(json_lines(&got)[0]["label"], labels[0].as_str(), "{got:?}"),
            _ => failed(&got, 7, &["built without it", &format!("--features {engine}")]),
        }
    }
}
