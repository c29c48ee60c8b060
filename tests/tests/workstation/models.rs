//! `overmask-export export` and `convert` as a user meets them: what is written, what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use overmask::pack::Codec;
use overmask_tests::{Recipe, base, base_dir, failed, json_lines, program, ran};
use serde_json::{Value, json};

fn export(arguments: &[&str]) -> Command {
    let mut command = program("overmask-export");
    command.args(arguments);
    command
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_task_becomes_a_folder_with_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let [pack, foreign, out] = ["demo.pack", "foreign.pack", "model"].map(|name| dir.path().join(name));
    let recipe = Recipe { name: "demo", codec: Codec::Plain, ..Default::default() };
    recipe.pack(&base()).write(&pack, Some(&base())).unwrap();
    let run = |pack: &Path, out: &Path, more: &[&str]| {
        let mut command = export(&["export", "--base"]);
        ran(command.arg(base_dir()).arg("--pack").arg(pack).arg("-o").arg(out).args(more))
    };
    let got = run(&pack, &out, &["--json"]);
    assert_eq!(got.code, 0, "{got:?}");
    let said = &json_lines(&got)[0];
    assert_eq!((&said["name"], &said["task"], &said["output"]), (&"demo".into(), &"classify".into(), &"logits".into()));
    assert!(said["zero_weights"].as_u64().unwrap() > 100_000, "{said}");
    assert_eq!(names(&out), ["config.json", "model.onnx", "model.safetensors", "tokenizer.json"]);
    let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["id2label"]["5"], &config["max_tokens"]), (&"label-5".into(), &64.into()));
    let model = fs::read(out.join("model.onnx")).unwrap();

    failed(&run(&pack, &out, &[]), 3, &["model", "not an empty directory"]);
    failed(&run(&pack, &pack.join("model"), &[]), 8, &["cannot write", "demo.pack"]);
    failed(&run(&dir.path().join("absent.pack"), &out, &[]), 3, &["absent.pack"]);
    let mut other = recipe.pack(&base());
    other.document.base_id = "0".repeat(64);
    other.write(&foreign, None).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    failed(&run(&foreign, &elsewhere, &[]), 6, &["base_id", "foreign.pack"]);
    failed(&ran(&mut export(&["export", "--base", "x"])), 2, &["--pack", "--output"]);
    assert_eq!(names(dir.path()), ["demo.pack", "foreign.pack", "model"]);
    assert_eq!(fs::read(out.join("model.onnx")).unwrap(), model);

    let got = run(&pack, &elsewhere, &["--encoder-only", "--json"]);
    assert_eq!((got.code, &json_lines(&got)[0]["output"]), (0, &"last_hidden_state".into()), "{got:?}");
    assert!(fs::metadata(elsewhere.join("model.onnx")).unwrap().len() < model.len() as u64);
}

/// Lines of one of GLUE's files: of each task what its examples are, with texts that the tiny encoder's
/// tokenizer knows.
fn glue_file(task: &str, dev: bool) -> String {
    let (good, bad) = (["good film", "great movie", "the best book"], ["bad film", "worst movie", "not good"]);
    let mut lines = match (task, dev) {
        ("cola", _) => String::new(),
        ("sst-2", _) => "sentence\tlabel\n".to_owned(),
        ("mrpc", _) => "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n".to_owned(),
        ("qqp", _) => "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n7\t8\t9\tWhat is lost\n".to_owned(),
        ("sts-b", _) => {
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n".into()
        }
        ("mnli", false) => {
            "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n0\tf\ta\tb\tneutral\t-\n".to_owned()
        }
        ("mnli", true) => "index\tgenre\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label\n".to_owned(),
        ("qnli", _) => "index\tquestion\tsentence\tlabel\n".to_owned(),
        _ => "index\tsentence1\tsentence2\tlabel\n".to_owned(),
    };
    for i in 0..24 {
        let (one, other) = if i % 2 == 0 { (good[i / 2 % 3], good[i % 3]) } else { (bad[i / 2 % 3], good[i % 3]) };
        let number = (i + 1) % 2;
        let word = if number == 1 { "entailment" } else { "not_entailment" };
        lines += &match (task, dev) {
            ("cola", _) => format!("src\t{number}\t\t{one} \"{i}\n"),
            ("sst-2", _) => format!("{one} {i} \t{number}\n"),
            ("mrpc", _) => format!("{number}\t1\t2\t{one} {i}\t{other}\n"),
            ("qqp", _) => format!("{i}\t1\t2\t{one} {i}\t{other}\t{number}\n"),
            ("sts-b", _) => format!("{i}\tg\tf\t2012\t1\ta\tb\t{one} {i}\t{other}\t{}.{i}\n", 4 * number),
            ("mnli", _) => {
                let label = ["entailment", "neutral", "contradiction"][i % 3];
                let more = if dev { "neutral\t" } else { "" };
                format!("{i}\tf\t{one} {i}\t{other}\tneutral\t{more}{label}\n")
            }
            ("wnli", _) => format!("{i}\t{one} {i}\t{other}\t{number}\n"),
            _ => format!("{i}\t{one} {i}\t{other}\t{word}\n"),
        };
    }
    lines
}

