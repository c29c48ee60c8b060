//! Rules of operators that normalise along an axis.

use overmask_graph::proto::NodeProto;

use super::{AutodiffError, Backward, Rule, unsupported};

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Softmax" => softmax,
        "LogSoftmax" => log_softmax,
        "LayerNormalization" => layer_norm,
        _ => return None,
    })
}

/// y = softmax(x): dx = y · (dy - Σ dy·y).
///
/// Of a row that is -∞ throughout y is no number: as of padding with nothing around that it may attend to. Where the
/// graph puts zeros there, so does the gradient.
fn softmax(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let y = &numbers_only(back, &node.output[0]);
    let product = back.op("Mul", &[dy, y]);
    let sum = sum_along(back, &product, node.int("axis", -1));
    let centred = back.op("Sub", &[dy, &sum]);
    let gradient = back.op("Mul", &[y, &centred]);
    back.give(&node.input[0], gradient);
    Ok(())
}

/// The value where those that are no numbers were replaced, if the graph does that; else the value.
fn numbers_only(back: &Backward<'_>, value: &str) -> String {
    let nodes = &back.b.graph().node;
    let reads = |node: &NodeProto, index: usize, of: &str| node.input.get(index).is_some_and(|input| input == of);
    let tested = nodes.iter().find(|n| n.op_type == "IsNaN" && reads(n, 0, value)).and_then(|n| n.output.first());
    let chosen = tested
        .and_then(|tested| nodes.iter().find(|n| n.op_type == "Where" && reads(n, 0, tested) && reads(n, 2, value)))
        .and_then(|n| n.output.first());
    chosen.map_or_else(|| value.to_owned(), String::clone)
}

/// y = log softmax(x): dx = dy - exp(y) · Σ dy.
fn log_softmax(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let sum = sum_along(back, dy, node.int("axis", -1));
    let probability = back.op("Exp", &[&node.output[0]]);
    let part = back.op("Mul", &[&probability, &sum]);
    let gradient = back.op("Sub", &[dy, &part]);
    back.give(&node.input[0], gradient);
    Ok(())
}

/// y = x̂·γ + β with x̂ = (x - mean) / σ over the last axis (Ba et al. 2016):
/// dx = (g - mean(g) - x̂ · mean(g·x̂)) / σ with g = dy·γ; dγ = Σ dy·x̂; dβ = Σ dy.
///
/// Mean and 1/σ are the operator's optional outputs: see [`name_statistics`].
fn layer_norm(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let (x, scale) = (&node.input[0], &node.input[1]);
    let rank = back.shape(node, x)?.len() as i64;
    let axis = node.int("axis", -1);
    if axis != -1 && axis != rank - 1 {
        return Err(unsupported(node, "normalises over more than the last axis"));
    }
    let [_, mean, inverse] = node.output.as_slice() else {
        return Err(unsupported(node, "outputs Mean and InvStdDev are not named"));
    };
    let centred = back.op("Sub", &[x, mean]);
    let normal = back.op("Mul", &[&centred, inverse]);
    if back.wants(x) {
        let g = back.op("Mul", &[dy, scale]);
        let mean_g = mean_last(back, &g);
        let product = back.op("Mul", &[&g, &normal]);
        let mean_product = mean_last(back, &product);
        let along = back.op("Mul", &[&normal, &mean_product]);
        let rest = back.op("Sub", &[&g, &mean_g]);
        let rest = back.op("Sub", &[&rest, &along]);
        let gradient = back.op("Mul", &[&rest, inverse]);
        back.give(x, gradient);
    }
    if back.wants(scale) {
        let product = back.op("Mul", &[dy, &normal]);
        back.give_broadcast(node, scale, product, &node.output[0])?;
    }
    if let Some(bias) = node.input.get(2).filter(|b| back.wants(b)) {
        back.give_broadcast(node, bias, dy.to_owned(), &node.output[0])?;
    }
    Ok(())
}

/// Names the statistics that [`layer_norm`] needs on every `LayerNormalization` of a graph.
pub(super) fn name_statistics(nodes: &mut [NodeProto]) {
    for node in nodes.iter_mut().filter(|n| n.op_type == "LayerNormalization") {
        let Some(output) = node.output.first().cloned() else { continue };
        node.output.resize(node.output.len().max(3), String::new());
        for (name, statistic) in node.output[1..].iter_mut().zip(["mean", "inverse_deviation"]) {
            if name.is_empty() {
                *name = format!("{output}/{statistic}");
            }
        }
    }
}

fn sum_along(back: &mut Backward<'_>, value: &str, axis: i64) -> String {
    let axes = back.b.shape(&[axis]);
    back.b.op("ReduceSum", &[value, &axes], &[("keepdims", 1i64.into())])
}

fn mean_last(back: &mut Backward<'_>, value: &str) -> String {
    back.b.op("ReduceMean", &[value], &[("axes", vec![-1i64].into()), ("keepdims", 1i64.into())])
}
