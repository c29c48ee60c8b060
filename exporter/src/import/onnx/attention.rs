//! What operator set 23 has for attention, taken apart, as PyTorch's exporter writes it, with query, key and value of
//! [batch, heads, sequence, width]: `Attention`, softmax(scale · q·kᵀ + mask) · v (Vaswani et al. 2017), and
//! `RotaryEmbedding` (Su et al. 2021).

use std::collections::HashSet;

use overmask_graph::GraphBuilder;
use overmask_graph::proto::{GraphProto, NodeProto, data_type};

use super::Problem;

/// Operators whose output is true or false.
const TRUTHS: [&str; 11] =
    ["And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor"];

/// Operators whose output is of their first input's type, though elsewhere or of another shape.
const MOVES: [&str; 12] = [
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// The values of a graph that are true or false.
pub(super) fn truths(graph: &GraphProto) -> HashSet<String> {
    let constants = graph.initializer.iter().filter(|t| t.data_type == data_type::BOOL).map(|t| t.name.clone());
    let mut all: HashSet<String> = constants.collect();
    for node in &graph.node {
        let reads = |index: usize| node.input.get(index).is_some_and(|input| all.contains(input));
        let truth = match node.op_type.as_str() {
            "Cast" => node.int("to", 0) == i64::from(data_type::BOOL),
            "Where" => reads(1),
            op => TRUTHS.contains(&op) || (MOVES.contains(&op) && reads(0)),
        };
        if truth {
            all.extend(node.output.iter().cloned());
        }
    }
    all
}

/// Puts plain operators in the place of an `Attention`; `truths` are the values that are true or false.
pub(super) fn take_apart(b: &mut GraphBuilder, truths: &HashSet<String>, node: &NodeProto) -> Result<(), Problem> {
    let input = |index: usize| node.input.get(index).map(String::as_str).filter(|value| !value.is_empty());
    let (Some(q), Some(k), Some(v), [output]) = (input(0), input(1), input(2), node.output.as_slice()) else {
        return Err(Problem::node(node, "has other inputs or outputs than query, key, value, mask and result"));
    };
    let plain = ["is_causal", "q_num_heads", "kv_num_heads", "qk_matmul_output_mode"];
    if input(4).is_some() || input(5).is_some() || plain.iter().any(|name| node.int(name, 0) != 0) {
        let reason = "is causal, of three axes, or remembers texts before; export with operator set 18";
        return Err(Problem::node(node, reason));
    }
    if node.float("softcap", 0.0) != 0.0 {
        return Err(Problem::node(node, "caps its scores, which no encoder does; export with operator set 18"));
    }
    let turned = b.op("Transpose", &[k], &[("perm", vec![0, 1, 3, 2].into())]);
    let scale = match node.attribute("scale") {
        Some(scale) => b.float(scale.f),
        None => {
            let shape = b.op("Shape", &[q], &[]);
            let (from, to) = (b.shape(&[3]), b.shape(&[4]));
            let width = b.op("Slice", &[&shape, &from, &to], &[]);
            let width = b.op("Cast", &[&width], &[("to", i64::from(data_type::FLOAT).into())]);
            let root = b.op("Sqrt", &[&width], &[]);
            b.op("Reciprocal", &[&root], &[])
        }
    };
    let scaled = b.op("Mul", &[q, &scale], &[]);
    let mut scores = b.op("MatMul", &[&scaled, &turned], &[]);
    scores = match input(3) {
        Some(mask) if truths.contains(mask) => {
            // What softmax makes nothing of.
            let least = b.float(f32::MIN);
            b.op("Where", &[mask, &scores, &least], &[])
        }
        Some(mask) => b.op("Add", &[&scores, mask], &[]),
        None => scores,
    };
    let weights = b.op("Softmax", &[&scores], &[("axis", (-1i64).into())]);
    b.node("MatMul", &[&weights, v], &[output], &[]);
    Ok(())
}

/// Turns pairs of values by an angle for each position: of halves a, b of x, a·cos - b·sin and a·sin + b·cos.
pub(super) fn rotate(b: &mut GraphBuilder, node: &NodeProto) -> Result<(), Problem> {
    let ([x, cos, sin], [output]) = (node.input.as_slice(), node.output.as_slice()) else {
        return Err(Problem::node(node, "reads numbers of positions; export with operator set 18"));
    };
    // A number of heads says nothing where they have an axis of their own.
    let turned = |n: &&NodeProto| n.output.contains(x) && n.attribute("perm").is_some_and(|perm| perm.ints.len() == 4);
    let four_axes = node.int("num_heads", 0) == 0 || b.graph().node.iter().rfind(turned).is_some();
    if !four_axes || ["interleaved", "rotary_embedding_dim"].iter().any(|name| node.int(name, 0) != 0) {
        return Err(Problem::node(
            node,
            "turns neighbours, a part, or values of three axes; export with operator set 18",
        ));
    }
    let heads = b.shape(&[1]);
    let [cos, sin] = [cos, sin].map(|table| b.op("Unsqueeze", &[table, &heads], &[]));
    let halves = [b.fresh("Split"), b.fresh("Split")];
    b.node("Split", &[x], &[&halves[0], &halves[1]], &[("axis", (-1i64).into())]);
    let mut product = |half: &str, table: &str| b.op("Mul", &[half, table], &[]);
    let parts = [
        [product(&halves[0], &cos), product(&halves[1], &sin)],
        [product(&halves[0], &sin), product(&halves[1], &cos)],
    ];
    let first = b.op("Sub", &[&parts[0][0], &parts[0][1]], &[]);
    let second = b.op("Add", &[&parts[1][0], &parts[1][1]], &[]);
    b.node("Concat", &[&first, &second], &[output], &[("axis", (-1i64).into())]);
    Ok(())
}
