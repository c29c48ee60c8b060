//! Which device ran each node of a step: read from ONNX Runtime's own profile of one step.

use std::collections::BTreeSet;
use std::path::Path;

use overmask::engine::Device;
use serde::Deserialize;

use super::TrainError;

/// Results up to this size describe shapes: the runtime computes them on the CPU on purpose,
/// since the host needs them to start kernels.
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
}

/// Checks a profile: every node with a result larger than a shape ran on the device.
///
/// # Errors
/// When the profile cannot be read, tells of no node, or a node ran elsewhere.
pub(super) fn check(profile: &str, device: Device) -> Result<(), TrainError> {
    let path = Path::new(profile);
    let text = std::fs::read(path).map_err(|source| TrainError::Io { path: path.to_owned(), source })?;
    // The profile has served its purpose; that it could not be removed is no failure.
    let _ = std::fs::remove_file(path);
    let (ran, elsewhere) = misplaced(&text, device)?;
    if !elsewhere.is_empty() {
        return Err(TrainError::Placement { nodes: elsewhere.into_iter().collect() });
    }
    log::warn!("placement: all {ran} nodes of the step graph ran on {device}");
    Ok(())
}

fn misplaced(profile: &[u8], device: Device) -> Result<(usize, BTreeSet<String>), TrainError> {
    let events: Vec<Event> =
        serde_json::from_slice(profile).map_err(|e| TrainError::Runtime(format!("the profile cannot be read: {e}")))?;
    let wanted = match device {
        Device::Cpu => "CPUExecutionProvider",
        Device::Cuda => "CUDAExecutionProvider",
    };
    let (mut ran, mut elsewhere) = (0, BTreeSet::new());
    for event in events.iter().filter(|e| e.name.ends_with("_kernel_time")) {
        let (Some(provider), Some(op)) = (&event.args.provider, &event.args.op_name) else { continue };
        ran += 1;
        let bytes: u64 = event.args.output_size.as_deref().and_then(|s| s.parse().ok()).unwrap_or(u64::MAX);
        if provider != wanted && bytes > SHAPE_BYTES {
            elsewhere.insert(format!("{} ({op}, {provider})", event.name.trim_end_matches("_kernel_time")));
        }
    }
    if ran == 0 {
        return Err(TrainError::Runtime("the profile of the first step names no node".to_owned()));
    }
    Ok((ran, elsewhere))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"[
        {"cat": "Session", "name": "model_run", "args": {}},
        {"cat": "Node", "name": "Gemm#1_kernel_time", "args": {"provider": "CUDAExecutionProvider", "op_name": "Gemm", "output_size": "4096"}},
        {"cat": "Node", "name": "Concat#2_kernel_time", "args": {"provider": "CPUExecutionProvider", "op_name": "Concat", "output_size": "24"}},
        {"cat": "Node", "name": "Erf#3_kernel_time", "args": {"provider": "CPUExecutionProvider", "op_name": "Erf", "output_size": "4096"}}
    ]"#;

    #[test]
    fn a_large_result_on_the_wrong_device_is_named() {
        let (ran, elsewhere) = misplaced(PROFILE.as_bytes(), Device::Cuda).unwrap();
        assert_eq!(ran, 3);
        assert_eq!(elsewhere.into_iter().collect::<Vec<_>>(), ["Erf#3 (Erf, CPUExecutionProvider)"]);
        assert_eq!(misplaced(PROFILE.as_bytes(), Device::Cpu).unwrap().1.len(), 1);
    }

    #[test]
    fn a_profile_without_nodes_is_no_proof() {
        assert!(misplaced(b"[]", Device::Cuda).is_err());
        assert!(misplaced(b"[", Device::Cuda).is_err());
    }
}
