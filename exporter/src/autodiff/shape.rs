//! Symbolic shapes of a graph's values.
//!
//! A dimension is a product of a number and named sizes (`batch`, `sequence`), so that
//! `Reshape` between [batch, sequence, width] and [batch · sequence, width] can be followed
//! exactly: see `dim.rs`. Values that describe shapes (the outputs of `Shape`, integer constants, and
//! what is made of them) are followed as lists of dimensions: see `contents.rs`.

use std::collections::HashMap;

use overmask_graph::proto::{Dimension, GraphProto, NodeProto, ValueInfoProto};

use super::contents::Contents;
use super::{AutodiffError, unsupported};

pub use super::dim::Dim;

/// Shapes of values, as far as they could be inferred.
#[derive(Debug, Default)]
pub struct Shapes {
    shapes: HashMap<String, Vec<Dim>>,
    /// Contents of values that describe shapes.
    contents: Contents,
}

impl Shapes {
    /// Follows shapes through the graph. A value that no rule covers is left out.
    ///
    /// # Errors
    /// When a node lacks inputs or contradicts their shapes.
    pub fn infer(graph: &GraphProto) -> Result<Self, AutodiffError> {
        let mut all = Shapes::default();
        for input in &graph.input {
            if let Some(shape) = declared(input) {
                all.shapes.insert(input.name.clone(), shape);
            }
        }
        for constant in &graph.initializer {
            all.shapes.insert(constant.name.clone(), constant.dims.iter().map(|d| Dim::known(*d)).collect());
            all.contents.add_constant(constant);
        }
        for node in &graph.node {
            super::check_form(node)?;
            all.follow(node)?;
        }
        Ok(all)
    }

    /// The shape of a value, if it is known.
    pub fn get(&self, value: &str) -> Option<&[Dim]> {
        self.shapes.get(value).map(Vec::as_slice)
    }

    fn set(&mut self, value: &str, shape: Vec<Dim>) {
        self.shapes.insert(value.to_owned(), shape);
    }

    /// What a value that describes a shape holds, if that is numbers only.
    pub(super) fn numbers(&self, value: &str) -> Option<Vec<i64>> {
        self.contents.numbers(value)
    }

    fn follow(&mut self, node: &NodeProto) -> Result<(), AutodiffError> {
        let Some(output) = node.output.first() else { return Ok(()) };
        let first = node.input.first().and_then(|value| self.shapes.get(value));
        self.contents.follow(node, first.map(Vec::as_slice));
        if node.op_type == "Split" {
            return self.follow_split(node);
        }
        if let Some(shape) = self.output_shape(node)? {
            if node.op_type == "LayerNormalization" {
                let mut statistic = shape.clone();
                if let Some(last) = statistic.last_mut() {
                    *last = Dim::one();
                }
                for output in &node.output[1..] {
                    self.set(output, statistic.clone());
                }
            }
            self.set(output, shape);
        }
        Ok(())
    }

    /// The parts are as long as the second input says, or all of one length.
    fn follow_split(&mut self, node: &NodeProto) -> Result<(), AutodiffError> {
        let Some(x) = node.input.first().and_then(|x| self.get(x)).map(<[Dim]>::to_vec) else { return Ok(()) };
        let axis = axis(node, node.int("axis", 0), x.len())?;
        let parts = match node.input.get(1).filter(|v| !v.is_empty()) {
            Some(list) => self.contents.held(list).map(<[Dim]>::to_vec),
            None => x[axis].divided_by(&Dim::known(node.output.len() as i64)).map(|d| vec![d; node.output.len()]),
        };
        for (output, part) in node.output.iter().zip(parts.unwrap_or_default()) {
            let mut shape = x.clone();
            shape[axis] = part;
            self.set(output, shape);
        }
        Ok(())
    }

