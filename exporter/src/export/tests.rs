//! Exported models in ONNX Runtime, beside what the runtime says of the same pack.

use std::sync::Arc;

use ort::session::Session;
use ort::value::Tensor;
use overmask::engine::{Device, Engine, EngineOptions};
use overmask::mask::{Granularity, Mask};
use overmask::pack::{Codec, Delta, FloatType, Head, Input, NamedMask, SCHEMA, TextSettings};
use overmask::task::{Runner, Tokenizer, Tokens};
use overmask_graph::encoder::Padded;
use overmask_ort::{OrtEngine, environment};
use tempfile::TempDir;

use super::*;
use crate::import::{hf, onnx as imported};

/// Logits of two programs may be so far apart.
const TOLERANCE: f32 = 1e-5;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

pub(crate) fn base() -> (TempDir, Arc<Base>) {
    let dir = tempfile::tempdir().unwrap();
    let base = hf::import(&fixture("tiny-bert"), &dir.path().join("base"), &hf::Origin::default()).unwrap().base;
    (dir, Arc::new(base))
}

/// Numbers around zero that look like nothing.
fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i + 31 * seed) as f32 * 1.7).sin()).collect()
}

/// A pack of a kind, in which a third of the weights of each masked tensor is zero.
pub(crate) fn pack(base: &Base, kind: TaskKind, pooling: Pooling, pair: bool, masks: bool, deltas: bool) -> Pack {
    let manifest = base.manifest();
    let (hidden, labels) = (manifest.architecture.hidden_size, if kind == TaskKind::Regress { 1 } else { 11 });
    let document = PackDocument {
        schema: SCHEMA,
        requires: Vec::new(),
        name: "exported".to_owned(),
        revision: 3,
        kind,
        labels: (0..labels).map(|i| format!("label-{i}")).collect(),
        text: TextSettings { max_tokens: 12, pooling, pair },
        base_id: base.base_id().to_owned(),
        tokenizer_sha256: manifest.tokenizer_sha256.clone(),
        granularity: Granularity::Weight,
        codec: Codec::Plain,
        sparsity: 0.0,
        masks: Vec::new(),
        golden: Vec::new(),
        provenance: Default::default(),
        metrics: Default::default(),
        extra: Default::default(),
    };
    let mask = |(seed, tensor): (usize, &overmask::base::MaskableTensor)| {
        let keep = values(tensor.outputs * tensor.inputs, seed).into_iter().map(|v| v > -0.5);
        let mask = Mask::from_units(Granularity::Weight, tensor.outputs, tensor.inputs, keep).unwrap();
        NamedMask { tensor: tensor.name.clone(), mask }
    };
    // The first tensor is left for a delta.
    let masks = manifest.maskable.iter().enumerate().skip(1).filter(|_| masks).map(mask).collect();
    let weight = values(labels * hidden, 7);
    let head = Head { weight, bias: values(labels, 8), labels, hidden, dtype: FloatType::F16 };
    let norm = "embeddings.LayerNorm.weight";
    // Encoders of other families have other norms.
    let norm = Some(norm).filter(|name| base.tensor_f32(name).is_ok());
    let replaced = [manifest.maskable[0].name.as_str()].into_iter().chain(norm);
    let delta = |name: &str| {
        let (shape, old) = base.tensor_f32(name).unwrap();
        let values = old.iter().map(|v| 0.5 * v + 0.25).collect();
        Delta { tensor: name.to_owned(), shape: shape.to_vec(), values, dtype: FloatType::F32 }
    };
    let deltas = replaced.filter(|_| deltas).map(delta).collect();
    Pack::new(document, masks, head, Vec::new()).unwrap().with_deltas(deltas).unwrap()
}

fn tokens(tokenizer: &Tokenizer, inputs: &[Input], max_tokens: usize) -> Vec<Tokens> {
    inputs.iter().map(|input| tokenizer.encode(input, max_tokens).unwrap()).collect()
}

