//! `overmask-export analyze` as a user meets it, on made-up packs of a tiny encoder.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use overmask::base::Base;
use overmask_tests::{Recipe, failed, json_lines, program, ran};
use serde_json::Value;

/// A base, two packs of random masks, `b` on the upper layer alone, and labelled texts.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-bert");
        let got = ran(program("overmask-export").args(["import", "hf"]).arg(fixture).arg("-o").arg(place.path("base")));
        assert_eq!(got.code, 0, "{got:?}");
        let base = Base::open(&place.path("base")).unwrap();
        let a = Recipe { name: "a", max_tokens: 16, sparsity: 0.3, ..Recipe::default() };
        let b = Recipe { name: "b", seed: 2, from_layer: 1, ..a.clone() };
        for recipe in [a, b] {
            recipe.pack(&base).write(&place.path(&format!("{}.pack", recipe.name)), Some(&base)).unwrap();
        }
        let lines: String =
            (0..30).map(|i| format!("{{\"text\":\"good film {i}\",\"label\":\"label-{}\"}}\n", i % 6)).collect();
        std::fs::write(place.path("texts.jsonl"), lines).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
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
        for row in rows {
            let left = found["base"].as_f64().unwrap() - row["metric"].as_f64().unwrap();
            assert!((left - row["drop"].as_f64().unwrap()).abs() < 1e-12, "{row}");
        }
    }
    // All that this pack masks is in layer 1: with that alone it is itself.
    let found = place.json("sensitivity", &["b.pack"], &["--data", data, "--only"]);
    assert_eq!((found["groups"].as_array().unwrap().len(), &found["groups"][0]["drop"]), (1, &0.0.into()), "{found}");
    failed(&ran(&mut place.analyze("sensitivity", &["a.pack"], &["--data", data, "--by", "head"])), 2, &["`head`"]);
    failed(&ran(&mut place.analyze("sensitivity", &["a.pack"], &["--data", "absent.jsonl"])), 3, &["absent.jsonl"]);
}
