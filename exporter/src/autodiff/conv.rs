//! The rule of `Conv` along texts, as ConvBERT has it: with stride 1 and padding by zeros.

use overmask_graph::proto::NodeProto;

use super::dim::Dim;
use super::{AutodiffError, Backward, Rule, unsupported};

pub(super) fn rule(op: &str) -> Option<Rule> {
    (op == "Conv").then_some(conv)
}

/// [batch, outputs, ...] with each further axis shorter by what the kernel reaches over, and longer by the padding.
pub(super) fn shape(node: &NodeProto, x: &[Dim], weight: &[Dim]) -> Option<Vec<Dim>> {
    let ([batch, _, lengths @ ..], [outputs, _, kernel @ ..]) = (x, weight) else { return None };
    if lengths.len() != kernel.len() || !is_plain(node) {
        return None;
    }
    let list = |name: &str, count: usize, default: i64| match node.attribute(name) {
        Some(a) => Some(a.ints.clone()).filter(|list| list.len() == count),
        None => Some(vec![default; count]),
    };
    let axes = lengths.len();
    let (pads, dilations) = (list("pads", 2 * axes, 0)?, list("dilations", axes, 1)?);
    let length = |axis: usize| {
        let reach = kernel[axis].value()?.checked_sub(1)?.checked_mul(dilations[axis])?;
        lengths[axis].plus(pads[axis].checked_add(pads[axes + axis])?.checked_sub(reach)?)
    };
    let lengths = (0..axes).map(length).collect::<Option<Vec<_>>>()?;
    Some([&[batch.clone(), outputs.clone()], &lengths[..]].concat())
}

/// Whether each place along the axes has an output, and the padding is what `pads` says.
fn is_plain(node: &NodeProto) -> bool {
    node.attribute("strides").is_none_or(|a| a.ints.iter().all(|s| *s == 1))
        && node.attribute("auto_pad").is_none_or(|a| a.s == b"NOTSET")
}

/// y = w ∗ x + b: dx is the transposed convolution of dy; db the sum of dy over all places.
fn conv(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    if !is_plain(node) {
        return Err(unsupported(node, "takes strides other than 1, or pads by a rule"));
    }
    if back.wants(&node.input[1]) {
        return Err(unsupported(node, "a gradient of its weight"));
    }
    if back.wants(&node.input[0]) {
        let kept = ["group", "dilations", "pads"];
        let attributes: Vec<_> =
            kept.into_iter().filter_map(|name| Some((name, node.attribute(name)?.clone()))).collect();
        let gradient = back.b.op("ConvTranspose", &[dy, &node.input[1]], &attributes);
        back.give(&node.input[0], gradient);
    }
    if let Some(bias) = node.input.get(2).filter(|b| back.wants(b)) {
        let rank = back.shape(node, &node.output[0])?.len() as i64;
        let axes: Vec<i64> = (0..rank).filter(|axis| *axis != 1).collect();
        let axes = back.b.shape(&axes);
        let gradient = back.b.op("ReduceSum", &[dy, &axes], &[("keepdims", 0i64.into())]);
        back.give(bias, gradient);
    }
    Ok(())
}
