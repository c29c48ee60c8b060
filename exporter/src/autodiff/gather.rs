//! The rules of `Gather` (rows of a table, or one place along an axis) and `GatherElements`.

use overmask_graph::proto::NodeProto;

use super::{AutodiffError, Backward, Rule, movement, unsupported};

pub(super) fn rule(op: &str) -> Option<Rule> {
    match op {
        "Gather" => Some(gather),
        "GatherElements" => Some(gather_elements),
        _ => None,
    }
}

/// Each value gets the sum of the gradients of its copies along the axis.
fn gather_elements(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let (data, indices) = (&node.input[0], &node.input[1]);
    let shape = back.op("Shape", &[data]);
    let zeros = back.op("ConstantOfShape", &[&shape]);
    let attributes = [("axis", node.int("axis", 0).into()), ("reduction", "add".into())];
    let gradient = back.b.op("ScatterElements", &[&zeros, indices, dy], &attributes);
    back.give(data, gradient);
    Ok(())
}

/// `y = table[indices]`: each row of the table gets the sum of the gradients of its copies.
///
/// `ScatterElements` adds them one after the other, in the order of the indices, so that the sum is
/// the same in every run; `ScatterND` would need no index for each value, but adds in any order.
fn gather(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let (table, indices) = (&node.input[0], &node.input[1]);
    if back.shape(node, indices)?.is_empty() {
        return movement::pick(back, node, dy);
    }
    if node.int("axis", 0) != 0 || back.shape(node, table)?.len() != 2 {
        return Err(unsupported(node, "looks up something else than rows of a table"));
    }
    let (column, width) = (back.b.shape(&[-1, 1]), back.b.shape(&[1]));
    let shape = back.op("Shape", &[table]);
    let end = back.b.shape(&[2]);
    let zero_axis = back.b.shape(&[0]);
    let columns = back.op("Slice", &[&shape, &width, &end, &zero_axis]);
    let all = back.b.shape(&[-1]);
    let rows_of = back.b.op("Concat", &[&all, &columns], &[("axis", 0i64.into())]);
    let updates = back.op("Reshape", &[dy, &rows_of]);
    let rows = back.op("Reshape", &[indices, &column]);
    let like = back.op("Shape", &[&updates]);
    let places = back.op("Expand", &[&rows, &like]);
    let zeros = back.op("ConstantOfShape", &[&shape]);
    let gradient = back.b.op(
        "ScatterElements",
        &[&zeros, &places, &updates],
        &[("axis", 0i64.into()), ("reduction", "add".into())],
    );
    back.give(table, gradient);
    Ok(())
}
