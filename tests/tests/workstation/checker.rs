//! The graphs that we build, before the ONNX checker (the Python package `onnx`), which knows
//! every operator's types and shapes.

use std::path::Path;
use std::process::Command;

use overmask::mask::Granularity;
use overmask::pack::{Pack, Pooling, TaskKind};
use overmask_exporter::export::{Extent, export};
use overmask_exporter::train::graph::{self, Adaptation, Distillation, Encoder, Objective, Precision, Spec};
use overmask_graph::{encode, proto::ModelProto};
use overmask_tests::{Recipe, asset, base, base_dir};

const CHECK: &str = "import onnx, sys; onnx.checker.check_model(sys.argv[1], full_check=True)";

/// What the checker says against a model in a file, if anything.
fn complaint(model: &Path) -> Option<String> {
    // `cargo xtask test` puts the package there.
    let mut check = Command::new("python3");
    check.args(["-c", CHECK]).arg(model).env("PYTHONPATH", asset("onnx-checker"));
    let output = check.output().expect("python3");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn complaint_of(model: &ModelProto) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    std::fs::write(&path, encode(model)).unwrap();
    complaint(&path)
}

#[test]
fn the_base_passes() {
    assert_eq!(complaint(&base_dir().join("model.onnx")), None);
}

/// A step for one text with one label of six, whose encoder does not train.
fn spec() -> Spec {
    let (encoder, kind, pooling) = (Encoder::Frozen, TaskKind::Classify, Pooling::Mean);
    Spec {
        encoder,
        kind,
        pooling,
        labels: 6,
        clip_norm: 1.0,
        damping: 1.0,
        teacher: None,
        cut_prefix: true,
        precision: Precision::F32,
    }
}

#[test]
fn every_training_graph_passes() {
    let base = base();
    let masked = |granularity, from: usize, noisy| {
        let masked = base.manifest().maskable.iter().filter(|t| t.layer >= from).cloned().collect();
        Encoder::Live { masked, granularity, noisy, dense: Vec::new() }
    };
    let model = overmask_graph::read_model(&base.model_path()).unwrap();
    let external = model.graph.unwrap().initializer.into_iter().filter(|t| !t.external_data.is_empty());
    let dense = external.map(|t| t.name).collect();
    let granularity = Granularity::Weight;
    let full = Encoder::Live { masked: Vec::new(), granularity, noisy: false, dense };
    let block = Granularity::Block { rows: 32, cols: 1 };
    let teacher = Some(Distillation { weight: 0.5, temperature: 2.0, features: 0.1, states: 0.1 });
    let tag = Spec { kind: TaskKind::Tag, pooling: Pooling::First, ..spec() };
    for spec in [
        spec(),
        Spec { encoder: masked(Granularity::Weight, 0, false), ..spec() },
        Spec { encoder: masked(block, 0, false), pooling: Pooling::Cls, ..spec() },
        Spec { encoder: masked(block, 4, true), teacher, ..spec() },
        Spec { encoder: masked(Granularity::TwoOfFour, 5, false), kind: TaskKind::Multilabel, teacher, ..spec() },
        Spec { encoder: masked(block, 5, false), teacher, ..tag.clone() },
        Spec { encoder: full.clone(), ..tag },
        Spec { encoder: full.clone(), precision: Precision::F16, ..spec() },
        Spec { encoder: masked(block, 0, false), precision: Precision::Bf16, ..spec() },
        Spec { encoder: full, kind: TaskKind::Regress, labels: 1, teacher, ..spec() },
    ] {
        let graphs = [graph::step, graph::gradients, graph::sums].map(|build| build(&base, &spec).unwrap());
        assert_eq!(complaint_of(&graph::update(&graphs[0].trained, spec.optimizer())), None);
        for graph in graphs.into_iter().chain([graph::forward(&base, &spec).unwrap()]) {
            if let Some(prefix) = &graph.prefix {
                assert_eq!(complaint_of(&prefix.model), None);
            }
            assert_eq!(complaint_of(&graph.model), None, "{:?} {:?} {:?}", spec.kind, spec.pooling, spec.teacher);
        }
    }
}

#[test]
fn every_graph_that_prepares_a_base_passes() {
    let base = base();
    assert_eq!(complaint_of(&graph::states(&base).unwrap().model), None);
    for granularity in [Granularity::Block { rows: 32, cols: 1 }, Granularity::Weight, Granularity::TwoOfFour] {
        let masked = base.manifest().maskable.clone();
        let adaptation = Adaptation { masked, granularity, dense: Vec::new(), clip_norm: 1.0 };
        assert_eq!(complaint_of(&adaptation.distance(&base).unwrap().model), None);
        for build in [graph::step, graph::gradients] {
            assert_eq!(complaint_of(&build(&base, &adaptation).unwrap().model), None, "{granularity}");
        }
    }
}

#[test]
fn the_checker_does_check() {
    let mut model = graph::forward(&base(), &spec()).unwrap().model;
    model.graph.as_mut().unwrap().node[0].op_type = "Multiply".to_owned();
    let complaint = complaint_of(&model).unwrap();
    assert!(complaint.contains("Multiply"), "{complaint}");
}

#[test]
fn exported_models_pass() {
    let base = base();
    let dir = tempfile::tempdir().unwrap();
    for (name, pooling, kind) in [
        ("mean", Pooling::Mean, TaskKind::Classify),
        ("cls", Pooling::Cls, TaskKind::Multilabel),
        ("first", Pooling::First, TaskKind::Tag),
    ] {
        let Pack { mut document, masks, head, .. } = Recipe::default().pack(&base);
        (document.text.pooling, document.kind) = (pooling, kind);
        let pack = Pack::new(document, masks, head, Vec::new()).unwrap();
        for (extent, end) in [(Extent::Whole, ""), (Extent::Encoder, "-encoder")] {
            let out = dir.path().join(format!("{name}{end}"));
            export(&base, &pack, &out, extent).unwrap();
            assert_eq!(complaint(&out.join("model.onnx")), None, "{name}{end}");
        }
    }
}
