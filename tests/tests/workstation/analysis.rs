//! `overmask-export analyze` as a user meets it, on made-up packs of a tiny encoder.

use std::path::{Path, PathBuf};
use std::process::Command;

use overmask::base::Base;
use overmask_tests::{Recipe, failed, json_lines, program, ran};
use serde_json::Value;

/// What is the same of all packs here, unless it is said.
fn recipe() -> Recipe {
    Recipe { max_tokens: 16, sparsity: 0.3, ..Recipe::default() }
}

/// A base, two packs of random masks, `b` on the upper layer alone, and labelled texts.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-bert");
        let got = ran(program("overmask-export").args(["import", "hf"]).arg(fixture).arg("-o").arg(place.path("base")));
        assert_eq!(got.code, 0, "{got:?}");
        place.write(Recipe { name: "a", ..recipe() });
        place.write(Recipe { name: "b", seed: 2, from_layer: 1, ..recipe() });
        let lines: String =
            (0..30).map(|i| format!("{{\"text\":\"good film {i}\",\"label\":\"label-{}\"}}\n", i % 6)).collect();
        std::fs::write(place.path("texts.jsonl"), lines).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the pack NAME.pack.
    fn write(&self, recipe: Recipe) {
        let base = Base::open(&self.path("base")).unwrap();
        recipe.pack(&base).write(&self.path(&format!("{}.pack", recipe.name)), Some(&base)).unwrap();
    }

    fn analyze(&self, what: &str, packs: &[&str], arguments: &[&str]) -> Command {
        let mut command = program("overmask-export");
        command.args(["analyze", what]).args(packs.iter().map(|pack| self.path(pack)));
        command.arg("--base").arg(self.path("base")).args(arguments);
        command
    }

    fn json(&self, what: &str, packs: &[&str], arguments: &[&str]) -> Value {
        let got = ran(self.analyze(what, packs, arguments).arg("--json"));
        assert_eq!(got.code, 0, "{got:?}");
        json_lines(&got).remove(0)
    }
}

#[test]
fn closeness_lists_what_a_pack_changes() {
    let place = Place::new();
    for (pack, tensors) in [("a.pack", 12), ("b.pack", 6)] {
        let found = place.json("closeness", &[pack], &[]);
        let rows = found["tensors"].as_array().unwrap();
        assert_eq!((&found["analysis"], rows.len()), (&"closeness".into(), tensors));
        for row in rows {
            let number = |name: &str| row[name].as_f64().unwrap();
            assert!(number("l1") > 0.0 && number("l1") < number("l1_random"), "{row}");
            // Without three tenths of its weights a tensor still points the same way; a random one does not.
            assert!(number("angle") > 0.1 && number("angle") < 1.2 && number("angle_random") > 1.3, "{row}");
        }
        assert_eq!(place.json("closeness", &[pack], &[]), found);
    }
    let got = ran(&mut place.analyze("closeness", &["a.pack"], &[]));
    assert!(got.code == 0 && got.stdout.contains("layer 1") && got.stdout.contains("attention-output"), "{got:?}");
    failed(&ran(&mut place.analyze("closeness", &["absent.pack"], &[])), 3, &["absent.pack"]);
    failed(&ran(&mut place.analyze("closeness", &["texts.jsonl"], &[])), 4, &["texts.jsonl"]);
}

#[test]
fn overlap_of_random_masks_is_that_of_chance() {
    let place = Place::new();
    let found = place.json("overlap", &["a.pack", "b.pack"], &[]);
    let of = |matrix: &str, i: usize, j: usize| found[matrix][i][j].as_f64().unwrap();
    assert_eq!((of("observed", 0, 0), of("observed", 1, 1)), (1.0, 1.0));
    assert_eq!(of("observed", 0, 1), of("observed", 1, 0));
    for chance in ["chance", "chance_by_magnitude"] {
        let (chance, observed) = (of(chance, 0, 1), of("observed", 0, 1));
        assert!((chance - 0.3).abs() < 0.1 && (chance - observed).abs() < 0.1, "{found}");
    }
    failed(&ran(&mut place.analyze("overlap", &["a.pack"], &[])), 2, &["PACK"]);
}

