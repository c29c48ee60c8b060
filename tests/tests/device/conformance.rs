//! What every engine must do with every pack: the same logits, the same labels, the same bits
//! whatever was loaded beside or run before.

use std::sync::Arc;

use overmask::base::{Base, Precision, TensorBytes, write_weights};
use overmask::engine::{Changes, Device, Engine, EngineError, EngineKind, EngineOptions, TaskId, TokenBatch};
use overmask::fs::file_digest;
use overmask::mask::Granularity;
use overmask::pack::{Delta, FloatType, Golden, Input, Pack, Pooling, TaskKind};
use overmask::task::{Prediction, Runner, TaskError, Tokenizer};
use overmask_tests::{Recipe, base, base_dir, classify, difference, engine, engine_with, questions, stored};

/// Engines that every test machine has.
pub(crate) const ENGINES: [&str; 3] = ["ort:cpu", "tract", "native"];

/// How far logits of two engines may be apart, at precision f32.
const TOLERANCE: f32 = 1e-4;

const BLOCK: Granularity = Granularity::Block { rows: 32, cols: 1 };

fn runner(name: &str) -> Runner {
    Runner::new(engine(name, &base()), base()).unwrap()
}

pub(crate) fn logits(predictions: &[Prediction]) -> Vec<f32> {
    predictions.iter().flat_map(|p| p.logits.iter().copied()).collect()
}

/// Texts of very different lengths, an empty one and one that is cut among them.
pub(crate) fn mixed_texts() -> Vec<String> {
    let mut texts = questions(6);
    texts.extend(["".to_owned(), "a".to_owned(), "Füße, naïve café — 東京 🦙".to_owned(), "word ".repeat(200)]);
    texts.push(questions(12).join(" "));
    texts
}

#[test]
fn engines_agree_on_the_logits_of_every_kind_of_pack() {
    let base = base();
    let layers = base.manifest().architecture.layers;
    let recipes = [
        Recipe { granularity: Granularity::Weight, ..Default::default() },
        Recipe { granularity: BLOCK, seed: 2, ..Default::default() },
        Recipe { granularity: BLOCK, seed: 3, sparsity: 0.4, from_layer: 3, labels: 2, ..Default::default() },
        // Blocks that do not divide the tensors.
        Recipe { granularity: Granularity::Block { rows: 7, cols: 5 }, seed: 4, ..Default::default() },
        // The method `head`: no mask at all.
        Recipe { from_layer: layers, seed: 5, pooling: Pooling::Cls, max_tokens: 128, ..Default::default() },
    ];
    let texts = mixed_texts();
    for recipe in recipes {
        let [a, others @ ..] = ENGINES.map(|name| {
            let runner = runner(name);
            let task = runner.add_pack(recipe.pack(&base)).unwrap();
            classify(&runner, task, &texts)
        });
        for (b, name) in others.iter().zip(&ENGINES[1..]) {
            let apart = difference(&logits(&a), &logits(b));
            println!(
                "{name}: {} {} from layer {}: {apart:.1e}",
                recipe.granularity, recipe.sparsity, recipe.from_layer
            );
            assert!(apart <= TOLERANCE, "{name}: {recipe:?}: {apart}");
        }
        // A test of masks that change nothing would be no test.
        assert!(logits(&a).iter().any(|l| l.abs() > 0.1));
    }
}

#[test]
fn engines_give_the_same_labels_to_a_thousand_texts() {
    let base = base();
    let texts = questions(1000);
    for granularity in [Granularity::Weight, BLOCK] {
        let pack = Recipe { granularity, seed: 7, ..Default::default() }.pack(&base);
        let [a, others @ ..] = ENGINES.map(|name| {
            let runner = runner(name);
            let task = runner.add_pack(pack.clone()).unwrap();
            classify(&runner, task, &texts)
        });
        for (b, name) in others.iter().zip(&ENGINES[1..]) {
            let apart = difference(&logits(&a), &logits(b));
            assert!(apart <= TOLERANCE, "{name}, {granularity}: {apart}");
            let differing: Vec<_> = a.iter().zip(b).zip(&texts).filter(|((a, b), _)| a.label != b.label).collect();
            assert!(differing.is_empty(), "{name}, {granularity}: {differing:?}");
        }
        let labels: std::collections::BTreeSet<_> = a.iter().map(|p| p.index).collect();
        assert!(labels.len() > 1, "all texts have one label: the test tells nothing");
    }
}

