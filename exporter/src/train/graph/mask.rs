//! Masks in the step graph: scores become weights that are kept or zeroed, and gradients of masked
//! weights become gradients of scores.

use overmask::base::MaskableTensor;
use overmask::mask::Granularity;
use overmask_graph::GraphBuilder;
use overmask_graph::proto::data_type;

use super::{Role, Trained, declare, keep, name, noise};
use crate::train::TrainError;

/// A weight under a mask.
pub(super) struct Masked {
    tensor: MaskableTensor,
    granularity: Granularity,
    /// The score input.
    pub(super) scores: String,
    /// The masked weight, [outputs, inputs].
    pub(super) masked: String,
}

/// Puts a mask between each tensor and the nodes that read it.
pub(super) fn insert(
    b: &mut GraphBuilder,
    tensors: &[MaskableTensor],
    granularity: Granularity,
    noisy: bool,
    trained: &mut Vec<Trained>,
) -> Result<Vec<Masked>, TrainError> {
    if !tensors.is_empty() && !noisy && granularity != Granularity::TwoOfFour {
        b.input(name::THRESHOLD, data_type::FLOAT, &[]);
    }
    let mut all = Vec::new();
    put_between(b, tensors, |b, tensor| {
        let scores = format!("scores/{}", tensor.name);
        let dims = units(tensor, granularity)?;
        let mut threshold = name::THRESHOLD.to_owned();
        if noisy {
            declare(&dims, |dims| threshold = b.input(&noise(&tensor.name), data_type::FLOAT, dims));
        }
        let keep = match granularity {
            Granularity::TwoOfFour => best_two(b, &scores),
            Granularity::Weight | Granularity::Block { .. } => b.op("Greater", &[&scores, &threshold], &[]),
        };
        let keep = b.op("Cast", &[&keep], &[("to", i64::from(data_type::FLOAT).into())]);
        let masked = apply(b, tensor, granularity, &keep);
        trained.push(Trained { name: scores.clone(), dims, role: Role::Scores(tensor.clone()) });
        all.push(Masked { tensor: tensor.clone(), granularity, scores, masked: masked.clone() });
        Ok(masked)
    })?;
    Ok(all)
}

/// The same with masks that are inputs ([`keep`]).
pub(super) fn insert_given(
    b: &mut GraphBuilder,
    tensors: &[MaskableTensor],
    granularity: Granularity,
) -> Result<(), TrainError> {
    put_between(b, tensors, |b, tensor| {
        let given = keep(&tensor.name);
        declare(&units(tensor, granularity)?, |dims| drop(b.input(&given, data_type::FLOAT, dims)));
        Ok(apply(b, tensor, granularity, &given))
    })
}

/// Lets the nodes that read a tensor read what `masked` makes of it.
fn put_between(
    b: &mut GraphBuilder,
    tensors: &[MaskableTensor],
    mut masked: impl FnMut(&mut GraphBuilder, &MaskableTensor) -> Result<String, TrainError>,
) -> Result<(), TrainError> {
    let mut nodes = b.take_nodes();
    for tensor in tensors {
        let masked = masked(b, tensor)?;
        for node in &mut nodes {
            node.input.iter_mut().filter(|i| **i == tensor.name).for_each(|i| i.clone_from(&masked));
        }
    }
    b.append(nodes);
    Ok(())
}

/// W where `keep` has 1 for its unit, 0 where it has 0.
fn apply(b: &mut GraphBuilder, tensor: &MaskableTensor, granularity: Granularity, keep: &str) -> String {
    let flat = [tensor.outputs as i64, tensor.inputs as i64];
    match granularity {
        Granularity::Weight => b.op("Mul", &[&tensor.name, keep], &[]),
        Granularity::TwoOfFour => {
            let shape = b.shape(&flat);
            let keep = b.op("Transpose", &[keep], &[("perm", vec![1, 2, 0].into())]);
            let keep = b.op("Reshape", &[&keep, &shape], &[]);
            b.op("Mul", &[&tensor.name, &keep], &[])
        }
        Granularity::Block { rows, cols } => {
            let blocks = Blocks::of(tensor, rows, cols);
            let (grid, open) = (b.shape(&blocks.grid), b.shape(&blocks.open));
            let keep = b.op("Reshape", &[keep, &grid], &[]);
            let weight = b.op("Reshape", &[&tensor.name, &open], &[]);
            let masked = b.op("Mul", &[&weight, &keep], &[]);
            let flat = b.shape(&flat);
            b.op("Reshape", &[&masked, &flat], &[])
        }
    }
}

