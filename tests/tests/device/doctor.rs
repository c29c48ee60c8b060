//! `overmask doctor`: what it finds of a base and packs, good and bad, and that one bad input costs no other.

use std::path::{Path, PathBuf};
use std::process::Command;

use overmask_tests::{Ran, Recipe, base, base_dir, failed, json_lines, program, ran};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a pack.
fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let pack = dir.path().join("demo.pack");
    Recipe { name: "demo", ..Default::default() }.pack(&base()).write(&pack, Some(&base())).unwrap();
    (dir, pack)
}

/// The program with a directory of derived files of its own.
fn overmask(command: &str, cache: &Path) -> Command {
    let mut program = program("overmask");
    program.arg(command).env("OVERMASK_CACHE", cache).env_remove("OVERMASK_ISA");
    program
}

fn doctor(cache: &Path, packs: &[&Path]) -> Command {
    let mut doctor = overmask("doctor", cache);
    doctor.args(["--json", "--base"]).arg(base_dir());
    packs.iter().for_each(|pack| {
        doctor.arg("--pack").arg(pack);
    });
    doctor
}

/// The findings of a check.
fn of(got: &Ran, check: &str) -> Vec<Value> {
    json_lines(got).into_iter().filter(|row| row["check"] == check).collect()
}

#[test]
fn derived_files_are_told_missing_right_damaged_and_wrong() {
    let (dir, pack) = folder();
    let cache = dir.path().join("cache");
    let states = |code: i32, states: [&str; 2], level: &str| {
        let got = ran(&mut doctor(&cache, &[&pack]));
        assert_eq!(got.code, code, "{got:?}");
        let found = ["base-derived", "pack-derived"].map(|check| of(&got, check).remove(0));
        assert_eq!(found.each_ref().map(|row| row["facts"]["state"].clone()), states, "{got:?}");
        assert_eq!(found[0]["level"], level, "{got:?}");
        found[0].clone()
    };
    let missing = states(0, ["missing"; 2], "note");
    assert!(missing["advice"][0].as_str().unwrap().contains("overmask prepare --base"), "{missing}");
    assert!(missing["facts"]["making_seconds"].as_f64().unwrap() > 0.0);
    assert!(!cache.exists(), "nothing was made");

    let mut run = overmask("run", &cache);
    run.arg("--base").arg(base_dir()).arg("--pack").arg(&pack).arg("Where is Lima?");
    assert_eq!(ran(&mut run).code, 0);
    let right = states(0, ["right"; 2], "ok");
    let file = PathBuf::from(right["facts"]["path"].as_str().unwrap());
    let good = std::fs::read(&file).unwrap();
    assert_eq!(right["facts"]["bytes"], good.len());

    let mut bad = good.clone();
    bad[100_000] ^= 1;
    std::fs::write(&file, &bad).unwrap();
    let damaged = states(0, ["useless", "right"], "warning");
    assert!(damaged["found"].as_str().unwrap().contains("is damaged"), "{damaged}");
    assert_eq!(std::fs::read(&file).unwrap(), bad, "nothing was changed");
}

#[test]
fn what_is_bad_is_told_beside_what_is_good() {
    let (dir, pack) = folder();
    let [cache, damaged, foreign] = ["cache", "damaged.pack", "foreign.pack"].map(|name| dir.path().join(name));
    let bytes = std::fs::read(&pack).unwrap();
    std::fs::write(&damaged, &bytes[..bytes.len() - 1]).unwrap();
    // A base that says it is another one, and a pack that is made for it.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    for entry in std::fs::read_dir(base_dir()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), other.join(entry.file_name())).unwrap();
    }
    let manifest = other.join("base.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace(base().base_id(), &"0".repeat(64))).unwrap();
    let strange = overmask::base::Base::open(&other).unwrap();
    Recipe { name: "foreign", ..Default::default() }.pack(&strange).write(&foreign, Some(&strange)).unwrap();

    for (bad, code, said) in
        [(&damaged, 4, "damaged"), (&foreign, 6, "base_id"), (&dir.path().join("absent"), 3, "cannot read")]
    {
        let got = ran(&mut doctor(&cache, &[bad, &pack]));
        failed(&got, code, &["errors were found", "pack"]);
        let packs = of(&got, "pack");
        assert_eq!(
            packs.iter().map(|row| row["level"].as_str().unwrap()).collect::<Vec<_>>(),
            ["error", "ok"],
            "{got:?}"
        );
        assert!(packs[0]["found"].as_str().unwrap().contains(said), "{got:?}");
        assert_eq!(of(&got, "base")[0]["level"], "ok");
    }
    // The first error gives the exit code, and a base that is not what it says is one.
    let got = ran(doctor(&cache, &[&pack, Path::new("/absent.pack")]).arg("--base").arg(&other));
    failed(&got, 4, &["base, pack"]);
    let levels: Vec<Value> = of(&got, "base").iter().map(|row| row["level"].clone()).collect();
    assert_eq!(levels, ["ok", "error"], "{got:?}");
    assert!(of(&got, "base")[1]["found"].as_str().unwrap().contains("copy the base again"), "{got:?}");
    // Without a base a pack is checked by itself.
    let got = ran(overmask("doctor", &cache).arg("--pack").arg(&foreign));
    assert!(got.code == 0 && got.stdout.contains("no --base to compare it with"), "{got:?}");
}

#[test]
fn wrong_settings_are_told() {
    let (dir, _) = folder();
    let cache = dir.path().join("cache");
    let told = |variable: &str, value: &str, code: i32, line: [&str; 3]| {
        let got = ran(overmask("doctor", &cache).env(variable, value));
        assert_eq!(got.code, code, "{got:?}");
        let mut columns = got.stdout.lines().filter(|l| l.split_whitespace().take(2).eq(line[..2].iter().copied()));
        assert!(columns.next().is_some_and(|found| found.contains(line[2])), "{line:?} is missing: {}", got.stdout);
    };
    told("OVERMASK_ISA", "portable", 0, ["warning", "kernels", "unset OVERMASK_ISA"]);
    told("OVERMASK_ISA", "mmx", 7, ["error", "kernels", "`mmx`"]);
    told("OVERMASK_CACHE", "", 0, ["note", "derived", "none are kept"]);
    told("OVERMASK_CACHE", "/dev/null", 0, ["warning", "derived", "cannot use /dev/null"]);
    told("OVERMASK_KEYRING", "/dev/null", 0, ["warning", "keys", "/dev/null"]);
    told("ORT_DYLIB_PATH", "/dev/null", 0, ["warning", "onnxruntime", "not a file"]);
    told("TMPDIR", "/absent", 0, ["warning", "temporary", "set TMPDIR"]);
    let text = dir.path().join("text.so");
    std::fs::write(&text, "no library").unwrap();
    told("ORT_DYLIB_PATH", text.to_str().unwrap(), 0, ["warning", "onnxruntime", "version 1.22 or newer"]);
}
