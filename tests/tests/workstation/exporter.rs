//! The program `overmask-export` as a user meets it, on a tiny encoder: what is learnt is what
//! `overmask` runs, and whatever goes wrong has its exit code and leaves nothing.

mod adapted;
mod measured;
mod taught;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use overmask_tests::{Ran, failed, json_lines, program, ran, ran_with};
use serde_json::Value;
use tempfile::TempDir;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-bert")
}

fn export(arguments: &[&str]) -> Command {
    let mut command = program("overmask-export");
    command.args(arguments);
    command
}

/// A folder with a base and texts in it, and an empty one for what is made.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        let got = ran(export(&["import", "hf", "--json"]).arg(fixture()).arg("-o").arg(place.path("base")));
        assert_eq!((got.code, &json_lines(&got)[0]["layers"]), (0, &2.into()), "{got:?}");
        let (first, second) = (["good film", "great movie", "the best book"], ["bad film", "worst movie", "not good"]);
        let lines: String = (0..40)
            .map(|i| {
                let (texts, label) = if i % 2 == 0 { (first, "up") } else { (second, "down") };
                format!("{{\"text\":\"{} {i}\",\"label\":\"{label}\"}}\n", texts[i / 2 % 3])
            })
            .collect();
        place.write("texts.jsonl", lines.as_bytes());
        fs::create_dir(place.path("out")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// What lies in `out`.
    fn made(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("out")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// `overmask-export train` with these texts.
    fn train_on(&self, data: &str, arguments: &[&str]) -> Command {
        let mut command = export(&["train", "--json", "--base"]);
        command.arg(self.path("base")).arg("--data").arg(self.path(data));
        command.arg("-o").arg(self.path("out/tiny.pack")).args(arguments);
        command
    }

    /// The same with texts that are right, a few small steps.
    fn train(&self, arguments: &[&str]) -> Command {
        let quick = "--max-tokens 16 --threads 1 --batch-size 8 --dev-fraction 0.25 --max-steps 6";
        let quick: Vec<&str> = quick.split(' ').chain(arguments.iter().copied()).collect();
        self.train_on("texts.jsonl", &quick)
    }

    /// `overmask-export evaluate` with these texts, on the pack that was made.
    fn evaluate(&self, data: &str, arguments: &[&str]) -> Command {
        let mut command = export(&["evaluate", "--json", "--base"]);
        command.arg(self.path("base")).arg("--pack").arg(self.path("out/tiny.pack"));
        command.arg("--data").arg(self.path(data)).args(arguments);
        command
    }
}

fn field<'a>(rows: &'a [Value], name: &str) -> Vec<&'a str> {
    rows.iter().map(|row| row[name].as_str().unwrap()).collect()
}

#[test]
fn what_is_learnt_is_what_runs() {
    let place = Place::new();
    let pack = place.path("out/tiny.pack");
    let cases: [(&[&str], usize); 4] = [
        (&["--method", "head"], 0),
        (&["--granularity", "weight"], 12),
        (&["--granularity", "block:32x1", "--layers", "1-"], 6),
        (&["--granularity", "block:32x1", "--pooling", "cls", "--eval-fraction", "0.25"], 12),
    ];
    for (arguments, masked) in cases {
        // So few steps may make no mask that is better than the head alone: zeros that are asked for are there.
        let zeros: &[&str] = if masked > 0 { &["--initial-sparsity", "0.06"] } else { &[] };
        let got = ran(&mut place.train(&[arguments, zeros].concat()));
        assert_eq!(got.code, 0, "{got:?}");
        let trained = &json_lines(&got)[0];
        assert_eq!((&trained["name"], &trained["steps"]), (&"tiny".into(), &6.into()));
        assert_eq!(
            (&trained["stopped"], &trained["pack_bytes"]),
            (&false.into(), &fs::metadata(&pack).unwrap().len().into())
        );
        assert_eq!(trained["metrics"]["eval_accuracy"].is_number(), arguments.contains(&"--eval-fraction"));

        let got = ran(program("overmask").args(["inspect", "--json"]).arg(&pack));
        let inspected = &json_lines(&got)[0];
        assert_eq!(inspected["masked_tensors"].as_array().unwrap().len(), masked, "{arguments:?}");
        let pooling = if arguments.contains(&"cls") { "cls" } else { "mean" };
        assert_eq!(inspected["document"]["text"]["pooling"], pooling);

        let predictions = place.path("out/predictions.jsonl");
        let got = ran(place.evaluate("texts.jsonl", &["--predictions"]).arg(&predictions));
        assert_eq!(got.code, 0, "{got:?}");
        let report = &json_lines(&got)[0];
        assert_eq!((&report["n"], &report["engine"]), (&40.into(), &"native".into()));
        let rows = fs::read_to_string(&predictions).unwrap();
        let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let right = rows.iter().filter(|row| row["label"] == row["predicted"]).count();
        assert_eq!(report["accuracy"], right as f64 / 40.0);

        for engine in ["ort", "tract"] {
            let mut run = program("overmask");
            run.args(["run", "--json", "--engine", engine, "--base"]).arg(place.path("base")).arg("--pack").arg(&pack);
            let got = ran_with(&mut run, field(&rows, "text").join("\n").as_bytes());
            assert_eq!(field(&json_lines(&got), "label"), field(&rows, "predicted"), "{engine} {arguments:?}");
            let mut verify = program("overmask");
            verify.args(["verify", "--json", "--engine", engine, "--base"]).arg(place.path("base"));
            let got = ran(verify.arg(&pack));
            let report = &json_lines(&got)[0];
            assert_eq!((got.code, &report["ok"], &report["golden_texts"]), (0, &true.into(), &8.into()), "{got:?}");
        }
        assert_eq!(place.made(), ["predictions.jsonl", "tiny.pack"]);
        fs::remove_file(&pack).unwrap();
    }
}