    fn output_shape(&self, node: &NodeProto) -> Result<Option<Vec<Dim>>, AutodiffError> {
        let shape = |index: usize| node.input.get(index).and_then(|v| self.get(v)).map(<[Dim]>::to_vec);
        let numbers = |index: usize| node.input.get(index).and_then(|v| self.numbers(v));
        Ok(match node.op_type.as_str() {
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Greater" | "GreaterOrEqual" | "Less"
            | "LessOrEqual" | "Equal" | "And" | "Or" => {
                (1..node.input.len()).map(shape).try_fold(shape(0), |all, next| pair(all, next, node))?
            }
            "Where" => pair(pair(shape(0), shape(1), node)?, shape(2), node)?,
            "Neg" | "Sqrt" | "Exp" | "Log" | "Erf" | "Tanh" | "Relu" | "Sigmoid" | "Identity" | "Cast" | "Softmax"
            | "LogSoftmax" | "LayerNormalization" | "Abs" | "Reciprocal" | "Clip" | "Not" | "IsNaN" | "CumSum"
            | "Sin" | "Cos" | "Sign" | "Ceil" | "Floor" | "Round" => shape(0),
            "Gemm" => match (shape(0).as_deref(), shape(1).as_deref()) {
                (Some([a0, a1]), Some([b0, b1])) => {
                    let rows = if node.int("transA", 0) == 0 { a0 } else { a1 };
                    let columns = if node.int("transB", 0) == 0 { b1 } else { b0 };
                    Some(vec![rows.clone(), columns.clone()])
                }
                _ => None,
            },
            "MatMul" => match (shape(0), shape(1)) {
                (Some(a), Some(b)) if a.len() >= 2 && b.len() >= 2 => {
                    let batch = broadcast(&a[..a.len() - 2], &b[..b.len() - 2], node)?;
                    Some([&batch[..], &[a[a.len() - 2].clone(), b[b.len() - 1].clone()]].concat())
                }
                _ => None,
            },
            "Transpose" => match shape(0) {
                Some(x) => Some(permutation(node, x.len())?.into_iter().map(|i| x[i].clone()).collect()),
                None => None,
            },
            "Reshape" => shape(0).zip(self.contents.held(&node.input[1])).and_then(|(x, to)| reshape(&x, to)),
            "Expand" => pair(shape(0), self.contents.held(&node.input[1]).map(<[Dim]>::to_vec), node)?,
            "Unsqueeze" => match (shape(0), numbers(1)) {
                (Some(x), Some(new)) => {
                    let rank = x.len() + new.len();
                    let new = axes(node, &new, rank)?;
                    let mut rest = x.into_iter();
                    let all = (0..rank).map(|i| if new.contains(&i) { Some(Dim::one()) } else { rest.next() });
                    Some(all.flatten().collect())
                }
                _ => None,
            },
            "Squeeze" => match (shape(0), numbers(1)) {
                (Some(x), Some(gone)) => {
                    let gone = axes(node, &gone, x.len())?;
                    Some(x.into_iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, d)| d).collect())
                }
                _ => None,
            },
            "Gather" => match (shape(0), shape(1)) {
                (Some(data), Some(indices)) => {
                    let axis = axis(node, node.int("axis", 0), data.len())?;
                    Some([&data[..axis], &indices, &data[axis + 1..]].concat())
                }
                _ => None,
            },
            "GatherElements" => shape(1),
            "Tile" => shape(0).zip(self.contents.held(&node.input[1])).and_then(|(x, repeats)| {
                (x.len() == repeats.len()).then(|| x.iter().zip(repeats).map(|(d, r)| d.times(r)).collect())?
            }),
            "GatherND" => shape(0).zip(shape(1)).and_then(|(data, indices)| gather_nd(node, &data, &indices)),
            "Flatten" => shape(0).and_then(|x| flatten(node, &x)),
            "Pad" => shape(0).zip(numbers(1)).and_then(|(x, pads)| padded(&x, &pads)),
            "Conv" => shape(0).zip(shape(1)).and_then(|(x, weight)| super::conv::shape(node, &x, &weight)),
            "Slice" => shape(0).and_then(|x| self.slice(node, x)),
            "Concat" => self.concat(node)?,
            "Shape" => {
                let list = self.contents.output(node, shape(0).as_deref());
                list.map(|list| vec![Dim::known(list.len() as i64)])
            }
            "ConstantOfShape" => node.input.first().and_then(|v| self.contents.held(v)).map(<[Dim]>::to_vec),
            "Range" => {
                match (
                    numbers(0).as_deref(),
                    node.input.get(1).and_then(|v| self.contents.held(v)),
                    numbers(2).as_deref(),
                ) {
                    (Some([0]), Some([end]), Some([1])) => Some(vec![end.clone()]),
                    _ => None,
                }
            }
            "OneHot" => shape(0).zip(self.contents.held(&node.input[1])).and_then(|(mut x, depth)| {
                x.push(depth.first()?.clone());
                Some(x)
            }),
            "ReduceSum" | "ReduceMean" => match shape(0) {
                Some(x) => {
                    let axes = reduced_axes(self, node, x.len())?;
                    let keep = node.int("keepdims", 1) != 0;
                    let kept = x.into_iter().enumerate().filter_map(|(i, d)| match axes.contains(&i) {
                        true => keep.then(Dim::one),
                        false => Some(d),
                    });
                    Some(kept.collect())
                }
                None => None,
            },
            _ => None,
        })
    }

    /// A slice with step 1.
    fn slice(&self, node: &NodeProto, mut x: Vec<Dim>) -> Option<Vec<Dim>> {
        let (starts, ends) = (self.numbers(node.input.get(1)?)?, self.contents.held(node.input.get(2)?)?);
        let list = |index: usize| node.input.get(index).filter(|v| !v.is_empty()).map(|v| self.numbers(v));
        let axes = list(3).unwrap_or_else(|| Some((0..starts.len() as i64).collect()))?;
        let steps = list(4).unwrap_or_else(|| Some(vec![1; starts.len()]))?;
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] || steps.iter().any(|s| *s != 1) {
            return None;
        }
        for ((start, end), number) in starts.into_iter().zip(ends).zip(axes) {
            let at = axis(node, number, x.len()).ok()?;
            x[at] = sliced(&x[at], start, end)?;
        }
        Some(x)
    }

    /// The lengths along the axis are added up; the other axes are those of the first.
    fn concat(&self, node: &NodeProto) -> Result<Option<Vec<Dim>>, AutodiffError> {
        let shapes: Option<Vec<&[Dim]>> = node.input.iter().map(|v| self.get(v)).collect();
        let Some((first, rest)) = shapes.as_deref().and_then(<[_]>::split_first) else { return Ok(None) };
        let axis = axis(node, node.int("axis", 0), first.len())?;
        let mut all = first.to_vec();
        for shape in rest {
            let Some(sum) = shape.get(axis).and_then(|d| all[axis].sum(d)) else { return Ok(None) };
            all[axis] = sum;
        }
        Ok(Some(all))
    }
}

