//! The step graph of a tiny encoder against what PyTorch recorded
//! (`tests/fixtures/make_fixture.py`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::value::DynValue;
use overmask::base::Base;
use overmask::engine::{self, Device, EngineKind, EngineOptions, TokenBatch};
use overmask::mask::Granularity;
use overmask::onnx::proto::data_type;
use overmask::onnx::{self, GraphBuilder};
use overmask::pack::{FloatType, NamedMask, Pooling};
use overmask::task::softmax;
use safetensors::SafeTensors;

use super::graph::{self, Encoder, Graph, Spec, name};
use super::run::rates;
use super::scores::to_mask;
use super::session::{ForwardSession, Placement, StepSession, f32_value, frozen, i64_value};
use super::{Method, Outcome, Progress, TrainError, TrainOptions, gelu, placement as profile};
use crate::autodiff;
use crate::data::tests::dataset;
use crate::data::{self, Dataset};
use crate::import::hf;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-bert")
}

struct Reference(Vec<u8>);

impl Reference {
    fn read() -> Self {
        Reference(std::fs::read(fixture().join("reference.safetensors")).unwrap())
    }

    fn bytes<T>(&self, name: &str, convert: impl Fn(&[u8]) -> T, size: usize) -> Vec<T> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        tensors.tensor(name).unwrap_or_else(|_| panic!("no {name}")).data().chunks_exact(size).map(convert).collect()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.bytes(name, |b| f32::from_le_bytes(b.try_into().unwrap()), 4)
    }

    fn i64(&self, name: &str) -> Vec<i64> {
        self.bytes(name, |b| i64::from_le_bytes(b.try_into().unwrap()), 8)
    }

    /// The recorded batch of 3 texts of 9 tokens.
    fn batch(&self) -> Vec<(&'static str, DynValue)> {
        let mut inputs: Vec<(&'static str, DynValue)> = ["input_ids", "attention_mask", "token_type_ids"]
            .map(|n| (n, i64_value(&[3, 9], self.i64(n)).unwrap()))
            .into();
        inputs.push((name::DROPOUT, f32_value(&[3, 32], vec![1.0; 96]).unwrap()));
        inputs
    }

    fn targets(&self) -> (&'static str, DynValue) {
        (name::TARGETS, i64_value(&[3], self.i64("labels")).unwrap())
    }
}

fn base() -> (tempfile::TempDir, Arc<Base>) {
    let dir = tempfile::tempdir().unwrap();
    let base = hf::import(&fixture(), &dir.path().join("base"), &hf::Origin::default()).unwrap();
    (dir, Arc::new(base))
}

fn placement() -> Placement {
    Placement { device: Device::Cpu, threads: 1, profile: None }
}

fn spec(granularity: Granularity) -> Spec {
    let encoder = Encoder::Masked { granularity, from_layer: 0 };
    Spec { encoder, pooling: Pooling::Mean, classes: 3, clip_norm: 1.0 }
}

/// The recorded start values of a graph's parameters; without scores, those that keep all.
fn initial(reference: &Reference, graph: &Graph, scores: Option<&str>) -> Vec<Vec<f32>> {
    let value = |parameter: &graph::Trained| match (&parameter.scores_of, scores) {
        (Some(tensor), Some(scores)) => reference.f32(&format!("{scores}/{}", tensor.name)),
        (Some(_), None) => vec![1.0; parameter.dims.iter().product()],
        (None, _) => reference.f32(&parameter.name.replace('/', ".")),
    };
    graph.trained.iter().map(value).collect()
}

#[track_caller]
fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let scale = theirs.iter().fold(0f32, |m, v| m.max(v.abs())).max(1e-2);
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "{what}[{i}]: {a}, PyTorch {b}");
    }
}

const BLOCK: Granularity = Granularity::Block { rows: 32, cols: 1 };

