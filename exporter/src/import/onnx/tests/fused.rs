//! Operators of ONNX Runtime's optimizer compute the same when they were taken apart.

use overmask_graph::proto::{AttributeProto, OperatorSetIdProto};

use super::*;

/// Values between -1 and 1 under a name.
fn tensor(name: &str, dims: &[i64]) -> TensorProto {
    let count: i64 = dims.iter().product();
    let seed = name.bytes().map(u64::from).sum();
    let values: Vec<f32> = rng::uniform(seed, 0, 0, count as usize).into_iter().map(|u| 2.0 * u - 1.0).collect();
    TensorProto::floats(name, dims, &values)
}

/// What one operator of ONNX Runtime's own gives, and what is put in its place.
///
/// It reads constants of these shapes, called a, b and so on, or nothing where a shape is empty, and `ids` and `mask`.
fn both(op: &str, shapes: &[&[i64]], attributes: &[(&str, AttributeProto)], outputs: usize) -> [Vec<f32>; 2] {
    let mut b = GraphBuilder::new("fused");
    for name in ["ids", "mask"] {
        b.input(name, data_type::INT32, &["batch", "sequence"]);
    }
    // All inputs are used, whatever the operator reads.
    let mut inputs = Vec::new();
    for (name, shape) in ["a", "b", "c", "d", "e", "f", "g", "h", "i"].into_iter().zip(shapes) {
        match **shape {
            [] => inputs.push(String::new()),
            [-1] => inputs.push("ids".to_owned()),
            [-2] => inputs.push("mask".to_owned()),
            [..] => {
                b.tensor(tensor(name, shape));
                inputs.push(name.to_owned());
            }
        }
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut names = vec![""; outputs];
    (names[0], names[outputs - 1]) = ("first", if outputs > 1 { "last" } else { "first" });
    b.node(op, &inputs, &names, attributes);
    b.nodes_mut()[0].domain = "com.microsoft".to_owned();
    b.output("first", data_type::FLOAT, &[]);
    let mut model = b.finish();
    let set = OperatorSetIdProto { domain: "com.microsoft".to_owned(), version: 1 };
    model.opset_import.push(set);
    graph_mut(&mut model).output.iter_mut().for_each(|output| output.r#type = None);
    let fused = run(&model);
    let graph = graph_mut(&mut model);
    assert_eq!(super::super::fused::take_apart(graph).unwrap_or_else(|e| panic!("{op}: {}", e.reason)), 1);
    assert!(graph.node.iter().all(|node| node.domain.is_empty()));
    *graph =
        opset::convert(std::mem::take(graph), overmask_graph::OPSET).unwrap_or_else(|e| panic!("{op}: {}", e.reason));
    [fused, run(&model)]
}

fn graph_mut(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

fn run(model: &ModelProto) -> Vec<f32> {
    let environment = overmask_ort::environment().unwrap();
    let mut session = Session::builder(environment).unwrap().commit_from_memory(&encode(model)).unwrap();
    let ids = [[3, 1, 4, 1], [5, 2, 0, 0]].concat();
    let mask = [[1, 1, 1, 1], [1, 1, 0, 0]].concat();
    let feed: Vec<(String, DynValue)> = [("ids", ids), ("mask", mask)]
        .map(|(name, values): (&str, Vec<i32>)| {
            (name.to_owned(), Tensor::from_array(([2, 4], values)).unwrap().into_dyn())
        })
        .into();
    // What nothing reads is gone.
    let read: Vec<String> = session.inputs().iter().map(|input| input.name().to_owned()).collect();
    let feed: Vec<_> = feed.into_iter().filter(|(name, _)| read.contains(name)).collect();
    session.run(feed).unwrap()["first"].try_extract_tensor::<f32>().unwrap().1.to_vec()
}

#[test]
fn each_operator_computes_the_same_when_it_was_taken_apart() {
    type Case<'a> = (&'a str, &'a [&'a [i64]], &'a [(&'a str, AttributeProto)], usize);
    let x: &[i64] = &[2, 4, 6];
    let heads = || ("num_heads", AttributeProto::from(2i64));
    let norm = || ("epsilon", AttributeProto::from(1e-3f32));
    let filter = || ("mask_filter_value", AttributeProto::from(-3e4f32));
    let sizes = || ("qkv_hidden_sizes", AttributeProto::from(vec![8i64, 8, 4]));
    let cases: &[Case<'_>] = &[
        ("Gelu", &[x], &[], 1),
        ("BiasGelu", &[x, &[6]], &[], 1),
        ("FastGelu", &[x], &[], 1),
        ("FastGelu", &[x, &[6]], &[], 1),
        ("QuickGelu", &[x], &[], 1),
        ("QuickGelu", &[x], &[("alpha", 1.0f32.into())], 1),
        ("FusedMatMul", &[x, &[6, 3]], &[("alpha", 0.5f32.into())], 1),
        ("FusedMatMul", &[x, &[3, 6]], &[("transB", 1i64.into())], 1),
        ("SkipLayerNormalization", &[x, x, &[6]], &[norm()], 1),
        ("SkipLayerNormalization", &[x, x, &[6], &[6], &[6]], &[norm()], 4),
        ("EmbedLayerNormalization", &[&[-1], &[], &[9, 6], &[5, 6], &[], &[6], &[6]], &[norm()], 2),
        ("EmbedLayerNormalization", &[&[-1], &[-2], &[9, 6], &[5, 6], &[2, 6], &[6], &[6], &[-2]], &[norm()], 3),
        ("EmbedLayerNormalization", &[&[-1], &[], &[9, 6], &[9, 6], &[], &[6], &[6], &[], &[-1]], &[norm()], 2),
        ("Attention", &[x, &[6, 18], &[18]], &[heads()], 1),
        ("Attention", &[x, &[6, 18], &[18], &[-2]], &[heads(), filter()], 1),
        ("Attention", &[x, &[6, 18], &[18], &[-2]], &[heads(), ("scale", 0.3f32.into())], 1),
        ("Attention", &[x, &[6, 20], &[20], &[-2]], &[heads(), sizes()], 1),
    ];
    for (op, shapes, attributes, outputs) in cases {
        let [fused, apart] = both(op, shapes, attributes, *outputs);
        assert!(fused.iter().any(|value| value.abs() > 0.1), "{op}");
        let difference = difference(&fused, &apart);
        assert!(difference <= 2e-5, "{op} {shapes:?}: {difference}");
    }
}

