//! Encoders from ONNX files, from the export to a text's label.

use std::fs;
use std::path::{Path, PathBuf};

use overmask_tests::{difference, failed, json_lines, program, ran};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

#[test]
fn an_exported_encoder_learns_a_task_and_runs_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let rows = (0..40).map(|i| match i % 2 {
        0 => format!("{{\"text\":\"good film {i}\",\"label\":\"up\"}}\n"),
        _ => format!("{{\"text\":\"bad film {i}\",\"label\":\"down\"}}\n"),
    });
    fs::write(at("texts.jsonl"), rows.collect::<String>()).unwrap();
    let pairs = (0..40).map(|i| format!("{{\"text\":\"film {i}\",\"text_pair\":\"b\",\"label\":\"{}\"}}\n", i % 2));
    fs::write(at("pairs.jsonl"), pairs.collect::<String>()).unwrap();
    for (folder, export) in [
        ("onnx", "distilbert-torchscript.onnx"),
        ("onnx", "roberta-dynamo.onnx"),
        ("onnx", "prenorm-dynamo.onnx"),
        // Of transformers 5; quantised.
        ("onnx5", "mpnet-dynamo18-f32.onnx"),
        ("onnx5", "bert-torchscript17-dynamic.onnx"),
    ] {
        let (base, pack) = (at(&format!("{export}-base")), at(&format!("{export}.pack")));
        let mut import = program("overmask-export");
        import.args(["import", "onnx", "--json", "--tokenizer"]).arg(fixture("tiny-bert/tokenizer.json"));
        let got = ran(import.arg(fixture(folder).join(export)).arg("-o").arg(&base));
        assert_eq!(got.code, 0, "{got:?}");
        let said = &json_lines(&got)[0];
        assert_eq!((&said["layers"], &said["untrainable"]), (&2.into(), &Value::Null), "{export}");

        let mut train = program("overmask-export");
        train.args(["train", "--granularity", "block:8x1", "--epochs", "1", "--max-tokens", "12", "--seed", "1"]);
        // Zeros that are asked for: the pack is no head alone.
        train.args(["--initial-sparsity", "0.06"]);
        train.arg("--base").arg(&base).arg("--data").arg(at("texts.jsonl")).arg("-o").arg(&pack);
        let got = ran(&mut train);
        assert_eq!(got.code, 0, "{export}: {got:?}");

        // Not every graph tells the texts of a pair apart, whatever the tokenizer says of segments.
        let mut pairs = program("overmask-export");
        pairs.args(["train", "--method", "head", "--epochs", "1", "--max-tokens", "12", "--pair", "--base"]);
        pairs.arg(&base).arg("--data").arg(at("pairs.jsonl")).arg("-o").arg(at("pairs.pack"));
        let got = ran(&mut pairs);
        match export {
            // Its table of segments has one row, which only a tokenizer of its own respects.
            "roberta-dynamo.onnx" => failed(&got, 2, &["--pair: ", "the segment 1", "segments up to 0"]),
            _ => assert_eq!(got.code, 0, "{export}: {got:?}"),
        }

        let verify = ran(program("overmask").arg("verify").arg(&pack).arg("--base").arg(&base));
        assert_eq!(verify.code, 0, "{export}: {verify:?}");
        let run = |engine: &[&str]| {
            let mut command = program("overmask");
            command.arg("run").arg("--base").arg(&base).arg("--pack").arg(&pack).arg("--json").args(engine);
            ran(command.arg("a good film, not the worst"))
        };
        let scores = |engine: &[&str]| -> Vec<f32> {
            let got = run(engine);
            assert_eq!(got.code, 0, "{export}: {got:?}");
            let scores = json_lines(&got)[0]["scores"].as_object().unwrap().clone();
            scores.values().map(|v| v.as_f64().unwrap() as f32).collect()
        };
        // Without a word on engines it is ONNX Runtime's.
        assert_eq!(json_lines(&run(&[]))[0]["engine"], "ort:cpu");
        assert!(difference(&scores(&[]), &scores(&["--engine", "tract"])) <= 1e-4, "{export}");
        failed(&run(&["--engine", "native"]), 7, &["family `onnx`", "`ort` and `tract`"]);
    }
}

#[test]
fn a_file_that_is_no_encoder_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let import = |model: &Path| {
        let mut command = program("overmask-export");
        command.args(["import", "onnx", "--tokenizer"]).arg(fixture("tiny-bert/tokenizer.json")).arg(model);
        ran(command.arg("-o").arg(dir.path().join("base")))
    };
    failed(&import(Path::new("absent.onnx")), 3, &["absent.onnx"]);
    failed(&import(&fixture("tiny-bert/tokenizer.json")), 4, &["is not an ONNX model"]);
    // Its weights are not beside it.
    let alone = dir.path().join("alone");
    fs::create_dir(&alone).unwrap();
    fs::copy(fixture("onnx/prenorm-dynamo.onnx"), alone.join("model.onnx")).unwrap();
    failed(&import(&alone.join("model.onnx")), 3, &["prenorm-dynamo.onnx.data"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn options_that_no_model_or_not_this_one_has_are_wrong_usage_and_files_are_named_as_they_were_given() {
    let dir = tempfile::tempdir().unwrap();
    let (model, tokenizer) = (fixture("onnx/bert-torchscript.onnx"), fixture("tiny-bert/tokenizer.json"));
    let import = |tokenizer: &Path, options: &[&str]| {
        let mut command = program("overmask-export");
        command.args(["import", "onnx"]).arg(&model).arg("--tokenizer").arg(tokenizer).args(options);
        let got = ran(command.arg("-o").arg(dir.path().join("base")));
        assert!(!got.stderr.contains(".overmask-"), "a place that nobody has seen: {}", got.stderr);
        got
    };
    for (options, said) in [
        (["--max-positions", "0"], "--max-positions: is 0; a text has at least 3 tokens"),
        (["--max-positions", "2"], "--max-positions: is 2; a text has at least 3 tokens"),
        (["--max-positions", "64"], "--max-positions: is 64, but the model's position embeddings hold 32"),
        (["--output-name", "nope"], "--output-name: the model computes no value `nope`; its outputs are"),
        (["--output-name", "input_ids"], "--output-name: the model computes no value `input_ids`"),
    ] {
        failed(&import(&tokenizer, &options), 2, &[said]);
    }
    let [cut, large] = ["cut.json", "large.json"].map(|name| dir.path().join(name));
    fs::write(&cut, "{").unwrap();
    fs::File::create(&large).unwrap().set_len(300 << 20).unwrap();
    failed(&import(&cut, &[]), 4, &["cut.json", "is it the encoder's own tokenizer?"]);
    failed(&import(&large, &[]), 4, &["large.json", "more than 256 MiB", "is it the encoder's own tokenizer?"]);
    assert!(!dir.path().join("base").exists());
    assert_eq!(import(&tokenizer, &["--max-positions", "3"]).code, 0);
}
