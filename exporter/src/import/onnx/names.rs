//! Names of weights, where the exporter lost them.
//!
//! PyTorch's exporters transpose the weight of a linear layer in advance, and the result is called
//! `onnx::MatMul_188` (TorchScript) or `val_48` (dynamo). The module that it belongs to is still
//! known: from the node's name, `/encoder/layer.0/attention/self/query/MatMul`; from its scopes,
//! which dynamo writes as metadata; or from the bias, which keeps its name.

use std::collections::HashMap;

use overmask_graph::proto::{GraphProto, NodeProto, TensorProto};

use super::normal;

/// Where dynamo writes the modules around a node, the innermost before the operation itself.
const SCOPES: &str = "pkg.torch.onnx.name_scopes";

/// Gives weights of matrix products the names of their modules where they have none of their own.
pub(super) fn restore(graph: &mut GraphProto) {
    let mut taken = normal::names(graph);
    let mut renamed: HashMap<String, String> = HashMap::new();
    // Dynamo makes a copy of a weight for each use of a module that comes several times.
    let mut copies: HashMap<String, String> = HashMap::new();
    let mut first: HashMap<String, &TensorProto> = HashMap::new();
    let values = Values::of(graph);
    for node in graph.node.iter().filter(|n| matches!(n.op_type.as_str(), "MatMul" | "Gemm")) {
        let Some(weight) = node.input.get(1).filter(|w| is_made_up(w) && !renamed.contains_key(*w)) else { continue };
        let Some(tensor) = values.constants.get(weight.as_str()).filter(|t| t.dims.len() == 2) else { continue };
        let Some(module) = module(&values, node) else { continue };
        let name = format!("{module}.weight");
        if taken.insert(name.clone()) {
            renamed.insert(weight.clone(), name.clone());
            first.insert(name, tensor);
        } else if let Some(first) = first.get(&name)
            && first.dims == tensor.dims
            && first.raw_data == tensor.raw_data
        {
            copies.insert(weight.clone(), first.name.clone());
        }
    }
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
}

/// Whether an exporter made the name up: those of modules have dots.
fn is_made_up(name: &str) -> bool {
    name.contains("::") || !name.contains('.')
}

/// The path of the module that a product belongs to.
fn module(values: &Values<'_>, node: &NodeProto) -> Option<String> {
    from_scopes(node).or_else(|| from_name(&node.name)).or_else(|| from_bias(values, node))
}

/// The last but one of a list that is written as Python writes it.
fn from_scopes(node: &NodeProto) -> Option<String> {
    let list = &node.metadata_props.iter().find(|p| p.key == SCOPES)?.value;
    let scopes: Vec<&str> = list.strip_prefix('[')?.strip_suffix(']')?.split(", ").collect();
    let module = scopes.iter().rev().nth(1)?.trim_matches(['\'', '"']);
    (!module.is_empty()).then(|| module.to_owned())
}

/// `/encoder/layer.0/output/dense/MatMul` is of the module `encoder.layer.0.output.dense`.
fn from_name(name: &str) -> Option<String> {
    let (module, _) = name.strip_prefix('/')?.rsplit_once('/')?;
    (!module.is_empty()).then(|| module.replace('/', "."))
}

/// The bias is an input of the product itself or of the addition that reads it.
fn from_bias(values: &Values<'_>, node: &NodeProto) -> Option<String> {
    let own = node.input.iter().skip(2).find_map(|input| input.strip_suffix(".bias"));
    own.or_else(|| values.biased.get(node.output.first()?.as_str()).copied()).map(str::to_owned)
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
