//! Rules of matrix products.

use overmask_graph::proto::NodeProto;

use super::dim::Dim;
use super::{AutodiffError, Backward, Rule, unsupported};

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Gemm" => gemm,
        "MatMul" => matmul,
        _ => return None,
    })
}

/// y = α·op(a)·op(b) + β·c, where op transposes or not. With α = 1:
///
/// | transA | transB | da | db |
/// | --- | --- | --- | --- |
/// | 0 | 0 | dy·bᵀ | aᵀ·dy |
/// | 0 | 1 | dy·b | dyᵀ·a |
/// | 1 | 0 | b·dyᵀ | a·dy |
/// | 1 | 1 | bᵀ·dyᵀ | dyᵀ·aᵀ |
fn gemm(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let [trans_a, trans_b] = ["transA", "transB"].map(|name| i64::from(node.int(name, 0) != 0));
    let (alpha, beta) = (node.float("alpha", 1.0), node.float("beta", 1.0));
    let (a, b) = (&node.input[0], &node.input[1]);
    let mut product = |value: &str, left: (&str, i64), right: (&str, i64)| {
        if back.wants(value) {
            let attributes = [("transA", left.1.into()), ("transB", right.1.into()), ("alpha", alpha.into())];
            let gradient = back.b.op("Gemm", &[left.0, right.0], &attributes);
            back.give(value, gradient);
        }
    };
    if trans_a == 0 {
        product(a, (dy, 0), (b, 1 - trans_b));
    } else {
        product(a, (b, trans_b), (dy, 1));
    }
    if trans_b == 0 {
        product(b, (a, 1 - trans_a), (dy, 0));
    } else {
        product(b, (dy, 1), (a, trans_a));
    }
    if let Some(c) = node.input.get(2).filter(|c| back.wants(c)) {
        let gradient = if beta == 1.0 { dy.to_owned() } else { back.times(dy, beta) };
        back.give_broadcast(node, c, gradient, &node.output[0])?;
    }
    Ok(())
}

/// Batched y = a·b: da = dy·bᵀ, db = aᵀ·dy, summed over batch axes that were broadcast.
fn matmul(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<(), AutodiffError> {
    let (a, b) = (&node.input[0], &node.input[1]);
    let (rank_a, rank_b) = (back.shape(node, a)?.len(), back.shape(node, b)?.len());
    if rank_a < 2 || rank_b < 2 {
        return Err(unsupported(node, "a vector operand"));
    }
    if back.wants(a) {
        let turned = transpose(back, b, rank_b);
        let gradient = back.op("MatMul", &[dy, &turned]);
        give(back, node, a, gradient, rank_a, rank_b)?;
    }
    if back.wants(b) && rank_b == 2 && rank_a > 2 {
        // A product over all rows at once: no gradient a batch axis, and no sum of them.
        let flat = |back: &mut Backward<'_>, value: &str, width: &Dim| {
            let shape = back.b.shape(&[-1, width.value()?]);
            Some(back.op("Reshape", &[value, &shape]))
        };
        let shape = back.shape(node, b)?;
        let rows = flat(back, a, &shape[0]).zip(flat(back, dy, &shape[1]));
        let (a, dy) = rows.ok_or_else(|| unsupported(node, "the sizes of its weight are not known"))?;
        let gradient = back.b.op("Gemm", &[&a, &dy], &[("transA", 1i64.into())]);
        back.give(b, gradient);
    } else if back.wants(b) {
        let turned = transpose(back, a, rank_a);
        let gradient = back.op("MatMul", &[&turned, dy]);
        give(back, node, b, gradient, rank_b, rank_a)?;
    }
    Ok(())
}

/// Gives an operand its gradient, which has the batch axes of the output.
fn give(
    back: &mut Backward<'_>,
    node: &NodeProto,
    value: &str,
    gradient: String,
    own: usize,
    other: usize,
) -> Result<(), AutodiffError> {
    let (shape, output) = (back.shape(node, value)?, back.shape(node, &node.output[0])?);
    let same_batch = own >= other && shape.iter().rev().skip(2).eq(output.iter().rev().skip(2));
    if same_batch {
        back.give(value, gradient);
        return Ok(());
    }
    if own == 2 {
        let axes: Vec<i64> = (0..output.len() as i64 - 2).collect();
        let axes = back.b.shape(&axes);
        let sum = back.b.op("ReduceSum", &[&gradient, &axes], &[("keepdims", 0i64.into())]);
        back.give(value, sum);
        return Ok(());
    }
    Err(unsupported(node, "batch axes of an operand of more than two axes are broadcast"))
}

/// The value with its last two axes exchanged.
fn transpose(back: &mut Backward<'_>, value: &str, rank: usize) -> String {
    let mut order: Vec<i64> = (0..rank as i64).collect();
    order.swap(rank - 2, rank - 1);
    back.b.op("Transpose", &[value], &[("perm", order.into())])
}