/// The length of a slice. Of a size that only has a name, it is taken to hold what is asked for.
fn sliced(dim: &Dim, start: i64, end: &Dim) -> Option<Dim> {
    match (dim.value(), end.value()) {
        (Some(size), Some(end)) => {
            let clamp = |i: i64| if i < 0 { i.saturating_add(size).max(0) } else { i.min(size) };
            Some(Dim::known((clamp(end) - clamp(start)).max(0)))
        }
        // Ends that mean the end, as exporters write them.
        (None, Some(end)) if end >= i64::from(i32::MAX) => match start {
            0.. => dim.plus(start.checked_neg()?),
            _ => start.checked_neg().map(Dim::known),
        },
        (None, Some(end)) if start >= 0 && end < 0 => dim.plus(end.checked_sub(start)?),
        (None, Some(end)) => ((start < 0) == (end < 0) && end > start).then(|| Dim::known(end - start)),
        (_, None) => (start >= 0).then(|| end.plus(start.checked_neg()?)).flatten(),
    }
}

/// The axes, from 0, over which a reduction goes: an attribute or, in newer operator sets, an
/// input; all of them when neither is there.
pub(super) fn reduced_axes(shapes: &Shapes, node: &NodeProto, rank: usize) -> Result<Vec<usize>, AutodiffError> {
    match (node.attribute("axes"), node.input.get(1).filter(|v| !v.is_empty())) {
        (Some(attribute), _) => axes(node, &attribute.ints, rank),
        (None, Some(input)) => {
            let numbers = shapes.numbers(input).ok_or_else(|| unsupported(node, "its axes are not constant"))?;
            axes(node, &numbers, rank)
        }
        (None, None) => Ok((0..rank).collect()),
    }
}

/// The order in which a `Transpose` takes the axes of its input.
pub(super) fn permutation(node: &NodeProto, rank: usize) -> Result<Vec<usize>, AutodiffError> {
    let Some(attribute) = node.attribute("perm") else { return Ok((0..rank).rev().collect()) };
    let order = axes(node, &attribute.ints, rank)?;
    match order.len() == rank {
        true => Ok(order),
        false => Err(unsupported(node, format!("orders {} of {rank} axes", order.len()))),
    }
}