#[test]
fn logits_agree_with_pytorch() {
    let reference = Reference::read();
    let (_dir, base) = base();
    for (granularity, scores, logits, loss) in [
        (Granularity::Weight, None, "logits", "loss_dense"),
        (Granularity::Weight, Some("scores"), "logits_weight", "loss"),
        (BLOCK, Some("scores_block"), "logits_block", "loss_block"),
    ] {
        let step = graph::step(&base, &spec(granularity)).unwrap();
        let weights = frozen(&base, &step.frozen).unwrap();
        let start = initial(&reference, &step, scores);
        let session = StepSession::new(&step, &start, &weights, &placement()).unwrap();
        let forward = graph::forward(&base, &spec(granularity)).unwrap();
        let mut forward = ForwardSession::new(&forward, &weights, &placement()).unwrap();
        let ours = forward.logits(&session, reference.batch()).unwrap();
        assert_close(logits, &ours, &reference.f32(logits), 1e-5);
        let rows = ours.chunks_exact(3).zip(reference.i64("labels"));
        let sum: f32 = rows.map(|(row, label)| -softmax(row)[label as usize].ln()).sum();
        assert_close(loss, &[sum / 3.0], &reference.f32(loss), 1e-5);
    }
}

#[test]
fn three_training_steps_agree_with_pytorch() {
    let reference = Reference::read();
    let (_dir, base) = base();
    for (granularity, scores, suffix, end) in
        [(Granularity::Weight, "scores", "", "step3"), (BLOCK, "scores_block", "_block", "step3_block")]
    {
        let step = graph::step(&base, &spec(granularity)).unwrap();
        let weights = frozen(&base, &step.frozen).unwrap();
        let start = initial(&reference, &step, Some(scores));
        let mut session = StepSession::new(&step, &start, &weights, &placement()).unwrap();
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        for index in 0..3 {
            let mut inputs = reference.batch();
            inputs.push(reference.targets());
            inputs.extend(rates(1e-2, 1e-3, index).unwrap());
            let (loss, norm) = session.run(inputs).unwrap();
            losses.push(loss);
            norms.push(norm);
        }
        assert_close("losses", &losses, &reference.f32(&format!("step_losses{suffix}")), 1e-5);
        assert_close("norms", &norms, &reference.f32(&format!("step_grad_norms{suffix}")), 1e-4);
        for parameter in &step.trained {
            let recorded = match &parameter.scores_of {
                Some(tensor) => format!("{end}/scores/{}", tensor.name),
                None => format!("{end}/{}", parameter.name.replace('/', ".")),
            };
            let ours = session.download(&parameter.name).unwrap();
            assert_close(&recorded, &ours, &reference.f32(&recorded), 1e-4);
        }
    }
}

/// Loss, gradient norm and the straight-through gradients of the scores.
#[test]
fn gradients_of_scores_agree_with_pytorch() {
    let reference = Reference::read();
    let (_dir, base) = base();
    for (granularity, scores, loss, suffix) in
        [(Granularity::Weight, "scores", "loss", "_weight"), (BLOCK, "scores_block", "loss_block", "_block")]
    {
        // Never clipped, AdamW's first moment is the gradient after one step.
        let step = graph::step(&base, &Spec { clip_norm: 1e9, ..spec(granularity) }).unwrap();
        let weights = frozen(&base, &step.frozen).unwrap();
        let start = initial(&reference, &step, Some(scores));
        let mut session = StepSession::new(&step, &start, &weights, &placement()).unwrap();
        let mut inputs = reference.batch();
        inputs.push(reference.targets());
        inputs.extend(rates(1e-2, 1e-3, 0).unwrap());
        let ours = session.run(inputs).unwrap();
        assert_close(loss, &[ours.0], &reference.f32(loss), 1e-5);
        assert_close("norm", &[ours.1], &reference.f32(&format!("grad_norm{suffix}")), 1e-5);
        for parameter in &step.trained {
            let name = match &parameter.scores_of {
                Some(tensor) => tensor.name.clone(),
                None => parameter.name.replace('/', "."),
            };
            let recorded = format!("grad_scores{suffix}/{name}");
            let moment = session.download(&format!("{}/m", parameter.name)).unwrap();
            assert_close(&recorded, &moment, &reference.f32(&recorded), 2e-5);
        }
    }
}

