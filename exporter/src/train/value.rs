//! Values that graphs read, made of plain numbers.

use ort::value::{DynValue, Tensor};

use super::TrainError;

/// Inputs of a graph by name.
pub(super) type Feed = Vec<(String, DynValue)>;

/// A value of f32 on the CPU.
pub(super) fn f32_value(shape: &[usize], values: Vec<f32>) -> Result<DynValue, TrainError> {
    Ok(Tensor::from_array((shape.to_vec(), values))?.into_dyn())
}

/// A value of int64 on the CPU.
pub(super) fn i64_value(shape: &[usize], values: Vec<i64>) -> Result<DynValue, TrainError> {
    Ok(Tensor::from_array((shape.to_vec(), values))?.into_dyn())
}
