//! Real exports become bases that compute the same.

mod changed;
mod fives;
mod fused;

use std::fs;
use std::sync::Arc;

use ort::session::Session;
use ort::value::{DynValue, Tensor};
use overmask::base::family::Family;
use overmask::engine::{Changes, EngineKind, EngineOptions, TokenBatch};
use overmask::mask::{Granularity, Mask};
use overmask::pack::NamedMask;
use overmask_graph::encoder::Padded;
use tempfile::TempDir;

use super::*;
use crate::data::rng;

/// Every export, with the names of its linear layers in a layer of the encoder.
const EXPORTS: [(&str, &str, &[&str]); 9] = [
    ("bert-torchscript.onnx", "encoder.layer", &BERT),
    ("bert-opset11.onnx", "encoder.layer", &BERT),
    ("bert-optimum.onnx", "encoder.layer", &BERT),
    ("distilbert-torchscript.onnx", "transformer.layer", &DISTILBERT),
    ("roberta-dynamo.onnx", "encoder.layer", &BERT),
    ("bert-fused.onnx", "encoder.layer", &BERT),
    ("distilbert-fused.onnx", "transformer.layer", &DISTILBERT),
    ("roberta-fused.onnx", "encoder.layer", &BERT),
    ("prenorm-dynamo.onnx", "blocks", &["qkv", "proj", "up", "down"]),
];

const BERT: [&str; 6] = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
];

const DISTILBERT: [&str; 6] =
    ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"];

pub(in crate::import) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn export(name: &str) -> PathBuf {
    fixtures().join("onnx").join(name)
}

fn options() -> Options {
    let tokenizer = fixtures().join("tiny-bert/tokenizer.json");
    Options { tokenizer, output: None, max_positions: None, config: None, origin: Origin::default() }
}

fn imported(path: &Path) -> (TempDir, Imported) {
    let dir = tempfile::tempdir().unwrap();
    let base = import(path, &dir.path().join("base"), &options()).unwrap();
    (dir, base)
}

/// Texts of 9, 6 and 1 tokens; none is the number of RoBERTa's padding, 1.
fn batch() -> TokenBatch {
    let mut batch = TokenBatch::new(1);
    for (row, length) in [9, 6, 1].into_iter().enumerate() {
        let ids: Vec<u32> = rng::uniform(5, 0, row as u64, length).into_iter().map(|u| 5 + (u * 90.0) as u32).collect();
        batch.push(&ids, &vec![0; length]);
    }
    batch
}

fn session(model: &Path) -> Session {
    let environment = overmask_ort::environment().expect("ONNX Runtime: run `cargo xtask test`");
    Session::builder(environment).unwrap().commit_from_file(model).unwrap()
}

/// The hidden states that the export itself gives.
fn original(model: &Path, batch: &TokenBatch) -> Vec<f32> {
    let mut session = session(model);
    let padded = Padded::from(batch);
    let feed: Vec<(String, DynValue)> = session
        .inputs()
        .iter()
        .map(|input| {
            let values = padded.input(input.name()).unwrap().clone();
            let value = Tensor::from_array(([padded.batch, padded.sequence], values)).unwrap();
            (input.name().to_owned(), value.into_dyn())
        })
        .collect();
    let outputs = session.run(feed).unwrap();
    let values = outputs["last_hidden_state"].try_extract_tensor::<f32>().unwrap().1.to_vec();
    let width = values.len() / (padded.batch * padded.sequence);
    Padded::without_padding(batch, padded.sequence, width, values)
}

pub(in crate::import) fn hidden(base: &Arc<Base>, kind: &str, masks: &[NamedMask], batch: &TokenBatch) -> Vec<f32> {
    let kind: EngineKind = kind.parse().unwrap();
    let engine = overmask_cli::start(kind, base, &EngineOptions::default().threads(1)).unwrap();
    let task = engine.add(Changes::masks_alone(masks)).unwrap();
    engine.encode(task, batch).unwrap().data().to_vec()
}

pub(in crate::import) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn exports_become_bases_that_compute_the_same() {
    let batch = batch();
    for (name, ..) in EXPORTS {
        let (_dir, Imported { base, untrainable, .. }) = imported(&export(name));
        assert!(untrainable.is_none(), "{name}: {untrainable:?}");
        base.verify().unwrap();
        let a = &base.manifest().architecture;
        assert_eq!((a.family.name(), a.hidden_size, a.vocab_size, a.max_positions), ("onnx", 16, 100, 32), "{name}");
        let Family::Onnx(hints) = a.family else { panic!("{name}") };
        assert_eq!((a.layers, hints.intermediate_size), (2, Some(32)), "{name}");
        let base = Arc::new(base);
        let expected = original(&export(name), &batch);
        assert!(expected.iter().any(|v| v.abs() > 0.1));
        for (engine, tolerance) in [("ort", 1e-5), ("tract", 1e-4)] {
            let apart = difference(&hidden(&base, engine, &[], &batch), &expected);
            println!("{name}: {engine}: {apart:.1e}");
            assert!(apart <= tolerance, "{name}: {engine}: {apart}");
        }
        assert_eq!(overmask_cli::default_engine(&base).to_string(), "ort:cpu");
        let Err(error) = overmask_cli::start(EngineKind::Native, &base, &EngineOptions::default()) else {
            panic!("{name}: the native engine took a graph that it does not know")
        };
        assert!(error.to_string().contains("`ort` and `tract`"), "{error}");
    }
}

