//! Sizes that no ONNX file states: how many tokens the encoder knows, and how many a text may have.

use std::collections::{BTreeSet, HashMap};

use overmask_graph::proto::{GraphProto, TensorProto, data_type};

use super::{Problem, normal};

/// A table with no more rows than this holds segments, not positions.
const MOST_SEGMENTS: i64 = 4;

/// The tokens of a text of one: what a task learns on has that at least.
const LEAST_POSITIONS: usize = 3;

/// Operators whose output has its first input's values.
const SAME_VALUES: [&str; 6] = ["Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"];

/// Rows of the table in which `input_ids` are looked up.
pub(super) fn vocabulary(graph: &GraphProto) -> Result<usize, Problem> {
    let rows = lookups(graph).iter().filter(|l| l.of_tokens()).map(|l| l.rows).min();
    let rows = rows.and_then(|rows| usize::try_from(rows).ok());
    rows.ok_or_else(|| Problem::new("graph", "`input_ids` are looked up in no table of token embeddings"))
}

/// The most tokens of a text: what was asked for, else what the position embeddings hold.
///
/// Those are added to the tokens' embeddings or to the hidden states, and so as wide. Tables of relative positions (Shaw et al. 2018, Raffel
/// et al. 2020) are as wide as there are heads, or always looked up whole: whatever the distance, they have a row.
pub(super) fn positions(graph: &GraphProto, hidden_size: usize, wanted: Option<usize>) -> Result<usize, Problem> {
    let lookups = lookups(graph);
    let mut widths: BTreeSet<i64> = lookups.iter().filter(|l| l.of_tokens()).map(|l| l.width).collect();
    widths.insert(hidden_size as i64);
    let of_positions = |l: &Lookup<'_>| {
        let Indices { inputs, computed, of_length, .. } = &l.indices;
        let by_place = if inputs.is_empty() { *of_length } else { *computed };
        by_place && l.rows > MOST_SEGMENTS && widths.contains(&l.width) && !inputs.iter().eq(&["token_type_ids"])
    };
    let found = lookups.iter().filter(|l| of_positions(l)).map(Lookup::limit).min();
    let found = found.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    match (wanted, found) {
        (Some(wanted), _) if wanted < LEAST_POSITIONS => {
            let reason = format!(
                "is {wanted}; a text has at least {LEAST_POSITIONS} tokens, two special ones and one of its own"
            );
            Err(Problem::option("max_positions", reason))
        }
        (Some(wanted), Some(found)) if wanted > found => {
            let reason = format!("is {wanted}, but the model's position embeddings hold {found}");
            Err(Problem::option("max_positions", reason))
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
    width: i64,
    /// Whether rows are looked up one by one; else the table is cut: `Slice`.
    gathers: bool,
    indices: Indices<'a>,
}

/// What is known of a value from all nodes that it depends on, as far as it is used as indices.
#[derive(Clone, Default)]
struct Indices<'a> {
    /// Graph inputs whose values, not shapes, it comes from.
    inputs: BTreeSet<&'a str>,
    /// Whether it is more than an input's own values.
    computed: bool,
    /// Whether it hangs on how long the texts are.
    of_length: bool,
    /// The largest constant integer that is added.
    added: Option<i64>,
    /// Whether it counts: a running sum.
    counts: bool,
    /// The shortest constant list that is cut.
    shortest: Option<i64>,
}

/// All look-ups. A node comes after those that it depends on, so one pass sees what each value depends on.
fn lookups(graph: &GraphProto) -> Vec<Lookup<'_>> {
    let constants = normal::constants_by_name(graph);
    let of_input = |name| (name, Indices { inputs: [name].into(), ..Default::default() });
    let mut known: HashMap<&str, Indices<'_>> = graph.input.iter().map(|i| of_input(i.name.as_str())).collect();
    let mut found = Vec::new();
    for node in &graph.node {
        let constant = |value: Option<&String>| constants.get(value?.as_str()).copied();
        let table = constant(node.input.first()).filter(|t| t.data_type == data_type::FLOAT && t.dims.len() == 2);
        if let (Some(table), "Gather" | "Slice") = (table, node.op_type.as_str()) {
            let indices = Indices::of(&node.input[1..], &known);
            let (rows, width) = (table.dims[0], table.dims[1]);
            found.push(Lookup { rows, width, gathers: node.op_type == "Gather", indices });
        }
        // Behind a shape no values count.
        let same = SAME_VALUES.contains(&node.op_type.as_str());
        let read = match node.op_type.as_str() {
            "Shape" => &[],
            _ if same => node.input.get(..1).unwrap_or_default(),
            _ => &node.input[..],
        };
        let mut made = Indices::of(read, &known);
        made.computed |= !same;
        made.of_length |= node.op_type == "Shape";
        match node.op_type.as_str() {
            "Add" => {
                let ints = node.input.iter().filter_map(|input| constant(Some(input)).and_then(one_int));
                made.added = made.added.max(ints.max());
            }
            "CumSum" => made.counts = true,
            "Slice" => made.cut(constant(node.input.first()).and_then(|list| list.dims.last().copied())),
            _ => {}
        }
        known.extend(node.output.iter().map(|output| (output.as_str(), made.clone())));
    }
    found
}

impl<'a> Indices<'a> {
    /// What several values together depend on.
    fn of(values: &[String], known: &HashMap<&str, Indices<'a>>) -> Self {
        let mut all = Indices::default();
        for one in values.iter().filter_map(|value| known.get(value.as_str())) {
            all.inputs.extend(&one.inputs);
            all.computed |= one.computed;
            all.of_length |= one.of_length;
            all.added = all.added.max(one.added);
            all.counts |= one.counts;
            all.cut(one.shortest);
        }
        all
    }

    /// Takes in a list that is cut, of so many numbers.
    fn cut(&mut self, list: Option<i64>) {
        self.shortest = self.shortest.into_iter().chain(list).min();
    }
}

impl Lookup<'_> {
    /// Whether tokens themselves are looked up.
    fn of_tokens(&self) -> bool {
        self.gathers && self.indices.inputs.iter().eq(&["input_ids"]) && !self.indices.computed
    }

    /// How many positions there are rows for.
    ///
    /// Positions count from 0; those of RoBERTa (Liu et al. 2019) count the tokens so far and are
    /// moved past the padding token's number. A list of numbers that is cut may be shorter than
    /// the table.
    fn limit(&self) -> i64 {
        let offset = self.indices.added.unwrap_or(0).max(0);
        let counts_from_one = i64::from(self.indices.counts);
        let list = self.indices.shortest.filter(|_| self.gathers).unwrap_or(i64::MAX);
        self.rows.saturating_sub(offset).saturating_sub(counts_from_one).min(list)
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