/// The model's output for inputs in one batch, with its shape.
pub(crate) fn run(model: &Path, base: &Base, pack: &Pack, inputs: &[Input], output: &str) -> (Vec<usize>, Vec<f32>) {
    let tokenizer = Tokenizer::open(base).unwrap();
    let batch = Padded::from(&tokenizer.batch(&tokens(&tokenizer, inputs, pack.document.text.max_tokens)));
    let mut session =
        Session::builder(environment().unwrap()).unwrap().commit_from_file(model.join(file::MODEL)).unwrap();
    let names: Vec<String> = session.outputs().iter().map(|output| output.name().to_owned()).collect();
    assert_eq!(names, [output]);
    let fed = session.inputs().iter().map(|input| {
        let values = batch.input(input.name()).unwrap().clone();
        (input.name().to_owned(), Tensor::from_array(([batch.batch, batch.sequence], values)).unwrap())
    });
    let fed: Vec<(String, _)> = fed.collect();
    let outputs = session.run(fed).unwrap();
    let (shape, values) = outputs[output].try_extract_tensor::<f32>().unwrap();
    (shape.iter().map(|d| *d as usize).collect(), values.to_vec())
}

pub(crate) fn inputs(kind: TaskKind, pair: bool) -> Vec<Input> {
    let texts = ["the best film", "not good", "a great book and a bad movie that is the worst of all films", "film"];
    let of = |text: &str| match (kind, pair) {
        (TaskKind::Tag, _) => Input::Words { words: text.split(' ').map(str::to_owned).collect() },
        (_, true) => Input::Pair(text.to_owned(), "good movie".to_owned()),
        (_, false) => Input::from(text),
    };
    texts.map(of).to_vec()
}

/// What the runtime says: rows of logits of each input.
fn said(base: &Arc<Base>, pack: &Pack, inputs: &[Input]) -> Vec<Vec<Option<Vec<f32>>>> {
    let engine = OrtEngine::new(Arc::clone(base), Device::Cpu, &EngineOptions::default()).unwrap();
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let runner = Runner::new(engine, Arc::clone(base)).unwrap();
    let task = runner.add_pack(pack.clone()).unwrap();
    runner.logits(task, inputs).unwrap()
}

pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_model_says_what_its_pack_does() {
    let (dir, base) = base();
    let kinds = [
        (TaskKind::Classify, Pooling::Mean, false),
        (TaskKind::Classify, Pooling::Cls, true),
        (TaskKind::Multilabel, Pooling::Mean, true),
        (TaskKind::Regress, Pooling::Mean, false),
        (TaskKind::Tag, Pooling::First, false),
    ];
    for (number, (kind, pooling, pair)) in kinds.into_iter().enumerate() {
        let inputs = inputs(kind, pair);
        let mut all: Vec<Vec<f32>> = Vec::new();
        for (masks, deltas) in [(false, false), (true, false), (false, true), (true, true)] {
            let pack = pack(&base, kind, pooling, pair, masks, deltas);
            let out = dir.path().join(format!("{number}-{masks}-{deltas}"));
            export(&base, &pack, &out, Extent::Whole).unwrap();
            let (shape, found) = run(&out, &base, &pack, &inputs, "logits");
            let labels = pack.head.labels;
            let tokenizer = Tokenizer::open(&base).unwrap();
            let tokens = tokens(&tokenizer, &inputs, pack.document.text.max_tokens);
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for (i, rows) in said(&base, &pack, &inputs).into_iter().enumerate() {
                for (word, row) in rows.into_iter().enumerate() {
                    // Words that were cut away have no row.
                    let Some(row) = row else { continue };
                    let at = match kind {
                        TaskKind::Tag => i * shape[1] + tokens[i].firsts[word].unwrap(),
                        _ => i,
                    };
                    theirs.extend_from_slice(&found[at * labels..][..labels]);
                    ours.extend(row);
                }
            }
            assert_eq!(shape.len(), if kind == TaskKind::Tag { 3 } else { 2 });
            assert_eq!((shape[0], shape[shape.len() - 1]), (inputs.len(), labels));
            let apart = difference(&ours, &theirs);
            assert!(apart <= TOLERANCE, "{kind} {pooling:?} masks {masks}, deltas {deltas}: {apart}");
            all.push(ours);
        }
        // Were masks or deltas lost on both sides, the comparison would tell nothing.
        for (a, b) in [(0, 1), (0, 2), (1, 3), (2, 3)] {
            assert!(difference(&all[a], &all[b]) > 1e-3, "{kind}");
        }
    }
}

