//! What an odd `model.onnx` may hold.

use overmask_graph::proto::{GraphProto, ValueInfoProto};

use super::*;

/// A graph with every operator that shapes or gradients are followed through.
fn every_operator() -> (GraphBuilder, String) {
    let mut b = GraphBuilder::new("g");
    b.input("x", data_type::FLOAT, &["n", "4"]);
    b.input("ids", data_type::INT64, &["n"]);
    b.input("w", data_type::FLOAT, &["9", "4"]);
    b.input("table", data_type::FLOAT, &["9", "4"]);
    let mut y = "x".to_owned();
    for op in ["Neg", "Exp", "Log", "Sqrt", "Erf", "Tanh", "Relu", "Sigmoid", "Identity"] {
        y = b.op(op, &[&y], &[]);
    }
    let row = b.floats(&[1.0, 2.0, 3.0, 4.0]);
    for op in ["Add", "Sub", "Mul", "Div"] {
        y = b.op(op, &[&y, &row], &[]);
    }
    let on = b.op("Greater", &[&y, &row], &[]);
    y = b.op("Where", &[&on, &y, "x"], &[]);
    let looked_up = b.op("Gather", &["table", "ids"], &[("axis", 0i64.into())]);
    y = b.op("Add", &[&y, &looked_up], &[]);
    let (four, two, zero, one) = (b.shape(&[4]), b.floats(&[0.0, 1.0]), b.shape(&[0]), b.shape(&[1]));
    let one_hot = b.op("OneHot", &["ids", &four, &two], &[]);
    y = b.op("Mul", &[&y, &one_hot], &[]);
    y = b.op("LayerNormalization", &[&y, &row, &row], &[("axis", (-1i64).into())]);
    y = b.op("Gemm", &[&y, "w"], &[("transB", 1i64.into()), ("transA", 0i64.into())]);
    y = b.op("Softmax", &[&y], &[("axis", (-1i64).into())]);
    y = b.op("LogSoftmax", &[&y], &[("axis", (-1i64).into())]);
    y = b.op("MatMul", &[&y, "w"], &[]);
    let shape = b.op("Shape", &["ids"], &[]);
    let rows = b.op("Slice", &[&shape, &zero, &one, &zero], &[]);
    let shape = b.op("Concat", &[&rows, &four], &[("axis", 0i64.into())]);
    y = b.op("Reshape", &[&y, &shape], &[]);
    y = b.op("Expand", &[&y, &shape], &[]);
    let part = b.op("Slice", &["table", &zero, &rows, &zero], &[]);
    y = b.op("Add", &[&y, &part], &[]);
    y = b.op("Unsqueeze", &[&y, &one], &[]);
    y = b.op("Transpose", &[&y], &[("perm", vec![1, 0, 2].into())]);
    y = b.op("Squeeze", &[&y, &zero], &[]);
    y = b.op("Flatten", &[&y], &[("axis", 1i64.into())]);
    let pads = b.shape(&[0, 1, 0, 0]);
    y = b.op("Pad", &[&y, &pads], &[]);
    y = b.op("Unsqueeze", &[&y, &one], &[]);
    let (kernel, kernel_shape) = (b.floats(&[1.0, 2.0]), b.shape(&[1, 1, 2]));
    let kernel = b.op("Reshape", &[&kernel, &kernel_shape], &[]);
    y = b.op("Conv", &[&y, &kernel], &[("dilations", vec![1].into()), ("pads", vec![0, 0].into())]);
    y = b.op("Squeeze", &[&y, &one], &[]);
    let twice = b.shape(&[1, 2]);
    y = b.op("Tile", &[&y, &twice], &[]);
    let places = b.ints(&[1, 2], &[0, 3]);
    y = b.op("GatherElements", &[&y, &places], &[("axis", 1i64.into())]);
    let pick = b.ints(&[3, 1], &[0, 0, 0]);
    let picked = b.op("GatherND", &["table", &pick], &[("batch_dims", 0i64.into())]);
    let picked = b.op("ReduceSum", &[&picked], &[("keepdims", 0i64.into())]);
    y = b.op("Mul", &[&y, &picked], &[]);
    y = b.op("Cast", &[&y], &[("to", 1i64.into())]);
    y = b.op("ReduceSum", &[&y, &one], &[("keepdims", 1i64.into())]);
    let loss = b.op("ReduceMean", &[&y], &[("axes", vec![0, 1].into()), ("keepdims", 0i64.into())]);
    (b, loss)
}

/// What an odd `model.onnx` may hold: it is an error or a graph of its own, never a panic.
#[test]
fn broken_graphs_never_panic() {
    let (b, loss) = every_operator();
    let whole = b.graph().clone();
    let refused = std::cell::Cell::new(0);
    let attempt = |change: &dyn Fn(&mut GraphProto)| {
        let mut graph = whole.clone();
        change(&mut graph);
        let outcome = differentiate(&mut GraphBuilder::extend(graph), &loss, &["x".to_owned(), "w".to_owned()]);
        refused.set(refused.get() + usize::from(outcome.is_err()));
        outcome
    };
    attempt(&|_| ()).unwrap();
    let lists: [&[i64]; 7] = [&[], &[0, 0], &[9], &[-9], &[-1, -1], &[i64::MIN], &[i64::MAX, 2]];
    for (i, node) in whole.node.iter().enumerate() {
        for inputs in 0..node.input.len() {
            let _ = attempt(&|g| g.node[i].input.truncate(inputs));
            let _ = attempt(&|g| g.node[i].input[inputs].clear());
        }
        let _ = attempt(&|g| g.node[i].output.clear());
        assert!(attempt(&|g| g.node[i].input.clear()).is_err() || node.op_type == "Concat", "{}", node.op_type);
        for a in 0..node.attribute.len() {
            for list in lists {
                let _ = attempt(&|g| g.node[i].attribute[a].ints = list.to_vec());
                let _ = attempt(&|g| g.node[i].attribute[a].i = list.first().copied().unwrap_or(1));
            }
            let error = attempt(&|g| g.node[i].attribute[a].g = Some(Vec::new())).unwrap_err();
            assert!(error.to_string().contains("a graph of its own"), "{error}");
        }
    }
    for list in lists {
        for i in 0..whole.input.len() {
            let _ = attempt(&|g| g.input[i] = ValueInfoProto::fixed(&whole.input[i].name, data_type::FLOAT, list));
        }
        for i in 0..whole.initializer.len() {
            let _ = attempt(&|g| g.initializer[i].dims = list.to_vec());
            let _ = attempt(&|g| g.initializer[i].raw_data = list.iter().flat_map(|n| n.to_le_bytes()).collect());
        }
    }
    assert!(refused.get() > 200, "only {} were refused", refused.get());
}
