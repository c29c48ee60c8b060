//! Names of weights, where the exporter lost them.
//!
//! PyTorch's exporters transpose the weight of a linear layer in advance, and the result is called
//! `onnx::MatMul_188` (TorchScript) or `val_48` (dynamo). The module that it belongs to is still
//! known: from the node's name, `/encoder/layer.0/attention/self/query/MatMul`; from its scopes,
//! which dynamo writes as metadata; or from the bias, which keeps its name as a rule.

use std::collections::{HashMap, HashSet};

use overmask_graph::proto::{GraphProto, NodeProto, TensorProto};

use super::normal;

/// Where dynamo writes the modules around a node, the innermost before the operation itself.
const SCOPES: &str = "pkg.torch.onnx.name_scopes";

/// Gives weights and biases of linear layers the names of their modules where they have none of their own.
pub(super) fn restore(graph: &mut GraphProto) {
    let values = Values::of(graph);
    let mut names = Names { taken: normal::names(graph), ..Names::default() };
    // The modules of products and how wide they are, for the additions that read them.
    let mut modules: HashMap<&str, (String, i64)> = HashMap::new();
    for node in graph.node.iter().filter(|n| matches!(n.op_type.as_str(), "MatMul" | "Gemm")) {
        let constant = |i: usize| node.input.get(i).and_then(|input| values.constants.get(input.as_str()));
        let Some(weight) = constant(1).filter(|t| t.dims.len() == 2) else { continue };
        let Some(module) = values.module(node) else { continue };
        names.give(weight, format!("{module}.weight"));
        let outputs = weight.dims[if node.int("transB", 0) == 0 { 1 } else { 0 }];
        constant(2).into_iter().for_each(|bias| names.give(bias, format!("{module}.bias")));
        node.output.first().into_iter().for_each(|output| _ = modules.insert(output, (module.clone(), outputs)));
    }
    // A model that was saved in half precision has biases that were cast in advance.
    for node in graph.node.iter().filter(|n| n.op_type == "Add") {
        let Some((module, outputs)) = node.input.iter().find_map(|input| modules.get(input.as_str())) else { continue };
        let constants = node.input.iter().filter_map(|input| values.constants.get(input.as_str()));
        constants.filter(|t| t.dims == [*outputs]).for_each(|bias| names.give(bias, format!("{module}.bias")));
    }
    let Names { renamed, copies, .. } = names;
    let name = |value: &mut String| {
        if let Some(first) = copies.get(value) {
            value.clone_from(first);
        }
        if let Some(to) = renamed.get(value) {
            value.clone_from(to);
        }
    };
    graph.node.iter_mut().flat_map(|n| &mut n.input).for_each(name);
    graph.initializer.retain(|t| !copies.contains_key(&t.name));
    graph.initializer.iter_mut().map(|t| &mut t.name).for_each(name);
}

/// The names that tensors get.
#[derive(Default)]
struct Names<'a> {
    taken: HashSet<String>,
    renamed: HashMap<String, String>,
    /// Dynamo makes a copy of a weight for each use of a module that comes several times: the first one of each.
    copies: HashMap<String, String>,
    first: HashMap<String, &'a TensorProto>,
}

impl<'a> Names<'a> {
    /// Gives a tensor a name if it has none of its own.
    fn give(&mut self, tensor: &'a TensorProto, name: String) {
        if !is_made_up(&tensor.name) || self.renamed.contains_key(&tensor.name) {
            return;
        }
        if self.taken.insert(name.clone()) {
            self.renamed.insert(tensor.name.clone(), name.clone());
            self.first.insert(name, tensor);
        } else if let Some(first) = self.first.get(&name)
            && first.name != tensor.name
            && first.dims == tensor.dims
            && first.raw_data == tensor.raw_data
        {
            self.copies.insert(tensor.name.clone(), first.name.clone());
        }
    }
}

/// What is looked up for many nodes.
struct Values<'a> {
    constants: HashMap<&'a str, &'a TensorProto>,
    /// The module whose bias is added to a value.
    biased: HashMap<&'a str, &'a str>,
}

impl<'a> Values<'a> {
    fn of(graph: &'a GraphProto) -> Self {
        let mut biased = HashMap::new();
        for node in graph.node.iter().filter(|n| n.op_type == "Add") {
            if let Some(module) = node.input.iter().find_map(|input| input.strip_suffix(".bias")) {
                // The first one counts.
                node.input.iter().for_each(|input| _ = biased.entry(input.as_str()).or_insert(module));
            }
        }
        Values { constants: normal::constants_by_name(graph), biased }
    }

    /// The path of the module that a product belongs to.
    fn module(&self, node: &NodeProto) -> Option<String> {
        from_scopes(node).or_else(|| from_name(&node.name)).or_else(|| self.module_of_bias(node))
    }