/// What devices run: without a mask, and with the masks that the scores stand for.
#[test]
fn the_engines_agree_with_pytorch() {
    let reference = Reference::read();
    let (_dir, base) = base();
    // Of the recorded texts, the first and the last; the other is a pair, which engines refuse.
    let two = |values: Vec<i64>| [&values[..9], &values[18..]].concat();
    let [input_ids, attention_mask, token_type_ids] =
        ["input_ids", "attention_mask", "token_type_ids"].map(|n| two(reference.i64(n)));
    let tokens = TokenBatch { batch: 2, sequence: 9, input_ids, attention_mask, token_type_ids };
    // The last has 4 tokens; what an engine says of padding is not told.
    let last = 9 * 32..(9 + 4) * 32;
    let masks = |granularity, scores: &str| -> Vec<NamedMask> {
        let tensors = base.manifest().maskable.iter();
        tensors
            .map(|tensor| {
                let scores = reference.f32(&format!("{scores}/{}", tensor.name));
                NamedMask { tensor: tensor.name.clone(), mask: to_mask(tensor, &scores, granularity).unwrap() }
            })
            .collect()
    };
    for kind in ["ort", "tract"] {
        let kind: EngineKind = kind.parse().unwrap();
        let mut engine = engine::start(kind, Arc::clone(&base), &EngineOptions { threads: Some(1) }).unwrap();
        for (masks, recorded) in [
            (Vec::new(), "last_hidden_state"),
            (masks(Granularity::Weight, "scores"), "last_hidden_state_weight"),
            (masks(BLOCK, "scores_block"), "last_hidden_state_block"),
        ] {
            let task = engine.load(&masks).unwrap();
            let (ours, theirs) = (engine.encode(task, &tokens).unwrap().data, reference.f32(recorded));
            let what = format!("{kind}: {recorded}");
            assert_close(&what, &ours[..9 * 32], &theirs[..9 * 32], 1e-5);
            assert_close(&what, &ours[last.clone()], &theirs[9 * 32..][last.clone()], 1e-5);
        }
    }
}

#[test]
fn each_gelu_loses_its_two_passes() {
    let (_dir, base) = base();
    let mut graph = onnx::read_model(&base.model_path()).unwrap().graph.unwrap();
    let count = |graph: &onnx::proto::GraphProto, op: &str| graph.node.iter().filter(|n| n.op_type == op).count();
    let (nodes, layers) = (graph.node.len(), base.manifest().architecture.layers);
    // Only a GELU divides, by √2.
    assert_eq!((count(&graph, "Erf"), count(&graph, "Div")), (layers, layers));
    gelu::fold_constants(&mut graph);
    assert_eq!((count(&graph, "Erf"), count(&graph, "Div")), (layers, 0));
    assert_eq!(graph.node.len(), nodes - 2 * layers);
}

/// A real profile, read as if the step should have run elsewhere: what may stay are shapes alone.
#[test]
fn a_profile_tells_shapes_from_the_rest() {
    let reference = Reference::read();
    let (dir, base) = base();
    let step = graph::step(&base, &spec(BLOCK)).unwrap();
    let weights = frozen(&base, &step.frozen).unwrap();
    let start = initial(&reference, &step, Some("scores_block"));
    let placement = Placement { profile: Some(dir.path().join("step")), ..placement() };
    let mut session = StepSession::new(&step, &start, &weights, &placement).unwrap();
    let mut inputs = reference.batch();
    inputs.push(reference.targets());
    inputs.extend(rates(1e-2, 1e-3, 0).unwrap());
    session.run(inputs).unwrap();
    let text = std::fs::read(session.end_profiling().unwrap()).unwrap();
    let here = profile::placed(&text, Device::Cpu).unwrap();
    assert!(here.there > 0 && here.shapes == 0 && here.elsewhere.is_empty(), "{here:?}");
    let there = profile::placed(&text, Device::Cuda).unwrap();
    assert_eq!(there.there, 0);
    assert!(there.shapes > 0 && there.shapes + there.elsewhere.len() == here.there, "{there:?}");
    let named = |op: &str| there.elsewhere.iter().any(|node| node.contains(&format!("({op}, ")));
    assert!(named("Gemm") && named("Mul") && named("Sum") && !named("Shape") && !named("Size"), "{there:?}");
}

