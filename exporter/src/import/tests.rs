//! Every family whose structure is known: checkpoints of transformers 5 beside what PyTorch computes
//! (`tests/fixtures/make_onnx5.py`).

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use overmask::base::{Base, Precision};
use overmask::engine::TokenBatch;
use overmask::mask::{Granularity, Mask};
use overmask::pack::NamedMask;
use overmask_graph::encoder::Padded;
use tempfile::TempDir;

use super::onnx::tests::{check_gradients, difference, fixtures, hidden};
use super::{Origin, hf};
use crate::data::{Unlabelled, rng};
use crate::quantize;
use crate::train::{AdaptOptions, Selection, adapt, graph};

/// Checkpoints, with the family of the base that each becomes.
const FAMILIES: [(&str, &str); 8] = [
    ("bert", "bert"),
    ("distilbert", "bert"),
    ("electra", "bert"),
    ("roberta", "bert"),
    ("electra-narrow", "electra"),
    ("albert", "albert"),
    ("mpnet", "mpnet"),
    ("modernbert", "modernbert"),
];

/// The base of a checkpoint, with a tokenizer of its own or without.
fn imported(folder: &Path) -> (TempDir, Arc<Base>) {
    let name = folder.display();
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, out) = (dir.path().join("checkpoint"), dir.path().join("base"));
    fs::create_dir(&checkpoint).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(folder.join(file), checkpoint.join(file)).unwrap();
    }
    let own = Some(folder.join("tokenizer.json")).filter(|own| own.is_file());
    let tokenizer = own.unwrap_or_else(|| fixtures().join("tiny-bert/tokenizer.json"));
    fs::copy(tokenizer, checkpoint.join("tokenizer.json")).unwrap();
    let hf::Imported { left_out, .. } = hf::import(&checkpoint, &out, &Origin::default()).unwrap();
    assert!(left_out.iter().all(|name| name.contains("pooler")), "{name}: {left_out:?}");
    (dir, Arc::new(Base::open(&out).unwrap()))
}

fn folder(name: &str) -> PathBuf {
    fixtures().join("alike").join(name)
}

fn batch(folder: &Path) -> TokenBatch {
    let ids: Vec<Vec<u32>> = serde_json::from_slice(&fs::read(folder.join("tokens.json")).unwrap()).unwrap();
    let mut batch = TokenBatch::new(1);
    ids.iter().for_each(|ids| batch.push(ids, &vec![0; ids.len()]));
    batch
}

/// What PyTorch computes.
fn states(folder: &Path, base: &Base, batch: &TokenBatch) -> Vec<f32> {
    let bytes = fs::read(folder.join("states")).unwrap();
    let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Padded::without_padding(batch, batch.longest(), base.manifest().architecture.hidden_size, values)
}

/// Masks that zero a fifth of each tensor.
fn masks(base: &Base) -> Vec<NamedMask> {
    let of = |(i, t): (usize, &overmask::base::MaskableTensor)| {
        let keep = rng::uniform(1, 0, i as u64, t.outputs * t.inputs).into_iter().map(|u| u > 0.2);
        let mask = Mask::from_units(Granularity::Weight, t.outputs, t.inputs, keep).unwrap();
        NamedMask { tensor: t.name.clone(), mask }
    };
    base.manifest().maskable.iter().enumerate().map(of).collect()
}

#[test]
fn bases_compute_what_pytorch_does_on_every_engine() {
    let batch = batch(&fixtures().join("onnx5"));
    for (name, family) in FAMILIES {
        let (_dir, base) = imported(&folder(name));
        let m = base.manifest();
        assert_eq!((m.architecture.family.name(), m.architecture.max_positions), (family, 32), "{name}");
        assert_eq!(m.maskable[0].name, "encoder.layer.0.attention.self.query.weight");
        base.verify().unwrap();
        let expected = states(&folder(name), &base, &batch);
        for engine in ["native", "ort", "tract"] {
            let apart = difference(&hidden(&base, engine, &[], &batch), &expected);
            println!("{name}: {engine}: {apart:.1e}");
            assert!(apart <= 2e-5, "{name}: {engine}: {apart}");
        }
    }
}

#[test]
fn masks_act_alike_on_every_engine_and_in_every_precision() {
    let batch = batch(&fixtures().join("onnx5"));
    for (name, _) in FAMILIES {
        let (dir, base) = imported(&folder(name));
        let masks = masks(&base);
        let [plain, masked] = [&[][..], &masks].map(|masks| hidden(&base, "native", masks, &batch));
        assert!(difference(&plain, &masked) > 0.01, "{name}: the masks change nothing");
        for engine in ["ort", "tract"] {
            let apart = difference(&hidden(&base, engine, &masks, &batch), &masked);
            assert!(apart <= 1e-4, "{name}: {engine}: {apart}");
        }
        for (precision, tolerance) in [(Precision::Bf16, 0.1), (Precision::Int8, 0.3)] {
            let variant = dir.path().join(precision.name());
            quantize::quantize(&base, precision, &variant).unwrap();
            let variant = Arc::new(Base::open(&variant).unwrap());
            let apart = difference(&hidden(&variant, "native", &masks, &batch), &masked);
            println!("{name}: {}: {apart:.1e}", precision.name());
            assert!(apart <= tolerance, "{name}: {}: {apart}", precision.name());
        }
    }
}