/// Norms, biases, tables and weights of the base, changed.
pub(crate) fn deltas(base: &Base) -> Vec<Delta> {
    let changed = |name: &str, change: fn(f32) -> f32| {
        let (shape, values) = base.tensor_f32(name).unwrap();
        let values = values.iter().map(|v| change(*v)).collect();
        Delta { tensor: name.to_owned(), shape: shape.to_vec(), values, dtype: FloatType::F32 }
    };
    vec![
        changed("embeddings.LayerNorm.weight", |v| 1.1 * v),
        changed("embeddings.token_type_embeddings.weight", |v| v + 0.05),
        changed("embeddings.position_embeddings.weight", |v| -v),
        changed("encoder.layer.0.attention.self.query.bias", |v| v + 0.3),
        changed("encoder.layer.2.output.LayerNorm.bias", |v| v - 0.02),
        changed("encoder.layer.3.intermediate.dense.weight", |v| 0.7 * v),
    ]
}

#[test]
fn every_engine_replaces_the_same_tensors_with_and_without_masks() {
    let base = base();
    let texts = mixed_texts();
    let masked = Recipe { granularity: BLOCK, from_layer: 4, seed: 8, ..Default::default() };
    let none = Recipe { from_layer: base.manifest().architecture.layers, seed: 8, ..Default::default() };
    for recipe in [masked, none] {
        let plain = recipe.pack(&base);
        let pack = stored(&plain.clone().with_deltas(deltas(&base)).unwrap(), &base);
        assert_eq!(pack.deltas.len(), 6);
        let [first, others @ ..] = ENGINES.map(|name| {
            let runner = runner(name);
            let unchanged = runner.add_pack(plain.clone()).unwrap();
            let before = logits(&classify(&runner, unchanged, &texts));
            let task = runner.add_pack(pack.clone()).unwrap();
            let changed = logits(&classify(&runner, task, &texts));
            assert!(difference(&before, &changed) > 0.01, "{name}: the deltas change nothing");
            assert_eq!(logits(&classify(&runner, unchanged, &texts)), before, "{name}: a task changed another");
            changed
        });
        for (name, other) in ENGINES[1..].iter().zip(others) {
            let far = difference(&first, &other);
            assert!(far <= TOLERANCE, "{name}: {far}");
        }
    }
}

#[test]
fn pairs_and_words_are_the_same_in_every_engine() {
    let base = base();
    let pairs = [("Where is Lima ?", "In Peru ."), ("a", ""), ("word", "another word or two")];
    let pairs = pairs.map(|(a, b)| Input::Pair(a.into(), b.into()));
    let words = ["Where is Lima ?", "naïve café", "one"].map(|text| {
        let words = text.split(' ').map(str::to_owned).collect();
        Input::Words { words }
    });
    let of = |kind, pooling, pair| {
        let Pack { mut document, masks, head, .. } = Recipe { seed: 9, ..Default::default() }.pack(&base);
        document.kind = kind;
        (document.text.pooling, document.text.pair) = (pooling, pair);
        Pack::new(document, masks, head, Vec::new()).unwrap()
    };
    for (pack, inputs) in [
        (of(TaskKind::Multilabel, Pooling::Mean, true), pairs.to_vec()),
        (of(TaskKind::Tag, Pooling::First, false), words.to_vec()),
    ] {
        let [first, others @ ..] = ENGINES.map(|name| {
            let runner = runner(name);
            let task = runner.add_pack(pack.clone()).unwrap();
            let rows = runner.logits(task, &inputs).unwrap();
            let of_input = |input: &Input| input.rows();
            assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), inputs.iter().map(of_input).collect::<Vec<_>>());
            let wrong = match pack.document.kind {
                TaskKind::Tag => Input::Pair("a".into(), "b".into()),
                _ => Input::from("one text"),
            };
            let wrong = runner.predict(task, &[wrong]).unwrap_err();
            assert!(matches!(wrong, TaskError::Text { index: 0, .. }), "{wrong}");
            assert!(matches!(runner.predict(task, &[]), Ok(none) if none.is_empty()));
            rows.concat().into_iter().flatten().flatten().collect::<Vec<f32>>()
        });
        for (name, other) in ENGINES[1..].iter().zip(others) {
            assert!(difference(&first, &other) <= TOLERANCE, "{name}, {:?}", pack.document.kind);
        }
    }
    // The order of a pair, and which text a word is in, are not lost.
    let runner = runner("native");
    let task = runner.add_pack(of(TaskKind::Multilabel, Pooling::Mean, true)).unwrap();
    let both =
        runner.logits(task, &[Input::Pair("a".into(), "b".into()), Input::Pair("b".into(), "a".into())]).unwrap();
    assert_ne!(both[0], both[1]);
}