#[test]
fn sensitivity_measures_each_group() {
    let place = Place::new();
    let data = place.path("texts.jsonl");
    let data = data.to_str().unwrap();
    for (by, groups) in [("layer", 2), ("module", 6), ("both", 12)] {
        let found = place.json("sensitivity", &["a.pack"], &["--data", data, "--by", by]);
        let rows = found["groups"].as_array().unwrap();
        assert_eq!((&found["metric"], rows.len()), (&"accuracy".into(), groups));
        assert_eq!((&found["by"], &found["only"]), (&by.into(), &false.into()));
        for row in rows {
            let left = found["base"].as_f64().unwrap() - row["metric"].as_f64().unwrap();
            assert!((left - row["drop"].as_f64().unwrap()).abs() < 1e-12, "{row}");
        }
    }
    // All that this pack masks is in layer 1: with that alone it is itself.
    let found = place.json("sensitivity", &["b.pack"], &["--data", data, "--only"]);
    assert_eq!((found["groups"].as_array().unwrap().len(), &found["groups"][0]["drop"]), (1, &0.0.into()), "{found}");
    assert_eq!((&found["by"], &found["only"]), (&"layer".into(), &true.into()));
    let got = ran(&mut place.analyze("sensitivity", &["b.pack"], &["--data", data, "--only"]));
    assert!(got.code == 0 && got.stdout.contains("only layer 1 "), "{got:?}");
    failed(&ran(&mut place.analyze("sensitivity", &["a.pack"], &["--data", data, "--by", "head"])), 2, &["`head`"]);
    failed(&ran(&mut place.analyze("sensitivity", &["a.pack"], &["--data", "absent.jsonl"])), 3, &["absent.jsonl"]);
}

#[test]
fn solutions_are_measured_and_grouped_by_sparsity() {
    let place = Place::new();
    for (name, seed) in [("c", 3), ("d", 4)] {
        place.write(Recipe { name, seed, ..recipe() });
    }
    place.write(Recipe { name: "head", seed: 5, from_layer: 2, ..recipe() });
    let data = place.path("texts.jsonl");
    let data = data.to_str().unwrap();
    let packs = ["a.pack", "head.pack", "c.pack", "d.pack"];
    let mut found = Vec::new();
    for engine in ["native", "ort", "tract"] {
        found.push(place.json("solutions", &packs, &["--data", data, "--engine", engine, "--threads", "1"]));
    }
    assert!(found.iter().all(|other| *other == found[0]), "{found:?}");
    let found = found.remove(0);
    assert_eq!((&found["analysis"], &found["metric"]), (&"solutions".into(), &"accuracy".into()));
    let points = found["points"].as_array().unwrap();
    for (point, (pack, seed)) in points.iter().zip(packs.iter().zip([1, 5, 3, 4])) {
        assert_eq!((&point["task"], &point["seed"]), (&"a".into(), &seed.into()), "{point}");
        let path = place.path(pack);
        assert_eq!(point["pack"], path.to_str().unwrap());
        // As `evaluate` has it.
        let mut evaluate = program("overmask-export");
        evaluate.args(["evaluate", "--json", "--data", data, "--base"]).arg(place.path("base")).arg("--pack").arg(path);
        assert_eq!(json_lines(&ran(&mut evaluate))[0]["accuracy"], point["metric"], "{point}");
    }
    // Packs of random masks differ a little in how many zeros they have: all are in a group once.
    let groups = found["groups"].as_array().unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let members: Vec<u64> = groups.iter().map(|group| group["n"].as_u64().unwrap()).collect();
    assert_eq!((members.iter().sum::<u64>(), &groups[0]["sparsity"], members[0]), (4, &0.0.into(), 1), "{found}");
    assert_eq!((&groups[0]["overlap"], &groups[0]["sd"]), (&Value::Null, &Value::Null));
    for group in &groups[1..] {
        assert!((number(&group["sparsity"]) - 0.3).abs() < 0.1, "{group}");
        assert!(number(&group["min"]) <= number(&group["mean"]) && number(&group["mean"]) <= number(&group["max"]));
    }

    // The same pack twice is a group of two, which share everything.
    let twice = place.json("solutions", &["a.pack", "a.pack"], &["--data", data]);
    let group = &twice["groups"][0];
    assert_eq!((&group["n"], &group["sd"], &group["overlap"]["observed"]), (&2.into(), &0.0.into(), &1.0.into()));
    for chance in ["chance", "chance_by_magnitude"] {
        assert!((number(&group["overlap"][chance]) - 0.3).abs() < 0.1, "{group}");
    }

    let got = ran(&mut place.analyze("solutions", &packs, &["--data", data]));
    assert!(got.code == 0 && got.stdout.contains("head.pack") && got.stdout.contains("  0 %      1  "), "{got:?}");
}