/// Gradients of every weight, bias and norm of the encoder, and of masked weights, as the
/// straight-through estimator takes them.
#[test]
fn gradients_of_the_whole_encoder_agree_with_pytorch() {
    let reference = Reference::read();
    let (_dir, base) = base();
    let forward = graph::forward(&base, &spec(Granularity::Weight)).unwrap();
    let mut model = forward.model;
    let mut b = GraphBuilder::extend(model.graph.take().unwrap());
    b.input(name::TARGETS, data_type::INT64, &["batch"]);
    let (depth, values) = (b.ints(&[], &[3]), b.floats(&[0.0, 1.0]));
    let one_hot = b.op("OneHot", &[name::TARGETS, &depth, &values], &[]);
    let log = b.op("LogSoftmax", &[name::LOGITS], &[("axis", (-1i64).into())]);
    let picked = b.op("Mul", &[&one_hot, &log], &[]);
    let mean = b.op("ReduceSum", &[&picked], &[("keepdims", 0i64.into())]);
    let third = b.float(-1.0 / 3.0);
    let loss = b.op("Mul", &[&mean, &third], &[]);
    // Embeddings are looked up, which has no gradient rule: everything above them is wanted.
    let wanted: Vec<String> = forward
        .frozen
        .iter()
        .filter(|n| !n.contains("_embeddings."))
        .cloned()
        .chain([name::HEAD_WEIGHT.into(), name::HEAD_BIAS.into()])
        .collect();
    let gradients = autodiff::differentiate(&mut b, &loss, &wanted).unwrap();
    for (value, gradient) in wanted.iter().zip(&gradients) {
        b.node("Identity", &[gradient], &[&format!("gradient/{value}")], &[]);
        let head = forward.trained.iter().find(|t| t.name == *value).map(|t| t.dims.as_slice());
        let dims = head.unwrap_or_else(|| base.tensor_f32(value).unwrap().0);
        graph::declare(dims, |dims| b.output(&format!("gradient/{value}"), data_type::FLOAT, dims));
    }
    let environment = overmask::engine::ort::environment().unwrap();
    let mut session =
        ort::session::Session::builder(environment).unwrap().commit_from_memory(&onnx::encode(&b.finish())).unwrap();
    let mut inputs: Vec<(String, DynValue)> =
        reference.batch().into_iter().chain([reference.targets()]).map(|(n, v)| (n.to_owned(), v)).collect();
    for parameter in &forward.trained {
        // Scores above zero keep every weight.
        let values = match &parameter.scores_of {
            Some(_) => vec![1.0; parameter.dims.iter().product()],
            None => reference.f32(&parameter.name.replace('/', ".")),
        };
        inputs.push((parameter.name.clone(), f32_value(&parameter.dims, values).unwrap()));
    }
    for name in &forward.frozen {
        let (shape, values) = base.tensor_f32(name).unwrap();
        inputs.push((name.clone(), f32_value(shape, values.to_vec()).unwrap()));
    }
    let outputs = session.run(inputs).unwrap();
    for value in &wanted {
        let (_, ours) = outputs[format!("gradient/{value}").as_str()].try_extract_tensor::<f32>().unwrap();
        let recorded = format!("grad_dense/{}", value.replace('/', "."));
        assert_close(&recorded, ours, &reference.f32(&recorded), 2e-5);
    }
}

/// Texts of two labels.
fn texts(count: usize) -> Dataset {
    let texts = ["good film", "bad film", "fine plot", "dull plot"];
    let examples = (0..count).map(|i| (format!("{} {i}", texts[i % 4]), if i % 2 == 0 { "yes" } else { "no" }));
    let examples: Vec<_> = examples.collect();
    let examples: Vec<_> = examples.iter().map(|(text, label)| (text.as_str(), *label)).collect();
    dataset(&examples)
}

#[test]
fn a_run_repeats_bit_for_bit_and_a_seed_matters() {
    let (_dir, base) = base();
    let data = texts(40);
    for method in [Method::Head, Method::Mask] {
        let pack = |seed| {
            let options = options(method, seed);
            let outcome = super::run(&base, &data, None, &options, &AtomicBool::new(false), &mut |_| ()).unwrap();
            outcome.pack.to_bytes(Some(&base)).unwrap()
        };
        let first = pack(1);
        assert_eq!(first, pack(1), "{method:?}");
        assert_ne!(first, pack(2), "{method:?}");
    }
}