#[test]
fn a_row_of_padding_alone_has_logits_that_are_numbers() {
    let (dir, base) = base();
    let pack = pack(&base, TaskKind::Classify, Pooling::Mean, false, true, false);
    let out = dir.path().join("model");
    export(&base, &pack, &out, Extent::Whole).unwrap();
    let mut session =
        Session::builder(environment().unwrap()).unwrap().commit_from_file(out.join(file::MODEL)).unwrap();
    let fed = [("input_ids", vec![2, 7, 3, 0, 0, 0]), ("attention_mask", vec![1, 1, 1, 0, 0, 0])]
        .into_iter()
        .chain([("token_type_ids", vec![0; 6])])
        .map(|(name, values): (&str, Vec<i64>)| (name, Tensor::from_array(([2, 3], values)).unwrap()))
        .collect::<Vec<_>>();
    let outputs = session.run(fed).unwrap();
    let (_, logits) = outputs["logits"].try_extract_tensor::<f32>().unwrap();
    // The mean of nothing is 0, of which the bias is left.
    assert!(logits.iter().all(|logit| logit.is_finite()), "{logits:?}");
    assert!(difference(&logits[pack.head.labels..], &pack.head.bias) <= TOLERANCE, "{logits:?}");
}

#[test]
fn an_imported_encoder_is_exported_too() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["roberta-dynamo.onnx", "prenorm-dynamo.onnx", "bert-torchscript.onnx"] {
        let options = imported::Options {
            tokenizer: fixture("tiny-bert/tokenizer.json"),
            output: None,
            max_positions: None,
            config: None,
            origin: hf::Origin::default(),
        };
        let at = |end: &str| dir.path().join(format!("{name}{end}"));
        let base = imported::import(&fixture("onnx").join(name), &at("-base"), &options).unwrap().base;
        let base = Arc::new(base);
        for pooling in [Pooling::Mean, Pooling::Cls] {
            let pack = pack(&base, TaskKind::Classify, pooling, false, true, true);
            let inputs = inputs(TaskKind::Classify, false);
            let out = at(&format!("-{pooling:?}"));
            export(&base, &pack, &out, Extent::Whole).unwrap();
            let (_, found) = run(&out, &base, &pack, &inputs, "logits");
            let expected = said(&base, &pack, &inputs).concat().into_iter().flatten().flatten().collect::<Vec<_>>();
            let apart = difference(&found, &expected);
            assert!(apart <= TOLERANCE, "{name} {pooling:?}: {apart}");
        }
    }
}

#[test]
fn an_encoder_alone_gives_its_states() {
    let (dir, base) = base();
    let pack = pack(&base, TaskKind::Tag, Pooling::First, false, true, true);
    let inputs = inputs(TaskKind::Tag, false);
    let out = dir.path().join("encoder");
    export(&base, &pack, &out, Extent::Encoder).unwrap();
    let (shape, states) = run(&out, &base, &pack, &inputs, "last_hidden_state");
    assert_eq!((shape[0], shape[2]), (4, 32));
    // The pack's head on top of the first word's state gives the first word's logits.
    let tokens = tokens(&Tokenizer::open(&base).unwrap(), &inputs, 12);
    let first = &states[tokens[0].firsts[0].unwrap() * 32..][..32];
    let expected = said(&base, &pack, &inputs)[0][0].clone().unwrap();
    assert!(difference(&overmask::task::logits(&pack.head, first), &expected) <= TOLERANCE);
    let config = std::fs::read_to_string(out.join(CONFIG)).unwrap();
    assert!(!config.contains("id2label") && config.contains("\"last_hidden_state\""), "{config}");
}

