//! Rules of operators that only move values.

use overmask::onnx::proto::NodeProto;

use super::{AutodiffError, Backward, Rule, shape, unsupported};

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Reshape" | "Unsqueeze" | "Squeeze" => reshape,
        "Transpose" => transpose,
        "Expand" => expand,
        "Cast" => cast,
        _ => return None,
    })
}

fn reshape(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let gradient = back.reshape_like(dy, &node.input[0]);
    back.give(&node.input[0], gradient);
    Ok(())
}

/// The gradient goes through the inverse permutation.
fn transpose(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let rank = match node.attribute("perm") {
        Some(order) => order.ints.len(),
        None => back.shape(node, &node.input[0])?.len(),
    };
    let mut inverse = vec![0; rank];
    for (to, from) in shape::permutation(node, rank)?.into_iter().enumerate() {
        inverse[from] = to as i64;
    }
    let gradient = back.b.op("Transpose", &[dy], &[("perm", inverse.into())]);
    back.give(&node.input[0], gradient);
    Ok(())
}

fn expand(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    back.give_broadcast(node, &node.input[0], dy.to_owned(), &node.output[0])
}

/// Only casts that change nothing have a gradient here.
fn cast(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    if node.int("to", 0) != i64::from(overmask::onnx::proto::data_type::FLOAT) {
        return Err(unsupported(node, "a cast to another type than float has no gradient"));
    }
    back.give(&node.input[0], dy.to_owned());
    Ok(())
}