#[test]
fn wrong_texts_exit_with_3_and_are_named_by_line_and_field() {
    let place = Place::new();
    let good = "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":\"y\"}\n";
    let latin = [good.as_bytes(), b"{\"text\":\"caf\xe9\",\"label\":\"x\"}\n"].concat();
    let cases: [(&str, &[u8], &[&str]); 9] = [
        ("empty.jsonl", b"", &["empty.jsonl", "holds no example"]),
        ("latin.jsonl", &latin, &["latin.jsonl:3", "0xe9", "UTF-8"]),
        (
            "label.jsonl",
            b"{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\"}\n",
            &["label.jsonl:2", "field `label`", "missing"],
        ),
        ("text.csv", b"text,label\n ,x\n", &["text.csv:2", "field `text`", "blank"]),
        ("column.csv", b"text,class\na,x\n", &["column.csv:1", "no column `label`"]),
        ("one.jsonl", b"{\"text\":\"a\",\"label\":\"x\"}\n", &["one.jsonl", "`x`", "nothing to learn"]),
        ("texts.parquet", b"", &["texts.parquet", ".jsonl", ".csv"]),
        ("wide.csv", b"\xff\xfet\0e\0x\0t\0", &["wide.csv is UTF-16", "`iconv -f UTF-16 -t UTF-8`"]),
        ("semicolons.csv", b"text;label\na;x\n", &["semicolons.csv:1", "say so with --delimiter"]),
    ];
    for (name, bytes, said) in cases {
        place.write(name, bytes);
        failed(&ran(&mut place.train_on(name, &["--max-tokens", "16"])), 3, said);
    }
    failed(&ran(&mut place.train_on("absent.jsonl", &[])), 3, &["cannot read", "absent.jsonl"]);
    failed(&ran(&mut place.train_on("", &[])), 3, &["is a directory", "column.csv, empty.jsonl"]);
    let ids: String = (0..300).map(|i| format!("{{\"text\":\"text {i}\",\"label\":{i}}}\n")).collect();
    place.write("ids.jsonl", ids.as_bytes());
    failed(&ran(&mut place.train_on("ids.jsonl", &["--max-tokens", "16"])), 3, &["300 labels", "--label-column"]);
    failed(&ran(&mut place.train_on("ids.jsonl", &["--delimiter", ";"])), 2, &["--delimiter is for .csv and .tsv"]);
    place.write("few.jsonl", good.as_bytes());
    failed(&ran(&mut place.train_on("few.jsonl", &["--eval-fraction", "0.1"])), 3, &["few.jsonl", "--eval-fraction"]);
    assert!(place.made().is_empty());

    assert_eq!(ran(&mut place.train(&["--method", "head"])).code, 0);
    place.write("unseen.jsonl", b"{\"text\":\"a\",\"label\":\"up\"}\n{\"text\":\"b\",\"label\":\"sideways\"}\n");
    failed(&ran(&mut place.evaluate("unseen.jsonl", &[])), 3, &["unseen.jsonl:2", "`sideways`", "down, up"]);
    failed(&ran(&mut place.evaluate("empty.jsonl", &[])), 3, &["empty.jsonl"]);
    // Training looks before it learns.
    let unseen = place.path("unseen.jsonl");
    failed(&ran(place.train(&["--eval-data"]).arg(unseen)), 3, &["unseen.jsonl:2", "`sideways`"]);
}

