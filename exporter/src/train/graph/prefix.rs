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

/// An output of the layers below others.
pub(super) struct Waist {
    pub(super) value: String,
    /// Whether its shape is [batch · sequence, width], not [batch, sequence, width].
    flat: bool,
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

/// A graph in two parts: what is made of some weights, and what is not.
pub(super) struct Halves<'a> {
    graph: &'a GraphProto,
    /// What is made of texts and of the other weights. Weights in another order, shapes and masks of padding are made
    /// anew where they are read: they cost nothing.
    below: HashSet<String>,
    /// What is made of the weights above.
    above: HashSet<String>,
    /// What is read above of what is made below, in the order in which it is made.
    ends: Vec<String>,
}

impl<'a> Halves<'a> {
    /// `live` are the weights above, `frozen` the others.
    pub(super) fn of(graph: &'a GraphProto, live: &[&str], frozen: &[String]) -> Self {
        let is_weight = |name: &String| frozen.contains(name) || live.contains(&name.as_str());
        let texts = graph.input.iter().map(|input| &input.name).filter(|name| !is_weight(name));
        let mut below = reached(&graph.node, texts.cloned().collect());
        let weighty = reached(&graph.node, frozen.iter().cloned().collect());
        let above = reached(&graph.node, live.iter().copied().map(str::to_owned).collect());
        below.retain(|value| weighty.contains(value) && !above.contains(value));
        let readers = graph.node.iter().filter(|node| node.output.iter().any(|o| above.contains(o)));
        let read: HashSet<&String> = readers.flat_map(|node| &node.input).filter(|i| below.contains(*i)).collect();
        let made = graph.node.iter().flat_map(|node| &node.output);
        let ends = made.filter(|output| read.contains(output)).cloned().collect();
        Halves { graph, below, above, ends }
    }

    /// The first that is read above of all that has the shape of a layer's output.
    pub(super) fn output(&self, shapes: &Shapes, width: usize) -> Option<Waist> {
        self.ends.iter().find_map(|value| waist(shapes, value, width))
    }

    /// The one of `ends` that the others can be made of without anything below it, as keys beside the layer's input
    /// when only queries train.
    fn only(&self) -> Option<&String> {
        let makes_others = |value: &&String| {
            let below = needed(&self.graph.node, std::slice::from_ref(*value), None);
            let outputs = below.iter().flat_map(|node| &node.output);
            let below: HashSet<&String> = outputs.filter(|output| self.below.contains(*output)).collect();
            let above = needed(&self.graph.node, &self.ends, Some(value));
            above.iter().flat_map(|node| &node.output).all(|output| !below.contains(output))
        };
        self.ends.iter().rev().find(makes_others)
    }
}

/// A value that has the shape of a layer's output.
fn waist(shapes: &Shapes, value: &str, width: usize) -> Option<Waist> {
    let (shape, ids) = (shapes.get(value)?, shapes.get("input_ids")?);
    let [batch, sequence] = ids else { return None };
    let width = Dim::known(width as i64);
    let flat = shape == [batch.times(sequence)?, width.clone()];
    // Not of an encoder that has the sequence first.
    let fits = flat || shape == [batch.clone(), sequence.clone(), width];
    fits.then(|| Waist { value: value.to_owned(), flat })
}

/// Takes the prefix off a graph, whose weights are inputs: `live` are those that train, `frozen` the
/// others. [`name::PREFIX`] becomes an input in its place.
///
/// None when it is not worth it, or more than one value would have to be kept: then the graph stays as
/// it is.
pub(super) fn cut(graph: &mut GraphProto, live: &[&str], frozen: &[String], width: usize) -> Option<Prefix> {
    let halves = Halves::of(graph, live, frozen);
    let value = halves.only()?.clone();
    let live = halves.above;
    let nodes = needed(&graph.node, std::slice::from_ref(&value), None);
    // Embeddings alone are cheaper than what it takes to keep them.
    if !nodes.iter().any(|node| matches!(node.op_type.as_str(), "Gemm" | "MatMul")) {
        return None;
    }
    let Waist { flat, .. } = waist(&Shapes::infer(graph).ok()?, &value, width)?;
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