#[test]
fn the_folder_says_what_the_outputs_mean_and_holds_nothing_else() {
    let (dir, base) = base();
    let pack = pack(&base, TaskKind::Multilabel, Pooling::Mean, true, true, false);
    let [out, again] = ["model", "again"].map(|name| dir.path().join(name));
    export(&base, &pack, &out, Extent::Whole).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [CONFIG, file::MODEL, file::WEIGHTS, file::TOKENIZER]);
    let text = std::fs::read_to_string(out.join(CONFIG)).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&config["task"], &config["pooling"]), (&"multilabel".into(), &"mean".into()));
    assert_eq!((&config["pair"], &config["max_tokens"], &config["revision"]), (&true.into(), &12.into(), &3.into()));
    assert_eq!((&config["id2label"]["10"], &config["base_id"]), (&"label-10".into(), &base.base_id().into()));
    assert!(text.find("\"2\"").unwrap() < text.find("\"10\"").unwrap(), "in the order of the numbers: {text}");
    // Its tokenizer cuts where the task does, and pads no further than a batch needs.
    let tokenizer: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join(file::TOKENIZER)).unwrap()).unwrap();
    assert_eq!(tokenizer["truncation"]["max_length"], 12);
    assert_eq!(
        (&tokenizer["padding"]["strategy"], &tokenizer["padding"]["pad_token"]),
        (&"BatchLongest".into(), &"[PAD]".into())
    );
    // The same bytes, wherever and whenever.
    export(&base, &pack, &again, Extent::Whole).unwrap();
    for name in names {
        assert_eq!(std::fs::read(out.join(&name)).unwrap(), std::fs::read(again.join(&name)).unwrap(), "{name}");
    }
    // Zeros are in the file, and weights without a mask are the base's.
    let bytes = std::fs::read(out.join(file::WEIGHTS)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let masked = &pack.masks[0];
    let zeros = tensors.tensor(&masked.tensor).unwrap().data().chunks_exact(4).filter(|v| **v == [0; 4]).count();
    assert!(zeros as u64 >= masked.mask.zero_weights() && zeros > 100);
    let words = "embeddings.word_embeddings.weight";
    assert_eq!(tensors.tensor(words).unwrap().data(), base.tensor_bytes(words).unwrap().1);
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing() {
    let (dir, base) = base();
    let good = pack(&base, TaskKind::Classify, Pooling::Mean, false, true, false);
    let out = dir.path().join("out/model");
    let mut foreign = good.clone();
    foreign.document.base_id = "0".repeat(64);
    let error = export(&base, &foreign, &out, Extent::Whole).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BaseMismatch);
    let error = export(&base, &good, base.dir(), Extent::Whole).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InputData);
    assert!(error.to_string().contains("not an empty directory"), "{error}");
    assert!(!out.exists());
    // A graph with a value of a name that is ours.
    let model = overmask_graph::read_model(&base.model_path()).unwrap();
    let mut b = GraphBuilder::extend(model.graph.clone().unwrap());
    b.node("Identity", &[encoder::OUTPUT], &[LOGITS], &[]);
    std::fs::write(base.model_path(), overmask_graph::encode(&b.finish())).unwrap();
    let error = export(&base, &good, &out, Extent::Whole).unwrap_err();
    assert!(error.to_string().contains("`logits`"), "{error}");
    // A graph without the tensor that is masked.
    let mut model = model;
    let graph = model.graph.as_mut().unwrap();
    graph.initializer.retain(|tensor| tensor.name != good.masks[0].tensor);
    std::fs::write(base.model_path(), overmask_graph::encode(&model)).unwrap();
    let error = export(&base, &good, &out, Extent::Whole).unwrap_err();
    assert!(error.to_string().contains(&good.masks[0].tensor), "{error}");
    assert_eq!(std::fs::read_dir(out.parent().unwrap()).unwrap().count(), 0);
}
