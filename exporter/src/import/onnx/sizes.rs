//! Sizes that no ONNX file states: how many tokens the encoder knows, and how many a text may have.

use std::collections::HashSet;

use overmask_graph::proto::{GraphProto, NodeProto, TensorProto, data_type};

use super::{Problem, normal};

/// A table with no more rows than this holds segments, not positions.
const MOST_SEGMENTS: i64 = 4;

/// Rows of the table in which `input_ids` are looked up.
pub(super) fn vocabulary(graph: &GraphProto) -> Result<usize, Problem> {
    let of_tokens = |lookup: &Lookup<'_>| lookup.inputs == ["input_ids"] && !lookup.computed;
    let rows = lookups(graph).filter(of_tokens).map(|l| l.rows).min();
    let rows = rows.and_then(|rows| usize::try_from(rows).ok());
    rows.ok_or_else(|| Problem::new("graph", "`input_ids` are looked up in no table of token embeddings"))
}

/// The most tokens of a text: what was asked for, else what the position embeddings hold.
pub(super) fn positions(graph: &GraphProto, wanted: Option<usize>) -> Result<usize, Problem> {
    let of_positions = |l: &Lookup<'_>| {
        (l.inputs.is_empty() || l.computed) && l.rows > MOST_SEGMENTS && l.inputs != ["token_type_ids"]
    };
    let found = lookups(graph).filter(of_positions).map(|l| l.limit(graph)).min();
    let found = found.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    match (wanted, found) {
        (Some(wanted), Some(found)) if wanted > found => {
            Err(Problem::new("--max-positions", format!("is {wanted}, but the position embeddings hold {found}")))
        }
        (Some(wanted), _) => Ok(wanted),
        (None, Some(found)) => Ok(found),
        (None, None) => {
            let reason =
                "no table of position embeddings was found; say with --max-positions how many tokens a text may have";
            Err(Problem::new("graph", reason))
        }
    }
}

/// Epsilon of the first layer norm, none if the graph has none as an operator.
pub(super) fn epsilon(graph: &GraphProto) -> Option<f64> {
    let norm = graph.node.iter().find(|n| n.op_type == "LayerNormalization");
    norm.map(|n| f64::from(n.float("epsilon", 1e-5)))
}

/// A look-up in a table of embeddings.
struct Lookup<'a> {
    rows: i64,
    /// The node, for a table that is cut instead of looked up in: `Slice`.
    node: &'a NodeProto,
    /// Nodes that make the indices.
    made_by: Vec<&'a NodeProto>,
    /// Graph inputs whose values, not shapes, the indices come from.
    inputs: Vec<&'a str>,
    /// Whether the indices are more than an input's own values.
    computed: bool,
}

fn lookups(graph: &GraphProto) -> impl Iterator<Item = Lookup<'_>> {
    let table = |node: &NodeProto| {
        let table = normal::initializer(graph, node.input.first()?)?;
        let is_table = table.data_type == data_type::FLOAT && table.dims.len() == 2;
        (is_table && matches!(node.op_type.as_str(), "Gather" | "Slice")).then_some(table)
    };
    graph.node.iter().filter_map(move |node| {
        let table: &TensorProto = table(node)?;
        let mut lookup = Lookup { rows: table.dims[0], node, made_by: Vec::new(), inputs: Vec::new(), computed: false };
        lookup.trace(graph, node.input.iter().skip(1).collect());
        Some(lookup)
    })
}

impl<'a> Lookup<'a> {
    /// Follows the indices back to where they come from.
    fn trace(&mut self, graph: &'a GraphProto, mut open: Vec<&'a String>) {
        let mut seen = HashSet::new();
        while let Some(value) = open.pop() {
            if !seen.insert(value) {
                continue;
            }
            if let Some(input) = graph.input.iter().find(|i| i.name == *value) {
                self.inputs.push(&input.name);
            }
            let Some(node) = graph.node.iter().find(|n| n.output.contains(value)) else { continue };
            self.made_by.push(node);
            self.computed |= node.op_type != "Cast";
            // Behind a shape no values count.
            if node.op_type != "Shape" {
                open.extend(&node.input);
            }
        }
        self.inputs.sort_unstable();
    }

    /// How many positions there are rows for.
    ///
    /// Positions count from 0; those of RoBERTa (Liu et al. 2019) count the tokens so far and are
    /// moved past the padding token's number. A list of numbers that is cut may be shorter than
    /// the table.
    fn limit(&self, graph: &GraphProto) -> i64 {
        let int = |name: &String| normal::initializer(graph, name).and_then(one_int);
        let adds = self.made_by.iter().filter(|n| n.op_type == "Add").flat_map(|n| &n.input);
        let offset = adds.filter_map(int).max().unwrap_or(0).max(0);
        let counts_from_one = i64::from(self.made_by.iter().any(|n| n.op_type == "CumSum"));
        let cut = self.made_by.iter().filter(|n| n.op_type == "Slice").filter_map(|n| n.input.first());
        let lists = cut.filter_map(|name| normal::initializer(graph, name)).filter_map(|t| t.dims.last().copied());
        let lists = lists.filter(|_| self.node.op_type == "Gather");
        (self.rows.saturating_sub(offset).saturating_sub(counts_from_one)).min(lists.min().unwrap_or(i64::MAX))
    }
}

/// The value of a constant that is one integer.
fn one_int(tensor: &TensorProto) -> Option<i64> {
    let bytes = tensor.raw_data.as_slice();
    match tensor.data_type {
        data_type::INT64 => bytes.try_into().ok().map(i64::from_le_bytes),
        data_type::INT32 => bytes.try_into().ok().map(|b| i64::from(i32::from_le_bytes(b))),
        _ => None,
    }
}
