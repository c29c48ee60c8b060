//! The prefix: what of an encoder lies below everything that trains. Its output for an example never
//! changes, so it runs once, and steps begin where it ends.

use std::collections::HashSet;

use overmask_graph::proto::{GraphProto, ModelProto, NodeProto, data_type};
use overmask_graph::{GraphBuilder, inputs};

use super::name;
use crate::autodiff::shape::{Dim, Shapes};

/// The graph of a prefix.
#[derive(Debug)]
pub struct Prefix {
    /// From tokens to [`name::PREFIX`], f32 [batch, sequence, width].
    pub model: ModelProto,
    /// Tensors of the base that are its inputs.
    pub frozen: Vec<String>,
}

/// A value that all above is made of, but for weights, and what costs nothing to make anew of the tokens.
pub(super) struct Waist {
    pub(super) value: String,
    /// Whether its shape is [batch · sequence, width], not [batch, sequence, width].
    flat: bool,
    /// What is made of the weights above.
    above: HashSet<String>,
}

impl Waist {
    /// Its value as [batch, sequence, width].
    pub(super) fn unfolded(&self, b: &mut GraphBuilder, width: usize) -> String {
        if self.flat { unfold(b, &self.value, width) } else { self.value.clone() }
    }
}

/// Gives a value the batch and sequence of the tokens.
fn unfold(b: &mut GraphBuilder, value: &str, width: usize) -> String {
    let like = b.op("Shape", &["input_ids"], &[]);
    let last = b.shape(&[width as i64]);
    let whole = b.op("Concat", &[&like, &last], &[("axis", 0i64.into())]);
    b.op("Reshape", &[value, &whole], &[])
}

/// The waist below all that reads some weights, `live`; `frozen` are the others.
///
/// Where several values from below are read, as keys are beside the layer's input when only queries train, it
/// is the one that the others can be made of. None where more than one value would have to be kept.
pub(super) fn waist(graph: &GraphProto, live: &[&str], frozen: &[String], width: usize) -> Option<Waist> {
    let is_weight = |name: &String| frozen.contains(name) || live.contains(&name.as_str());
    let texts = graph.input.iter().map(|input| &input.name).filter(|name| !is_weight(name));
    let of_texts = reached(&graph.node, texts.cloned().collect());
    let weighty = reached(&graph.node, frozen.iter().cloned().collect());
    let above = reached(&graph.node, live.iter().copied().map(str::to_owned).collect());
    // What is made of texts and of weights that do not train, and read by what does. Weights in another
    // order, shapes and masks of padding are made anew: they cost nothing.
    let is_made = |value: &String| weighty.contains(value) && of_texts.contains(value) && !above.contains(value);
    let readers = graph.node.iter().filter(|node| node.output.iter().any(|o| above.contains(o)));
    let read: HashSet<&String> = readers.flat_map(|node| &node.input).filter(|i| is_made(i)).collect();
    let ends: Vec<&String> = graph.node.iter().flat_map(|node| &node.output).filter(|o| read.contains(o)).collect();
    // Nothing that it is made of has to be made for the others again.
    let whole: Vec<String> = ends.iter().map(|end| (*end).clone()).collect();
    let makes_others = |value: &&&String| {
        let below = needed(&graph.node, std::slice::from_ref(*value), None);
        let below: HashSet<&String> = below.iter().flat_map(|node| &node.output).filter(|o| is_made(o)).collect();
        let above = needed(&graph.node, &whole, Some(value));
        above.iter().flat_map(|node| &node.output).all(|output| !below.contains(output))
    };
    let value = (*ends.iter().rev().find(makes_others)?).clone();
    let shapes = Shapes::infer(graph).ok()?;
    let (shape, ids) = (shapes.get(&value)?, shapes.get("input_ids")?);
    let [batch, sequence] = ids else { return None };
    let width = Dim::known(width as i64);
    let flat = shape == [batch.times(sequence)?, width.clone()];
    // Not of an encoder that has the sequence first.
    let fits = flat || shape == [batch.clone(), sequence.clone(), width];
    fits.then_some(Waist { value, flat, above })
}