#[test]
fn solutions_are_of_one_task() {
    let place = Place::new();
    place.write(Recipe { name: "three", labels: 3, ..recipe() });
    let data = place.path("texts.jsonl");
    let data = data.to_str().unwrap();
    let refused = |packs: &[&str], data: &str| ran(&mut place.analyze("solutions", packs, &["--data", data]));
    let names = ["three.pack: field `labels`", "a.pack has [\"label-0\"", "name packs of one task"];
    failed(&refused(&["a.pack", "three.pack"], data), 3, &names);
    // Before the texts are read.
    failed(&refused(&["a.pack", "three.pack"], "absent.jsonl"), 3, &names);
    failed(&refused(&["a.pack"], data), 2, &["PACK"]);
    failed(&refused(&["a.pack", "absent.pack"], data), 3, &["absent.pack"]);
    failed(&refused(&["a.pack", "texts.jsonl"], data), 4, &["texts.jsonl"]);
    failed(&refused(&["a.pack", "b.pack"], "absent.jsonl"), 3, &["absent.jsonl"]);
    let other = place.path("other.jsonl");
    std::fs::write(&other, "{\"text\":\"x\",\"label\":\"label-9\"}\n").unwrap();
    failed(&refused(&["a.pack", "b.pack"], other.to_str().unwrap()), 3, &["other.jsonl", "label-9"]);
}

#[test]
fn a_report_shows_solutions() {
    let place = Place::new();
    let data = place.path("texts.jsonl");
    let packs = ["a.pack", "b.pack", "a.pack"];
    let got = ran(place.analyze("solutions", &packs, &["--data", data.to_str().unwrap()]).arg("--json"));
    assert_eq!(got.code, 0, "{got:?}");
    let [lines, page, numbers] = ["solutions.jsonl", "report.html", "report.json"].map(|name| place.path(name));
    std::fs::write(&lines, &got.stdout).unwrap();
    let mut report = program("overmask-export");
    let report = ran(report.arg("report").arg(&lines).arg("-o").arg(&page).arg("--json").arg(&numbers));
    assert_eq!(report.code, 0, "{report:?}");
    let page = std::fs::read_to_string(page).unwrap();
    for part in
        ["a: accuracy against sparsity, 3 solutions.", "All solutions", "Solutions of the same sparsity", "100.00"]
    {
        assert!(page.contains(part), "{part}");
    }
    let shown: Value = serde_json::from_slice(&std::fs::read(numbers).unwrap()).unwrap();
    assert_eq!(shown["analyses"][0]["groups"], json_lines(&got)[0]["groups"]);
}

#[test]
fn a_plan_says_what_packs_share() {
    let place = Place::new();
    let plan = |packs: &[&str], more: &[&str]| {
        let mut command = program("overmask-export");
        command.arg("plan").args(packs.iter().map(|pack| place.path(pack))).arg("--base").arg(place.path("base"));
        let seq: &[&str] = if more.contains(&"--seq") { &[] } else { &["--seq", "8"] };
        ran(command.args(["--passes", "10"]).args(seq).args(more))
    };
    place.write(Recipe { name: "c", seed: 3, from_layer: 1, ..recipe() });
    let got = plan(&["b.pack", "c.pack"], &[]);
    assert_eq!(got.code, 0, "{got:?}");
    for said in ["embeddings, layer 0: once for both tasks", "layer 1: 2 times, for b, c", "layers          3"] {
        assert!(got.stdout.contains(said), "{}", got.stdout);
    }
    let found = json_lines(&plan(&["a.pack", "b.pack", "c.pack"], &["--json"])).remove(0);
    assert_eq!((&found["tasks"], &found["layers"]), (&3.into(), &(2 + 3).into()), "{found}");
    assert!(["median_ms", "apart_ms", "one_ms"].iter().all(|field| found[field].as_f64().unwrap() > 0.0), "{found}");
    let alone = plan(&["b.pack", "c.pack"], &["--engine", "tract"]);
    assert!(alone.code == 0 && alone.stdout.contains("shares nothing"), "{alone:?}");
    failed(&plan(&["absent.pack"], &[]), 3, &["absent.pack"]);
    failed(&plan(&["texts.jsonl"], &[]), 4, &["texts.jsonl"]);
    failed(&plan(&[], &[]), 2, &["PACK"]);
    failed(&plan(&["a.pack"], &["--seq", "600"]), 2, &["600"]);
}
