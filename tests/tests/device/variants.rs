//! A base in other precisions: the same packs run on it, on each engine that can.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use overmask::base::{Base, Precision};
use overmask::fs::file_digest;
use overmask::mask::Granularity;
use overmask::pack::{Delta, FloatType, PackFile};
use overmask::task::{Runner, golden_tolerance};
use overmask_exporter::quantize::quantize;
use overmask_tests::{
    Recipe, base, base_dir, classify, difference, engine, engine_with, failed, json_lines, program, questions, ran,
};
use tempfile::TempDir;

use crate::conformance::logits;
use crate::store::{Device, done, flash, overmask};

/// The real base in both other precisions, made once.
fn variant(precision: Precision) -> Arc<Base> {
    static VARIANTS: OnceLock<(TempDir, [Arc<Base>; 2])> = OnceLock::new();
    let (_, [bf16, int8]) = VARIANTS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let make = |precision: Precision| {
            let out = dir.path().join(precision.name());
            Arc::new(quantize(&base(), precision, &out).unwrap())
        };
        let made = [Precision::Bf16, Precision::Int8].map(make);
        (dir, made)
    });
    Arc::clone(if precision == Precision::Bf16 { bf16 } else { int8 })
}

fn recipes() -> [Recipe; 4] {
    let block = |rows, cols| Granularity::Block { rows, cols };
    [
        Recipe { granularity: Granularity::Weight, ..Default::default() },
        Recipe { granularity: block(32, 1), seed: 2, ..Default::default() },
        Recipe { granularity: block(32, 4), seed: 3, sparsity: 0.4, from_layer: 3, ..Default::default() },
        Recipe { granularity: block(7, 5), seed: 4, ..Default::default() },
    ]
}

#[test]
fn engines_agree_on_a_base_in_bf16() {
    let variant = variant(Precision::Bf16);
    let texts = questions(8);
    let norm = "encoder.layer.2.output.LayerNorm.bias";
    let weight = "encoder.layer.3.intermediate.dense.weight";
    for recipe in recipes() {
        // Masks are coded given the base: those of the f32 base are decoded for the variant.
        let bytes = recipe.pack(&base()).to_bytes(Some(&base())).unwrap();
        let pack = PackFile::from_bytes(&bytes).unwrap().decode(Some(&variant)).unwrap();
        let delta = |name: &str| {
            let (shape, values) = base().values(name).map(|(s, v)| (s.to_vec(), v.into_owned())).unwrap();
            let values = values.iter().map(|value| 0.9 * value + 0.01).collect();
            Delta { tensor: name.to_owned(), shape, values, dtype: FloatType::F32 }
        };
        let replaced = [norm, weight].into_iter().filter(|name| pack.masks.iter().all(|mask| mask.tensor != *name));
        let pack = pack.clone().with_deltas(replaced.map(delta).collect()).unwrap();
        let [first, others @ ..] = ["native", "ort:cpu", "tract"].map(|name| {
            let runner = Runner::new(engine(name, &variant), Arc::clone(&variant)).unwrap();
            assert_eq!(runner.describe().precision, Precision::Bf16);
            logits(&classify(&runner, runner.add_pack(pack.clone()).unwrap(), &texts))
        });
        for other in others {
            assert!(difference(&first, &other) <= 1e-4, "{recipe:?}: {}", difference(&first, &other));
        }
    }
}

#[test]
fn int8_is_near_f32_whatever_is_computed_beside() {
    let variant = variant(Precision::Int8);
    let texts = questions(60);
    for recipe in recipes() {
        let pack = recipe.pack(&base());
        let runner =
            |base: &Arc<Base>, threads| Runner::new(engine_with("native", base, threads), Arc::clone(base)).unwrap();
        let exact = runner(&base(), 1);
        let exact = logits(&classify(&exact, exact.add_pack(pack.clone()).unwrap(), &texts));
        let largest = exact.iter().fold(0f32, |most, logit| most.max(logit.abs()));
        let near = runner(&variant, 2);
        let task = near.add_pack(pack.clone()).unwrap();
        let found = logits(&classify(&near, task, &texts));
        let apart = difference(&exact, &found);
        println!("{recipe:?}: {apart} of {largest}");
        assert!(apart > 0.0 && apart <= golden_tolerance(Precision::Int8, largest), "{recipe:?}: {apart}");
        // Each row has its own codes: nothing depends on what is beside it, or on how many threads there are.
        let alone = runner(&variant, 1);
        let task = alone.add_pack(pack).unwrap();
        let one_by_one: Vec<f32> = texts.iter().flat_map(|text| logits(&classify(&alone, task, &[text]))).collect();
        assert!(difference(&found, &one_by_one) <= 1e-4, "{recipe:?}");
    }
}

