//! The form that every graph is brought into: checks, constants, what nothing uses.

use std::collections::{HashMap, HashSet};

use overmask_graph::GraphBuilder;
use overmask_graph::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, data_type};

use super::Problem;
use super::source::is_own;

/// Checks that every value is made once, and before it is read.
pub(super) fn check(graph: &GraphProto) -> Result<(), Problem> {
    let mut made: HashSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
    // Old models list their initializers among the inputs, too.
    made.extend(graph.initializer.iter().map(|t| t.name.as_str()));
    for node in &graph.node {
        if let Some(missing) = node.input.iter().find(|i| !i.is_empty() && !made.contains(i.as_str())) {
            let reason = format!("reads `{missing}`, which nothing before it makes (is there a cycle?)");
            return Err(Problem::node(node, reason));
        }
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if !made.insert(output) {
                return Err(Problem::node(node, format!("makes `{output}`, which is there already")));
            }
        }
    }
    let mut constants = HashSet::new();
    match graph.initializer.iter().find(|t| t.name.is_empty() || !constants.insert(&t.name)) {
        Some(tensor) => Err(Problem::new(format!("tensor `{}`", tensor.name), "has no name of its own")),
        None => Ok(()),
    }
}

/// Operators on codes. Those that stand for products of floats are gone by now.
const QUANTISED: [&str; 7] = [
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
];

/// Checks what is left of the graph for what no part of this program can follow.
pub(super) fn check_operators(graph: &GraphProto) -> Result<(), Problem> {
    for node in &graph.node {
        if !is_own(&node.domain) {
            let reason = format!("is an operator of `{}`; export the model without optimisation", node.domain);
            return Err(Problem::node(node, reason));
        }
        if node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty()) {
            return Err(Problem::node(node, "holds a graph of its own; export the model without control flow"));
        }
        if QUANTISED.contains(&node.op_type.as_str()) {
            return Err(Problem::node(node, "the model is quantised in a way that is not known; export it in float32"));
        }
    }
    Ok(())
}

/// Makes initializers of `Constant` nodes, and takes initializers out of the inputs.
pub(super) fn constants(graph: &mut GraphProto) {
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        let tensor = (node.op_type == "Constant" && is_own(&node.domain) && node.output.len() == 1)
            .then(|| node.attribute.first_mut().and_then(constant));
        match tensor.flatten() {
            Some(tensor) => graph.initializer.push(TensorProto { name: node.output.remove(0), ..tensor }),
            None => nodes.push(node),
        }
    }
    graph.node = nodes;
    let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    graph.input.retain(|i| !constants.contains(i.name.as_str()));
}

fn constant(attribute: &mut AttributeProto) -> Option<TensorProto> {
    let tensor = |data_type, dims: &[usize], raw_data| TensorProto {
        data_type,
        dims: dims.iter().map(|d| *d as i64).collect(),
        raw_data,
        ..Default::default()
    };
    let floats = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect();
    let ints = |v: &[i64]| v.iter().flat_map(|v| v.to_le_bytes()).collect();
    let a = attribute;
    Some(match a.name.as_str() {
        "value" => a.t.take()?,
        "value_float" => tensor(data_type::FLOAT, &[], floats(&[a.f])),
        "value_floats" => tensor(data_type::FLOAT, &[a.floats.len()], floats(&a.floats)),
        "value_int" => tensor(data_type::INT64, &[], ints(&[a.i])),
        "value_ints" => tensor(data_type::INT64, &[a.ints.len()], ints(&a.ints)),
        _ => return None,
    })
}

/// Drops nodes, initializers and inputs that no output depends on.
pub(super) fn prune(graph: &mut GraphProto) {
    let mut used: HashSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let mut nodes = std::mem::take(&mut graph.node);
    nodes.reverse();
    nodes.retain(|node| {
        let needed = node.output.iter().any(|o| used.contains(o));
        if needed {
            used.extend(node.input.iter().filter(|i| !i.is_empty()).cloned());
        }
        needed
    });
    nodes.reverse();
    graph.node = nodes;
    graph.initializer.retain(|t| used.contains(&t.name));
    graph.input.retain(|i| used.contains(&i.name));
}