#[test]
fn golden_vectors_are_reproduced_by_every_engine() {
    let base = base();
    let recipe = Recipe { granularity: Granularity::Weight, seed: 11, ..Default::default() };
    let texts = mixed_texts();
    let maker = runner("ort:cpu");
    let task = maker.add_pack(recipe.pack(&base)).unwrap();
    let recorded = classify(&maker, task, &texts);
    let golden = texts.iter().zip(recorded).map(|(text, p)| Golden { input: text.as_str().into(), logits: p.logits });
    let pack = recipe.pack_with(&base, golden.collect());
    // What is checked is what a device would read.
    let pack = stored(&pack, &base);
    for name in ENGINES {
        let runner = runner(name);
        let task = runner.add_pack(pack.clone()).unwrap();
        let check = runner.check_golden(task).unwrap();
        assert_eq!(check.texts, texts.len());
        assert!(check.max_difference <= TOLERANCE, "{name}: {}", check.max_difference);
    }
}

#[test]
fn switching_tasks_changes_no_bit() {
    let base = base();
    let a = Recipe { name: "a", granularity: Granularity::Weight, seed: 21, ..Default::default() }.pack(&base);
    let b = Recipe { name: "b", seed: 22, sparsity: 0.5, labels: 3, ..Default::default() }.pack(&base);
    let texts = questions(8);
    for name in ENGINES {
        let alone = {
            let runner = runner(name);
            let task = runner.add_pack(a.clone()).unwrap();
            logits(&classify(&runner, task, &texts))
        };
        let runner = runner(name);
        let [task_a, task_b] = [&a, &b].map(|pack| runner.add_pack(pack.clone()).unwrap());
        let first = logits(&classify(&runner, task_a, &texts));
        let other = classify(&runner, task_b, &texts);
        let again = logits(&classify(&runner, task_a, &texts));
        assert_eq!(first, alone, "{name}: another task is loaded");
        assert_eq!(again, alone, "{name}: another task has run");
        assert_eq!(other[0].logits.len(), 3);
    }
}

#[test]
fn threads_that_share_an_engine_run_different_tasks_at_once() {
    let base = base();
    let packs: Vec<_> = [Granularity::Weight, BLOCK, Granularity::Weight]
        .into_iter()
        .zip(41..)
        .map(|(granularity, seed)| Recipe { granularity, seed, ..Default::default() }.pack(&base))
        .collect();
    let texts = questions(6);
    for (name, threads) in [("ort:cpu", 1), ("tract", 1), ("native", 1), ("native", 2)] {
        let runner = Runner::new(engine_with(name, &base, threads), Arc::clone(&base)).unwrap();
        let tasks: Vec<TaskId> = packs.iter().map(|pack| runner.add_pack(pack.clone()).unwrap()).collect();
        let alone: Vec<_> = tasks.iter().map(|task| logits(&classify(&runner, *task, &texts))).collect();
        std::thread::scope(|scope| {
            for (task, alone) in tasks.iter().zip(&alone) {
                let (runner, texts) = (&runner, &texts);
                scope.spawn(move || {
                    for _ in 0..4 {
                        assert_eq!(&logits(&classify(runner, *task, texts)), alone, "{name}, {threads} threads");
                    }
                });
            }
        });
    }
}

/// The tokens of some texts in one batch.
pub(crate) fn batch(texts: &[&str]) -> TokenBatch {
    let tokenizer = Tokenizer::open(&base()).unwrap();
    let tokens: Vec<_> = texts.iter().map(|text| tokenizer.encode(&Input::from(*text), 64).unwrap()).collect();
    tokenizer.batch(&tokens)
}

/// The vectors of a text's tokens.
pub(crate) fn row(engine: &dyn Engine, task: TaskId, batch: &TokenBatch, row: usize) -> Vec<f32> {
    engine.encode(task, batch).unwrap().rows().nth(row).unwrap().to_vec()
}

#[test]
fn a_task_that_is_unloaded_is_gone_and_the_others_stay() {
    let base = base();
    let [a, b] = [31, 32].map(|seed| Recipe { seed, ..Default::default() }.pack(&base));
    let text = batch(&["Who wrote Hamlet?"]);
    for name in ENGINES {
        let engine = engine(name, &base);
        let [a, b] =
            [&a, &b].map(|pack| engine.add(Changes::Decoded { masks: &pack.masks, deltas: &pack.deltas }).unwrap());
        let before = row(engine.as_ref(), b, &text, 0);
        engine.remove(a).unwrap();
        assert!(matches!(engine.encode(a, &text), Err(EngineError::NoTask(_))));
        assert!(matches!(engine.remove(a), Err(EngineError::NoTask(_))));
        assert_eq!(row(engine.as_ref(), b, &text, 0), before);
        let c = engine.add(Changes::NONE).unwrap();
        assert!(c != a && c != b, "identifiers are not used twice");
    }
}

