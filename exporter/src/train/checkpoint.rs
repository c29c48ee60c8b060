//! A run on disk: everything that its next step depends on, in one safetensors file that is written
//! beside and renamed. So a run that is cut off loses the steps since the last write, and goes on as
//! if nothing had been: random numbers depend on the step alone.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use overmask::fs::hex;
use overmask::mask::Mask;
use overmask::pack::NamedMask;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::TrainError;
use super::graph::Graph;
use super::loss_scale::LossScale;
use super::state::{Attempt, Best, Course, Epoch, Kept, Mark};

/// The keys of the document, and of the SHA-256 of document and tensors, in the file's metadata.
const KEYS: [&str; 2] = ["overmask-run", "sha256"];

/// What is not a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Document {
    /// What decides the run: a file of another one is of no use.
    pub(super) facts: BTreeMap<String, Value>,
    /// Steps of this try.
    pub(super) step: u64,
    /// Running mean of the loss.
    pub(super) loss: f32,
    /// What the loss is multiplied by, if it is scaled.
    pub(super) loss_scale: Option<LossScale>,
    /// What scores are compared with.
    pub(super) threshold: Option<f32>,
    /// How the try that is under way went so far.
    pub(super) curve: Vec<Epoch>,
    /// The tries before it.
    #[serde(default)]
    pub(super) attempts: Vec<Attempt>,
    /// How good the best state is, if there is one yet.
    best: Option<Mark>,
    /// Time spent, and how much of it in waiting for batches.
    pub(super) time: [Duration; 2],
}

/// A run as it was.
pub(super) struct Saved {
    pub(super) document: Document,
    /// For each parameter its values and two moments.
    pub(super) state: Vec<Vec<f32>>,
    pub(super) best: Option<Best>,
}

/// What a file is made of.
pub(super) struct Run<'a> {
    pub(super) facts: &'a BTreeMap<String, Value>,
    pub(super) course: &'a Course,
    pub(super) loss_scale: Option<LossScale>,
    pub(super) threshold: f32,
    pub(super) state: Vec<Vec<f32>>,
    pub(super) time: [Duration; 2],
}

/// Writes a run so that the file appears whole or not at all.
pub(super) fn write(path: &Path, graph: &Graph, run: Run<'_>) -> Result<(), TrainError> {
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (parameter, values) in graph.trained.iter().zip(run.state.chunks_exact(3)) {
        for (name, values) in parameter.state().into_iter().zip(values) {
            tensors.push((format!("state/{name}"), Dtype::F32, parameter.dims.clone(), floats(values)));
        }
    }
    if let Some(Best { kept, .. }) = &run.course.best {
        for NamedMask { tensor, mask } in &kept.masks {
            let bytes = mask.as_bytes().to_vec();
            tensors.push((format!("best/mask/{tensor}"), Dtype::U8, vec![bytes.len()], bytes));
        }
        for (name, values) in &kept.tensors {
            tensors.push((format!("best/{name}"), Dtype::F32, vec![values.len()], floats(values)));
        }
    }
    let document = Document {
        facts: run.facts.clone(),
        step: run.course.step,
        loss: run.course.loss,
        loss_scale: run.loss_scale,
        threshold: run.threshold.is_finite().then_some(run.threshold),
        curve: run.course.curve.clone(),
        attempts: run.course.attempts.clone(),
        best: run.course.best.as_ref().map(|best| best.mark),
        time: run.time,
    };
    let failed = |source: std::io::Error| TrainError::Write { path: path.to_owned(), source };
    let document = serde_json::to_string(&document).map_err(|e| failed(e.into()))?;
    let sha256 = digest(&document, tensors.iter().map(|(name, _, _, bytes)| (name.as_str(), bytes.as_slice())));
    let metadata = HashMap::from([(KEYS[0].to_owned(), document), (KEYS[1].to_owned(), sha256)]);
    let views =
        tensors.iter().map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let bytes = views.and_then(|views| safetensors::serialize(views, Some(metadata)));
    let bytes = bytes.map_err(|e| failed(std::io::Error::other(e)))?;
    overmask::fs::write_atomically(path, |file| std::io::Write::write_all(file, &bytes)).map_err(failed)
}

