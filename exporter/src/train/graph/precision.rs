//! The types that a step can compute in.

use clap::ValueEnum;
use overmask_graph::proto::data_type;
use serde::{Deserialize, Serialize};

/// The type that the step's matrix products compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 16 bits, with a scaled loss.
    ///
    /// IEEE half precision, in which small gradients would vanish.
    F16,
    /// 16 bits with the range of f32.
    ///
    /// Also known as bfloat16.
    Bf16,
}

impl Precision {
    /// ONNX's number of the type, if it has 16 bits.
    pub(super) fn half(self) -> Option<i32> {
        match self {
            Precision::F32 => None,
            Precision::F16 => Some(data_type::FLOAT16),
            Precision::Bf16 => Some(data_type::BFLOAT16),
        }
    }
}