#[test]
fn columns_and_delimiters_are_those_that_are_named() {
    let place = Place::new();
    let rows = |delimiter: &str, label: &dyn Fn(usize) -> &'static str| -> Vec<u8> {
        let row = |i: usize| format!("{i}{delimiter}good film {i}{delimiter}{}\n", label(i));
        let header = ["id", "Satz", "Art"].join(delimiter);
        (header + "\n" + &(0..40).map(row).collect::<String>()).into_bytes()
    };
    let up_or_down = |i: usize| if i.is_multiple_of(2) { "True" } else { "false" };
    place.write("semicolons.csv", &rows(";", &up_or_down));
    place.write("tabs.tsv", &rows("\t", &up_or_down));
    let columns = ["--text-column", "Satz", "--label-column", "art"];
    let quick = "--max-tokens 16 --threads 1 --batch-size 8 --dev-fraction 0.25 --max-steps 4 --method head";
    let quick: Vec<&str> = quick.split(' ').chain(columns).collect();
    let pack = |data: &str, more: &[&str]| {
        let got = ran(&mut place.train_on(data, &[&quick, more].concat()));
        assert_eq!(got.code, 0, "{got:?}");
        (fs::read(place.path("out/tiny.pack")).unwrap(), got.stderr)
    };
    let (by_semicolons, said) = pack("semicolons.csv", &["--delimiter", ";"]);
    assert!(!said.contains("warn"), "{said}");
    assert!(by_semicolons == pack("tabs.tsv", &[]).0, "the same data give the same pack");
    let got = ran(&mut place.evaluate("semicolons.csv", &[&columns[..], &["--delimiter", ";"]].concat()));
    assert_eq!((got.code, &json_lines(&got)[0]["n"]), (0, &40.into()), "{got:?}");
    let mut sensitivity = export(&["analyze", "sensitivity", "--json"]);
    sensitivity.arg(place.path("out/tiny.pack")).arg("--base").arg(place.path("base"));
    let got = ran(sensitivity.arg("--data").arg(place.path("tabs.tsv")).args(columns));
    assert_eq!(got.code, 0, "{got:?}");

    // What looks like a slip is told, and learnt as it is.
    let slips = |i: usize| match i {
        7 => "lone",
        i if i.is_multiple_of(3) => "\"Sport\"",
        i if i.is_multiple_of(2) => "\"sport\"",
        _ => "other",
    };
    place.write("slips.tsv", &rows("\t", &slips));
    let (_, said) = pack("slips.tsv", &[]);
    for part in
        ["`\"Sport\"` (14) and `\"sport\"` (13) differ only in case", "slips.tsv:2: a field is in quotation marks"]
    {
        assert!(said.contains(part), "{said}\nlacks\n{part}");
    }
    let kept = (1..40).map(|seed| pack("slips.tsv", &["--seed", &seed.to_string()]).1);
    let line = "not held out, as no other example to learn from has the label: `lone` (line 9)";
    assert!(kept.into_iter().any(|said| said.contains(line)));
}

#[test]
fn wrong_options_exit_with_2_before_the_work() {
    let place = Place::new();
    // Each with what the message names.
    let cases = [
        ("--granularity rows", "--granularity"),
        ("--granularity block:7x1 --max-tokens 16", "block:7x1"),
        ("--method lora", "--method"),
        ("--threads 0", "--threads"),
        ("--threads 1025", "--threads"),
        ("--eval-fraction 1.5", "--eval-fraction"),
        ("--name two\nlines", "--name"),
        ("--layers 2", "--layers"),
        ("--max-tokens 33", "--max-tokens"),
        ("--max-tokens 16 --max-steps 0", "--max-steps"),
        ("--dropout 1", "--dropout"),
        ("--learning-rate -1", "--learning-rate"),
        ("--learning-rate inf", "--learning-rate"),
        ("--seed -1", "--seed"),
    ];
    for (arguments, said) in cases {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        failed(&ran(&mut place.train_on("texts.jsonl", &arguments)), 2, &[said]);
    }
    failed(&ran(&mut export(&[])), 2, &["Usage"]);
    failed(&ran(&mut export(&["man", "frobnicate"])), 2, &["frobnicate", "train"]);
    failed(&ran(&mut export(&["fetch", "frobnicate"])), 2, &["frobnicate", "minilm-l6"]);
    assert!(place.made().is_empty());
}

