//! Rules of sums and means over axes.

use overmask_graph::proto::NodeProto;

use super::{AutodiffError, Backward, Rule, shape};

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "ReduceSum" => sum,
        "ReduceMean" => mean,
        _ => return None,
    })
}

fn sum(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let gradient = spread(back, node, dy)?;
    back.give(&node.input[0], gradient);
    Ok(())
}

/// The sum's gradient, divided by how many values each mean is of.
fn mean(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let gradient = spread(back, node, dy)?;
    let [x, y] = [&node.input[0], &node.output[0]].map(|v| back.op("Size", &[v]));
    let count = back.op("Div", &[&x, &y]);
    let count = back.b.op("Cast", &[&count], &[("to", 1i64.into())]);
    let gradient = back.op("Div", &[&gradient, &count]);
    back.give(&node.input[0], gradient);
    Ok(())
}

/// dy spread over the reduced axes to the input's shape.
fn spread(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<String, AutodiffError> {
    let x = &node.input[0];
    let rank = back.shape(node, x)?.len();
    let axes = shape::reduced_axes(&back.shapes, node, rank)?;
    let mut dy = dy.to_owned();
    if node.int("keepdims", 1) == 0 && !axes.is_empty() {
        let axes: Vec<i64> = axes.iter().map(|a| *a as i64).collect();
        let axes = back.b.shape(&axes);
        dy = back.op("Unsqueeze", &[&dy, &axes]);
    }
    let shape = back.op("Shape", &[x]);
    Ok(back.op("Expand", &[&dy, &shape]))
}
