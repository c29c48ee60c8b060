//! Symbolic shapes of a graph's values.
//!
//! A dimension is a product of a number and named sizes (`batch`, `sequence`), so that
//! `Reshape` between [batch, sequence, width] and [batch · sequence, width] can be followed
//! exactly. Values that describe shapes (the outputs of `Shape`, `Concat`, `Slice` and integer
//! constants) are followed as lists of dimensions.

use std::collections::HashMap;

use overmask::onnx::proto::{Dimension, GraphProto, NodeProto, TensorProto, ValueInfoProto, data_type};

use super::{AutodiffError, unsupported};

/// A dimension: `factor` times the named sizes, which are sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dim {
    factor: i64,
    names: Vec<String>,
}

impl Dim {
    /// A known size.
    pub fn known(factor: i64) -> Self {
        Dim { factor, names: Vec::new() }
    }

    /// The size 1.
    pub fn one() -> Self {
        Self::known(1)
    }

    /// A size known only by its name.
    pub fn named(name: &str) -> Self {
        Dim { factor: 1, names: vec![name.to_owned()] }
    }

    /// The size, when it is known.
    pub fn value(&self) -> Option<i64> {
        self.names.is_empty().then_some(self.factor)
    }

    /// The product, or `None` when it is too large.
    fn times(&self, other: &Dim) -> Option<Dim> {
        let mut names = [self.names.clone(), other.names.clone()].concat();
        names.sort();
        Some(Dim { factor: self.factor.checked_mul(other.factor)?, names })
    }

    /// The quotient, or `None` when it is no such product.
    fn divided_by(&self, other: &Dim) -> Option<Dim> {
        if self.factor.checked_rem(other.factor)? != 0 {
            return None;
        }
        let mut names = self.names.clone();
        for name in &other.names {
            names.remove(names.iter().position(|n| n == name)?);
        }
        Some(Dim { factor: self.factor / other.factor, names })
    }
}

/// Shapes of values, as far as they could be inferred.
#[derive(Debug, Default)]
pub struct Shapes {
    shapes: HashMap<String, Vec<Dim>>,
    /// Contents of values that describe shapes.
    contents: HashMap<String, Vec<Dim>>,
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
            if let Some(values) = integers(constant) {
                all.contents.insert(constant.name.clone(), values.into_iter().map(Dim::known).collect());
            }
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

    fn numbers(&self, value: &str) -> Option<Vec<i64>> {
        self.contents.get(value)?.iter().map(Dim::value).collect()
    }

    fn follow(&mut self, node: &NodeProto) -> Result<(), AutodiffError> {
        self.follow_contents(node);
        let Some(output) = node.output.first() else { return Ok(()) };
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

    /// Follows what integer values hold.
    fn follow_contents(&mut self, node: &NodeProto) {
        let held = |value: &String| self.contents.get(value).cloned();
        let contents = match node.op_type.as_str() {
            "Shape" => self.get(&node.input[0]).map(<[Dim]>::to_vec),
            "Concat" => node.input.iter().map(held).collect::<Option<Vec<_>>>().map(|parts| parts.concat()),
            "Slice" => held(&node.input[0]).and_then(|all| {
                let (from, to) = (self.numbers(node.input.get(1)?)?, self.numbers(node.input.get(2)?)?);
                let (from, to) = (usize::try_from(*from.first()?).ok()?, usize::try_from(*to.first()?).ok()?);
                all.get(from..to.min(all.len())).map(<[Dim]>::to_vec)
            }),
            "Identity" | "Squeeze" | "Unsqueeze" => held(&node.input[0]),
            _ => None,
        };
        if let (Some(contents), Some(output)) = (contents, node.output.first()) {
            self.contents.insert(output.clone(), contents);
        }
    }

    fn output_shape(&self, node: &NodeProto) -> Result<Option<Vec<Dim>>, AutodiffError> {
        let shape = |index: usize| node.input.get(index).and_then(|v| self.get(v)).map(<[Dim]>::to_vec);
        let numbers = |index: usize| node.input.get(index).and_then(|v| self.numbers(v));
        Ok(match node.op_type.as_str() {
            "Add" | "Sub" | "Mul" | "Div" | "Greater" | "Equal" => pair(shape(0), shape(1), node)?,
            "Where" => pair(pair(shape(0), shape(1), node)?, shape(2), node)?,
            "Neg" | "Sqrt" | "Exp" | "Log" | "Erf" | "Tanh" | "Relu" | "Sigmoid" | "Identity" | "Cast" | "Softmax"
            | "LogSoftmax" | "LayerNormalization" => shape(0),
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
            "Reshape" => shape(0).zip(self.contents.get(&node.input[1])).and_then(|(x, to)| reshape(&x, to)),
            "Expand" => pair(shape(0), self.contents.get(&node.input[1]).cloned(), node)?,
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
            "Slice" => shape(0).and_then(|x| self.slice(node, x)),
            "Concat" => None,
            "Shape" => shape(0).map(|x| vec![Dim::known(x.len() as i64)]),
            "OneHot" => shape(0).zip(self.contents.get(&node.input[1])).and_then(|(mut x, depth)| {
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

    /// A slice from 0 with step 1 of one axis, which is as long as its end says.
    fn slice(&self, node: &NodeProto, mut x: Vec<Dim>) -> Option<Vec<Dim>> {
        let end = self.contents.get(node.input.get(2)?)?;
        let axis = usize::try_from(*self.numbers(node.input.get(3)?)?.first()?).ok()?;
        let from_start = self.numbers(&node.input[1])? == [0];
        let simple = from_start && end.len() == 1 && node.input.len() == 4 && axis < x.len();
        simple.then(|| {
            x[axis] = end[0].clone();
            x
        })
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
fn axes(node: &NodeProto, numbers: &[i64], rank: usize) -> Result<Vec<usize>, AutodiffError> {
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

fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    if tensor.data_type != data_type::INT64 {
        return None;
    }
    if !tensor.int64_data.is_empty() {
        return Some(tensor.int64_data.clone());
    }
    Some(tensor.raw_data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
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
            (x, y) => Err(unsupported(node, format!("cannot broadcast {x:?} with {y:?}"))),
        })
        .collect()
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