/// Takes the prefix off a graph, whose weights are inputs: `live` are those that train, `frozen` the
/// others. [`name::PREFIX`] becomes an input in its place.
///
/// None when it is not worth it, or there is no [`waist`]: then the graph stays as it is.
pub(super) fn cut(graph: &mut GraphProto, live: &[&str], frozen: &[String], width: usize) -> Option<Prefix> {
    let Waist { value, flat, above: live } = waist(graph, live, frozen, width)?;
    let nodes = needed(&graph.node, std::slice::from_ref(&value), None);
    // Embeddings alone are cheaper than what it takes to keep them.
    if !nodes.iter().any(|node| matches!(node.op_type.as_str(), "Gemm" | "MatMul")) {
        return None;
    }
    let mut below = GraphProto { node: nodes, output: Vec::new(), ..graph.clone() };
    drop_unread(&mut below, std::slice::from_ref(&value));
    let tokens: Vec<String> = inputs(&wrap(&below)).into_iter().map(str::to_owned).collect();
    let weights: Vec<String> = tokens.into_iter().filter(|name| frozen.contains(name)).collect();
    let mut b = GraphBuilder::extend(below);
    let open = ["batch", "sequence", &width.to_string()];
    let whole = unfold(&mut b, &value, width);
    b.node("Identity", &[&whole], &[name::PREFIX], &[]);
    b.output(name::PREFIX, data_type::FLOAT, &open);
    let model = b.finish();

    let ends: Vec<String> =
        graph.node.iter().flat_map(|node| &node.output).filter(|o| live.contains(*o)).cloned().collect();
    graph.node = needed(&graph.node, &ends, Some(&value));
    drop_unread(graph, &[]);
    let mut b = GraphBuilder::extend(std::mem::take(graph));
    let nodes = b.take_nodes();
    let prefix = b.input(name::PREFIX, data_type::FLOAT, &open);
    match flat {
        true => {
            let flat = b.shape(&[-1, width as i64]);
            b.node("Reshape", &[&prefix, &flat], &[&value], &[]);
        }
        false => b.node("Identity", &[&prefix], &[&value], &[]),
    }
    b.append(nodes);
    *graph = b.finish().graph.unwrap_or_default();
    Some(Prefix { model, frozen: weights })
}

/// Every value whose numbers, not only whose shape, depend on one of some.
fn reached(nodes: &[NodeProto], mut values: HashSet<String>) -> HashSet<String> {
    for node in nodes.iter().filter(|node| !matches!(node.op_type.as_str(), "Shape" | "Size")) {
        if node.input.iter().any(|i| values.contains(i)) {
            values.extend(node.output.iter().filter(|o| !o.is_empty()).cloned());
        }
    }
    values
}

/// The nodes that make some values, in their order; what makes `given` is not asked for.
fn needed(nodes: &[NodeProto], values: &[String], given: Option<&String>) -> Vec<NodeProto> {
    let mut wanted: HashSet<&String> = values.iter().collect();
    let mut kept: Vec<&NodeProto> = Vec::new();
    for node in nodes.iter().rev() {
        if node.output.iter().any(|o| wanted.contains(o) && Some(o) != given) {
            wanted.extend(&node.input);
            kept.push(node);
        }
    }
    kept.into_iter().rev().cloned().collect()
}

/// Drops inputs and initializers that nothing reads.
fn drop_unread(graph: &mut GraphProto, also: &[String]) {
    let read: HashSet<&String> = graph.node.iter().flat_map(|node| &node.input).chain(also).collect();
    // The shape of the tokens is what the others are made of, and pooling reads where they end.
    let stays = |name: &String| name == "input_ids" || name == "attention_mask" || read.contains(name);
    graph.input.retain(|input| stays(&input.name));
    graph.initializer.retain(|tensor| read.contains(&tensor.name));
}

fn wrap(graph: &GraphProto) -> ModelProto {
    ModelProto { graph: Some(graph.clone()), ..Default::default() }
}