#[test]
fn linear_layers_have_their_modules_names_and_shapes() {
    for (name, prefix, modules) in EXPORTS {
        let (_dir, Imported { base, .. }) = imported(&export(name));
        let found: Vec<(String, usize)> = base.manifest().maskable.iter().map(|t| (t.name.clone(), t.layer)).collect();
        let expected = (0..2)
            .flat_map(|layer| modules.iter().map(move |module| (format!("{prefix}.{layer}.{module}.weight"), layer)));
        assert_eq!(found, expected.collect::<Vec<_>>(), "{name}");
        for tensor in &base.manifest().maskable {
            let is = |ends: &[&str]| ends.iter().any(|end| tensor.name.ends_with(&format!("{end}.weight")));
            let expected = match () {
                () if is(&["qkv"]) => (48, 16),
                () if is(&["intermediate.dense", "lin1", "up"]) => (32, 16),
                () if is(&["attention.output.dense"]) => (16, 16),
                () if is(&["output.dense", "lin2", "down"]) => (16, 32),
                () => (16, 16),
            };
            assert_eq!((tensor.outputs, tensor.inputs), expected, "{}", tensor.name);
        }
    }
}

/// Without names, how many attentions lie before a linear layer says where it belongs.
#[test]
fn layers_are_told_by_depth_where_names_do_not() {
    for (name, ..) in EXPORTS {
        let (graph, version) = source::read(&export(name)).unwrap();
        let named = Encoder::new(graph.clone(), version, &options()).unwrap();
        let mut bare = graph;
        let output = bare.output[0].name.clone();
        for node in &mut bare.node {
            node.name.clear();
            node.metadata_props.clear();
        }
        let dotted: Vec<String> =
            normal::names(&bare).into_iter().filter(|n| n.contains('.') && *n != output).collect();
        for (i, value) in dotted.iter().enumerate() {
            normal::rename(&mut bare, value, &format!("t{i}"));
        }
        let bare = Encoder::new(bare, version, &options()).unwrap();
        let layers = |e: &Encoder| e.maskable.iter().map(|t| (t.layer, t.outputs, t.inputs)).collect::<Vec<_>>();
        assert_eq!(layers(&named), layers(&bare), "{name}");
    }
}

#[test]
fn masks_act_alike_on_every_engine() {
    let batch = batch();
    for (name, ..) in EXPORTS {
        let (_dir, Imported { base, .. }) = imported(&export(name));
        let masks: Vec<NamedMask> = base
            .manifest()
            .maskable
            .iter()
            .enumerate()
            .map(|(i, t)| {
                let keep = rng::uniform(1, 0, i as u64, t.outputs * t.inputs).into_iter().map(|u| u > 0.2);
                let mask = Mask::from_units(Granularity::Weight, t.outputs, t.inputs, keep).unwrap();
                NamedMask { tensor: t.name.clone(), mask }
            })
            .collect();
        let base = Arc::new(base);
        let [plain, ort] = [&[][..], &masks].map(|masks| hidden(&base, "ort", masks, &batch));
        assert!(difference(&plain, &ort) > 0.01, "{name}: the masks change nothing");
        let apart = difference(&hidden(&base, "tract", &masks, &batch), &ort);
        assert!(apart <= 1e-4, "{name}: {apart}");
        // One zeroed output of one tensor is that output alone: [outputs, inputs] is not mixed up.
        let tensor = &base.manifest().maskable[0];
        let keep = (0..tensor.outputs * tensor.inputs).map(|i| i / tensor.inputs != 3);
        let mask = Mask::from_units(Granularity::Weight, tensor.outputs, tensor.inputs, keep).unwrap();
        let one = [NamedMask { tensor: tensor.name.clone(), mask }];
        let apart = difference(&hidden(&base, "tract", &one, &batch), &hidden(&base, "ort", &one, &batch));
        assert!(apart <= 1e-4, "{name}: {apart}");
    }
}

#[test]
fn gradients_go_through_every_export() {
    for (name, ..) in EXPORTS {
        check_gradients(&export(name), &options());
    }
}

