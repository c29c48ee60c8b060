//! The step graph of a tiny encoder against what PyTorch recorded
//! (`tests/fixtures/make_fixture.py`).

mod adapt;
mod damping;
mod pairs;
mod runs;
mod starts;
mod teachers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::value::DynValue;
use overmask::base::Base;
use overmask::engine::{Changes, Device, EngineKind, EngineOptions, TokenBatch};
use overmask::mask::Granularity;
use overmask::pack::{NamedMask, Pooling, TaskKind};
use overmask::task::softmax;
use overmask_graph::encoder::{self, Padded};
use overmask_graph::passes::gelu;
use overmask_graph::proto::data_type;
use overmask_graph::{self, GraphBuilder};
use safetensors::SafeTensors;

use super::graph::{self, Distillation, Encoder, Graph, Objective, Precision, Spec, name};
use super::placement as profile;
use super::scores::to_mask;
use super::session::{ForwardSession, Placement, copies, fresh, frozen};
use super::setup::Rates;
use super::step::{Backend, MicroBatch, StepSession, StepSizes};
use super::value::{Feed, f32_value, i64_value};
use crate::autodiff;
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
    fn batch(&self) -> Feed {
        let mut inputs = vec![(name::DROPOUT.to_owned(), f32_value(&[3, 32], vec![1.0; 96]).unwrap())];
        inputs.extend(
            ["input_ids", "attention_mask", "token_type_ids"]
                .map(|n| (n.to_owned(), i64_value(&[3, 9], self.i64(n)).unwrap())),
        );
        inputs.push(threshold());
        inputs
    }

    fn targets(&self) -> (String, DynValue) {
        (name::TARGETS.to_owned(), i64_value(&[3], self.i64("labels")).unwrap())
    }
}

fn base() -> (tempfile::TempDir, Arc<Base>) {
    let dir = tempfile::tempdir().unwrap();
    let base = hf::import(&fixture(), &dir.path().join("base"), &hf::Origin::default()).unwrap().base;
    (dir, Arc::new(base))
}

fn placement() -> Placement {
    Placement { device: Device::Cpu, threads: 1, profile: None }
}

fn threshold() -> (String, DynValue) {
    (name::THRESHOLD.to_owned(), f32_value(&[], vec![0.0]).unwrap())
}

/// Every maskable tensor is masked.
fn spec(base: &Base, granularity: Granularity) -> Spec {
    let masked = base.manifest().maskable.clone();
    let encoder = Encoder::Live { masked, granularity, noisy: false, dense: Vec::new() };
    let (kind, pooling) = (TaskKind::Classify, Pooling::Mean);
    Spec {
        encoder,
        kind,
        pooling,
        labels: 3,
        clip_norm: 1.0,
        damping: 0.0,
        teacher: None,
        cut_prefix: true,
        precision: Precision::F32,
    }
}

/// The sizes of the recorded steps.
fn sizes(step: u64) -> StepSizes {
    Rates { scores: 1e-2, dense: 1e-3, head: 1e-3 }.at(step)
}

/// All ways of steps; on a CPU those of a device do as well, and are the host's twin.
const BACKENDS: [Backend; 3] = [Backend::Host, Backend::Device, Backend::DeviceInParts];

/// A session that begins with recorded values, and its graph.
fn start(
    backend: Backend,
    base: &Arc<Base>,
    spec: &Spec,
    reference: &Reference,
    scores: Option<&str>,
) -> (Graph, StepSession) {
    let graph = backend.graph(base, spec).unwrap();
    let weights = frozen(base, &graph.frozen, &placement()).unwrap();
    let state = fresh(initial(reference, &graph, scores));
    let session = StepSession::new(backend, &graph, spec.optimizer(), state, &weights, &placement()).unwrap();
    (graph, session)
}

/// Runs a step on the recorded batch, whole.
fn step(session: &mut StepSession, reference: &Reference, index: u64) -> (f32, f32) {
    let mut inputs = reference.batch();
    inputs.push(reference.targets());
    let shared = vec![threshold()];
    session.run(vec![MicroBatch { inputs, share: 1.0 }], shared, sizes(index)).unwrap()
}

/// AdamW's first moment of a parameter: after one step that is not clipped, its gradient.
fn moment(session: &StepSession, graph: &Graph, name: &str) -> Vec<f32> {
    let index = graph.trained.iter().position(|parameter| parameter.name == name).unwrap();
    session.state().unwrap().swap_remove(3 * index + 1)
}

