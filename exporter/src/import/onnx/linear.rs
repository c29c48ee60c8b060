//! The linear layers of an encoder: which they are, which layer each belongs to, and how their
//! weights become [outputs, inputs].
//!
//! A linear layer is a product of activations with a constant matrix. It belongs to the encoder
//! if it feeds an attention or comes after one; what lies before (a projection of embeddings)
//! is shared by all layers, and stays as it is.

use std::collections::{HashMap, HashSet};

use overmask::base::MaskableTensor;
use overmask_graph::GraphBuilder;
use overmask_graph::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, data_type};

use super::{Problem, names};

/// How the nodes that read a weight take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// [outputs, inputs].
    OutputsFirst,
    /// [inputs, outputs].
    InputsFirst,
}

/// A linear weight, in the order of the nodes.
#[derive(Debug)]
pub(super) struct Found {
    name: String,
    stored: Stored,
    layer: usize,
}

/// Finds the linear weights of the encoder's layers.
///
/// # Errors
/// When there is none.
pub(super) fn find(graph: &GraphProto) -> Result<Vec<Found>, Problem> {
    let reads = Reads::of(graph);
    let depths = depths(graph, &reads);
    let mut found: Vec<Found> = Vec::new();
    let mut seen = HashSet::new();
    for (i, node) in graph.node.iter().enumerate() {
        let Some((weight, stored)) = reads.linear(node) else { continue };
        // Whatever else reads the weight would not know of a mask.
        let alike = reads.of_weight.get(weight).is_some_and(|all| all.iter().all(|r| *r == Some(stored)));
        if alike
            && let Some(layer) = depths[i]
            && seen.insert(weight)
        {
            found.push(Found { name: weight.to_owned(), stored, layer });
        }
    }
    if found.is_empty() || graph.node.iter().all(|n| n.op_type != "Softmax") {
        let reason = "no linear layer with a constant float32 weight feeds or follows an attention (Softmax)";
        return Err(Problem::new("graph", reason));
    }
    // Names say it best, if all of them do; numbers that are left out are closed up.
    let named = names::layers(&found.iter().map(|f| f.name.as_str()).collect::<Vec<_>>());
    let layers = named.unwrap_or_else(|| found.iter().map(|f| f.layer).collect());
    let mut numbers = layers.clone();
    numbers.sort_unstable();
    numbers.dedup();
    for (one, layer) in found.iter_mut().zip(layers) {
        one.layer = numbers.partition_point(|n| *n < layer);
    }
    found.sort_by_key(|f| f.layer);
    Ok(found)
}

/// Lets each weight be stored as [outputs, inputs], and the graph read it so.
///
/// # Errors
/// When a weight's values are not finite.
pub(super) fn rewrite(graph: &mut GraphProto, found: Vec<Found>) -> Result<Vec<MaskableTensor>, Problem> {
    let turned: HashSet<&str> =
        found.iter().filter(|f| f.stored == Stored::InputsFirst).map(|f| f.name.as_str()).collect();
    let mut b = GraphBuilder::extend(std::mem::take(graph));
    let nodes = b.take_nodes();
    let mut transposed: HashMap<String, String> = HashMap::new();
    for mut node in nodes {
        match node.input.get(1).cloned().filter(|w| turned.contains(w.as_str())) {
            Some(_) if node.op_type == "Gemm" => {
                node.attribute.retain(|a| a.name != "transB");
                node.attribute.push(AttributeProto { name: "transB".to_owned(), ..1i64.into() });
            }
            Some(weight) => {
                // Before the first use: an engine folds it where the weight is constant.
                let turned = transposed
                    .entry(weight)
                    .or_insert_with_key(|w| b.op("Transpose", &[w], &[("perm", vec![1, 0].into())]));
                node.input[1].clone_from(turned);
            }
            None => {}
        }
        b.append(vec![node]);
    }
    *graph = super::graph_of(b);
    let mut all = Vec::with_capacity(found.len());
    let mut tensors: HashMap<String, &mut TensorProto> =
        graph.initializer.iter_mut().map(|t| (t.name.clone(), t)).collect();
    for Found { name, stored, layer } in found {
        let Some(tensor) = tensors.get_mut(&name) else { continue };
        if stored == Stored::InputsFirst {
            transpose(tensor);
        }
        let finite = tensor.raw_data.as_chunks::<4>().0.iter().all(|b| f32::from_le_bytes(*b).is_finite());
        if !finite {
            return Err(Problem::new(format!("tensor `{name}`"), "has values that are not finite"));
        }
        let [outputs, inputs] = [tensor.dims[0] as usize, tensor.dims[1] as usize];
        all.push(MaskableTensor { name, outputs, inputs, layer });
    }
    Ok(all)
}

fn transpose(tensor: &mut TensorProto) {
    let (rows, columns) = (tensor.dims[0] as usize, tensor.dims[1] as usize);
    let values = tensor.raw_data.as_chunks::<4>().0;
    let mut turned = Vec::with_capacity(tensor.raw_data.len());
    for column in 0..columns {
        turned.extend((0..rows).flat_map(|row| values[row * columns + column]));
    }
    tensor.raw_data = turned;
    tensor.dims.swap(0, 1);
}

