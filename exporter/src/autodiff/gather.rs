//! The rule of `Gather`: rows of a table, or one place along an axis.

use overmask_graph::proto::NodeProto;

use super::{AutodiffError, Backward, Rule, movement, unsupported};

pub(super) fn rule(op: &str) -> Option<Rule> {
    (op == "Gather").then_some(gather)
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
