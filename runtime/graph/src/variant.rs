//! Graphs of a base's variants: matrices are stored in another precision, and a node makes f32 of each, so that the rest
//! of the graph is what it was and any program that reads ONNX runs it.

use std::collections::{BTreeMap, HashMap, HashSet};

use overmask::base::{Base, Precision, file, scales_name};

use crate::proto::{ModelProto, NodeProto, TensorProto, data_type};
use crate::{External, OnnxError, external_data};

/// The version of the operators from which on `DequantizeLinear` has a scale a row, and `Cast` knows bf16.
const MIN_OPSET: i64 = 13;

/// Changes the matrices that a graph has as external data to those of a variant, whose parts lie in the weights' file
/// at these offsets.
///
/// # Errors
/// When a tensor has no offset, or the graph's operators are too old.
pub fn store_as(
    model: &mut ModelProto,
    precision: Precision,
    offsets: &BTreeMap<String, u64>,
) -> Result<(), OnnxError> {
    let opset = model.opset_import.iter().filter(|o| o.domain.is_empty() || o.domain == "ai.onnx");
    let version = opset.map(|o| o.version).max().unwrap_or(1);
    if version < MIN_OPSET && precision != Precision::F32 {
        return Err(OnnxError::Opset { version, least: MIN_OPSET });
    }
    let graph = model.graph.as_mut().ok_or(OnnxError::NoGraph)?;
    let at = |name: &str| {
        let missing = || OnnxError::MissingInitializer { name: name.to_owned() };
        offsets.get(name).copied().ok_or_else(missing)
    };
    let (mut initializers, mut nodes) = (Vec::new(), Vec::new());
    for tensor in std::mem::take(&mut graph.initializer) {
        let Some(External { length, .. }) = external_data(&tensor)? else {
            initializers.push(tensor);
            continue;
        };
        let name = tensor.name.clone();
        let place = |of: &str, length| -> Result<External, OnnxError> {
            Ok(External { location: file::WEIGHTS.into(), offset: at(of)?, length })
        };
        let (suffix, kind, size) = match (precision, &tensor.dims[..]) {
            (Precision::Bf16, [_, _]) => ("bf16", data_type::BFLOAT16, 2),
            (Precision::Int8, [_, _]) => ("int8", data_type::INT8, 1),
            _ => {
                initializers.push(TensorProto::external(&name, data_type::FLOAT, &tensor.dims, place(&name, length)?));
                continue;
            }
        };
        let stored = format!("{name}.{suffix}");
        initializers.push(TensorProto::external(&stored, kind, &tensor.dims, place(&name, length / 4 * size)?));
        nodes.push(if precision == Precision::Int8 {
            let (of_rows, rows) = (scales_name(&name), tensor.dims[0]);
            let length = 4 * rows.max(0).unsigned_abs();
            initializers.push(TensorProto::external(&of_rows, data_type::FLOAT, &[rows], place(&of_rows, length)?));
            NodeProto::new("DequantizeLinear", &[&stored, &of_rows], &[&name], &[("axis", 0i64.into())])
        } else {
            NodeProto::new("Cast", &[&stored], &[&name], &[("to", i64::from(data_type::FLOAT).into())])
        });
    }
    graph.initializer = initializers;
    nodes.append(&mut graph.node);
    graph.node = nodes;
    Ok(())
}

/// The graph of a variant as that of an f32 base: what [`store_as`] has put in is taken out, and the matrices are in
/// the model, widened.
///
/// # Errors
/// When the base lacks one of them.
pub(crate) fn widen(model: &mut ModelProto, base: &Base) -> Result<(), OnnxError> {
    let graph = model.graph.as_mut().ok_or(OnnxError::NoGraph)?;
    let types: HashMap<String, i32> =
        graph.initializer.iter().map(|tensor| (tensor.name.clone(), tensor.data_type)).collect();
    let (mut gone, mut widened) = (HashSet::new(), Vec::new());
    for node in std::mem::take(&mut graph.node) {
        let is_stored = |name: &String| types.get(name).is_some_and(|found| *found != data_type::FLOAT);
        let makes_f32 = matches!(node.op_type.as_str(), "Cast" | "DequantizeLinear");
        let stored = node.input.first().filter(|name| makes_f32 && is_stored(name));
        let base_has = |node: &NodeProto| node.output.first().is_some_and(|name| base.shape(name).is_ok());
        if stored.is_none() || !base_has(&node) {
            graph.node.push(node);
            continue;
        }
        gone.extend(node.input.iter().cloned());
        let (shape, values) = base.values(&node.output[0])?;
        let dims: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
        widened.push(TensorProto::floats(&node.output[0], &dims, &values));
    }
    graph.initializer.retain(|tensor| !gone.contains(&tensor.name));
    graph.initializer.extend(widened);
    Ok(())
}