/// A printed command, in the folder of a test.
fn printed(command: &str, dir: &Path) -> Command {
    let (program, arguments) = command.split_once(' ').unwrap();
    assert_eq!(program, "overmask-export");
    // The tiny encoder has 32 positions.
    let mut command =
        export(&arguments.split(' ').map(|word| if word == "128" { "16" } else { word }).collect::<Vec<_>>());
    command.current_dir(dir);
    command
}

#[test]
fn every_task_of_glue_is_converted_learnt_and_measured() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-bert");
    let got = ran(export(&["import", "hf"]).arg(fixture).arg("-o").arg(at("base")));
    assert_eq!(got.code, 0, "{got:?}");
    for (task, metrics) in [
        ("cola", &["matthews"][..]),
        ("sst-2", &["accuracy"]),
        ("mrpc", &["accuracy", "f1"]),
        ("qqp", &["accuracy", "f1"]),
        ("sts-b", &["pearson", "spearman"]),
        ("mnli", &["accuracy"]),
        ("qnli", &["accuracy"]),
        ("rte", &["accuracy"]),
        ("wnli", &["accuracy"]),
    ] {
        let from = at(&format!("GLUE-{task}"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("train.tsv"), glue_file(task, false)).unwrap();
        let dev: &[&str] = if task == "mnli" { &["dev_matched.tsv", "dev_mismatched.tsv"] } else { &["dev.tsv"] };
        dev.iter().for_each(|name| fs::write(from.join(name), glue_file(task, true)).unwrap());
        let mut convert = export(&["convert", "glue", "--json", "--task", task, "-o", task]);
        let got = ran(convert.arg(&from).current_dir(dir.path()));
        assert_eq!(got.code, 0, "{task}: {got:?}");
        let said = &json_lines(&got)[0];
        assert_eq!((&said["task"], &said["metrics"]), (&task.into(), &json!(metrics)));
        let files = said["files"].as_array().unwrap();
        assert_eq!(files.len(), 1 + dev.len());
        let lost = matches!(task, "qqp" | "mnli");
        assert_eq!((&files[0]["examples"], &files[0]["left_out"]), (&24.into(), &u8::from(lost).into()), "{task}");
        assert_eq!(got.stderr.contains("left out"), lost, "{}", got.stderr);

        let commands: Vec<&str> = said["commands"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
        let quick = ["--max-steps", "3", "--batch-size", "8", "--threads", "1"];
        let got = ran(printed(commands[0], dir.path()).args(quick));
        assert_eq!(got.code, 0, "{task}: {got:?}");
        assert_eq!(commands.len(), files.len());
        for command in &commands[1..] {
            let got = ran(printed(command, dir.path()).arg("--json"));
            assert_eq!(got.code, 0, "{task}: {got:?}");
            let report = &json_lines(&got)[0];
            assert_eq!(report["n"], 24);
            // So few steps may answer with a constant, whose correlations are not defined.
            let metrics = if task == "sts-b" { &["mean_absolute_error"][..] } else { metrics };
            for metric in metrics {
                assert!(report[*metric].is_number(), "{task}: {report}");
            }
        }
    }
}

#[test]
fn what_cannot_be_converted_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("RTE")).unwrap();
    let convert = |task: &str, out: &str| {
        let mut command = export(&["convert", "glue", "--task", task]);
        ran(command.arg(at("RTE")).arg("-o").arg(at(out)))
    };
    failed(&convert("rte", "rte"), 3, &["cannot read", "train.tsv"]);
    fs::write(at("RTE/train.tsv"), glue_file("rte", false)).unwrap();
    fs::write(at("RTE/dev.tsv"), b"index\tsentence1\tsentence2\tlabel\n0\tcaf\xe9\tb\tentailment\n").unwrap();
    failed(&convert("rte", "rte"), 3, &["dev.tsv:2", "UTF-8"]);
    failed(&convert("wnli", "rte"), 3, &["train.tsv:2", "no label of `wnli`"]);
    failed(&convert("qqp", "rte"), 3, &["train.tsv:1", "`question1`"]);
    failed(&convert("ax", "rte"), 2, &["--task", "mnli"]);
    assert_eq!(names(dir.path()), ["RTE"]);
    fs::write(at("RTE/dev.tsv"), glue_file("rte", true)).unwrap();
    failed(&convert("rte", "RTE"), 3, &["not an empty directory"]);
    failed(&convert("rte", "RTE/dev.tsv/rte"), 8, &["cannot write", "dev.tsv"]);
    let got = convert("rte", "it's");
    assert_eq!(got.code, 0, "{got:?}");
    let lines: Vec<&str> = got.stdout.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "# GLUE judges rte by: accuracy"));
    assert!(lines[1].contains(" --pair ") && lines[1].contains("it'\\''s/train.jsonl'"), "{}", lines[1]);
    assert_eq!(names(&at("it's")), ["dev.jsonl", "train.jsonl"]);
}
