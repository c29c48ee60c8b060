//! The inputs and the output of an encoder: the same for all bases.

use overmask_graph::GraphBuilder;
use overmask_graph::encoder::OUTPUT;
use overmask_graph::proto::{Dimension, GraphProto, NodeProto, ValueInfoProto, data_type};

use super::{Problem, normal};
use crate::autodiff::shape::Shapes;

/// Our inputs, and what exporters call them as well.
const INPUTS: [(&str, &[&str]); 3] = [
    ("input_ids", &["ids", "tokens", "input", "input_1", "input.1"]),
    ("attention_mask", &["input_mask", "mask", "attention_mask.1"]),
    ("token_type_ids", &["segment_ids", "token_types", "type_ids"]),
];

/// Whether an input of this name says which tokens are no padding.
pub(super) fn is_mask(name: &str) -> bool {
    let (ours, others) = INPUTS[1];
    name == ours || others.contains(&name)
}

/// Makes the hidden states the only output, under their own name.
pub(super) fn choose_output(graph: &mut GraphProto, wanted: Option<&str>) -> Result<(), Problem> {
    let found: Vec<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
    let three = |o: &ValueInfoProto| dims(o).is_some_and(|d| d.len() == 3);
    let named = |name: &str| graph.output.iter().find(|o| o.name == name);
    let chosen = match wanted {
        // An inner value will do as well.
        Some(name) => named(name).cloned().or_else(|| {
            let inner = graph.node.iter().any(|n| n.output.iter().any(|o| o == name));
            inner.then(|| ValueInfoProto { name: name.to_owned(), ..Default::default() })
        }),
        None => named(OUTPUT).or_else(|| graph.output.iter().find(|o| three(o) && !is_answer(o))).cloned(),
    };
    let Some(chosen) = chosen else {
        return Err(match wanted {
            Some(name) => {
                let reason = format!("the model computes no value `{name}`; its outputs are {found:?}");
                Problem::option("output", reason)
            }
            None => {
                // What a classifier is exported with has no hidden states for an output, but computes them.
                let advice = last_norm(graph).map_or_else(String::new, |name| {
                    format!(", which may be an inner value: that of the last layer norm is `{name}`")
                });
                let what = match graph.output.iter().find(|o| three(o)) {
                    Some(answer) => format!("`{}` is what a head says of each token, no hidden state", answer.name),
                    None => format!("none of {found:?} has three axes"),
                };
                let reason = format!("{what}; name the [batch, sequence, width] one with --output-name{advice}");
                Problem::new("outputs", reason)
            }
        });
    };
    let name = chosen.name.clone();
    // A graph input or a constant that is an output at once is no hidden state.
    if !graph.node.iter().any(|n| n.output.contains(&name)) {
        return Err(Problem::new("outputs", format!("`{name}` is not computed by any node")));
    }
    graph.output = vec![chosen];
    normal::rename(graph, &name, OUTPUT);
    Ok(())
}

/// Whether an output is a head's, as taggers and models of masked words have one for each token.
fn is_answer(output: &ValueInfoProto) -> bool {
    output.name.to_lowercase().contains("logits")
}

/// The value of a graph's last layer norm, an operator or a module of that name.
fn last_norm(graph: &GraphProto) -> Option<&str> {
    let is_norm = |node: &&NodeProto| {
        let name = node.name.to_lowercase();
        node.op_type == "LayerNormalization" || name.contains("layernorm") || name.contains("layer_norm")
    };
    graph.node.iter().rfind(is_norm)?.output.first().map(String::as_str)
}

/// Gives inputs our names and type.
pub(super) fn inputs(graph: &mut GraphProto) -> Result<(), Problem> {
    let found: Vec<String> = graph.input.iter().map(|i| i.name.clone()).collect();
    let mut renamed = Vec::new();
    for name in &found {
        let ours = INPUTS.iter().find(|(ours, others)| ours == name || others.contains(&name.as_str()));
        let Some((ours, _)) = ours else {
            let reason = "is none that a text has; export the encoder with input_ids, attention_mask and, where it \
                          has types, token_type_ids";
            return Err(Problem::new(format!("input `{name}`"), reason));
        };
        if renamed.contains(ours) {
            return Err(Problem::new(format!("input `{name}`"), format!("`{ours}` is there under two names")));
        }
        renamed.push(ours);
        normal::rename(graph, name, ours);
    }
    for ours in ["input_ids", "attention_mask"] {
        if !renamed.contains(&ours) {
            let reason = format!("`{ours}` is missing or of no effect; the inputs are {found:?}");
            return Err(Problem::new("inputs", reason));
        }
    }
    // In our order, each with our type.
    let mut casts = Vec::new();
    let declared = std::mem::take(&mut graph.input);
    for (ours, _) in INPUTS {
        let Some(input) = declared.iter().find(|i| i.name == ours) else { continue };
        let kind = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).map_or(0, |t| t.elem_type);
        let wrong = |reason: String| Err(Problem::new(format!("input `{ours}`"), reason));
        if let Some(dims) = dims(input) {
            if dims.len() != 2 {
                return wrong(format!("has {} axes, not [batch, sequence]", dims.len()));
            }
            let fixed =
                |dim: &Option<Dimension>| if let Some(Dimension::Value(size)) = dim { Some(*size) } else { None };
            if let Some(size) = dims.iter().find_map(fixed) {
                return wrong(format!("has the fixed size {size}; export with dynamic batch and sequence"));
            }
        }
        match kind {
            data_type::INT64 => {}
            data_type::FLOAT | data_type::INT32 | data_type::BOOL => {
                // What reads it gets the type that it was exported with.
                let inner = format!("{ours}/typed");
                normal::rename(graph, ours, &inner);
                casts.push((ours, inner, kind));
            }
            other => return wrong(format!("is of element type {other}; export it as int64")),
        }
        graph.input.push(ValueInfoProto::symbolic(ours, data_type::INT64, &["batch", "sequence"]));
    }
    let mut b = GraphBuilder::extend(std::mem::take(graph));
    let nodes = b.take_nodes();
    for (ours, inner, kind) in casts {
        b.node("Cast", &[ours], &[&inner], &[("to", i64::from(kind).into())]);
    }
    b.append(nodes);
    *graph = super::graph_of(b);
    Ok(())
}

/// Declares the output's type, and returns its width.
pub(super) fn describe_output(graph: &mut GraphProto) -> Result<usize, Problem> {
    let wrong = |reason: String| Problem::new(format!("output `{OUTPUT}`"), reason);
    let declared = graph.output.first().and_then(dims).and_then(|dims| match dims.as_slice() {
        [_, _, Some(Dimension::Value(width))] => Some(*width),
        _ => None,
    });
    let inferred = Shapes::infer(graph).map_err(|e| wrong(e.to_string()))?;
    let width = match inferred.get(OUTPUT) {
        Some([_, _, width]) => width.value().or(declared),
        Some(shape) => return Err(wrong(format!("has {} axes, not [batch, sequence, width]", shape.len()))),
        None => declared,
    };
    let width = width.and_then(|w| usize::try_from(w).ok()).filter(|w| *w > 0);
    let width = width.ok_or_else(|| wrong("its width is not known; export with a fixed width".to_owned()))?;
    graph.output = vec![ValueInfoProto::symbolic(OUTPUT, data_type::FLOAT, &["batch", "sequence", &width.to_string()])];
    Ok(width)
}

/// The axes of a declared value, if their number is known.
fn dims(value: &ValueInfoProto) -> Option<Vec<Option<Dimension>>> {
    let shape = value.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?;
    Some(shape.dim.iter().map(|d| d.value.clone()).collect())
}
