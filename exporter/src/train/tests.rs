//! The step graph of a tiny encoder against what PyTorch recorded
//! (`tests/fixtures/make_fixture.py`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ort::value::DynValue;
use overmask::base::Base;
use overmask::engine::Device;
use overmask::mask::Granularity;
use overmask::onnx::proto::data_type;
use overmask::onnx::{self, GraphBuilder};
use overmask::pack::Pooling;
use safetensors::SafeTensors;

use super::graph::{self, Encoder, Graph, Spec, name};
use super::run::rates;
use super::session::{ForwardSession, Placement, StepSession, f32_value, frozen, i64_value};
use super::{Method, TrainOptions};
use crate::autodiff;
use crate::data::tests::dataset;
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

/// The recorded start values of a graph's parameters.
fn initial(reference: &Reference, graph: &Graph, scores: &str) -> Vec<Vec<f32>> {
    let value = |parameter: &graph::Trained| match &parameter.scores_of {
        Some(tensor) => reference.f32(&format!("{scores}/{}", tensor.name)),
        None => reference.f32(&parameter.name.replace('/', ".")),
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
    for (granularity, scores, logits) in
        [(Granularity::Weight, "scores", "logits_weight"), (BLOCK, "scores_block", "logits_block")]
    {
        let step = graph::step(&base, &spec(granularity)).unwrap();
        let weights = frozen(&base, &step.frozen).unwrap();
        let start = initial(&reference, &step, scores);
        let session = StepSession::new(&step, &start, &weights, &placement()).unwrap();
        let forward = graph::forward(&base, &spec(granularity)).unwrap();
        let mut forward = ForwardSession::new(&forward, &weights, &placement()).unwrap();
        let ours = forward.logits(&session, reference.batch()).unwrap();
        assert_close(logits, &ours, &reference.f32(logits), 1e-5);
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
        let start = initial(&reference, &step, scores);
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
        .chain([name::HEAD_WEIGHT.into()])
        .collect();
    let gradients = autodiff::differentiate(&mut b, &loss, &wanted).unwrap();
    for (value, gradient) in wanted.iter().zip(&gradients) {
        b.node("Identity", &[gradient], &[&format!("gradient/{value}")], &[]);
        let dims = if value == name::HEAD_WEIGHT { vec![3, 32] } else { base.tensor_f32(value).unwrap().0.to_vec() };
        let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
        b.output(&format!("gradient/{value}"), data_type::FLOAT, &dims.iter().map(String::as_str).collect::<Vec<_>>());
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

#[test]
fn a_run_repeats_bit_for_bit_and_a_seed_matters() {
    let (_dir, base) = base();
    let texts = ["good film", "bad film", "fine plot", "dull plot"];
    let examples = (0..40).map(|i| (format!("{} {i}", texts[i % 4]), if i % 2 == 0 { "yes" } else { "no" }));
    let examples: Vec<_> = examples.collect();
    let examples: Vec<_> = examples.iter().map(|(text, label)| (text.as_str(), *label)).collect();
    let data = dataset(&examples);
    for method in [Method::Head, Method::Mask] {
        let pack = |seed| {
            let options = options(method, seed);
            let outcome = super::run(&base, &data, None, &options, &AtomicBool::new(false), &mut |_| ()).unwrap();
            outcome.pack.to_bytes().unwrap()
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
    }
}

#[test]
fn a_tensor_that_does_not_divide_is_an_error() {
    let (_dir, base) = base();
    let error = graph::step(&base, &spec(Granularity::Block { rows: 7, cols: 1 })).unwrap_err();
    assert!(error.to_string().contains("block:7x1"), "{error}");
}
