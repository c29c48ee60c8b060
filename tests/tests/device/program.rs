//! The program `overmask` as a user meets it: results, wrong input, exit codes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use overmask::base::Base;
use overmask::fs::file_digest;
use overmask::mask::Granularity;
use overmask::pack::{Codec, Golden};
use overmask::task::Runner;
use overmask_tests::{
    Ran, Recipe, base, base_dir, classify, engine, failed, json_lines, program, questions, ran, ran_with,
};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a pack in it, with golden vectors.
fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let recipe = Recipe { name: "demo", ..Default::default() };
    let runner = Runner::new(engine("ort", &base()), base()).unwrap();
    let task = runner.add_pack(recipe.pack(&base())).unwrap();
    let texts = ["Where is Lima?", "Who wrote Hamlet?"];
    let predictions = classify(&runner, task, &texts);
    let golden = texts.iter().zip(predictions).map(|(t, p)| Golden { input: (*t).into(), logits: p.logits });
    let path = dir.path().join("demo.pack");
    recipe.pack_with(&base(), golden.collect()).write(&path, Some(&base())).unwrap();
    (dir, path)
}

fn overmask(arguments: &[&str]) -> Command {
    let mut command = program("overmask");
    command.args(arguments);
    command
}

/// `overmask run` with the real base.
fn run(pack: &Path, arguments: &[&str]) -> Command {
    let mut command = overmask(&["run"]);
    command.arg("--base").arg(base_dir()).arg("--pack").arg(pack).args(arguments);
    command
}