/// The gradients that training would use, against central differences.
pub(in crate::import) fn check_gradients(path: &Path, options: &Options) {
    let name = path.display();
    let batch = Padded::from(&batch());
    {
        let Encoder { mut graph, weights, maskable, .. } = Encoder::read(path, options).unwrap();
        graph.output.clear();
        graph.input.extend(weights.iter().map(|w| ValueInfoProto::fixed(&w.name, data_type::FLOAT, &w.dims())));
        let inputs: Vec<String> = graph.input.iter().map(|i| i.name.clone()).collect();
        let mut b = GraphBuilder::extend(graph);
        // Neither the sum nor the sum of squares of a norm's output tells much: weigh the values.
        let spread: Vec<f32> = rng::uniform(3, 0, 0, 16).into_iter().map(|u| u - 0.5).collect();
        let spread = b.floats(&spread);
        let weighed = b.op("Mul", &[overmask_graph::encoder::OUTPUT, &spread], &[]);
        // A row of padding may have nothing to attend to: differences of its scores drown in what masks them.
        let mask = overmask_graph::encoder::ATTENTION_MASK;
        let mask = b.op("Cast", &[mask], &[("to", i64::from(data_type::FLOAT).into())]);
        let last = b.shape(&[2]);
        let mask = b.op("Unsqueeze", &[&mask, &last], &[]);
        let weighed = b.op("Mul", &[&weighed, &mask], &[]);
        let loss = b.op("ReduceSum", &[&weighed], &[("keepdims", 0i64.into())]);
        let wrt: Vec<String> = maskable.iter().map(|t| t.name.clone()).collect();
        let gradients = autodiff::differentiate(&mut b, &loss, &wrt).unwrap();
        b.output_as(&loss, "loss", data_type::FLOAT, &[]);
        for (i, (gradient, t)) in gradients.iter().zip(&maskable).enumerate() {
            b.output_as(gradient, &format!("g{i}"), data_type::FLOAT, &[&t.outputs.to_string(), &t.inputs.to_string()]);
        }
        let environment = overmask_ort::environment().unwrap();
        let mut session = Session::builder(environment).unwrap().commit_from_memory(&encode(&b.finish())).unwrap();
        let mut run = |moved: Option<(&str, usize, f32)>, output: &str| -> Vec<f32> {
            let feed: Vec<(String, DynValue)> = inputs
                .iter()
                .map(|input| {
                    let value = match weights.iter().find(|w| w.name == *input) {
                        Some(w) => {
                            let mut values: Vec<f32> =
                                w.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                            if let Some((_, at, by)) = moved.filter(|(name, ..)| name == input) {
                                values[at] += by;
                            }
                            Tensor::from_array((w.shape.clone(), values)).unwrap().into_dyn()
                        }
                        None => {
                            let values = batch.input(input).unwrap().clone();
                            Tensor::from_array(([batch.batch, batch.sequence], values)).unwrap().into_dyn()
                        }
                    };
                    (input.clone(), value)
                })
                .collect();
            session.run(feed).unwrap()[output].try_extract_tensor::<f32>().unwrap().1.to_vec()
        };
        for (i, t) in maskable.iter().enumerate() {
            let analytic = run(None, &format!("g{i}"));
            // The steepest of each tensor: small ones drown in rounding.
            let at = (0..analytic.len()).max_by(|a, b| analytic[*a].abs().total_cmp(&analytic[*b].abs())).unwrap();
            // The step that suits the curve there: where it is steep, the smaller one.
            let mut error = |h: f32| {
                let [up, down] = [h, -h].map(|by| f64::from(run(Some((&t.name, at, by)), "loss")[0]));
                let numeric = (up - down) / (2.0 * f64::from(h));
                let error = (numeric - f64::from(analytic[at])).abs();
                (error / (2e-3 + 2e-2 * numeric.abs()), numeric)
            };
            let (error, numeric) = [1e-2, 2e-3].map(&mut error).into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
            assert!(error <= 1.0, "{name}: {}: {numeric}, {}", t.name, analytic[at]);
        }
    }
}

#[test]
fn the_same_import_has_the_same_identity_and_leaves_nothing_else() {
    let [(a, first), (_b, second)] = [0, 1].map(|_| imported(&export("roberta-dynamo.onnx")));
    assert_eq!(first.base.base_id(), second.base.base_id());
    assert_eq!(fs::read_dir(a.path()).unwrap().count(), 1);
    let (_c, other) = imported(&export("bert-torchscript.onnx"));
    assert_ne!(first.base.base_id(), other.base.base_id());
    let error = import(&export("bert-torchscript.onnx"), first.base.dir(), &options()).unwrap_err();
    assert!(matches!(error, ImportError::Staged(overmask::fs::StagedError::Exists { .. })));
}