/// Who reads constant matrices, and how.
struct Reads<'a> {
    /// Constant 2-D float tensors.
    matrices: HashSet<&'a str>,
    /// Matrices behind a `Transpose`, by the value that it makes.
    turned: HashMap<&'a str, &'a str>,
    /// All reads of each matrix; `None` is one that is no product's.
    of_weight: HashMap<&'a str, Vec<Option<Stored>>>,
    constants: HashSet<&'a str>,
}

impl<'a> Reads<'a> {
    fn of(graph: &'a GraphProto) -> Self {
        let is_matrix =
            |t: &&TensorProto| t.data_type == data_type::FLOAT && t.dims.len() == 2 && t.dims.iter().all(|d| *d > 0);
        let mut reads = Reads {
            matrices: graph.initializer.iter().filter(is_matrix).map(|t| t.name.as_str()).collect(),
            turned: HashMap::new(),
            of_weight: HashMap::new(),
            constants: graph.initializer.iter().map(|t| t.name.as_str()).collect(),
        };
        for node in &graph.node {
            let matrix = node.input.first().filter(|i| reads.matrices.contains(i.as_str()));
            let flips = node.attribute("perm").is_none_or(|a| a.ints == [1, 0]);
            if let (Some(matrix), [output], true) =
                (matrix, node.output.as_slice(), node.op_type == "Transpose" && flips)
            {
                reads.turned.insert(output, matrix);
            }
        }
        for node in &graph.node {
            let linear = reads.linear(node);
            for (i, input) in node.input.iter().enumerate() {
                let behind = reads.turned.get(input.as_str()).copied();
                let own = reads.matrices.get(input.as_str()).copied();
                // The transposition itself is no read, what reads its result is.
                let Some(weight) = behind.or(own.filter(|_| !reads.flips(node))) else { continue };
                let how = linear.filter(|(of, _)| *of == weight && i == 1).map(|(_, stored)| stored);
                reads.of_weight.entry(weight).or_default().push(how);
            }
        }
        for output in &graph.output {
            if let Some(weight) = reads.turned.get(output.name.as_str()) {
                reads.of_weight.entry(weight).or_default().push(None);
            }
        }
        reads
    }

    fn flips(&self, node: &NodeProto) -> bool {
        node.output.first().is_some_and(|o| self.turned.contains_key(o.as_str()))
    }

    /// The weight of a linear layer, if the node is one.
    fn linear(&self, node: &NodeProto) -> Option<(&'a str, Stored)> {
        let (Some(x), Some(w)) = (node.input.first(), node.input.get(1)) else { return None };
        if self.constants.contains(x.as_str()) {
            return None;
        }
        let flag = |name: &str| node.int(name, 0) != 0;
        let flipped = match node.op_type.as_str() {
            "MatMul" => false,
            "Gemm" if !flag("transA") => flag("transB"),
            _ => return None,
        };
        let stored = |outputs_first| if outputs_first { Stored::OutputsFirst } else { Stored::InputsFirst };
        match (self.matrices.get(w.as_str()), self.turned.get(w.as_str())) {
            (Some(weight), _) => Some((weight, stored(flipped))),
            // Turned twice is more than any exporter does.
            (None, Some(weight)) if !flipped => Some((weight, Stored::OutputsFirst)),
            _ => None,
        }
    }
}

/// For each node the encoder layer that it would belong to, by how many attentions lie before it.
///
/// A layer is what feeds an attention (query, key, value) and all that follows until what feeds
/// the next.
fn depths(graph: &GraphProto, reads: &Reads<'_>) -> Vec<Option<usize>> {
    let mut before: HashMap<&str, usize> = HashMap::new();
    for node in &graph.node {
        let own = usize::from(node.op_type == "Softmax");
        let most = node.input.iter().filter_map(|i| before.get(i.as_str())).max().map_or(0, |d| *d);
        before.extend(node.output.iter().map(|o| (o.as_str(), most + own)));
    }
    // Values that reach a product of two activations without going through a linear layer.
    let mut feeds: HashSet<&str> = HashSet::new();
    let varies =
        |value: &String| !reads.constants.contains(value.as_str()) && !reads.turned.contains_key(value.as_str());
    for node in graph.node.iter().rev() {
        // Sizes are no activations.
        if reads.linear(node).is_some() || node.op_type == "Shape" {
            continue;
        }
        let attends = node.op_type == "MatMul" && node.input.iter().filter(|i| varies(i)).count() == 2;
        if attends || node.output.iter().any(|o| feeds.contains(o.as_str())) {
            feeds.extend(node.input.iter().map(String::as_str));
        }
    }
    let layer = |node: &NodeProto| {
        let attentions = node.input.first().and_then(|x| before.get(x.as_str())).map_or(0, |d| *d);
        let next = usize::from(node.output.iter().any(|o| feeds.contains(o.as_str())));
        (attentions + next).checked_sub(1)
    };
    graph.node.iter().map(layer).collect()
}