/// Which scores [4, outputs, inputs / 4] are at least the second largest of their four, which
/// ordinary minima and maxima of quarters tell: of a ≥ b and c ≥ d it is
/// max(min(a, c), max(b, d)).
fn best_two(b: &mut GraphBuilder, scores: &str) -> String {
    let quarters: Vec<String> = (0..4)
        .map(|i| {
            let index = b.shape(&[i]);
            b.op("Gather", &[scores, &index], &[])
        })
        .collect();
    let mut two = |op: &str, x: &str, y: &str| b.op(op, &[x, y], &[]);
    let (first, second) = (two("Max", &quarters[0], &quarters[1]), two("Max", &quarters[2], &quarters[3]));
    let (third, fourth) = (two("Min", &quarters[0], &quarters[1]), two("Min", &quarters[2], &quarters[3]));
    let (upper, lower) = (two("Min", &first, &second), two("Max", &third, &fourth));
    let limit = two("Max", &upper, &lower);
    two("GreaterOrEqual", scores, &limit)
}

/// dL/dscore = dL/dW ⊙ W, summed over the unit.
pub(super) fn score_gradient(b: &mut GraphBuilder, masked: &Masked, gradient: &str) -> String {
    let tensor = &masked.tensor;
    let product = b.op("Mul", &[gradient, &tensor.name], &[]);
    match masked.granularity {
        Granularity::Weight => product,
        Granularity::TwoOfFour => {
            let shape = b.shape(&[tensor.outputs as i64, -1, 4]);
            let product = b.op("Reshape", &[&product, &shape], &[]);
            b.op("Transpose", &[&product], &[("perm", vec![2, 0, 1].into())])
        }
        Granularity::Block { rows, cols } => {
            let blocks = Blocks::of(tensor, rows, cols);
            let (open, axes) = (b.shape(&blocks.open), b.shape(&blocks.inside));
            let product = b.op("Reshape", &[&product, &open], &[]);
            b.op("ReduceSum", &[&product, &axes], &[("keepdims", 0i64.into())])
        }
    }
}

/// How a weight opens up into blocks. Blocks of one column stay in three axes: the runtime's
/// broadcasts and sums are fast along a long last axis.
struct Blocks {
    /// Shape of the units, with an axis of 1 for each axis inside a block.
    grid: Vec<i64>,
    /// Shape of the weight with blocks as axes.
    open: Vec<i64>,
    /// The axes inside a block.
    inside: Vec<i64>,
}

impl Blocks {
    fn of(tensor: &MaskableTensor, rows: u32, cols: u32) -> Blocks {
        let (rows, cols) = (i64::from(rows), i64::from(cols));
        let (down, across) = (tensor.outputs as i64 / rows, tensor.inputs as i64 / cols);
        match cols {
            1 => Blocks { grid: vec![down, 1, across], open: vec![down, rows, across], inside: vec![1] },
            _ => Blocks { grid: vec![down, 1, across, 1], open: vec![down, rows, across, cols], inside: vec![1, 3] },
        }
    }
}

/// The shape of a tensor's scores: rows and columns of its units; for `2:4` [4, outputs, inputs / 4],
/// so that the first, second, third and fourth of all groups lie side by side.
///
/// # Errors
/// When the tensor does not divide into whole blocks or groups.
pub fn units(tensor: &MaskableTensor, granularity: Granularity) -> Result<Vec<usize>, TrainError> {
    let (rows, cols) = match granularity {
        Granularity::TwoOfFour => (1, 4),
        _ => granularity.block(),
    };
    if !tensor.outputs.is_multiple_of(rows) || !tensor.inputs.is_multiple_of(cols) {
        return Err(TrainError::Indivisible {
            tensor: tensor.name.clone(),
            outputs: tensor.outputs,
            inputs: tensor.inputs,
            granularity,
        });
    }
    Ok(match granularity {
        Granularity::TwoOfFour => vec![4, tensor.outputs, tensor.inputs / 4],
        _ => vec![tensor.outputs / rows, tensor.inputs / cols],
    })
}
