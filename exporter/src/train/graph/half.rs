//! Mixed precision (Micikevicius et al., *Mixed precision training*, 2018): matrix products in 16 bits,
//! all else in f32.
//!
//! Parameters, their moments, norms, softmax and the loss keep f32. What only moves values around
//! between two products stays in 16 bits, which saves casts, and gradients of what several products
//! read are added in 16 bits.

use std::collections::{HashMap, HashSet};

use overmask_graph::GraphBuilder;
use overmask_graph::proto::{NodeProto, data_type};
use serde::{Deserialize, Serialize};

/// The type that the step's matrix products compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    F32,
    /// IEEE half precision: the loss is scaled, so that small gradients do not vanish.
    F16,
    /// bfloat16: as wide a range as f32.
    Bf16,
}

impl Precision {
    fn data_type(self) -> Option<i32> {
        match self {
            Precision::F32 => None,
            Precision::F16 => Some(data_type::FLOAT16),
            Precision::Bf16 => Some(data_type::BFLOAT16),
        }
    }
}

/// Casts the operands of every matrix product, and its results back where something else reads
/// them; `output` is read by what comes after these nodes.
pub(super) fn lower(b: &mut GraphBuilder, precision: Precision, output: &str) {
    let Some(to) = precision.data_type() else { return };
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