/// Lets what reads the copy of a value read the value itself.
pub(super) fn aliases(graph: &mut GraphProto) {
    let outputs: HashSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let mut same: HashMap<String, String> = HashMap::new();
    graph.node.retain_mut(|node| {
        for input in &mut node.input {
            if let Some(value) = same.get(input) {
                input.clone_from(value);
            }
        }
        // Dropout does nothing but in training.
        let copies = node.op_type == "Identity" || (node.op_type == "Dropout" && node.input.len() < 3);
        match (node.input.first(), node.output.as_slice()) {
            (Some(from), [to]) if copies && !outputs.contains(to) => {
                same.insert(to.clone(), from.clone());
                false
            }
            _ => true,
        }
    });
}

/// Counts in 32 bits what is cast to 64 only to be counted: tokens so far. tract takes 64-bit integers
/// that are cast for sizes, which it cannot add up.
pub(super) fn counts(graph: &mut GraphProto) {
    let to = |node: &NodeProto| (node.op_type == "Cast").then(|| node.int("to", 0));
    let mut b = GraphBuilder::extend(std::mem::take(graph));
    for mut node in b.take_nodes() {
        let made_by = |value: &String| b.graph().node.iter().find(|n| n.output.contains(value));
        let cast = node.input.first().filter(|_| node.op_type == "CumSum").and_then(made_by);
        let source = cast.filter(|n| to(n) == Some(data_type::INT64.into())).and_then(|n| n.input.first().cloned());
        let (Some(source), Some(output)) = (source, node.output.first().cloned()) else {
            b.append(vec![node]);
            continue;
        };
        let sum = b.fresh("CumSum");
        node.input[0] = b.op("Cast", &[&source], &[("to", i64::from(data_type::INT32).into())]);
        node.output[0].clone_from(&sum);
        b.append(vec![node]);
        b.node("Cast", &[&sum], &[&output], &[("to", i64::from(data_type::INT64).into())]);
    }
    *graph = super::graph_of(b);
}

/// Gives a value another name. What has that name already gets a new one.
pub(super) fn rename(graph: &mut GraphProto, from: &str, to: &str) {
    if from == to {
        return;
    }
    let taken = names(graph);
    if taken.contains(to) {
        let free = (1u32..).map(|n| format!("{to}/{n}")).find(|name| !taken.contains(name));
        replace(graph, to, &free.unwrap_or_default());
    }
    replace(graph, from, to);
}

/// The names of all values.
pub(super) fn names(graph: &GraphProto) -> HashSet<String> {
    let nodes = graph.node.iter().flat_map(|n| &n.output);
    let constants = graph.initializer.iter().map(|t| &t.name);
    nodes.chain(constants).chain(graph.input.iter().map(|i| &i.name)).cloned().collect()
}

fn replace(graph: &mut GraphProto, from: &str, to: &str) {
    let values = graph.node.iter_mut().flat_map(|n| n.input.iter_mut().chain(&mut n.output));
    let declared = graph.input.iter_mut().chain(&mut graph.output).map(|v| &mut v.name);
    let constants = graph.initializer.iter_mut().map(|t| &mut t.name);
    values.chain(declared).chain(constants).filter(|name| *name == from).for_each(|name| *name = to.to_owned());
}

/// Drops what the exporter wrote for people: source paths, notes, types of values that have other names now.
pub(super) fn forget(graph: &mut GraphProto) {
    graph.value_info.clear();
    graph.quantization_annotation.clear();
    graph.metadata_props.clear();
    graph.doc_string.clear();
    graph.name = "encoder".to_owned();
    for node in &mut graph.node {
        node.metadata_props.clear();
        node.doc_string.clear();
        node.domain.clear();
    }
    for tensor in &mut graph.initializer {
        tensor.metadata_props.clear();
        tensor.doc_string.clear();
    }
}

/// The constants by name.
pub(super) fn constants_by_name(graph: &GraphProto) -> HashMap<&str, &TensorProto> {
    graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect()
}