/// Reads a run, if the file is there.
///
/// # Errors
/// When the file is damaged, or of a run with other data or options: the first that differs is named.
pub(super) fn read(
    path: &Path,
    graph: &Graph,
    facts: &BTreeMap<String, Value>,
    mask: impl Fn(&str, &[u8]) -> Option<Mask>,
) -> Result<Option<Saved>, TrainError> {
    let wrong = |reason: String| TrainError::Checkpoint { path: path.to_owned(), reason };
    let bytes = match overmask::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(wrong(format!("cannot be read: {e}"))),
    };
    let damaged =
        |e: &dyn std::fmt::Display| TrainError::DamagedCheckpoint { path: path.to_owned(), reason: e.to_string() };
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
    let [text, sha256] = KEYS.map(|key| metadata.metadata().as_ref().and_then(|m| m.get(key)));
    let (text, sha256) = text.zip(sha256).ok_or_else(|| damaged(&"it says nothing of a run"))?;
    let document: Document = serde_json::from_str(text).map_err(|e| damaged(&e))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e))?;
    let all: Vec<(String, TensorView<'_>)> = tensors.tensors();
    let mut sorted: Vec<(&str, &[u8])> = all.iter().map(|(name, view)| (name.as_str(), view.data())).collect();
    sorted.sort_unstable();
    if digest(text, sorted.iter().copied()) != *sha256 {
        return Err(damaged(&"its bytes have changed"));
    }
    let names = facts.keys().chain(document.facts.keys());
    if let Some(name) = names.into_iter().find(|name| facts.get(*name) != document.facts.get(*name)) {
        let [then, now] =
            [&document.facts, facts].map(|facts| facts.get(name).map_or("nothing".to_owned(), Value::to_string));
        return Err(wrong(format!("is of a run in which `{name}` was {then}, not {now}")));
    }
    let bytes_of = |name: &str| sorted.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes);
    let floats = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>();
    let mut state = Vec::new();
    for parameter in &graph.trained {
        for name in parameter.state() {
            let values = bytes_of(&format!("state/{name}")).map(floats).unwrap_or_default();
            if values.len() != parameter.dims.iter().product::<usize>() {
                return Err(damaged(&format!("`{name}` has {} values", values.len())));
            }
            state.push(values);
        }
    }
    let mut best = None;
    if let Some(mark) = document.best {
        let mut kept = Kept { masks: Vec::new(), tensors: BTreeMap::new() };
        for parameter in &graph.trained {
            let name = parameter.name.as_str();
            match parameter.scores_of() {
                Some(tensor) => {
                    let bytes = bytes_of(&format!("best/mask/{}", tensor.name)).unwrap_or_default();
                    let mask =
                        mask(&tensor.name, bytes).ok_or_else(|| damaged(&format!("the mask of `{}`", tensor.name)))?;
                    kept.masks.push(NamedMask { tensor: tensor.name.clone(), mask });
                }
                None => {
                    let values = bytes_of(&format!("best/{name}")).map(floats).unwrap_or_default();
                    if values.len() != parameter.dims.iter().product::<usize>() {
                        return Err(damaged(&format!("the best `{name}` has {} values", values.len())));
                    }
                    kept.tensors.insert(name.to_owned(), values);
                }
            }
        }
        best = Some(Best { mark, kept });
    }
    Ok(Some(Saved { document, state, best }))
}

/// SHA-256 over the document, and names and bytes in the order of the names.
fn digest<'a>(document: &str, tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_unstable();
    let mut hash = Sha256::new();
    hash.update((document.len() as u64).to_le_bytes());
    hash.update(document);
    for (name, bytes) in tensors {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(bytes);
    }
    hex(&hash.finalize())
}