#[test]
fn what_cannot_be_written_exits_with_8_and_leaves_nothing() {
    let place = Place::new();
    let absent = place.path("absent/tiny.pack");
    for wrong in [&absent, &place.path("out")] {
        let mut command = export(&["train", "--base"]);
        command.arg(place.path("base")).arg("--data").arg(place.path("texts.jsonl")).arg("-o").arg(wrong);
        failed(&ran(&mut command), 8, &["-o", wrong.to_str().unwrap()]);
    }
    failed(&ran(place.train(&["--log-losses"]).arg(&absent)), 8, &["--log-losses", "absent/tiny.pack"]);
    let run = ["--checkpoint"];
    failed(&ran(place.train(&run).arg(&absent)), 8, &["--checkpoint", "absent/tiny.pack"]);
    // What would be written over what is read, or over the pack.
    for file in ["texts.jsonl", "out/tiny.pack"] {
        failed(&ran(place.train(&run).arg(place.path(file))), 2, &["--checkpoint", file, "is the file of"]);
    }
    let stale = place.write("run.state", b"a long run");
    failed(&ran(place.train(&run).arg(&stale)), 2, &["run.state: is there", "--resume"]);
    assert_eq!(fs::read(&stale).unwrap(), b"a long run");
    let file = place.path("texts.jsonl");
    for out in [file.join("base"), file.clone()] {
        failed(&ran(export(&["import", "hf"]).arg(fixture()).arg("-o").arg(out)), 8, &["cannot write", "texts.jsonl"]);
    }
    assert!(place.made().is_empty());

    assert_eq!(ran(&mut place.train(&["--method", "head"])).code, 0);
    let got = ran(place.evaluate("texts.jsonl", &["--predictions"]).arg(&absent));
    failed(&got, 8, &["--predictions", "absent/tiny.pack"]);
    // A base, and the packs of a set that are not read.
    let (pack, set, manifest) = (place.path("out/tiny.pack"), place.path("all.packset"), place.path("base/base.json"));
    assert_eq!(ran(export(&["merge"]).arg(&pack).arg("-o").arg(&set)).code, 0);
    let one = place.path("all.packset#tiny");
    let before = [&set, &manifest].map(|file| fs::read(file).unwrap());
    for (command, from, to, code, said) in [
        ("merge", &one, &place.path("new.packset"), 2, "is one pack of a set"),
        ("merge", &pack, &manifest, 8, "is in a base bundle"),
        ("repack", &pack, &manifest, 8, "is in a base bundle"),
        ("repack", &one, &set, 2, "is the file of the set"),
    ] {
        failed(&ran(export(&[command]).arg(from).arg("-o").arg(to)), code, &[said]);
    }
    assert_eq!([&set, &manifest].map(|file| fs::read(file).unwrap()), before);
    fs::remove_file(set).unwrap();
    for file in ["texts.jsonl", "out/tiny.pack"] {
        let before = fs::read(place.path(file)).unwrap();
        let got = ran(place.evaluate("texts.jsonl", &["--predictions"]).arg(place.path(file)));
        failed(&got, 2, &["--predictions", file, "is the file of"]);
        assert_eq!(fs::read(place.path(file)).unwrap(), before);
    }
    let results = place.write("results.jsonl", b"{}\n");
    let page = place.path("out/page.html");
    for (page, numbers) in [(&results, &page), (&page, &results), (&page, &page)] {
        let mut report = export(&["report"]);
        let got = ran(report.arg(&results).arg("-o").arg(page).arg("--json").arg(numbers));
        failed(&got, 2, &["is the file of"]);
    }
    assert_eq!((fs::read(&results).unwrap(), place.made()), (b"{}\n".to_vec(), vec!["tiny.pack".to_owned()]));
}

