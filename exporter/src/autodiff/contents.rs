//! What values that describe shapes hold: lists of dimensions, followed through the arithmetic that
//! exporters do on them.
//!
//! A scalar is a list of one, and a truth value is 0 or 1.

use std::collections::HashMap;

use overmask_graph::proto::{NodeProto, TensorProto, data_type};

use super::dim::Dim;

/// The longest list that is followed: shapes are short, and a hostile graph could double one with
/// every node.
const LONGEST: usize = 1024;

/// What values hold, as far as it could be followed.
#[derive(Debug, Default)]
pub(super) struct Contents(HashMap<String, Vec<Dim>>);

impl Contents {
    /// Takes a constant in, if it may describe a shape.
    pub(super) fn add_constant(&mut self, constant: &TensorProto) {
        if let Some(values) = integers(constant) {
            self.0.insert(constant.name.clone(), values.into_iter().map(Dim::known).collect());
        }
    }

    /// Takes in what a node's first output holds, if it can be said. `shape` is that of its first input,
    /// as far as it is known.
    pub(super) fn follow(&mut self, node: &NodeProto, shape: Option<&[Dim]>) {
        if let Some((name, list)) = node.output.first().zip(self.output(node, shape)) {
            self.0.insert(name.clone(), list);
        }
    }

    /// What a value that describes a shape holds, if it is known.
    pub(super) fn held(&self, value: &str) -> Option<&[Dim]> {
        self.0.get(value).map(Vec::as_slice)
    }

    /// What it holds, if that is numbers only.
    pub(super) fn numbers(&self, value: &str) -> Option<Vec<i64>> {
        self.held(value)?.iter().map(Dim::value).collect()
    }

    /// What a node's first output holds, if it can be said; `shape` is its first input's.
    pub(super) fn output(&self, node: &NodeProto, shape: Option<&[Dim]>) -> Option<Vec<Dim>> {
        let held = |index: usize| node.input.get(index).and_then(|v| self.held(v));
        let owned = |index: usize| held(index).map(<[Dim]>::to_vec);
        let list = match node.op_type.as_str() {
            "Shape" => {
                let shape = shape?;
                let end = node.attribute("end").map_or(i64::MAX, |a| a.i);
                let (from, to) = range(shape.len(), node.int("start", 0), end);
                shape.get(from..to)?.to_vec()
            }
            "Concat" => {
                let parts = node.input.iter().map(|v| self.held(v)).collect::<Option<Vec<_>>>()?;
                (parts.iter().map(|p| p.len()).sum::<usize>() <= LONGEST).then(|| parts.concat())?
            }
            "Gather" => {
                let (list, picks) = (held(0)?, self.numbers(node.input.get(1)?)?);
                let pick =
                    |i: i64| list.get(usize::try_from(if i < 0 { i + list.len() as i64 } else { i }).ok()?).cloned();
                picks.into_iter().map(pick).collect::<Option<_>>()?
            }
            "Slice" => {
                let list = held(0)?;
                let numbers = |index: usize| node.input.get(index).map_or(Some(vec![1]), |v| self.numbers(v));
                let (from, to) = (self.numbers(node.input.get(1)?)?, self.numbers(node.input.get(2)?)?);
                if numbers(4)? != [1] {
                    return None;
                }
                let (from, to) = range(list.len(), *from.first()?, *to.first()?);
                list.get(from..to)?.to_vec()
            }
            "Identity" | "Squeeze" | "Unsqueeze" | "Reshape" => owned(0)?,
            "Cast" => {
                let to = node.int("to", 0);
                [data_type::INT64, data_type::INT32, data_type::BOOL]
                    .iter()
                    .any(|t| i64::from(*t) == to)
                    .then(|| owned(0))??
            }
            "ConstantOfShape" => {
                let count: i64 = self.numbers(node.input.first()?)?.iter().try_fold(1i64, |n, d| n.checked_mul(*d))?;
                let count = usize::try_from(count).ok().filter(|n| *n <= LONGEST)?;
                let value = node.attribute("value").and_then(|a| a.t.as_ref()).and_then(integers)?;
                vec![Dim::known(*value.first()?); count]
            }
            "Mul" => pairs(held(0)?, held(1)?, Dim::times)?,
            "Add" => pairs(held(0)?, held(1)?, Dim::sum)?,
            "Sub" => pairs(held(0)?, held(1)?, Dim::minus)?,
            "Div" => pairs(held(0)?, held(1)?, divided)?,
            "Equal" => pairs(held(0)?, held(1)?, equal)?,
            "Where" => {
                let (condition, yes, no) = (self.numbers(node.input.first()?)?, held(1)?, held(2)?);
                let length = condition.len().max(yes.len()).max(no.len());
                let at = |list: &[Dim], i: usize| list.get(if list.len() == 1 { 0 } else { i }).cloned();
                let pick = |i: usize| match condition.get(if condition.len() == 1 { 0 } else { i })? {
                    0 => at(no, i),
                    _ => at(yes, i),
                };
                (0..length).map(pick).collect::<Option<_>>()?
            }
            _ => return None,
        };
        Some(list)
    }
}

/// The values of a constant of 64-bit integers.
fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    if tensor.data_type != data_type::INT64 {
        return None;
    }
    if !tensor.int64_data.is_empty() {
        return Some(tensor.int64_data.clone());
    }
    Some(tensor.raw_data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
}

/// The part of a list between two indices; negative ones count from the end.
fn range(length: usize, from: i64, to: i64) -> (usize, usize) {
    let length = length as i64;
    let clamp = |i: i64| if i < 0 { (i + length).max(0) } else { i.min(length) } as usize;
    (clamp(from), clamp(to).max(clamp(from)))
}

/// An operation on two lists of one length, or a list and one value.
fn pairs(a: &[Dim], b: &[Dim], f: impl Fn(&Dim, &Dim) -> Option<Dim>) -> Option<Vec<Dim>> {
    let length = a.len().max(b.len());
    let at = |x: &[Dim], i: usize| x.get(if x.len() == 1 { 0 } else { i }).cloned();
    (0..length).map(|i| f(&at(a, i)?, &at(b, i)?)).collect()
}

/// Whole numbers are divided as ONNX does, sizes with names where nothing is left.
fn divided(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.value(), b.value()) {
        (Some(a), Some(b)) => a.checked_div(b).map(Dim::known),
        _ => a.divided_by(b),
    }
}

/// No size is negative, whatever its name; other different ones may be equal all the same.
fn equal(a: &Dim, b: &Dim) -> Option<Dim> {
    let truth = |t: bool| Some(Dim::known(i64::from(t)));
    match (a.value(), b.value()) {
        _ if a == b => truth(true),
        (Some(_), Some(_)) => truth(false),
        (Some(n), None) | (None, Some(n)) if n < 0 => truth(false),
        _ => None,
    }
}
