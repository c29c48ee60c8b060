//! Rules of operators that only move values.

use overmask_graph::proto::{NodeProto, data_type};

use super::{AutodiffError, Backward, Rule, shape, unsupported};

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Reshape" | "Unsqueeze" | "Squeeze" | "Flatten" => reshape,
        "Pad" => pad,
        "Tile" => tile,
        "Transpose" => transpose,
        "Expand" => expand,
        "Cast" => cast,
        "Slice" => slice,
        "Concat" => concat,
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
    let floats = [data_type::FLOAT, data_type::FLOAT16, data_type::BFLOAT16];
    if !floats.map(i64::from).contains(&node.int("to", 0)) {
        return Err(unsupported(node, "a cast to another type than float has no gradient"));
    }
    // What it was cast from may be of any width.
    let gradient = back.op("CastLike", &[dy, &node.input[0]]);
    back.give(&node.input[0], gradient);
    Ok(())
}

/// The sum of the copies' gradients: an axis of n, laid r times one after the other, is one of r and one of n.
fn tile(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let (x, repeats) = (&node.input[0], &node.input[1]);
    let rank = back.shape(node, x)?.len() as i64;
    let column = back.b.shape(&[-1, 1]);
    let lengths = back.op("Shape", &[x]);
    let columns = [repeats, &lengths].map(|list| back.op("Reshape", &[list, &column]));
    let pairs = back.b.op("Concat", &[&columns[0], &columns[1]], &[("axis", 1i64.into())]);
    let flat = back.b.shape(&[-1]);
    let pairs = back.op("Reshape", &[&pairs, &flat]);
    let open = back.op("Reshape", &[dy, &pairs]);
    let axes = back.b.shape(&(0..rank).map(|axis| 2 * axis).collect::<Vec<_>>());
    let gradient = back.b.op("ReduceSum", &[&open, &axes], &[("keepdims", 0i64.into())]);
    back.give(x, gradient);
    Ok(())
}

/// The part of the gradient that is not of the padding.
fn pad(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let x = &node.input[0];
    let rank = back.shape(node, x)?.len();
    if node.attribute("mode").is_some_and(|mode| mode.s != b"constant") {
        return Err(unsupported(node, "copies values into the padding"));
    }
    let pads =
        back.shapes.numbers(&node.input[1]).filter(|pads| pads.len() == 2 * rank && pads.iter().all(|p| *p >= 0));
    let pads = pads.ok_or_else(|| unsupported(node, "what it puts around is not constant, or less than nothing"))?;
    let start = back.b.shape(&pads[..rank]);
    let length = back.op("Shape", &[x]);
    let end = back.op("Add", &[&start, &length]);
    let gradient = back.op("Slice", &[dy, &start, &end]);
    back.give(x, gradient);
    Ok(())
}

/// Zeros around the gradient, where the slice left values out.
fn slice(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let x = &node.input[0];
    let rank = back.shape(node, x)?.len();
    let list = |index: usize| node.input.get(index).filter(|v| !v.is_empty());
    let numbers = |back: &Backward<'_>, index: usize| match list(index) {
        Some(value) => {
            back.shapes.numbers(value).map(Some).ok_or_else(|| unsupported(node, "where it starts is not constant"))
        }
        None => Ok(None),
    };
    let Some(starts) = numbers(back, 1)? else {
        return Err(unsupported(node, "where it starts is an attribute"));
    };
    if numbers(back, 4)?.is_some_and(|steps| steps.iter().any(|s| *s != 1)) {
        return Err(unsupported(node, "takes steps other than 1"));
    }
    let axes = numbers(back, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let axes = shape::axes(node, &axes, rank)?;
    let mut gradient = dy.to_owned();
    for (start, axis) in starts.into_iter().zip(axes) {
        gradient = widen(back, x, &gradient, start, axis, rank);
    }
    back.give(x, gradient);
    Ok(())
}

/// The gradient with zeros before and after it along an axis, as long as `x` is there.
fn widen(back: &mut Backward<'_>, x: &str, gradient: &str, start: i64, axis: usize, rank: usize) -> String {
    let [whole, part] = [x, gradient].map(|v| length(back, v, axis));
    let start_value = back.b.shape(&[start]);
    let before = match start {
        0.. => back.op("Min", &[&start_value, &whole]),
        _ => {
            let (from_end, zero) = (back.op("Add", &[&whole, &start_value]), back.b.shape(&[0]));
            back.op("Max", &[&from_end, &zero])
        }
    };
    let rest = back.op("Sub", &[&whole, &before]);
    let after = back.op("Sub", &[&rest, &part]);
    let zeros = |back: &mut Backward<'_>, count: usize| back.b.shape(&vec![0; count]);
    let (left, right) = (zeros(back, axis), zeros(back, rank - axis - 1));
    let pads = [&left, &before, &right, &left, &after, &right].map(String::as_str);
    let pads = back.b.op("Concat", &pads, &[("axis", 0i64.into())]);
    back.op("Pad", &[gradient, &pads])
}

/// How long a value is along an axis, as a list of one number.
fn length(back: &mut Backward<'_>, value: &str, axis: usize) -> String {
    let shape = back.op("Shape", &[value]);
    let [from, to, zero] = [axis as i64, axis as i64 + 1, 0].map(|i| back.b.shape(&[i]));
    back.op("Slice", &[&shape, &from, &to, &zero])
}

/// A `Gather` of one constant index is a slice without its axis.
pub(super) fn pick(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let (x, index) = (&node.input[0], &node.input[1]);
    let Some(&[index]) = back.shapes.numbers(index).as_deref() else {
        return Err(unsupported(node, "its index is not one constant number"));
    };
    let rank = back.shape(node, x)?.len();
    let axis = shape::axes(node, &[node.int("axis", 0)], rank)?[0];
    let at = back.b.shape(&[axis as i64]);
    let open = back.op("Unsqueeze", &[dy, &at]);
    let gradient = widen(back, x, &open, index, axis, rank);
    back.give(x, gradient);
    Ok(())
}

/// Each input gets its part.
fn concat(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let rank = back.shape(node, &node.input[0])?.len();
    let axis = shape::axes(node, &[node.int("axis", 0)], rank)?[0];
    let lengths: Vec<String> = node.input.iter().map(|x| length(back, x, axis)).collect();
    let lengths: Vec<&str> = lengths.iter().map(String::as_str).collect();
    let lengths = back.b.op("Concat", &lengths, &[("axis", 0i64.into())]);
    let parts: Vec<String> = node.input.iter().map(|_| back.b.fresh("Split")).collect();
    let names: Vec<&str> = parts.iter().map(String::as_str).collect();
    back.b.node("Split", &[dy, &lengths], &names, &[("axis", (axis as i64).into())]);
    for (x, part) in node.input.iter().zip(parts) {
        if back.wants(x) {
            back.give(x, part);
        }
    }
    Ok(())
}

/// The parts' gradients side by side; a part that nothing depends on has zeros.
pub(super) fn split(back: &mut Backward<'_>, node: &NodeProto) -> Result<(), AutodiffError> {
    if !node.output.iter().any(|o| back.gradients.contains_key(o)) {
        return Ok(());
    }
    let mut parts = Vec::with_capacity(node.output.len());
    for output in &node.output {
        parts.push(match back.total(output) {
            Some(gradient) => gradient,
            None => {
                let shape = back.op("Shape", &[output]);
                back.op("ConstantOfShape", &[&shape])
            }
        });
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let gradient = back.b.op("Concat", &parts, &[("axis", node.int("axis", 0).into())]);
    back.give(&node.input[0], gradient);
    Ok(())
}