/// Different axes, counted from 0.
pub(super) fn axes(node: &NodeProto, numbers: &[i64], rank: usize) -> Result<Vec<usize>, AutodiffError> {
    let mut seen = vec![false; rank];
    let one = |number: &i64| {
        let axis = axis(node, *number, rank)?;
        match std::mem::replace(&mut seen[axis], true) {
            false => Ok(axis),
            true => Err(unsupported(node, format!("axis {axis} comes twice"))),
        }
    };
    numbers.iter().map(one).collect()
}

/// An axis counted from 0; a negative one is counted from the end.
fn axis(node: &NodeProto, number: i64, rank: usize) -> Result<usize, AutodiffError> {
    let from_start = if number < 0 { number + rank as i64 } else { number };
    let axis = usize::try_from(from_start).ok().filter(|a| *a < rank);
    axis.ok_or_else(|| unsupported(node, format!("axis {number} of a value with {rank} axes")))
}

fn declared(input: &ValueInfoProto) -> Option<Vec<Dim>> {
    let shape = input.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?;
    let dims = shape.dim.iter().map(|d| match d.value.as_ref()? {
        Dimension::Value(size) => Some(Dim::known(*size)),
        Dimension::Param(name) => Some(Dim::named(name)),
    });
    dims.collect()
}

fn pair(a: Option<Vec<Dim>>, b: Option<Vec<Dim>>, node: &NodeProto) -> Result<Option<Vec<Dim>>, AutodiffError> {
    a.zip(b).map(|(a, b)| broadcast(&a, &b, node)).transpose()
}

/// NumPy broadcasting. Two different sizes of which neither is 1 are refused, also when only
/// their names differ: a graph that relies on equal values behind different names is not ours.
fn broadcast(a: &[Dim], b: &[Dim], node: &NodeProto) -> Result<Vec<Dim>, AutodiffError> {
    let rank = a.len().max(b.len());
    let at = |x: &[Dim], i: usize| (i + x.len()).checked_sub(rank).map_or_else(Dim::one, |i| x[i].clone());
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y || y == Dim::one() => Ok(x),
            (x, y) if x == Dim::one() => Ok(y),
            (x, y) => Err(unsupported(node, format!("cannot broadcast {x} with {y}"))),
        })
        .collect()
}

/// Each list of indices, the last axis of `indices`, picks what lies behind the axes that it is as long as.
fn gather_nd(node: &NodeProto, data: &[Dim], indices: &[Dim]) -> Option<Vec<Dim>> {
    let (picks, outer) = indices.split_last()?;
    let shared = usize::try_from(node.int("batch_dims", 0)).ok()?;
    let rest = data.get(shared.checked_add(usize::try_from(picks.value()?).ok()?)?..)?;
    Some([outer, rest].concat())
}

/// Two axes: what lies before one, and it with what follows.
fn flatten(node: &NodeProto, x: &[Dim]) -> Option<Vec<Dim>> {
    let axis = node.int("axis", 1);
    let axis = usize::try_from(if axis < 0 { axis + x.len() as i64 } else { axis }).ok()?;
    let product = |dims: &[Dim]| dims.iter().try_fold(Dim::one(), |p, d| p.times(d));
    Some(vec![product(x.get(..axis)?)?, product(&x[axis..])?])
}

/// Each axis with what is put before and behind it.
fn padded(x: &[Dim], pads: &[i64]) -> Option<Vec<Dim>> {
    let (before, behind) = pads.split_at_checked(x.len()).filter(|(_, behind)| behind.len() == x.len())?;
    x.iter().zip(before.iter().zip(behind)).map(|(dim, (a, b))| dim.plus(a.checked_add(*b)?)).collect()
}

fn reshape(x: &[Dim], to: &[Dim]) -> Option<Vec<Dim>> {
    let mut shape: Vec<Dim> = to.to_vec();
    for (i, dim) in shape.iter_mut().enumerate() {
        if *dim == Dim::known(0) {
            *dim = x.get(i)?.clone();
        }
    }
    let open = shape.iter().position(|d| *d == Dim::known(-1));
    if let Some(open) = open {
        let total = x.iter().try_fold(Dim::one(), |p, d| p.times(d))?;
        let mut others = shape.iter().enumerate().filter(|(i, _)| *i != open);
        let rest = others.try_fold(Dim::one(), |p, (_, d)| p.times(d))?;
        shape[open] = total.divided_by(&rest)?;
    }
    Some(shape)
}