/// A copy of the real base.
fn copy_of_base(to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(base_dir()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn texts_get_labels() {
    let (_dir, pack) = folder();
    let got = ran(&mut run(&pack, &["Where is Lima?", "Who wrote Hamlet?"]));
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
    let lines: Vec<&str> = got.stdout.lines().collect();
    assert_eq!(lines.len(), 2);
    let columns: Vec<&str> = lines[0].split('\t').collect();
    assert!(columns[0].starts_with("label-") && columns[2] == "Where is Lima?", "{columns:?}");
    assert!((0.0..=1.0).contains(&columns[1].parse::<f32>().unwrap()));
}

#[test]
fn json_says_everything_for_each_text_and_task() {
    let (dir, pack) = folder();
    let other = dir.path().join("other.pack");
    let recipe = Recipe { name: "other", granularity: Granularity::Weight, labels: 2, seed: 9, ..Default::default() };
    recipe.pack(&base()).write(&other, Some(&base())).unwrap();
    let texts = questions(20);
    let input = texts.join("\r\n");
    let mut rows = Vec::new();
    for engine in ["ort", "tract", "native"] {
        let mut command = run(&pack, &["--json", "--engine", engine, "--threads", "1", "--pack"]);
        let got = ran_with(command.arg(&other), input.as_bytes());
        assert_eq!(got.code, 0, "{got:?}");
        rows.push(json_lines(&got));
    }
    assert_eq!(rows[0].len(), 40);
    for (i, row) in rows[0].iter().enumerate() {
        assert_eq!(row["line"], i / 2 + 1);
        assert_eq!(row["task"], ["demo", "other"][i % 2]);
        assert_eq!(row["text"], texts[i / 2].as_str());
        assert_eq!((&row["engine"], &row["precision"]), (&"ort:cpu".into(), &"f32".into()));
        let scores = row["scores"].as_object().unwrap();
        assert_eq!(scores.len(), [6, 2][i % 2]);
        assert_eq!(scores[row["label"].as_str().unwrap()], row["score"]);
        let sum: f64 = scores.values().map(|s| s.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-5);
        for (others, engine) in rows[1..].iter().zip(["tract", "native"]) {
            assert_eq!((&others[i]["label"], &others[i]["engine"]), (&row["label"], &engine.into()));
        }
    }
}

#[test]
fn a_benchmark_says_what_ran_and_how_fast() {
    let (dir, pack) = folder();
    let weights = dir.path().join("weights.pack");
    let recipe = Recipe { name: "weights", granularity: Granularity::Weight, ..Default::default() };
    recipe.pack(&base()).write(&weights, Some(&base())).unwrap();
    let bench = |more: &[&str]| {
        let mut command = overmask(&["bench", "--passes", "10", "--threads", "1", "--base"]);
        command.arg(base_dir()).args(more);
        ran(&mut command)
    };
    let (pack, weights) = (pack.to_str().unwrap(), weights.to_str().unwrap());
    let got = bench(&["--json", "--pack", weights, "--pack", pack, "--seq", "8,80", "--batch", "2"]);
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
    let rows = json_lines(&got);
    for (row, (tokens, kernel)) in rows.iter().zip([(8, "masked multiply-adds"), (80, "masked panels")]) {
        assert_eq!((&row["engine"], &row["tokens"], &row["batch"]), (&"native".into(), &tokens.into(), &2.into()));
        // The portable and the AVX2 kernels have one form only.
        let of_avx512 = row["kernels"] != "avx512" || row["mask_kernel"] == kernel;
        assert!(of_avx512 && row["mask_kernel"].as_str().unwrap().starts_with("masked"), "{row}");
        let number = |field: &str| row[field].as_f64().unwrap();
        assert!(number("median_ms") > 0.0 && number("p95_ms") >= number("median_ms"));
        assert!(number("first_result_ms") > 0.0 && number("resident_bytes") > 1e6);
        let rate = f64::from(2 * tokens) / number("median_ms") * 1e3;
        assert!((number("tokens_per_second") - rate).abs() < 1e-3 * rate);
        assert!(row["switch_us"].is_number());
        let together = &row["together"];
        assert_eq!((&together["tasks"], &together["layers"]), (&2.into(), &12.into()), "{row}");
        assert!(
            ["median_ms", "apart_ms", "one_ms"].iter().all(|field| together[field].as_f64().unwrap() > 0.0),
            "{row}"
        );
    }
    assert_eq!(rows.len(), 2);
    let got = bench(&["--pack", weights, "--pack", pack, "--pack", pack, "--seq", "8"]);
    assert_eq!(got.code, 0);
    for said in ["embeddings: once for all 3 tasks", "layers 0-5: 2 times, for weights, demo with demo", "together ms"]
    {
        assert!(got.stdout.contains(said), "{}", got.stdout);
    }
    let got = bench(&["--pack", pack, "--seq", "16", "--engine", "tract"]);
    assert_eq!(got.code, 0);
    assert!(got.stdout.contains("tract") && got.stdout.contains("kernel"), "{}", got.stdout);
    failed(&bench(&["--pack", pack, "--seq", "1000"]), 2, &["1000", "512"]);
    failed(&bench(&["--pack", "/no/such.pack"]), 3, &["/no/such.pack"]);
    failed(&bench(&["--pack", pack, "--seq", "0"]), 2, &["--seq"]);
    failed(&bench(&[]), 2, &["--pack"]);
}

#[test]
fn empty_lines_are_texts_and_no_input_is_no_output() {
    let (_dir, pack) = folder();
    let got = ran_with(&mut run(&pack, &["--json"]), b"\n\nlast");
    assert_eq!((got.code, json_lines(&got).len()), (0, 3));
    let got = ran_with(&mut run(&pack, &[]), b"");
    assert_eq!((got.code, got.stdout.as_str()), (0, ""));
}

#[test]
fn text_that_is_not_utf8_is_named_by_its_line() {
    let (_dir, pack) = folder();
    let got = ran_with(&mut run(&pack, &[]), b"fine\nalso fine\nna\xefve\nanswered\n");
    failed(&got, 3, &["stdin, line 3: is not UTF-8 from byte 3 on", "1 of 4 inputs have no answer"]);
    assert_eq!(got.stdout.lines().count(), 3);
}

#[test]
fn a_text_without_tokens_is_named_by_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let [odd, pack] = ["base", "demo.pack"].map(|name| dir.path().join(name));
    copy_of_base(&odd);
    // A tokenizer that puts nothing around a text makes nothing of an empty one.
    let path = odd.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    tokenizer["post_processor"] = Value::Null;
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let mut manifest = base().manifest().clone();
    manifest.tokenizer_sha256 = file_digest(&path).unwrap();
    manifest.digests.insert("tokenizer.json".to_owned(), manifest.tokenizer_sha256.clone());
    std::fs::write(odd.join("base.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let base = Base::open(&odd).unwrap();
    Recipe::default().pack(&base).write(&pack, Some(&base)).unwrap();
    let run = || {
        let mut command = overmask(&["run", "--engine", "tract", "--pack"]);
        command.arg(&pack).arg("--base").arg(&odd);
        command
    };
    // More lines than are handed over at once.
    let input = ["text\n".repeat(289), "\n".to_owned(), "text\n".repeat(10)].concat();
    let got = ran_with(&mut run(), input.as_bytes());
    failed(&got, 3, &["stdin, line 290: has no tokens"]);
    assert_eq!(got.stdout.lines().count(), 299);
    failed(&ran(run().args(["text", ""])), 3, &["text 2: has no tokens"]);
}

#[test]
fn threads_that_an_engine_does_not_use_are_no_secret() {
    let (_dir, pack) = folder();
    let got = ran(&mut run(&pack, &["--engine", "tract", "--threads", "4", "text"]));
    assert_eq!((got.code, got.stderr.matches("one thread; the 4 ").count()), (0, 1), "{got:?}");
    for arguments in [["--engine", "tract", "--threads", "1", "text"], ["--engine", "ort", "--threads", "2", "text"]] {
        assert_eq!(ran(&mut run(&pack, &arguments)).stderr, "");
    }
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    let (_dir, pack) = folder();
    failed(&ran(&mut overmask(&["run", "text"])), 2, &["--base", "--pack"]);
    failed(&ran(&mut run(&pack, &["--engine", "gpu", "text"])), 2, &["gpu", "tract"]);
    failed(&ran(&mut run(&pack, &["--threads", "0", "text"])), 2, &["--threads"]);
    failed(&ran(&mut overmask(&["frobnicate"])), 2, &["frobnicate"]);
    failed(&ran(&mut overmask(&["verfy"])), 2, &["similar", "'verify'"]);
    // A number that is too low is told from an option that is not there.
    failed(&ran(&mut run(&pack, &["--threads", "-1", "text"])), 2, &["-1 is not in 1..=1024"]);
    failed(&ran(&mut overmask(&["man", "frobnicate"])), 2, &["frobnicate", "verify"]);
    failed(&ran(&mut overmask(&["man", "run", "frobnicate"])), 2, &["`overmask run` has no subcommand"]);
}

#[test]
fn missing_files_exit_with_3() {
    let (dir, pack) = folder();
    let mut command = overmask(&["run", "--base", "no/such/base", "--pack"]);
    failed(&ran(command.arg(&pack).arg("text")), 3, &["no/such/base"]);
    let missing = dir.path().join("missing.pack");
    failed(&ran(&mut run(&missing, &["text"])), 3, &["missing.pack"]);
    failed(&ran(overmask(&["inspect"]).arg(&missing)), 3, &["missing.pack"]);
    // A directory is no pack.
    failed(&ran(overmask(&["inspect"]).arg(dir.path())), 3, &["cannot read the pack"]);
}

#[test]
fn corrupt_files_exit_with_4() {
    let (dir, pack) = folder();
    let bytes = std::fs::read(&pack).unwrap();
    let broken = dir.path().join("broken.pack");
    std::fs::write(&broken, &bytes[..bytes.len() - 7]).unwrap();
    failed(&ran(&mut run(&broken, &["text"])), 4, &["broken.pack"]);
    std::fs::write(&broken, b"").unwrap();
    failed(&ran(overmask(&["inspect"]).arg(&broken)), 4, &["broken.pack"]);
    let odd = dir.path().join("base");
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(odd.join("base.json"), b"{}").unwrap();
    let mut command = overmask(&["run", "--pack"]);
    failed(&ran(command.arg(&pack).arg("--base").arg(&odd).arg("text")), 4, &["base.json"]);
}

#[test]
fn a_pack_of_another_base_exits_with_6() {
    let (dir, _) = folder();
    let mut pack = Recipe { codec: Codec::Plain, ..Default::default() }.pack(&base());
    pack.document.base_id = "0".repeat(64);
    let path = dir.path().join("foreign.pack");
    pack.write(&path, None).unwrap();
    failed(&ran(&mut run(&path, &["text"])), 6, &["base_id", "foreign.pack"]);
    let mut command = overmask(&["verify", "--base"]);
    failed(&ran(command.arg(base_dir()).arg(&path)), 6, &["base_id"]);
}

#[test]
fn an_engine_that_cannot_start_exits_with_7_and_nothing_takes_its_place() {
    let (_dir, pack) = folder();
    let got = ran(run(&pack, &["--engine", "ort", "text"]).env("ORT_DYLIB_PATH", "/no/such/library.so"));
    failed(&got, 7, &["/no/such/library.so", "ort"]);
    assert_eq!(got.stdout, "");
    // A file that is no library, too.
    failed(&ran(run(&pack, &["--engine", "ort", "text"]).env("ORT_DYLIB_PATH", &pack)), 7, &["ort"]);
    // The others need none.
    for engine in ["tract", "native"] {
        let got = ran(run(&pack, &["--engine", engine, "text"]).env("ORT_DYLIB_PATH", "/no/such/library.so"));
        assert_eq!(got.code, 0, "{got:?}");
    }
    failed(&ran(run(&pack, &["--engine", "native", "text"]).env("OVERMASK_ISA", "mmx")), 7, &["mmx", "portable"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_exits_with_8_and_a_closed_pipe_is_quiet() {
    let (_dir, pack) = folder();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = run(&pack, &["text"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    failed(&child.wait_with_output().unwrap().into(), 8, &["stdout"]);
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let child = overmask(arguments).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        failed(&child.wait_with_output().unwrap().into(), 8, &["stdout"]);
    }

    let mut command = run(&pack, &[]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || {
        use std::io::Write;
        drop(stdin.write_all(&b"text\n".repeat(5000)));
    });
    let got: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
}

#[test]
fn verify_recomputes_the_golden_vectors() {
    let (dir, pack) = folder();
    for engine in ["ort", "tract", "native"] {
        let mut command = overmask(&["verify", "--json", "--engine", engine, "--base"]);
        let got = ran(command.arg(base_dir()).arg(&pack));
        assert_eq!(got.code, 0, "{got:?}");
        let report = &json_lines(&got)[0];
        assert_eq!((&report["ok"], &report["golden_texts"]), (&true.into(), &2.into()));
        assert!(report["golden_max_difference"].as_f64().unwrap() <= 1e-4);
        assert_eq!(report["precision"], "f32");
        assert!(report["engine"].as_str().unwrap().starts_with(engine));
    }
    let mut changed = overmask::pack::Pack::open(&pack, &base()).unwrap();
    changed.golden[1].logits[0] += 0.01;
    let path = dir.path().join("changed.pack");
    changed.write(&path, Some(&base())).unwrap();
    let mut command = overmask(&["verify", "--json", "--base"]);
    let got = ran(command.arg(base_dir()).arg(&path).arg(&pack));
    failed(&got, 4, &["changed.pack", "golden"]);
    let reports = json_lines(&got);
    assert_eq!((&reports[0]["ok"], &reports[1]["ok"]), (&false.into(), &true.into()));
}

#[test]
fn verify_fails_though_nobody_reads_its_reports() {
    let (dir, good) = folder();
    let mut changed = overmask::pack::Pack::open(&good, &base()).unwrap();
    changed.golden[1].logits[0] += 0.01;
    let bad = dir.path().join("changed.pack");
    changed.write(&bad, Some(&base())).unwrap();
    // Names so long that the first reports are handed over before the last pack is looked at.
    let long = dir.path().join("./".repeat(1900)).join("demo.pack");
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = overmask(&["verify", "--json", "--base"]);
        command.arg(base_dir()).args([&long, &long, &long]).stdout(writer).stderr(Stdio::piped());
        command
    };
    let finish = |command: &mut Command| -> Ran { command.spawn().unwrap().wait_with_output().unwrap().into() };
    failed(&finish(closed().arg(&bad)), 4, &["changed.pack", "golden"]);
    let got = finish(&mut closed());
    assert_eq!((got.code, got.stderr.as_str()), (0, ""), "nothing is wrong with the packs");
}

#[test]
fn verify_notices_a_changed_base() {
    let (dir, pack) = folder();
    let copy = dir.path().join("base");
    copy_of_base(&copy);
    let weights = copy.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let mut command = overmask(&["verify", "--base"]);
    failed(&ran(command.arg(&copy).arg(&pack)), 4, &["model.safetensors", "sha256"]);
}

#[test]
fn inspect_shows_what_a_pack_holds() {
    let (_dir, pack) = folder();
    let got = ran(overmask(&["inspect"]).arg(&pack));
    assert_eq!(got.code, 0);
    for words in ["demo, revision 1", "block:32x1", "label-5", "36 tensors", "layer.5.output.dense.weight", "head, f16"]
    {
        assert!(got.stdout.contains(words), "{words}: {}", got.stdout);
    }
    assert!(!got.stdout.contains("% zeros"), "without the base nobody knows: {}", got.stdout);
    let got = ran(overmask(&["inspect"]).arg(&pack).arg("--base").arg(base_dir()));
    assert_eq!(got.stdout.matches("% zeros").count(), 36, "{}", got.stdout);
    let got = ran(overmask(&["inspect", "--json"]).arg(&pack).arg("--base").arg(base_dir()));
    let report = &json_lines(&got)[0];
    assert_eq!(report["document"]["name"], "demo");
    let bytes = std::fs::metadata(&pack).unwrap().len();
    assert_eq!(report["bytes"], bytes);
    let sizes = report["sizes"].as_object().unwrap();
    assert_eq!(sizes.values().map(|size| size.as_u64().unwrap()).sum::<u64>(), bytes);
    let tensors = report["masked_tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 36);
    assert!(tensors.iter().all(|tensor| (0.05..0.12).contains(&tensor["sparsity"].as_f64().unwrap())));
}

#[test]
fn help_completions_and_manual_pages_are_printed() {
    for arguments in [&["--help"][..], &["run", "--help"], &["verify", "--help"], &["inspect", "--help"]] {
        let got = ran(&mut overmask(arguments));
        assert_eq!(got.code, 0);
        assert!(got.stdout.starts_with("Example") && got.stdout.contains("Exit codes:"), "{}", got.stdout);
    }
    let got = ran(&mut overmask(&["completions", "bash"]));
    assert!(got.code == 0 && got.stdout.contains("overmask"));
    let got = ran(&mut overmask(&["man", "run"]));
    assert!(got.code == 0 && got.stdout.contains(".TH") && got.stdout.contains("\\-\\-pack"), "{}", got.stdout);
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_that_is_quoted_drives_a_terminal() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let (dir, pack) = folder();
    let odd = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    // Not all of it is UTF-8.
    let name = OsStr::from_bytes(b"a\x1b[2J\xc2\x9b2J\nb\x7f\xe2\x80\xae\xff.pack");
    let path = dir.path().join(name);
    std::fs::copy(&pack, &path).unwrap();
    for command in ["inspect", "verify"] {
        let lines = ran(overmask(&[command]).arg(&pack)).stdout.lines().count();
        let got = ran(overmask(&[command]).arg(&path));
        assert_eq!((got.code, got.stdout.lines().count(), got.stdout.find(odd)), (0, lines, None), "{got:?}");
        let got = ran(overmask(&[command, "--json"]).arg(&path));
        assert_eq!((got.code, got.stdout.find(odd)), (0, None), "{got:?}");
        let said = json_lines(&got)[0].to_string();
        assert!(said.contains("\u{9b}2J"), "{said}");
    }
    for got in [ran(overmask(&["inspect"]).arg(name)), ran(overmask(&["inspect", "--base"]).arg(name).arg(name))] {
        failed(&got, 3, &["cannot read", "2J b"]);
        assert_eq!(got.stderr.find(odd), None, "{got:?}");
    }
    let got = ran(&mut overmask(&["run", "--engine", "a\u{1b}[2J\u{9b}2J\u{202e}"]));
    failed(&got, 2, &["invalid value"]);
    assert_eq!(got.stderr.find(odd), None, "{got:?}");
}

#[test]
fn quiet_and_verbose_change_what_is_said_and_not_what_is_answered() {
    let (_dir, pack) = folder();
    let plain = ran(&mut run(&pack, &["Where is Lima?"]));
    let quiet = ran(&mut run(&pack, &["-q", "Where is Lima?"]));
    let loud = ran(&mut run(&pack, &["-vv", "Where is Lima?"]));
    assert!(plain.stdout == quiet.stdout && quiet.stdout == loud.stdout);
    assert_eq!(quiet.stderr, "");
    assert!(loud.stderr.contains("debug: "), "{}", loud.stderr);
    let filtered = ran(run(&pack, &["Where is Lima?"]).env("OVERMASK_LOG", "overmask=debug"));
    assert!(filtered.stderr.contains("debug: "), "{}", filtered.stderr);
}