/// What is prepared for masks is compared with the base after each layer that has weights of its own.
#[test]
fn bases_can_be_prepared_for_masks() {
    let input = |i: usize| (format!("good film {i}").into(), i + 1);
    let texts = Unlabelled { path: PathBuf::from("texts.txt"), inputs: (0..20).map(input).collect() };
    let granularity = Granularity::Block { rows: 4, cols: 1 };
    let options = AdaptOptions { granularity, steps: 2, max_tokens: 16, ..AdaptOptions::default() };
    for (name, _) in FAMILIES {
        let (_dir, base) = imported(&folder(name));
        let layers: HashSet<usize> = base.manifest().maskable.iter().map(|tensor| tensor.layer).collect();
        assert_eq!(graph::states(&base).unwrap().count, layers.len(), "{name}");
        let adapted = adapt(&base, &texts, &options, &AtomicBool::new(false), &mut |_| ()).unwrap();
        assert!(adapted.before.dense == 0.0 && adapted.before.half > 0.0, "{name}: {adapted:?}");
        assert!(adapted.after.half.is_finite() && adapted.after.dense > 0.0, "{name}: {adapted:?}");
    }
}

/// What is taken out of a graph is what its checkpoint has, to the last bit.
#[test]
fn a_recognised_graph_has_the_identity_of_its_checkpoint() {
    // Whose names in a base are those of the checkpoint.
    for (name, family) in [("bert", "bert"), ("electra", "bert"), ("electra-narrow", "electra")] {
        let (dir, base) = imported(&folder(name));
        fs::copy(folder(name).join("config.json"), base.dir().join("config.json")).unwrap();
        let again = super::onnx::import(&base.dir().join("model.onnx"), &dir.path().join("again"), &options(&base));
        let again = again.unwrap();
        assert_eq!(again.recognised, Ok(family), "{name}");
        assert_eq!(again.base.base_id(), base.base_id(), "{name}");
    }
}

fn options(base: &Base) -> super::onnx::Options {
    super::onnx::Options {
        tokenizer: base.dir().join("tokenizer.json"),
        output: None,
        max_positions: Some(32),
        config: None,
        origin: Origin::default(),
    }
}

/// A row of `docs/models.md` for each checkpoint in the folder that `OVERMASK_LARGE` names.
#[test]
#[ignore = "reads checkpoints that make_onnx5.py writes"]
fn large() {
    let all = PathBuf::from(std::env::var_os("OVERMASK_LARGE").expect("OVERMASK_LARGE"));
    let mut folders: Vec<PathBuf> = fs::read_dir(&all).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("states").is_file());
    folders.sort();
    assert!(!folders.is_empty(), "{}: nothing to read", all.display());
    for folder in folders {
        let name = folder.file_name().unwrap().display();
        // A real one has texts of its own.
        let batch = batch(if folder.join("tokens.json").is_file() { &folder } else { &all });
        let (_dir, base) = imported(&folder);
        let expected = states(&folder, &base, &batch);
        let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let apart = ["native", "ort"].map(|engine| difference(&hidden(&base, engine, &[], &batch), &expected));
        println!("| {name} | {:.1e} | {:.1e} | {largest:.1} |", apart[0], apart[1]);
        assert!(apart.iter().all(|apart| *apart <= 1e-4 * largest.max(1.0)), "{name}: {apart:?}");
    }
}

/// What a config asks for that the weights have not, or that nothing bounds, is refused by name.
#[test]
fn configs_ask_for_no_more_than_there_is() {
    for (name, from, to, said) in [
        ("roberta", "\"pad_token_id\": 1", "\"pad_token_id\": 40", "`pad_token_id` is `40`"),
        ("mpnet", "\"pad_token_id\": 1", "\"pad_token_id\": 18446744073709551615", "`pad_token_id` is"),
        (
            "modernbert",
            "\"max_position_embeddings\": 32",
            "\"max_position_embeddings\": 10000000000000",
            "at most 65536",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let config = fs::read_to_string(folder(name).join("config.json")).unwrap();
        assert!(config.contains(from), "{name}");
        fs::write(dir.path().join("config.json"), config.replacen(from, to, 1)).unwrap();
        fs::copy(folder(name).join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
        fs::copy(fixtures().join("tiny-bert/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
        let error = hf::import(dir.path(), &dir.path().join("base"), &Origin::default()).unwrap_err().to_string();
        assert!(error.contains(said), "{name}: {error}");
    }
}

/// Layers that share their weights are one to a selection.
#[test]
fn a_selection_of_layers_that_share_their_weights_is_told_so() {
    let (_dir, base) = imported(&folder("albert"));
    let layers = "1-".parse().unwrap();
    let selection = Selection { layers: &layers, modules: &[] };
    let error = selection.tensors(&base).unwrap_err().to_string();
    assert!(error.starts_with("layers: have no maskable tensor; those that have are 0 (layers that share"), "{error}");
    let (_dir, base) = imported(&folder("mpnet"));
    assert_eq!(selection.tensors(&base).unwrap().len(), 6);
}

#[test]
fn gradients_go_through_the_graph_of_every_family() {
    for (name, _) in FAMILIES {
        let (_dir, base) = imported(&folder(name));
        check_gradients(&base.dir().join("model.onnx"), &options(&base));
    }
}
