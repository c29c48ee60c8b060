//! Mixed precision (Micikevicius et al., *Mixed precision training*, 2018): matrix products in 16 bits,
//! all else in f32.
//!
//! Parameters, their moments, norms, softmax and the loss keep f32. What only moves values around
//! between two products stays in 16 bits, which saves casts, and gradients of what several products
//! read are added in 16 bits.

use std::collections::{HashMap, HashSet};

use crate::GraphBuilder;
use crate::proto::{NodeProto, data_type};

/// Casts the operands of every matrix product, and its results back where something else reads
/// them. `to` is the type of 16 bits, [`data_type::FLOAT16`] or [`data_type::BFLOAT16`]; `output` is read by
/// what comes after these nodes.
pub fn lower(b: &mut GraphBuilder, to: i32, output: &str) {
    let nodes = b.take_nodes();
    let mut half = Half { b, to, halves: HashMap::new(), only_half: HashSet::new() };
    for mut node in nodes {
        let moves = matches!(node.op_type.as_str(), "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze");
        if matches!(node.op_type.as_str(), "MatMul" | "Gemm") {
            half.unscale_bias(&mut node);
            for input in node.input.iter_mut().filter(|input| !input.is_empty()) {
                *input = half.of(input);
            }
            half.append(node);
        } else if moves && node.input.first().is_some_and(|value| half.only_half.contains(value)) {
            node.input[0] = half.of(&node.input[0]);
            half.append(node);
        } else {
            node.input.iter().for_each(|value| half.widen(value));
            half.b.append(vec![node]);
        }
    }
    half.widen(output);
}

/// A graph that is on its way to 16 bits.
struct Half<'a> {
    b: &'a mut GraphBuilder,
    to: i32,
    /// The names that values have in 16 bits.
    halves: HashMap<String, String>,
    /// Values that are not there in f32 (yet).
    only_half: HashSet<String>,
}

impl Half<'_> {
    /// A value in 16 bits.
    fn of(&mut self, value: &str) -> String {
        let make = || self.b.op("Cast", &[value], &[("to", i64::from(self.to).into())]);
        self.halves.entry(value.to_owned()).or_insert_with(make).clone()
    }

    /// Adds a node whose result is in 16 bits.
    fn append(&mut self, mut node: NodeProto) {
        let half = self.b.fresh("half");
        let value = std::mem::replace(&mut node.output[0], half.clone());
        // The cast back is named after the value.
        node.name.clone_from(&half);
        self.b.append(vec![node]);
        self.halves.insert(value.clone(), half);
        self.only_half.insert(value);
    }

    /// Makes sure that a value is there in f32.
    fn widen(&mut self, value: &str) {
        if self.only_half.remove(value) {
            let half = &self.halves[value];
            self.b.node("Cast", &[half], &[value], &[("to", i64::from(data_type::FLOAT).into())]);
        }
    }

    /// Moves a product's β into its bias: the rule of differentiation would scale the bias's gradient,
    /// in 16 bits, by a constant in f32.
    fn unscale_bias(&mut self, node: &mut NodeProto) {
        let beta = node.float("beta", 1.0);
        if let Some(bias) = node.input.get_mut(2).filter(|bias| !bias.is_empty() && beta != 1.0) {
            let factor = self.b.float(beta);
            *bias = self.b.op("Mul", &[bias, &factor], &[]);
            node.attribute.retain(|attribute| attribute.name != "beta");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_what_moves_between_them_are_in_16_bits() {
        let mut b = GraphBuilder::new("half");
        for name in ["x", "w", "v", "bias"] {
            b.input(name, data_type::FLOAT, &["2", "2"]);
        }
        b.node("MatMul", &["x", "w"], &["first"], &[]);
        b.node("Transpose", &["first"], &["moved"], &[]);
        b.node("Gemm", &["moved", "v", "bias"], &["second"], &[("beta", 0.5f32.into())]);
        b.node("Tanh", &["second"], &["y"], &[]);
        lower(&mut b, data_type::BFLOAT16, "y");
        let kinds: Vec<&str> = b.graph().node.iter().map(|node| node.op_type.as_str()).collect();
        // The bias takes the β; only what Tanh reads is cast back.
        let expected = ["Cast", "Cast", "MatMul", "Transpose", "Mul", "Cast", "Cast", "Gemm", "Cast", "Tanh"];
        assert_eq!(kinds, expected);
        let to = |node: &NodeProto| node.attribute("to").map(|attribute| attribute.i);
        let casts: Vec<Option<i64>> = b.graph().node.iter().filter(|n| n.op_type == "Cast").map(to).collect();
        let (half, float) = (Some(i64::from(data_type::BFLOAT16)), Some(i64::from(data_type::FLOAT)));
        assert_eq!(casts, [half, half, half, half, float]);
        let product = b.graph().node.iter().find(|node| node.op_type == "Gemm");
        assert!(product.is_some_and(|node| node.attribute("beta").is_none()));
    }
}