#[cfg(target_os = "linux")]
#[test]
fn results_tell_of_paths_that_are_no_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let place = Place::new();
    let path = |name: &[u8]| place.path("out").join(OsStr::from_bytes(name));
    let (pack, other, out) = (path(b"\xff.pack"), path(b"\xfe.pack"), path(b"\xfd"));
    let json =
        |command: &str, more: &[&Path]| ran(export(&command.split(' ').collect::<Vec<_>>()).arg("--json").args(more));
    let base = place.path("base");
    let texts = place.path("texts.jsonl");
    let [on, data, to] = ["--base", "--data", "-o"].map(Path::new);
    let learn = "train --name x --max-tokens 16 --max-steps 2 --initial-sparsity 0.06";
    let got = [
        json(learn, &[on, &base, data, &texts, to, &pack]),
        json(learn, &[on, &base, data, &texts, to, &other]),
        json("keygen --no-password", &[to, &out]),
        json("sign", &[&pack, Path::new("--key"), &path(b"\xfd.key")]),
        json("diff", &[&pack, &other, on, &base]),
        json("analyze solutions", &[&pack, &other, on, &base, data, &texts]),
        json("repack", &[&pack, on, &base, to, &path(b"\xfc")]),
        json("merge", &[&pack, to, &path(b"\xfb")]),
        json("export", &[on, &base, Path::new("--pack"), &pack, to, &path(b"\xfa")]),
        json("import hf", &[&fixture(), to, &path(b"\xf9")]),
    ];
    for got in &got {
        failed(got, 0, &[]);
        assert!(json_lines(got)[0].to_string().contains('\u{fffd}'), "{got:?}");
    }
    failed(&json("train", &[on, &base, data, &texts, to, &pack]), 2, &["-o", "--name", "UTF-8"]);
}