#[test]
fn graphs_in_half_precision_become_f32_bases() {
    let batch = batch();
    let (_dir, Imported { base, widened, fused, untrainable, .. }) = imported(&export("bert-fused-f16.onnx"));
    assert!(widened.halves > 0 && fused > 0 && untrainable.is_none());
    let states = hidden(&Arc::new(base), "ort", &[], &batch);
    assert!(difference(&states, &original(&export("bert-torchscript.onnx"), &batch)) < 2e-2);
}

/// With the `config.json` that belongs to it, a graph that was optimised becomes what its checkpoint does.
#[test]
fn optimised_graphs_of_known_families_are_recognised() {
    for (name, config) in [("bert-fused.onnx", "bert"), ("distilbert-fused.onnx", "distilbert")] {
        let dir = tempfile::tempdir().unwrap();
        let config = Some(fixtures().join("alike").join(config).join("config.json"));
        let imported = import(&export(name), &dir.path().join("base"), &Options { config, ..options() }).unwrap();
        assert_eq!(imported.recognised, Ok("bert"), "{name}");
        let batch = batch();
        let states = hidden(&Arc::new(imported.base), "native", &[], &batch);
        assert!(difference(&states, &original(&export(name), &batch)) <= 1e-5, "{name}");
    }
}

#[test]
fn operators_that_are_used_otherwise_are_refused() {
    type Change = fn(&mut NodeProto);
    /// Sizes whose sum is 48 in integers that wrap around.
    fn wrap(node: &mut NodeProto) {
        let sizes = vec![(1i64 << 62) + 32, (1 << 62) + 32, i64::MAX - 15];
        node.attribute.push(AttributeProto { name: "qkv_hidden_sizes".into(), ..sizes.into() });
    }
    let cases: [(&str, Change, &str); 11] = [
        (
            "Attention",
            |n| n.attribute.push(AttributeProto { name: "unidirectional".into(), ..1i64.into() }),
            "is causal",
        ),
        ("Attention", |n| n.output.push("past".into()), "remembers texts before"),
        ("Attention", |n| n.attribute.retain(|a| a.name != "num_heads"), "has 0 heads"),
        ("Attention", |n| n.input[1] = "EmbedLayerNormalization_0_output".into(), "its weights are no constants"),
        (
            "Attention",
            |n| n.input[3] = "EmbedLayerNormalization_0_output".into(),
            "more than the model's mask of tokens",
        ),
        ("Attention", |n| n.input[3] = "input_ids_int32".into(), "more than the model's mask of tokens"),
        (
            "Attention",
            |n| n.input[2] = "encoder.layer.0.attention.output.dense.bias".into(),
            "has 2 heads and a weight",
        ),
        ("Attention", wrap, "has 2 heads and a weight"),
        ("EmbedLayerNormalization", |n| n.input[7].clear(), "more than the model's mask of tokens"),
        ("SkipLayerNormalization", |n| n.output.push("mean".into()), "gives its mean"),
        ("BiasGelu", |n| n.op_type = "GroupNorm".into(), "is an operator of `com.microsoft`"),
    ];
    for (op, change, said) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.onnx");
        let mut model = overmask_graph::read_model(&export("bert-fused.onnx")).unwrap();
        change(graph_mut(&mut model).node.iter_mut().find(|node| node.op_type == op).unwrap());
        fs::write(&path, encode(&model)).unwrap();
        let error = import(&path, &dir.path().join("base"), &options()).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("without optimisation"), "{said}: {error}");
    }
}