#[test]
fn a_task_that_is_removed_from_a_runner_is_refused_and_the_others_stay() {
    let base = base();
    let none = Recipe { from_layer: base.manifest().architecture.layers, seed: 33, ..Default::default() };
    let packs = [
        Recipe { seed: 34, ..Default::default() }.pack(&base),
        none.pack(&base).with_deltas(deltas(&base)).unwrap(),
        Recipe { seed: 35, labels: 3, ..Default::default() }.pack(&base),
    ];
    let texts = questions(2);
    for name in ENGINES {
        let runner = runner(name);
        let tasks: Vec<TaskId> = packs.iter().map(|pack| runner.add_pack(pack.clone()).unwrap()).collect();
        let before: Vec<_> = tasks.iter().map(|task| logits(&classify(&runner, *task, &texts))).collect();
        runner.remove(tasks[1]).unwrap();
        let refused = runner.predict(tasks[1], &["a".into()]).unwrap_err();
        assert!(matches!(refused, TaskError::NoTask), "{name}: {refused}");
        assert!(matches!(runner.encode(tasks[1], &batch(&["a"])), Err(TaskError::NoTask)), "{name}");
        assert!(matches!(runner.remove(tasks[1]), Err(TaskError::NoTask)), "{name}");
        // What comes in its place has its own name, and what it was is the same again.
        let again = runner.add_pack(packs[1].clone()).unwrap();
        assert!(!tasks.contains(&again), "{name}");
        for (task, before) in [tasks[0], again, tasks[2]].into_iter().zip(&before) {
            assert_eq!(&logits(&classify(&runner, task, &texts)), before, "{name}");
        }
    }
}

#[test]
fn padding_and_company_change_next_to_nothing() {
    let base = base();
    let pack = Recipe { seed: 41, ..Default::default() }.pack(&base);
    let long = "word ".repeat(50);
    let texts = ["Who wrote Hamlet?", long.as_str(), "Where is Lima, the capital of Peru?"];
    for name in ENGINES {
        let engine = engine(name, &base);
        let task = engine.add(Changes::Decoded { masks: &pack.masks, deltas: &pack.deltas }).unwrap();
        let together = batch(&texts);
        for (i, text) in texts.iter().enumerate() {
            let alone = row(engine.as_ref(), task, &batch(&[text]), 0);
            let apart = difference(&alone, &row(engine.as_ref(), task, &together, i));
            assert!(apart <= 1e-4, "{name}, {text:?}: {apart}");
        }
    }
}