fn options(method: Method, seed: u64) -> TrainOptions {
    TrainOptions {
        name: "tiny".into(),
        method,
        granularity: BLOCK,
        epochs: 2,
        batch_size: 8,
        learning_rate: 1e-2,
        head_learning_rate: 1e-3,
        warmup: 0.1,
        dropout: 0.1,
        clip_norm: 1.0,
        initial_sparsity: 0.05,
        from_layer: 0,
        seed,
        max_tokens: 16,
        pooling: Pooling::Mean,
        dev_fraction: 0.2,
        device: Device::Cpu,
        threads: 2,
        max_steps: None,
        log_losses: None,
        check_placement: false,
        revision: 1,
        head_dtype: FloatType::F16,
    }
}

#[test]
fn a_tensor_that_does_not_divide_is_an_error() {
    let (_dir, base) = base();
    let error = graph::step(&base, &spec(Granularity::Block { rows: 7, cols: 1 })).unwrap_err();
    assert!(error.to_string().contains("block:7x1"), "{error}");
}

#[test]
fn a_run_that_is_stopped_keeps_what_it_has() {
    let (_dir, base) = base();
    let data = texts(40);
    for method in [Method::Head, Method::Mask] {
        let run = |options: &TrainOptions, stop_after: u64| -> Result<Outcome, TrainError> {
            let stop = AtomicBool::new(stop_after == 0);
            super::run(&base, &data, Some(&data), options, &stop, &mut |now: &Progress| {
                if now.step == stop_after {
                    stop.store(true, Ordering::Relaxed);
                }
            })
        };
        let options = options(method, 1);
        assert!(matches!(run(&options, 0), Err(TrainError::Stopped)), "{method:?}");
        let outcome = run(&options, 3).unwrap();
        assert_eq!((outcome.steps, outcome.stopped), (3, true), "{method:?}");
        assert_eq!(outcome.pack.document.provenance["stopped"], true);
        let outcome = run(&options, u64::MAX).unwrap();
        assert_eq!((outcome.steps, outcome.stopped), (8, false), "{method:?}");
        let provenance = outcome.pack.document.provenance;
        assert_eq!(provenance["eval_sha256"], data::digest(&data).as_str());
        assert_eq!((&provenance["threads"], &provenance["warmup"]), (&2.into(), &0.1.into()));
        assert!(!provenance.contains_key("stopped") && !provenance.contains_key("max_steps"));
        let outcome = run(&TrainOptions { max_steps: Some(5), ..options }, u64::MAX).unwrap();
        assert_eq!((outcome.steps, outcome.stopped), (5, false), "{method:?}");
        assert_eq!(outcome.pack.document.provenance["max_steps"], 5);
    }
}

#[test]
fn a_small_dev_split_is_filled_up_with_training_texts() {
    let (_dir, base) = base();
    for (count, golden) in [(6, 6), (20, 8), (60, 8)] {
        let data = texts(count);
        let options = options(Method::Head, 1);
        let outcome = super::run(&base, &data, None, &options, &AtomicBool::new(false), &mut |_| ()).unwrap();
        let mut seen: Vec<&str> = outcome.pack.golden.iter().map(|g| g.text.as_str()).collect();
        assert_eq!(seen.len(), golden);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), golden, "no text comes twice");
    }
}

#[test]
fn options_that_cannot_be_are_refused_before_the_work() {
    let (_dir, base) = base();
    let change = |change: fn(&mut TrainOptions)| {
        let mut options = options(Method::Mask, 1);
        change(&mut options);
        let work = &mut |_: &Progress| panic!("a step was done");
        let error = super::run(&base, &texts(40), None, &options, &AtomicBool::new(false), work).unwrap_err();
        assert!(matches!(&error, TrainError::Option { .. }), "{error}");
        error.to_string()
    };
    assert!(change(|o| o.name = "a\nb".into()).starts_with("--name: "));
    assert!(change(|o| o.name = "x".repeat(257)).starts_with("--name: "));
    assert!(change(|o| o.max_steps = Some(0)).starts_with("--max-steps: "));
    assert!(change(|o| o.from_layer = 2).starts_with("--from-layer: "));
    assert!(change(|o| o.max_tokens = 33).starts_with("--max-tokens: "));
    assert!(change(|o| o.dropout = 1.0).starts_with("--dropout: "));
    assert!(change(|o| o.dev_fraction = 0.01).starts_with("--dev-fraction: "));
    assert!(change(|o| o.clip_norm = f64::NAN).starts_with("--clip-norm: "));
}
