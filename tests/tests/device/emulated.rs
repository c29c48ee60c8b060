//! The program of another processor, in emulation, beside this machine's own: the same labels, the same masks, the
//! same derived files. `cross/test.sh` runs these with `OVERMASK_EMULATED`, a command that is that program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use overmask::mask::Granularity;
use overmask::pack::Golden;
use overmask::task::Runner;
use overmask_tests::{Ran, Recipe, base, base_dir, engine, failed, json_lines, program, questions, ran};

/// How far probabilities of the same text may be apart.
const TOLERANCE: f64 = 1e-4;

fn emulated() -> Command {
    let path =
        std::env::var_os("OVERMASK_EMULATED").expect("run `cross/test.sh`, which builds and emulates the program");
    let mut command = Command::new(path);
    command.env("NO_COLOR", "1").env_remove("OVERMASK_LOG");
    command
}

/// Packs whose masks run in every form of the kernels, with golden vectors of this machine; `OVERMASK_PACK` names one that was learnt.
fn packs(dir: &Path) -> Vec<PathBuf> {
    let base = base();
    let kinds: [(&str, Granularity, f32); 4] = [
        ("weight", Granularity::Weight, 0.07),
        ("block", Granularity::Block { rows: 32, cols: 1 }, 0.07),
        ("half", Granularity::Block { rows: 32, cols: 1 }, 0.5),
        ("small", Granularity::Block { rows: 5, cols: 3 }, 0.2),
    ];
    let mut paths: Vec<PathBuf> = kinds
        .iter()
        .map(|&(name, granularity, sparsity)| {
            let recipe = Recipe { name, granularity, sparsity, ..Default::default() };
            let runner = Runner::new(engine("native", &base), base.clone()).unwrap();
            let task = runner.add_pack(recipe.pack(&base)).unwrap();
            let input = |text: String| {
                let rows = runner.logits(task, &[text.as_str().into()]).unwrap().remove(0);
                Golden { input: text.as_str().into(), logits: rows.into_iter().flatten().flatten().collect() }
            };
            let golden = questions(4).into_iter().map(input).collect();
            let path = dir.join(format!("{name}.pack"));
            recipe.pack_with(&base, golden).write(&path, Some(&base)).unwrap();
            path
        })
        .collect();
    paths.extend(std::env::var_os("OVERMASK_PACK").filter(|path| !path.is_empty()).map(PathBuf::from));
    paths
}

fn run(mut command: Command, packs: &[PathBuf], cache: &Path, more: &[&str]) -> Ran {
    command.args(["run", "--json", "--threads", "2", "--base"]).arg(base_dir()).env("OVERMASK_CACHE", cache);
    for pack in packs {
        command.arg("--pack").arg(pack);
    }
    ran(command.args(more).args(questions(8)))
}

/// Compares the answers of two runs; they name texts, tasks and labels in the same order.
#[track_caller]
fn compare(ours: &Ran, theirs: &Ran) {
    assert_eq!((ours.code, theirs.code), (0, 0), "{}{}", ours.stderr, theirs.stderr);
    let (ours, theirs) = (json_lines(ours), json_lines(theirs));
    assert!(!ours.is_empty() && ours.len() == theirs.len());
    for (a, b) in ours.iter().zip(&theirs) {
        assert_eq!((&a["task"], &a["label"], &a["tokens"]), (&b["task"], &b["label"], &b["tokens"]));
        let score = |answer: &serde_json::Value| answer["score"].as_f64().unwrap();
        assert!((score(a) - score(b)).abs() < TOLERANCE, "{a}\n{b}");
    }
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

#[test]
#[ignore = "needs a program in emulation: cross/test.sh"]
fn native_answers_and_derived_files_are_those_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let packs = packs(dir.path());
    let [here, there] = ["here", "there"].map(|name| dir.path().join(name));
    compare(&run(program("overmask"), &packs, &here, &["--engine", "native"]), &run(emulated(), &packs, &there, &[]));
    let (here, there) = (files(&here), files(&there));
    assert_eq!(here.len(), packs.len() + 1);
    assert!(here == there, "{:?} {:?}", here.keys(), there.keys());
}

#[test]
#[ignore = "needs a program in emulation: cross/test.sh"]
fn native_golden_vectors_are_computed_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = emulated();
    command.args(["verify", "--json", "--base"]).arg(base_dir()).args(packs(dir.path()));
    let got = ran(command.env("OVERMASK_CACHE", ""));
    assert_eq!(got.code, 0, "{}", got.stderr);
    assert!(json_lines(&got).iter().all(|report| report["ok"] == true && report["golden_texts"].as_u64() > Some(0)));
}

#[test]
#[ignore = "needs a program in emulation: cross/test.sh"]
fn native_kernels_of_either_kind_answer_alike_and_those_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let packs = packs(dir.path());
    let run = |isa: &str| {
        let mut command = emulated();
        command.env("OVERMASK_ISA", isa);
        run(command, &packs, &dir.path().join("cache"), &[])
    };
    compare(&run("neon"), &run("portable"));
    failed(&run("avx2"), 7, &["OVERMASK_ISA", "avx2"]);
}

#[test]
#[ignore = "needs a program in emulation: cross/test.sh"]
fn onnx_runtime_of_that_processor_answers_alike() {
    let library = std::env::var_os("OVERMASK_EMULATED_ORT").expect("cross/test.sh names the library");
    let dir = tempfile::tempdir().unwrap();
    let packs = packs(dir.path());
    let mut command = emulated();
    command.env("ORT_DYLIB_PATH", library);
    let cache = dir.path().join("cache");
    let theirs = run(command, &packs, &cache, &["--engine", "ort"]);
    compare(&run(program("overmask"), &packs, &cache, &["--engine", "native"]), &theirs);
}
