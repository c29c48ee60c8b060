//! Brings a graph to the operator set that the rest of the program uses, [`OPSET`].
//!
//! Most operators mean the same in all versions from 11 on. Those that do not are rewritten: axes
//! moved from attributes to inputs in version 13 (`Squeeze`, `Unsqueeze`, `ReduceSum`, `Split`) and 18
//! (the other reductions), `Softmax` changed in 13, and newer operators are taken apart. The
//! source is ONNX's own changelog of operators.

use std::collections::HashMap;

use overmask_graph::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, data_type};
use overmask_graph::{GraphBuilder, OPSET};

use super::{Problem, attention};
use crate::autodiff::shape::Shapes;

/// The versions that are read.
const VERSIONS: std::ops::RangeInclusive<i64> = 11..=23;

/// More axes than any value has.
const MOST_AXES: usize = 64;

/// Operators that came after [`OPSET`], or after it got inputs that it has no place for.
const NEWER: [&str; 10] = [
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "Col2Im",
    "GroupNormalization",
    "Mish",
    "RMSNormalization",
    "Swish",
    "TensorScatter",
];

/// Rewrites the graph of operator set `version` for [`OPSET`].
pub(super) fn convert(graph: GraphProto, version: i64) -> Result<GraphProto, Problem> {
    if !VERSIONS.contains(&version) {
        let reason = format!("is {version}; export with one from {} to {}", VERSIONS.start(), VERSIONS.end());
        return Err(Problem::new("field `opset_import`", reason));
    }
    let is_list = |t: &&TensorProto| t.data_type == data_type::INT64 && t.raw_data.len() <= 8 * MOST_AXES;
    let ints = graph.initializer.iter().filter(is_list).map(|t| {
        let values = t.raw_data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b));
        (t.name.clone(), values.collect())
    });
    let ints = ints.collect();
    let truths = attention::truths(&graph);
    let mut b = GraphBuilder::extend(graph);
    for node in b.take_nodes() {
        match node.op_type.as_str() {
            "Attention" => attention::take_apart(&mut b, &truths, &node)?,
            "RotaryEmbedding" => attention::rotate(&mut b, &node)?,
            _ => convert_node(&mut b, &ints, node, version)?,
        }
    }
    let graph = super::graph_of(b);
    if version < 13 {
        check_softmax(&graph)?;
    }
    Ok(graph)
}

/// Constants that may be lists of axes, by name.
type Ints = HashMap<String, Vec<i64>>;

fn convert_node(b: &mut GraphBuilder, ints: &Ints, mut node: NodeProto, version: i64) -> Result<(), Problem> {
    match node.op_type.as_str() {
        "Squeeze" | "Unsqueeze" | "ReduceSum" if version < 13 => to_input(b, &mut node, "axes"),
        "Split" if version < 13 => to_input(b, &mut node, "split"),
        // Without it the parts are equal, as before.
        "Split" => drop_attribute(&mut node, "num_outputs"),
        "Softmax" | "LogSoftmax" if version < 13 && node.attribute("axis").is_none() => {
            node.attribute.push(AttributeProto { name: "axis".to_owned(), ..1i64.into() });
        }
        "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2" | "ReduceLogSum"
        | "ReduceLogSumExp" | "ReduceSumSquare"
            if version >= 18 =>
        {
            reduction(ints, &mut node)?;
        }
        "Cast" if version >= 19 => drop_attribute(&mut node, "saturate"),
        "Pad" if version >= 18 && node.input.get(3).is_some_and(|i| !i.is_empty()) => {
            return Err(Problem::node(&node, "pads some axes, which needs operator set 18; export with 17"));
        }
        // Of an older set it is what stands for one of ONNX Runtime's own.
        "Gelu" => return gelu(b, &node),
        op if version > OPSET && NEWER.contains(&op) => {
            return Err(Problem::node(&node, format!("is newer than operator set {OPSET}; export with {OPSET}")));
        }
        _ => {}
    }
    b.append(vec![node]);
    Ok(())
}