    /// The bias is an input of the product itself or of the addition that reads it.
    fn module_of_bias(&self, node: &NodeProto) -> Option<String> {
        let own = node.input.iter().skip(2).find_map(|input| input.strip_suffix(".bias"));
        own.or_else(|| self.biased.get(node.output.first()?.as_str()).copied()).map(str::to_owned)
    }
}

/// Whether an exporter made the name up: those of modules have dots.
fn is_made_up(name: &str) -> bool {
    name.contains("::") || !name.contains('.')
}

/// The last but one of a list that is written as Python writes it.
fn from_scopes(node: &NodeProto) -> Option<String> {
    let list = &node.metadata_props.iter().find(|p| p.key == SCOPES)?.value;
    let scopes: Vec<&str> = list.strip_prefix('[')?.strip_suffix(']')?.split(", ").collect();
    let module = scopes.iter().rev().nth(1)?.trim_matches(['\'', '"']);
    (!module.is_empty()).then(|| module.to_owned())
}

/// The module in a node's name or its output's: `/encoder/layer.0/output/dense/MatMul` is of the module `encoder.layer.0.output.dense`.
pub(super) fn from_name(name: &str) -> Option<String> {
    let (module, _) = name.strip_prefix('/')?.rsplit_once('/')?;
    (!module.is_empty()).then(|| module.replace('/', "."))
}

/// The layers that the names of weights tell, if all of them do: of the numbers in their module paths the first that
/// is not the same in all, as the 2 of `0.auto_model.encoder.layer.2.output`.
pub(super) fn layers(names: &[&str]) -> Option<Vec<usize>> {
    let numbers: Vec<Vec<usize>> = names.iter().map(|name| numbers(name)).collect();
    let first = numbers.first()?;
    let varies = (0..first.len()).find(|i| numbers.iter().any(|n| n.get(*i) != first.get(*i)))?;
    numbers.iter().map(|n| n.get(varies).copied()).collect()
}

/// The numbers in a module path: its parts that are one or end in one, as in `encoder.layer.0.output` and
/// `layer_11/ffn`.
fn numbers(name: &str) -> Vec<usize> {
    if is_made_up(name) && !name.contains('/') {
        return Vec::new();
    }
    let number = |part: &str| {
        let digits = part.trim_start_matches(|c: char| !c.is_ascii_digit());
        let stem = &part[..part.len() - digits.len()];
        (stem.is_empty() || stem.ends_with('_')).then(|| digits.parse().ok()).flatten()
    };
    name.split(['.', '/']).filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_from_paths() {
        let told = |names: &[&str]| layers(names);
        assert_eq!(
            told(&["encoder.layer.0.attention.self.query.weight", "h.11.mlp", "layer_3/ffn"]),
            Some(vec![0, 11, 3])
        );
        // A wrapper's own number is the same in all; experts come after layers.
        assert_eq!(told(&["0.auto_model.layer.1.q", "0.auto_model.layer.0.q"]), Some(vec![1, 0]));
        assert_eq!(told(&["layers.0.experts.3.w", "layers.1.attn.w"]), Some(vec![0, 1]));
        // One that has no layer, numbers that say nothing, none.
        assert_eq!(told(&["bert.pooler.dense.weight", "bert.layer.1.q", "bert.layer.2.q"]), None);
        assert_eq!(told(&["groups.0.layers.0.query", "groups.0.layers.0.key"]), None);
        assert_eq!(told(&["layer.0.q", "layer.1.q", "layers.weight"]), None);
        assert_eq!(told(&[]), None);
        // Not a layer's number, and one beyond all numbers.
        let none = ["linear1.weight", "layer.99999999999999999999.x", "onnx::MatMul_188", "val_48"];
        assert!(none.iter().all(|name| numbers(name).is_empty()));
    }

    #[test]
    fn modules_are_read_from_names_and_scopes() {
        assert_eq!(from_name("/encoder/layer.0/dense/MatMul").unwrap(), "encoder.layer.0.dense");
        for none in ["MatMul_12", "/MatMul", "node_MatMul_47", ""] {
            assert_eq!(from_name(none), None);
        }
        let scopes = |value: &str| {
            let entry = overmask_graph::proto::StringStringEntryProto { key: SCOPES.into(), value: value.into() };
            from_scopes(&NodeProto { metadata_props: vec![entry], ..Default::default() })
        };
        assert_eq!(scopes("['', 'encoder', 'encoder.layer.0', 'linear']").unwrap(), "encoder.layer.0");
        for none in ["", "[]", "['linear']", "['', 'linear']", "nonsense"] {
            assert_eq!(scopes(none), None);
        }
    }
}