/// The recorded start values of a graph's parameters; without scores, those that keep all.
fn initial(reference: &Reference, graph: &Graph, scores: Option<&str>) -> Vec<Vec<f32>> {
    let value = |parameter: &graph::Trained| match (parameter.scores_of(), scores) {
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
        let spec = spec(&base, granularity);
        let (graph, session) = start(Backend::Host, &base, &spec, &reference, scores);
        let weights = frozen(&base, &graph.frozen, &placement()).unwrap();
        let forward = graph::forward(&base, &spec).unwrap();
        let mut forward = ForwardSession::new(&forward, &weights, &placement()).unwrap();
        let ours = forward.logits(|name| session.parameter(name), reference.batch()).unwrap();
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
    let kinds = [(Granularity::Weight, "scores", "", "step3"), (BLOCK, "scores_block", "_block", "step3_block")];
    for ((granularity, scores, suffix, end), backend) in
        kinds.into_iter().flat_map(|kind| BACKENDS.map(|backend| (kind, backend)))
    {
        let (graph, mut session) = start(backend, &base, &spec(&base, granularity), &reference, Some(scores));
        let (losses, norms): (Vec<f32>, Vec<f32>) = (0..3).map(|i| step(&mut session, &reference, i)).unzip();
        assert_close("losses", &losses, &reference.f32(&format!("step_losses{suffix}")), 1e-5);
        assert_close("norms", &norms, &reference.f32(&format!("step_grad_norms{suffix}")), 1e-4);
        assert_ends_at(&session, &graph, end, &reference);
    }
}

/// Every parameter is what PyTorch's is.
#[track_caller]
fn assert_ends_at(session: &StepSession, graph: &Graph, end: &str, reference: &Reference) {
    for parameter in &graph.trained {
        let recorded = match parameter.scores_of() {
            Some(tensor) => format!("{end}/scores/{}", tensor.name),
            None => format!("{end}/{}", parameter.name.replace('/', ".")),
        };
        let ours = session.download(&parameter.name).unwrap();
        assert_close(&recorded, &ours, &reference.f32(&recorded), 1e-4);
    }
}

#[test]
fn a_teachers_features_and_states_count_by_their_weight() {
    let reference = Reference::read();
    let (_dir, base) = base();
    let loss = |(features, states)| {
        let teacher = Some(Distillation { weight: 0.0, temperature: 1.0, features, states });
        let spec = Spec { teacher, ..spec(&base, BLOCK) };
        let (_, mut session) = start(Backend::Host, &base, &spec, &reference, Some("scores_block"));
        let mut inputs = reference.batch();
        inputs.push(reference.targets());
        inputs.push((name::TEACHER.to_owned(), f32_value(&[3, 3], vec![1.0 / 3.0; 9]).unwrap()));
        if features > 0.0 {
            inputs.push((name::TEACHER_FEATURES.to_owned(), f32_value(&[3, 32], vec![0.5; 96]).unwrap()));
        }
        if states > 0.0 {
            // What is far off at the places of padding must not matter.
            let padded = reference.i64("attention_mask").into_iter().map(|real| if real == 1 { 0.5 } else { 1e6 });
            let values = padded.flat_map(|value| [value; 32]).collect();
            inputs.push((name::TEACHER_STATES.to_owned(), f32_value(&[3, 9, 32], values).unwrap()));
        }
        session.run(vec![MicroBatch { inputs, share: 1.0 }], Feed::new(), sizes(0)).unwrap().0
    };
    let none = loss((0.0, 0.0));
    assert_close("labels alone", &[none], &reference.f32("loss_block"), 1e-5);
    for (what, once, twice) in
        [("features", loss((1.0, 0.0)), loss((2.0, 0.0))), ("states", loss((0.0, 1.0)), loss((0.0, 2.0)))]
    {
        assert!(once > none + 1e-2 && once < none + 1e2, "{what}: {once} and {none}");
        assert_close(what, &[twice - none], &[2.0 * (once - none)], 1e-3);
    }
}

#[test]
fn a_step_without_numbers_leaves_the_state_as_it_is() {
    let reference = Reference::read();
    let (_dir, base) = base();
    for (precision, backend) in
        [Precision::F32, Precision::F16].into_iter().flat_map(|precision| BACKENDS.map(|b| (precision, b)))
    {
        let spec = Spec { precision, ..spec(&base, BLOCK) };
        let (_, mut session) = start(backend, &base, &spec, &reference, Some("scores_block"));
        step(&mut session, &reference, 0);
        let before = session.state().unwrap();
        let mut inputs = reference.batch();
        inputs.push(reference.targets());
        inputs[0].1 = f32_value(&[3, 32], vec![f32::INFINITY; 96]).unwrap();
        let (loss, norm) = session.run(vec![MicroBatch { inputs, share: 1.0 }], Feed::new(), sizes(1)).unwrap();
        assert!(!loss.is_finite() || !norm.is_finite());
        assert!(session.state().unwrap() == before, "{precision:?}, {backend:?}");
        // It goes on from there.
        let (loss, norm) = step(&mut session, &reference, 1);
        assert!(loss.is_finite() && norm.is_finite() && session.state().unwrap() != before);
    }
}

/// Loss, gradient norm and the straight-through gradients of the scores.
#[test]
fn gradients_of_scores_agree_with_pytorch() {
    let reference = Reference::read();
    let (_dir, base) = base();
    let kinds = [(Granularity::Weight, "scores", "loss", "_weight"), (BLOCK, "scores_block", "loss_block", "_block")];
    for ((granularity, scores, loss, suffix), backend) in
        kinds.into_iter().flat_map(|kind| BACKENDS.map(|backend| (kind, backend)))
    {
        let spec = Spec { clip_norm: 1e9, ..spec(&base, granularity) };
        let (graph, mut session) = start(backend, &base, &spec, &reference, Some(scores));
        let ours = step(&mut session, &reference, 0);
        assert_close(loss, &[ours.0], &reference.f32(loss), 1e-5);
        assert_close("norm", &[ours.1], &reference.f32(&format!("grad_norm{suffix}")), 1e-5);
        for parameter in &graph.trained {
            let name = match parameter.scores_of() {
                Some(tensor) => tensor.name.clone(),
                None => parameter.name.replace('/', "."),
            };
            let recorded = format!("grad_scores{suffix}/{name}");
            assert_close(&recorded, &moment(&session, &graph, &parameter.name), &reference.f32(&recorded), 2e-5);
        }
    }
}

/// A batch in two parts of two texts and one, whose gradients are added up.
#[test]
fn a_batch_in_parts_agrees_with_pytorch() {
    let reference = Reference::read();
    let (_dir, base) = base();
    let spec = spec(&base, Granularity::Weight);
    let part = |texts: std::ops::Range<usize>| {
        let count = texts.len();
        let (tokens, rows) = (9 * texts.start..9 * texts.end, texts.clone());
        let ids = |n: &str| (n.to_owned(), i64_value(&[count, 9], reference.i64(n)[tokens.clone()].to_vec()).unwrap());
        let mut inputs = vec![(name::DROPOUT.to_owned(), f32_value(&[count, 32], vec![1.0; 32 * count]).unwrap())];
        inputs.extend(["input_ids", "attention_mask", "token_type_ids"].map(ids));
        let targets = i64_value(&[count], reference.i64("labels")[rows].to_vec()).unwrap();
        inputs.push((name::TARGETS.to_owned(), targets));
        MicroBatch { inputs, share: count as f32 / 3.0 }
    };
    for backend in [Backend::Host, Backend::DeviceInParts] {
        let (graph, mut session) = start(backend, &base, &spec, &reference, Some("scores"));
        let mut run = |index| {
            let parts = vec![part(0..2), part(2..3)];
            session.run(parts, vec![threshold()], sizes(index)).unwrap()
        };
        let (losses, norms): (Vec<f32>, Vec<f32>) = (0..3).map(&mut run).unzip();
        assert_close("losses", &losses, &reference.f32("step_losses"), 1e-5);
        assert_close("norms", &norms, &reference.f32("step_grad_norms"), 1e-4);
        assert_ends_at(&session, &graph, "step3", &reference);
    }
}

/// What a GPU gets of the base is what the memory map has.
#[test]
fn copies_of_weights_are_what_they_are_of() {
    let (_dir, base) = base();
    let step = graph::step(&base, &spec(&base, BLOCK)).unwrap();
    let mapped = frozen(&base, &step.frozen, &placement()).unwrap();
    let dims = step.frozen.iter().map(|name| (name.clone(), base.tensor_f32(name).unwrap().0.to_vec())).collect();
    let copied = copies(&mapped, &dims, &placement()).unwrap();
    assert_eq!(copied.len(), step.frozen.len());
    for (name, copy) in &copied {
        assert_eq!(copy.download().unwrap(), base.tensor_f32(name).unwrap().1, "{name}");
    }
}

/// In f16 the same to three digits; and every matrix product is one of 16 bits.
#[test]
fn gradients_in_f16_are_near_those_of_pytorch() {
    let reference = Reference::read();
    let (_dir, base) = base();
    for (granularity, backend) in
        [Granularity::Weight, BLOCK].into_iter().flat_map(|g| BACKENDS.map(|backend| (g, backend)))
    {
        let suffix = if granularity == BLOCK { "_block" } else { "_weight" };
        let scores = if granularity == BLOCK { "scores_block" } else { "scores" };
        let spec = Spec { clip_norm: 1e9, precision: Precision::F16, ..spec(&base, granularity) };
        let (graph, mut session) = start(backend, &base, &spec, &reference, Some(scores));
        let (_, norm) = step(&mut session, &reference, 0);
        let theirs = reference.f32(&format!("grad_norm{suffix}"));
        assert_close("norm", &[norm], &theirs, 5e-3);
        assert!((norm - theirs[0]).abs() > 1e-6 * norm, "nothing was rounded to f16");
        for parameter in &graph.trained {
            let name = parameter.scores_of().map_or_else(|| parameter.name.replace('/', "."), |t| t.name.clone());
            let recorded = format!("grad_scores{suffix}/{name}");
            assert_close(&recorded, &moment(&session, &graph, &parameter.name), &reference.f32(&recorded), 1e-2);
        }
    }
}

/// What devices run: without a mask, and with the masks that the scores stand for.
#[test]
fn the_engines_agree_with_pytorch() {
    let reference = Reference::read();
    let (_dir, base) = base();
    let [ids, mask, segments] = encoder::INPUTS.map(|n| reference.i64(n));
    assert!(segments.contains(&1), "one of the recorded texts is a pair");
    let mut tokens = TokenBatch::new(0);
    for row in 0..3 {
        let length = mask[9 * row..][..9].iter().filter(|m| **m == 1).count();
        let of_row = |values: &[i64]| values[9 * row..][..length].iter().map(|v| *v as u32).collect::<Vec<u32>>();
        tokens.push(&of_row(&ids), &of_row(&segments));
    }
    let masks = |granularity, scores: &str| -> Vec<NamedMask> {
        let tensors = base.manifest().maskable.iter();
        tensors
            .map(|tensor| {
                let scores = reference.f32(&format!("{scores}/{}", tensor.name));
                NamedMask { tensor: tensor.name.clone(), mask: to_mask(tensor, &scores, granularity, 0.0).unwrap() }
            })
            .collect()
    };
    for kind in ["native", "ort", "tract"] {
        let kind: EngineKind = kind.parse().unwrap();
        let engine = overmask_cli::start(kind, &base, &EngineOptions::default().threads(1)).unwrap();
        for (masks, recorded) in [
            (Vec::new(), "last_hidden_state"),
            (masks(Granularity::Weight, "scores"), "last_hidden_state_weight"),
            (masks(BLOCK, "scores_block"), "last_hidden_state_block"),
        ] {
            let task = engine.add(Changes::masks_alone(&masks)).unwrap();
            let ours = engine.encode(task, &tokens).unwrap();
            let theirs = Padded::without_padding(&tokens, 9, 32, reference.f32(recorded));
            assert_close(&format!("{kind}: {recorded}"), ours.data(), &theirs, 1e-5);
        }
    }
}

#[test]
fn each_gelu_loses_its_two_passes() {
    let (_dir, base) = base();
    let mut graph = overmask_graph::read_model(&base.model_path()).unwrap().graph.unwrap();
    let count =
        |graph: &overmask_graph::proto::GraphProto, op: &str| graph.node.iter().filter(|n| n.op_type == op).count();
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
    let spec = spec(&base, BLOCK);
    let graph = graph::step(&base, &spec).unwrap();
    let weights = frozen(&base, &graph.frozen, &placement()).unwrap();
    let state = fresh(initial(&reference, &graph, Some("scores_block")));
    let placement = Placement { profile: Some(dir.path().join("step")), ..placement() };
    let mut session = StepSession::new(Backend::Device, &graph, spec.optimizer(), state, &weights, &placement).unwrap();
    step(&mut session, &reference, 0);
    let text = std::fs::read(&session.end_profiling().unwrap()[0]).unwrap();
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
    let forward = graph::forward(&base, &spec(&base, Granularity::Weight)).unwrap();
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
    let wanted: Vec<String> =
        forward.frozen.iter().cloned().chain([name::HEAD_WEIGHT.into(), name::HEAD_BIAS.into()]).collect();
    let gradients = autodiff::differentiate(&mut b, &loss, &wanted).unwrap();
    for (value, gradient) in wanted.iter().zip(&gradients) {
        b.node("Identity", &[gradient], &[&format!("gradient/{value}")], &[]);
        let head = forward.trained.iter().find(|t| t.name == *value).map(|t| t.dims.as_slice());
        let dims = head.unwrap_or_else(|| base.tensor_f32(value).unwrap().0);
        graph::declare(dims, |dims| b.output(&format!("gradient/{value}"), data_type::FLOAT, dims));
    }
    let environment = overmask_ort::environment().unwrap();
    let mut session = ort::session::Session::builder(environment)
        .unwrap()
        .commit_from_memory(&overmask_graph::encode(&b.finish()))
        .unwrap();
    let mut inputs: Vec<(String, DynValue)> = reference.batch().into_iter().chain([reference.targets()]).collect();
    for parameter in &forward.trained {
        // Scores above zero keep every weight.
        let values = match parameter.scores_of() {
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
fn a_tensor_that_does_not_divide_is_an_error() {
    let (_dir, base) = base();
    let error = graph::step(&base, &spec(&base, Granularity::Block { rows: 7, cols: 1 })).unwrap_err();
    assert!(error.to_string().contains("block:7x1"), "{error}");
}
