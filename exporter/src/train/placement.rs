//! Which device ran each node of a step: read from ONNX Runtime's own profile of one step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use overmask::engine::Device;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::TrainError;

/// The largest result, in bytes, that can be a shape.
const SHAPE_BYTES: u64 = 256;

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    name: String,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    provider: Option<String>,
    op_name: Option<String>,
    output_size: Option<String>,
    #[serde(default)]
    input_type_shape: Vec<Typed>,
    #[serde(default)]
    output_type_shape: Vec<Typed>,
}

/// From the type of a value to its shape.
type Typed = BTreeMap<String, IgnoredAny>;

impl Args {
    /// Whether the node computes shapes: whole numbers or truth values, few of them, or a number
    /// made of nothing else, such as how many values a mean is of. The runtime computes them on the
    /// CPU on purpose, since the host needs them to start kernels.
    fn computes_shapes(&self) -> bool {
        let whole = |values: &[Typed]| {
            let mut types = values.iter().flat_map(BTreeMap::keys).peekable();
            types.peek().is_some() && types.all(|t| t == "int64" || t == "bool")
        };
        let bytes: Option<u64> = self.output_size.as_deref().and_then(|s| s.parse().ok());
        let small = bytes.is_some_and(|bytes| bytes <= SHAPE_BYTES);
        small && (whole(&self.output_type_shape) || whole(&self.input_type_shape))
    }
}

/// Where the nodes ran.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Placed {
    /// How many ran on the device.
    pub(super) there: usize,
    /// How many compute shapes and ran elsewhere.
    pub(super) shapes: usize,
    /// All others: node, operator and provider.
    pub(super) elsewhere: BTreeSet<String>,
}

/// Checks a profile: every node that computes more than shapes ran on the device.
///
/// # Errors
/// When the profile cannot be read, tells of no node, or a node ran elsewhere.
pub(super) fn check(profile: &str, device: Device) -> Result<(), TrainError> {
    let path = Path::new(profile);
    let text = std::fs::read(path).map_err(|e| unreadable(&e))?;
    // The profile has served its purpose; that it could not be removed is no failure.
    let _ = std::fs::remove_file(path);
    let Placed { there, shapes, elsewhere } = placed(&text, device)?;
    if !elsewhere.is_empty() {
        return Err(TrainError::Placement { nodes: elsewhere.into_iter().collect() });
    }
    log::info!(
        "placement: {there} nodes of the step graph ran on {device}, {shapes} nodes of shape arithmetic elsewhere"
    );
    Ok(())
}

fn unreadable(error: &dyn std::fmt::Display) -> TrainError {
    TrainError::Runtime(format!("the profile of the first step cannot be read: {error}"))
}

/// Reads a profile.
pub(super) fn placed(profile: &[u8], device: Device) -> Result<Placed, TrainError> {
    let events: Vec<Event> = serde_json::from_slice(profile).map_err(|e| unreadable(&e))?;
    let wanted = match device {
        Device::Cpu => "CPUExecutionProvider",
        Device::Cuda => "CUDAExecutionProvider",
    };
    let mut placed = Placed::default();
    for event in events.iter().filter(|e| e.name.ends_with("_kernel_time")) {
        let (Some(provider), Some(op)) = (&event.args.provider, &event.args.op_name) else { continue };
        if provider == wanted {
            placed.there += 1;
        } else if event.args.computes_shapes() {
            placed.shapes += 1;
        } else {
            let node = event.name.trim_end_matches("_kernel_time");
            placed.elsewhere.insert(format!("{node} ({op}, {provider})"));
        }
    }
    if placed == Placed::default() {
        return Err(unreadable(&"it names no node"));
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"[
        {"cat": "Session", "name": "model_run", "args": {}},
        {"cat": "Node", "name": "Gemm#1_kernel_time", "args": {"provider": "CUDAExecutionProvider", "op_name": "Gemm", "output_size": "4096", "output_type_shape": [{"float": [32, 32]}]}},
        {"cat": "Node", "name": "Concat#2_kernel_time", "args": {"provider": "CPUExecutionProvider", "op_name": "Concat", "output_size": "24", "output_type_shape": [{"int64": [3]}]}},
        {"cat": "Node", "name": "Cast#3_kernel_time", "args": {"provider": "CPUExecutionProvider", "op_name": "Cast", "output_size": "4", "input_type_shape": [{"int64": []}], "output_type_shape": [{"float": []}]}},
        {"cat": "Node", "name": "Erf#4_kernel_time", "args": {"provider": "CPUExecutionProvider", "op_name": "Erf", "output_size": "4", "input_type_shape": [{"float": [1]}], "output_type_shape": [{"float": [1]}]}}
    ]"#;

    #[test]
    fn all_but_shapes_on_the_wrong_device_is_named() {
        let on = |profile: &str, device| placed(profile.as_bytes(), device).unwrap();
        let Placed { there, shapes, elsewhere } = on(PROFILE, Device::Cuda);
        assert_eq!((there, shapes), (1, 2));
        assert_eq!(elsewhere.into_iter().collect::<Vec<_>>(), ["Erf#4 (Erf, CPUExecutionProvider)"]);
        assert_eq!(on(PROFILE, Device::Cpu).elsewhere.len(), 1);
        // What is large, or of a type that is not told, is no shape.
        for (from, to) in [(r#""24""#, r#""4096""#), (r#"[{"int64": [3]}]"#, "[]")] {
            assert_eq!(on(&PROFILE.replace(from, to), Device::Cuda).elsewhere.len(), 2, "{to}");
        }
    }

    #[test]
    fn a_profile_without_nodes_is_no_proof() {
        assert!(placed(b"[]", Device::Cuda).is_err());
        assert!(placed(b"[", Device::Cuda).is_err());
    }
}