#[test]
fn an_engine_that_cannot_run_int8_says_so() {
    let variant = variant(Precision::Int8);
    for name in ["ort:cpu", "tract"] {
        let error = overmask_cli::start(name.parse().unwrap(), &variant, &Default::default()).err().unwrap();
        let said = error.to_string();
        assert!(said.contains("multiplies no int8") && said.contains("f32 or bf16"), "{said}");
    }
}

fn quantized(base: &Path, dtype: &str, out: &Path) -> overmask_tests::Ran {
    let mut command = program("overmask-export");
    ran(command.args(["--quiet", "quantize", "--dtype", dtype, "--json", "--base"]).arg(base).arg("-o").arg(out))
}

#[test]
fn a_variant_takes_the_place_of_its_base_in_a_store() {
    let device = Device::new();
    let (store, int8) = (device.path("store"), device.path("int8"));
    let report = &json_lines(&done(quantized(&device.base_dir(), "int8", &int8)))[0];
    assert_eq!(report["precision"], "int8");
    assert_eq!(report["base_id"], device.base.base_id());
    done(ran(overmask("store", &store).arg("init")));
    let base = |dir: &Path| ["--base".into(), dir.to_owned()];
    let [pack, other] = device.packs(1);
    done(ran(flash(&store, base(&device.base_dir())).arg(&pack)));
    // What is there is checked on it, too.
    done(ran(flash(&store, base(&int8)).arg(&other)));
    let precision = || {
        let run = ran(overmask("run", &store).args(["--json", "good film"]));
        json_lines(&done(run)).iter().map(|line| line["precision"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(precision(), ["int8", "int8"]);
    done(ran(overmask("store", &store).arg("verify")));
    done(ran(overmask("store", &store).arg("rollback")));
    assert_eq!(precision(), ["f32"]);

    // Codes that were made in another way are of another base, whatever their manifest says.
    let other_codes = device.path("int8-other");
    std::fs::create_dir(&other_codes).unwrap();
    for name in ["base.json", "model.onnx", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(int8.join(name), other_codes.join(name)).unwrap();
    }
    let weights = other_codes.join("model.safetensors");
    let before = file_digest(&weights).unwrap();
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.last_mut().unwrap();
    *last = if *last == 1 { 2 } else { 1 };
    std::fs::write(&weights, bytes).unwrap();
    let manifest = std::fs::read_to_string(other_codes.join("base.json")).unwrap();
    let manifest = manifest.replace(&before, &file_digest(&weights).unwrap());
    std::fs::write(other_codes.join("base.json"), manifest).unwrap();
    failed(&ran(flash(&store, base(&other_codes)).arg(&other)), 8, &["int8 variant", "with other weights"]);
    assert_eq!(precision(), ["f32"]);

    let verify = ran(program("overmask").arg("verify").arg("--base").arg(&int8).arg(&pack));
    let said = done(verify).stdout;
    assert!(said.contains("tolerance") && said.contains("native, int8"), "{said}");
}

#[test]
fn what_needs_the_f32_base_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("bf16");
    done(quantized(&base_dir(), "bf16", &out));
    failed(&quantized(&out, "int8", &dir.path().join("again")), 3, &["variants are made of the f32 base"]);
    failed(&quantized(&base_dir(), "int8", &out), 3, &["is not an empty directory"]);
    failed(&quantized(&dir.path().join("none"), "int8", &dir.path().join("again")), 3, &["base.json"]);
    failed(&quantized(&base_dir(), "int4", &dir.path().join("again")), 2, &["bf16, int8"]);
    assert!(!dir.path().join("again").exists());
    let data = dir.path().join("data.jsonl");
    std::fs::write(&data, "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":\"y\"}\n").unwrap();
    let mut train = program("overmask-export");
    train.arg("train").arg("--base").arg(&out).arg("--data").arg(&data).arg("-o").arg(dir.path().join("x.pack"));
    failed(&ran(&mut train), 3, &["bf16 variant of a base, this takes the f32 base"]);
}