/// A copy of the base whose weights are masked in the file is the plainest way to apply a mask.
#[test]
fn a_mask_does_what_zeros_in_the_file_do() {
    let base = base();
    let pack = Recipe { granularity: Granularity::Weight, seed: 51, sparsity: 0.2, ..Default::default() }.pack(&base);
    let dir = tempfile::tempdir().unwrap();
    for file in ["model.onnx", "tokenizer.json"] {
        std::fs::copy(base_dir().join(file), dir.path().join(file)).unwrap();
    }
    // The tensors in the order and at the places that the graph's external data name.
    let model = overmask_graph::read_model(&base.model_path()).unwrap();
    let mut tensors: Vec<(u64, String, Vec<usize>, Vec<u8>)> = Vec::new();
    for initializer in &model.graph.unwrap().initializer {
        let Some(external) = overmask_graph::external_data(initializer).unwrap() else { continue };
        let (shape, values) = base.tensor_f32(&initializer.name).unwrap();
        let mut values = values.to_vec();
        if let Some(named) = pack.masks.iter().find(|m| m.tensor == initializer.name) {
            named.mask.apply(&mut values).unwrap();
        }
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push((external.offset, initializer.name.clone(), shape.to_vec(), bytes));
    }
    tensors.sort();
    let list: Vec<TensorBytes<'_>> =
        tensors.iter().map(|(_, n, s, b)| (n.as_str(), s.as_slice(), b.as_slice())).collect();
    let mut file = std::fs::File::create(dir.path().join("model.safetensors")).unwrap();
    let offsets = write_weights(&mut file, &list).unwrap();
    assert!(tensors.iter().all(|(offset, name, ..)| offsets[name] == *offset));
    // Other weights are another base: what engines derive from one must not serve the other.
    let mut manifest = base.manifest().clone();
    let digest = file_digest(&dir.path().join("model.safetensors")).unwrap();
    manifest.digests.insert("model.safetensors".to_owned(), digest);
    manifest.base_id = manifest.identity(list.iter().map(|(name, shape, bytes)| ((*name).to_owned(), *shape, *bytes)));
    std::fs::write(dir.path().join("base.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();

    let masked_base = Arc::new(Base::open(dir.path()).unwrap());
    let text = batch(&["Who wrote Hamlet?"]);
    for name in ENGINES {
        let plain = engine(name, &masked_base);
        let task = plain.add(Changes::NONE).unwrap();
        let expected = row(plain.as_ref(), task, &text, 0);
        let engine = engine(name, &base);
        let task = engine.add(Changes::Decoded { masks: &pack.masks, deltas: &pack.deltas }).unwrap();
        assert_eq!(row(engine.as_ref(), task, &text, 0), expected, "{name}");
    }
}

#[test]
fn what_does_not_fit_the_base_is_an_error() {
    let base = base();
    let pack = Recipe::default().pack(&base);
    let good = batch(&["Who wrote Hamlet?"]);
    for name in ENGINES {
        let engine = engine(name, &base);
        let mut unknown = pack.masks[..1].to_vec();
        unknown[0].tensor = "no.such.weight".to_owned();
        assert!(matches!(engine.add(Changes::masks_alone(&unknown)), Err(EngineError::Mask { .. })));
        let mut moved = pack.masks[..1].to_vec();
        moved[0].tensor = base.manifest().maskable.iter().find(|t| t.outputs != t.inputs).unwrap().name.clone();
        assert!(matches!(engine.add(Changes::masks_alone(&moved)), Err(EngineError::Mask { .. })));
        let twice = [pack.masks[0].clone(), pack.masks[0].clone()];
        assert!(matches!(engine.add(Changes::masks_alone(&twice)), Err(EngineError::Mask { .. })));

        let task = engine.add(Changes::NONE).unwrap();
        let of = |ids: &[u32], segments: &[u32], pad: u32| {
            let mut batch = TokenBatch::new(pad);
            batch.push(ids, segments);
            batch
        };
        for batch in [
            of(&[101, 1 << 30, 102], &[0; 3], 0),
            of(&[101, u32::MAX, 102], &[0; 3], 0),
            of(&[], &[], 0),
            of(&[101, 102], &[0, 9], 0),
            of(&[101, 102], &[0; 2], 1 << 30),
            of(&[5; 5000], &[0; 5000], 0),
            TokenBatch::new(0),
        ] {
            assert!(matches!(engine.encode(task, &batch), Err(EngineError::Batch(_))), "{name}: {batch:?}");
        }
        engine.encode(task, &good).unwrap();
    }
}

/// One reader asks on while tasks are added and removed around it.
#[test]
fn tasks_come_and_go_while_other_threads_ask() {
    let base = base();
    let packs = [71, 72].map(|seed| Recipe { seed, ..Default::default() }.pack(&base));
    let text = questions(1);
    for name in ENGINES {
        let runner = runner(name);
        let stays = runner.add_pack(packs[0].clone()).unwrap();
        let expected = logits(&classify(&runner, stays, &text));
        let rounds = if name == "tract" { 2 } else { 8 };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..rounds {
                    let comes = runner.add_pack(packs[1].clone()).unwrap();
                    assert_ne!(logits(&classify(&runner, comes, &text)), expected, "{name}");
                    runner.remove(comes).unwrap();
                }
            });
            for _ in 0..4 * rounds {
                assert_eq!(logits(&classify(&runner, stays, &text)), expected, "{name}");
            }
        });
    }
}

#[test]
fn a_device_that_cannot_start_is_an_error() {
    let options = EngineOptions::default();
    match overmask_cli::start(EngineKind::Ort(Device::Cuda), &base(), &options) {
        Ok(engine) => assert_eq!(engine.describe().engine, EngineKind::Ort(Device::Cuda)),
        Err(error) => {
            assert!(matches!(error, EngineError::Unavailable { .. }), "{error}");
            assert!(error.to_string().contains("ort:cuda"), "{error}");
        }
    }
}

#[test]
fn results_say_what_made_them() {
    for name in ENGINES {
        let info = engine(name, &base()).describe();
        assert_eq!((info.engine.to_string().as_str(), info.precision), (name, Precision::F32));
    }
}
