//! The graphs that we build, before the ONNX checker (the Python package `onnx`), which knows
//! every operator's types and shapes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Command;

use overmask::mask::Granularity;
use overmask::onnx::{encode, proto::ModelProto};
use overmask::pack::Pooling;
use overmask_exporter::train::graph::{self, Encoder, Spec};
use overmask_tests::{asset, base, base_dir};

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

#[test]
fn every_training_graph_passes() {
    let masked = |granularity, from_layer| Encoder::Masked { granularity, from_layer };
    let block = Granularity::Block { rows: 32, cols: 1 };
    for (encoder, pooling) in [
        (Encoder::Frozen, Pooling::Mean),
        (masked(Granularity::Weight, 0), Pooling::Mean),
        (masked(block, 0), Pooling::Cls),
        (masked(block, 4), Pooling::Mean),
    ] {
        let spec = Spec { encoder, pooling, classes: 6, clip_norm: 1.0 };
        for graph in [graph::step(&base(), &spec).unwrap(), graph::forward(&base(), &spec).unwrap()] {
            assert_eq!(complaint_of(&graph.model), None, "{spec:?}");
        }
    }
}

#[test]
fn the_checker_does_check() {
    let spec = Spec { encoder: Encoder::Frozen, pooling: Pooling::Mean, classes: 6, clip_norm: 1.0 };
    let mut model = graph::forward(&base(), &spec).unwrap().model;
    model.graph.as_mut().unwrap().node[0].op_type = "Multiply".to_owned();
    let complaint = complaint_of(&model).unwrap();
    assert!(complaint.contains("Multiply"), "{complaint}");
}
