//! Builds a graph node by node; every value gets a unique name.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::External;
use super::proto::{
    AttributeProto, DATA_LOCATION_EXTERNAL, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, ValueInfoProto, data_type,
};

/// The ONNX operator set that our graphs use: the newest that every engine here reads and in
/// which `LayerNormalization` is an operator.
pub const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// A graph under construction.
///
/// Values are strings: the names of inputs and initializers as given, and generated names for
/// everything that an operation makes. Nodes stay in the order in which they were added,
/// which is a topological order by construction.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: GraphProto,
    next: u64,
    constants: HashMap<Vec<u8>, String>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        let graph = GraphProto { name: name.to_owned(), ..Default::default() };
        GraphBuilder { graph, ..Default::default() }
    }

    /// Continues a graph that exists; its value names are kept.
    pub fn extend(graph: GraphProto) -> Self {
        // Generated names end in `#number`: go on above the largest, so that none comes twice.
        let outputs = graph.node.iter().flat_map(|n| &n.output);
        let constants = graph.initializer.iter().map(|t| &t.name);
        // Numbers beyond u32 are none of ours, and never reached.
        let number = |name: &String| name.rsplit_once('#').and_then(|(_, n)| n.parse::<u32>().ok());
        let next = outputs.chain(constants).filter_map(number).max().unwrap_or(0).into();
        GraphBuilder { graph, next, constants: HashMap::new() }
    }

    /// The graph so far.
    pub fn graph(&self) -> &GraphProto {
        &self.graph
    }

    /// The nodes so far, for passes that rewrite them in place.
    pub fn nodes_mut(&mut self) -> &mut [NodeProto] {
        &mut self.graph.node
    }

    /// Takes all nodes out, so that others can go before them: see [`GraphBuilder::append`].
    pub fn take_nodes(&mut self) -> Vec<NodeProto> {
        std::mem::take(&mut self.graph.node)
    }

    /// Adds nodes as they are.
    pub fn append(&mut self, nodes: Vec<NodeProto>) {
        self.graph.node.extend(nodes);
    }

    /// Adds a graph input; a dimension that is no number is symbolic.
    pub fn input(&mut self, name: &str, data_type: i32, shape: &[&str]) -> String {
        self.graph.input.push(ValueInfoProto::symbolic(name, data_type, shape));
        name.to_owned()
    }

    /// Makes a value an output of the graph under its own name.
    pub fn output(&mut self, name: &str, data_type: i32, shape: &[&str]) {
        self.graph.output.push(ValueInfoProto::symbolic(name, data_type, shape));
    }

    /// Makes a value an output of the graph under another name.
    pub fn output_as(&mut self, value: &str, name: &str, data_type: i32, shape: &[&str]) {
        self.node("Identity", &[value], &[name], &[]);
        self.output(name, data_type, shape);
    }

    /// Gives values names of their own, before any of them is an output: pairs of a name and the value that is
    /// to have it. A value that has got a name before, or that no node makes, is copied.
    pub fn rename_all(&mut self, pairs: &[(String, String)]) {
        let made: HashSet<&String> = self.graph.node.iter().flat_map(|node| &node.output).collect();
        let (mut names, mut copies) = (HashMap::new(), Vec::new());
        for (name, value) in pairs {
            match names.entry(value.clone()) {
                Entry::Vacant(place) if made.contains(value) => drop(place.insert(name.clone())),
                _ => copies.push((name, value)),
            }
        }
        for node in &mut self.graph.node {
            for value in node.input.iter_mut().chain(&mut node.output) {
                if let Some(name) = names.get(value) {
                    value.clone_from(name);
                }
            }
        }
        for (name, value) in copies {
            let value = names.get(value).unwrap_or(value);
            self.node("Identity", &[value], &[name], &[]);
        }
    }

    /// Adds a constant whose bytes are outside the model file.
    pub fn external_initializer(&mut self, name: &str, data_type: i32, dims: &[i64], at: External) -> String {
        self.graph.initializer.push(TensorProto::external(name, data_type, dims, at));
        name.to_owned()
    }

    /// Adds a constant as it is.
    pub fn tensor(&mut self, tensor: TensorProto) {
        self.graph.initializer.push(tensor);
    }

    /// A constant of int64 values; equal constants are stored once.
    pub fn ints(&mut self, dims: &[i64], values: &[i64]) -> String {
        self.constant(data_type::INT64, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A one-dimensional int64 constant, as shapes and axes are.
    pub fn shape(&mut self, values: &[i64]) -> String {
        self.ints(&[values.len() as i64], values)
    }

    /// A scalar f32 constant.
    pub fn float(&mut self, value: f32) -> String {
        self.constant(data_type::FLOAT, &[], value.to_le_bytes().to_vec())
    }

    /// A one-dimensional f32 constant.
    pub fn floats(&mut self, values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(data_type::FLOAT, &[values.len() as i64], bytes)
    }

    fn constant(&mut self, data_type: i32, dims: &[i64], raw_data: Vec<u8>) -> String {
        let mut key = vec![data_type as u8, dims.len() as u8];
        key.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
        key.extend(&raw_data);
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = self.fresh("const");
        self.graph.initializer.push(TensorProto {
            name: name.clone(),
            dims: dims.to_vec(),
            data_type,
            raw_data,
            ..Default::default()
        });
        self.constants.insert(key, name.clone());
        name
    }

    /// A name that no value has yet.
    pub fn fresh(&mut self, stem: &str) -> String {
        self.next += 1;
        format!("{stem}#{}", self.next)
    }

    /// Adds an operation with one output and returns that value's name.
    pub fn op(&mut self, op_type: &str, inputs: &[&str], attributes: &[(&str, AttributeProto)]) -> String {
        let output = self.fresh(op_type);
        self.node(op_type, inputs, &[&output], attributes);
        output
    }

    /// Adds an operation with the given output names.
    pub fn node(&mut self, op_type: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, AttributeProto)]) {
        self.graph.node.push(NodeProto::new(op_type, inputs, outputs, attributes));
    }

    /// The model: this graph with its operator set.
    pub fn finish(self) -> ModelProto {
        ModelProto {
            ir_version: IR_VERSION,
            producer_name: "overmask".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            ..Default::default()
        }
    }
}

impl TensorProto {
    /// A tensor whose bytes lie outside the model.
    pub fn external(name: &str, data_type: i32, dims: &[i64], at: External) -> Self {
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
        TensorProto {
            name: name.to_owned(),
            dims: dims.to_vec(),
            data_type,
            data_location: DATA_LOCATION_EXTERNAL,
            external_data: vec![
                entry("location", at.location),
                entry("offset", at.offset.to_string()),
                entry("length", at.length.to_string()),
            ],
            ..Default::default()
        }
    }

    /// A tensor with its values.
    pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> Self {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        TensorProto {
            name: name.to_owned(),
            dims: dims.to_vec(),
            data_type: data_type::FLOAT,
            raw_data,
            ..Default::default()
        }
    }
}

impl NodeProto {
    /// An operation with the given output names, named after the first.
    pub fn new(op_type: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, AttributeProto)]) -> Self {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let attribute = attributes
            .iter()
            .map(|(name, value)| AttributeProto { name: (*name).to_owned(), ..value.clone() })
            .collect();
        NodeProto {
            name: outputs.first().copied().unwrap_or_default().to_owned(),
            op_type: op_type.to_owned(),
            input: owned(inputs),
            output: owned(outputs),
            attribute,
            ..Default::default()
        }
    }
}