#[cfg(target_os = "linux")]
#[test]
fn only_stdout_may_be_closed() {
    let place = Place::new();
    // A log of losses that nobody reads: its reader goes as soon as it is there, long before the
    // last line.
    let log = place.path("log");
    assert!(Command::new("mkfifo").arg(&log).status().unwrap().success());
    let mut reader = Command::new("sh").args(["-c", "exec 3< \"$0\""]).arg(&log).spawn().unwrap();
    let mut train = place.train_on("texts.jsonl", &["--max-tokens", "16", "--epochs", "20", "--log-losses"]);
    let got = ran(train.arg(&log));
    // It still waits for a writer if there was none.
    let _ = reader.kill();
    reader.wait().unwrap();
    failed(&got, 8, &["cannot write", "log"]);
    assert!(place.made().is_empty());

    for arguments in [&["fetch", "--list"][..], &["completions", "bash"], &["man", "train"]] {
        let mut child = export(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let got: Ran = child.wait_with_output().unwrap().into();
        assert_eq!((got.code, got.stderr.as_str()), (0, ""), "{arguments:?}");
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let child = export(arguments).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        failed(&child.wait_with_output().unwrap().into(), 8, &["stdout"]);
    }
}

#[test]
fn files_that_do_not_fit_or_are_damaged_have_codes_of_their_own() {
    let place = Place::new();
    assert_eq!(ran(&mut place.train(&["--method", "head"])).code, 0);

    // A base of the same shape that computes something else.
    let other = place.path("checkpoint");
    fs::create_dir(&other).unwrap();
    for name in ["model.safetensors", "tokenizer.json"] {
        fs::copy(fixture().join(name), other.join(name)).unwrap();
    }
    let config = fs::read_to_string(fixture().join("config.json")).unwrap();
    assert!(config.contains("1e-12"));
    fs::write(other.join("config.json"), config.replace("1e-12", "1e-5")).unwrap();
    let import = |from: &Path| ran(export(&["import", "hf"]).arg(from).arg("-o").arg(place.path("other")));
    assert_eq!(import(&other).code, 0);
    let evaluate = |base: &str, pack: &str| {
        let mut command = export(&["evaluate", "--base"]);
        command.arg(place.path(base)).arg("--pack").arg(place.path(pack));
        ran(command.arg("--data").arg(place.path("texts.jsonl")))
    };
    failed(&evaluate("other", "out/tiny.pack"), 6, &["base_id", "tiny"]);
    failed(&evaluate("absent", "out/tiny.pack"), 3, &["absent", "base.json"]);
    failed(&evaluate("base", "absent.pack"), 3, &["absent.pack"]);
    let bytes = fs::read(place.path("out/tiny.pack")).unwrap();
    place.write("broken.pack", &bytes[..bytes.len() - 7]);
    failed(&evaluate("base", "broken.pack"), 4, &["broken.pack"]);

    // What a run would go on from.
    let state = place.write("run.state", b"a long run");
    let resumed = ran(place.train(&["--resume", "--checkpoint"]).arg(&state));
    failed(&resumed, 4, &["--checkpoint", "run.state", "is damaged, or no checkpoint", "to start anew"]);

    // The base is there already.
    failed(&import(&other), 3, &["other", "exists"]);
    fs::write(other.join("config.json"), b"{}").unwrap();
    let out = place.path("out/base");
    failed(&ran(export(&["import", "hf"]).arg(&other).arg("-o").arg(&out)), 4, &["config.json", "model_type"]);
    failed(
        &ran(export(&["import", "hf"]).arg(place.path("absent")).arg("-o").arg(&out)),
        3,
        &["cannot read", "absent"],
    );

    let manifest = format!(
        "name = 'x'\nkind = 'base'\nabout = 'a'\nlicence = 'l'\nsources = []\n\
         [[files]]\nname = 'x.bin'\nsize = 4\nsha256 = '{}'\n",
        "0".repeat(64)
    );
    let manifest = place.write("x.toml", manifest.as_bytes());
    let wrong = place.write("x.bin", b"four");
    let fetch = |from: &Path| {
        let mut command = export(&["fetch", "--from"]);
        ran(command.arg(from).arg("-o").arg(place.path("out/x")).arg(&manifest))
    };
    failed(&fetch(&wrong), 4, &["x.bin", "sha256", "--from"]);
    failed(&fetch(&place.path("absent.bin")), 3, &["absent.bin", "--from"]);
    assert_eq!(place.made(), ["tiny.pack"]);
}

#[test]
fn onnx_runtime_has_no_more_threads_than_there_are_processors() {
    let place = Place::new();
    assert_eq!(ran(&mut place.train(&["--method", "head"])).code, 0);
    let one = ran(&mut place.evaluate("texts.jsonl", &["--engine", "ort", "--threads", "1"]));
    let many = ran(&mut place.evaluate("texts.jsonl", &["--engine", "ort", "--threads", "1024"]));
    failed(&many, 0, &["ONNX Runtime computes with", "threads, not 1024"]);
    assert_eq!(json_lines(&one)[0]["accuracy"], json_lines(&many)[0]["accuracy"]);
}

#[test]
fn an_engine_that_cannot_start_exits_with_7() {
    let place = Place::new();
    for arguments in [&["--method", "head"], &["--method", "mask"]] {
        let got = ran(place.train(arguments).env("ORT_DYLIB_PATH", "/no/such/library.so"));
        failed(&got, 7, &["/no/such/library.so", "ort"]);
        // No other engine trains.
        assert!(!got.stderr.contains("--engine"), "{got:?}");
    }
    assert_eq!(ran(&mut place.train(&["--method", "head"])).code, 0);
    let got = ran(place.evaluate("texts.jsonl", &["--engine", "ort"]).env("ORT_DYLIB_PATH", "/no/such/library.so"));
    failed(&got, 7, &["/no/such/library.so", "`--engine native` needs no library"]);
    fs::remove_file(place.path("out/tiny.pack")).unwrap();
    assert!(place.made().is_empty());
}

#[test]
fn help_completions_and_manual_pages_are_printed() {
    for arguments in [&["--help"][..], &["train", "--help"], &["import", "onnx", "--help"], &["fetch", "--help"]] {
        let got = ran(&mut export(arguments));
        assert!(got.code == 0 && got.stdout.starts_with("Example") && got.stdout.contains("Exit codes:"), "{got:?}");
    }
    let got = ran(&mut export(&["completions", "zsh"]));
    assert!(got.code == 0 && got.stdout.contains("overmask-export"));
    let got = ran(&mut export(&["man", "train"]));
    assert!(got.code == 0 && got.stdout.contains(".TH") && got.stdout.contains("\\-\\-granularity"), "{got:?}");
    let got = ran(&mut export(&["man", "import", "hf"]));
    assert!(got.code == 0 && got.stdout.contains(".TH overmask-export-import-hf 1"), "{got:?}");
    let got = ran(&mut export(&["fetch", "--list", "--json"]));
    assert!(field(&json_lines(&got), "name").contains(&"trec"));
}
