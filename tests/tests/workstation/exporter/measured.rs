//! What is measured: packs beside what promises they make, simpler models, and pages of all that.

use std::fs;
use std::path::Path;

use overmask::pack::PackFile;
use overmask::store::Promise;
use overmask_tests::{failed, json_lines, ran};
use serde_json::Value;

use super::{Place, export, field};

#[test]
fn a_recorded_pack_promises_what_was_measured() {
    let place = Place::new();
    assert_eq!(ran(&mut place.train(&["--method", "head"])).code, 0);
    let (head, recorded) = (place.path("out/tiny.pack"), place.path("out/recorded.pack"));
    let record = |to: &Path| ran(place.evaluate("texts.jsonl", &["--baseline"]).arg(&head).arg("--record").arg(to));
    let measured = &json_lines(&record(&recorded))[0];
    let promise = Promise::of(PackFile::open(&recorded).unwrap().document()).unwrap();
    assert_eq!(promise.number(), measured["accuracy"].as_f64());
    assert_eq!((Some(promise.value), promise.texts), (promise.baseline, measured["n"].as_u64().unwrap()));
    assert_eq!(Promise::of(PackFile::open(&head).unwrap().document()), None);
    failed(&record(&head), 2, &["--record", "tiny.pack"]);
}

#[test]
fn evaluate_prints_the_confusion_matrix() {
    let place = Place::new();
    assert_eq!(ran(&mut place.train(&["--method", "head"])).code, 0);
    let mut command = export(&["evaluate", "--base"]);
    command.arg(place.path("base")).arg("--pack").arg(place.path("out/tiny.pack"));
    let got = ran(command.arg("--data").arg(place.path("texts.jsonl")));
    let matrix: Vec<&str> = got.stdout.lines().skip_while(|line| !line.starts_with("confusion matrix")).collect();
    assert!(got.code == 0 && matrix.len() == 4, "{got:?}");
    let counts = |line: &str| line.split_whitespace().skip(1).map(|n| n.parse::<u64>().unwrap()).sum::<u64>();
    assert_eq!((counts(matrix[2]), counts(matrix[3])), (20, 20), "{got:?}");
}

#[test]
fn a_run_says_what_it_found_what_simpler_models_come_to_and_becomes_a_page() {
    let place = Place::new();
    let quick = ["--max-tokens", "16", "--threads", "1", "--eval-fraction", "0.25"];
    let got = ran(&mut place.train_on("texts.jsonl", &quick));
    assert_eq!(got.code, 0, "{got:?}");
    for part in ["30 examples, 2 labels", "tf-idf, linear model: dev accuracy", "head alone: dev accuracy"] {
        assert!(got.stderr.contains(part), "{part}: {got:?}");
    }
    let trained = json_lines(&got).remove(0);
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&trained["dev"]) >= number(&trained["head"]["dev"]), "{trained}");
    assert!(trained["head"]["eval"].is_number() && trained["baselines"][1]["eval"].is_number(), "{trained}");
    assert_eq!((&trained["train_texts"], &trained["dev_texts"]), (&24.into(), &6.into()));
    assert_eq!((&trained["curve"][0]["epoch"], &trained["data"]["tokens"]["cut"]), (&0.into(), &0.into()));
    let train = place.write("train.json", got.stdout.as_bytes());

    let got = ran(&mut place.evaluate("texts.jsonl", &[]));
    let evaluated = place.write("evaluate.json", got.stdout.as_bytes());
    assert!(json_lines(&got)[0]["mistakes"].is_array(), "{got:?}");
    let mut baseline = export(&["baseline", "--json", "--max-tokens", "16", "--threads", "1", "--base"]);
    baseline.arg(place.path("base")).arg("--data").arg(place.path("texts.jsonl"));
    let got = ran(&mut baseline);
    let baselines = json_lines(&got);
    assert_eq!(field(&baselines, "baseline"), ["majority", "tf-idf", "embeddings", "head"]);
    assert!(number(&baselines[1]["dev"]) > number(&baselines[0]["dev"]), "{got:?}");
    let beside = place.write("baseline.json", got.stdout.as_bytes());
    let some = ran(baseline.args(["--examples", "20"]));
    assert_eq!(json_lines(&some)[0]["dev_texts"], 4, "{some:?}");
    let page = place.path("out/page.html");
    let got = ran(export(&["report"]).args([&train, &evaluated, &beside]).arg("-o").arg(&page));
    assert_eq!(got.code, 0, "{got:?}");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("1 run, 1 task, 1 method, 1 evaluation, 4 baselines"), "{page}");

    failed(&ran(&mut place.train_on("texts.jsonl", &["--effort", "most"])), 2, &["--effort", "quick"]);
    failed(&ran(&mut place.train_on("texts.jsonl", &["--effort", "best", "--method", "full"])), 2, &["--effort"]);
    failed(&ran(&mut place.train_on("texts.jsonl", &["--keep", "first"])), 2, &["--keep", "best", "last"]);
    failed(
        &ran(&mut place.train_on("texts.jsonl", &["--examples", "41"])),
        3,
        &["texts.jsonl", "--examples 41", "there are 40"],
    );
    failed(&ran(export(&["baseline", "--data"]).arg(place.path("absent.jsonl"))), 3, &["absent.jsonl"]);
}