fn drop_attribute(node: &mut NodeProto, name: &str) {
    node.attribute.retain(|a| a.name != name);
}

/// Makes the second input of a list that is an attribute.
fn to_input(b: &mut GraphBuilder, node: &mut NodeProto, name: &str) {
    if let Some(list) = node.attribute(name).map(|a| a.ints.clone()) {
        drop_attribute(node, name);
        node.input.truncate(1);
        node.input.push(b.shape(&list));
    }
}

/// Makes an attribute of the axes of a reduction.
fn reduction(ints: &Ints, node: &mut NodeProto) -> Result<(), Problem> {
    let nothing = node.int("noop_with_empty_axes", 0) != 0;
    drop_attribute(node, "noop_with_empty_axes");
    let axes: Vec<i64> = match node.input.get(1).filter(|a| !a.is_empty()) {
        None => Vec::new(),
        Some(axes) => ints
            .get(axes)
            .cloned()
            .ok_or_else(|| Problem::node(node, "its axes are not constant, or more than any value has"))?,
    };
    node.input.truncate(1);
    // A list that is empty is as good as none.
    if axes.is_empty() {
        return if nothing { Err(Problem::node(node, "reduces no axis; export without it")) } else { Ok(()) };
    }
    node.attribute.push(AttributeProto { name: "axes".to_owned(), ..axes.into() });
    Ok(())
}

/// x · ½ · (1 + erf(x/√2)), or its approximation x · ½ · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))
/// (Hendrycks & Gimpel 2016).
fn gelu(b: &mut GraphBuilder, node: &NodeProto) -> Result<(), Problem> {
    let (Some(x), Some(output)) = (node.input.first(), node.output.first()) else {
        return Err(Problem::node(node, "lacks its input or output"));
    };
    let approximate = node.attribute("approximate").is_some_and(|a| a.s == b"tanh");
    let gate = if approximate {
        let (cubic, scale) = (b.float(0.044_715), b.float((2.0 / std::f32::consts::PI).sqrt()));
        let square = b.op("Mul", &[x, x], &[]);
        let cube = b.op("Mul", &[&square, x], &[]);
        let cube = b.op("Mul", &[&cube, &cubic], &[]);
        let inner = b.op("Add", &[x, &cube], &[]);
        let inner = b.op("Mul", &[&inner, &scale], &[]);
        b.op("Tanh", &[&inner], &[])
    } else {
        let root = b.float(std::f32::consts::SQRT_2);
        let inner = b.op("Div", &[x, &root], &[]);
        b.op("Erf", &[&inner], &[])
    };
    let (one, half) = (b.float(1.0), b.float(0.5));
    let gate = b.op("Add", &[&gate, &one], &[]);
    let gated = b.op("Mul", &[x, &gate], &[]);
    b.node("Mul", &[&gated, &half], &[output], &[]);
    Ok(())
}

/// Before version 13, `Softmax` was over the given axis and all after it together. That is what it is
/// today if the axis is the last one.
fn check_softmax(graph: &GraphProto) -> Result<(), Problem> {
    let softmaxes = || graph.node.iter().filter(|n| matches!(n.op_type.as_str(), "Softmax" | "LogSoftmax"));
    if softmaxes().all(|n| n.int("axis", -1) == -1) {
        return Ok(());
    }
    let shapes = Shapes::infer(graph).map_err(|e| Problem::new("graph", e.to_string()))?;
    for node in softmaxes() {
        let rank = node.input.first().and_then(|x| shapes.get(x)).map(|shape| shape.len() as i64);
        let axis = node.int("axis", -1);
        if axis != -1 && rank != Some(axis + 1) {
            let axes = rank.map_or_else(|| "unknown axes".to_owned(), |rank| format!("{rank} axes"));
            let reason =
                format!("is over axis {axis} of {axes} and all after it; export with operator set 13 or newer");
            return Err(Problem::node(node, reason));
        }
    }
    Ok(())
}
