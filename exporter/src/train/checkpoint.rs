//! A run on disk: everything that its next step depends on, in one file ([`sealed`]). So a run that is cut off loses the
//! steps since the last write, and goes on as if nothing had been: random numbers depend on the step alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use overmask::mask::Mask;
use overmask::pack::NamedMask;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TrainError;
use super::graph::Graph;
use super::loss_scale::LossScale;
use super::sealed::{self, Sealed};
use super::state::{Attempt, Best, Course, Epoch, Kept, Mark};

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
    let mut tensors = sealed::of_state(graph, &run.state);
    if let Some(Best { kept, .. }) = &run.course.best {
        for NamedMask { tensor, mask } in &kept.masks {
            let bytes = mask.as_bytes().to_vec();
            tensors.push((format!("best/mask/{tensor}"), Dtype::U8, vec![bytes.len()], bytes));
        }
        for (name, values) in &kept.tensors {
            tensors.push((format!("best/{name}"), Dtype::F32, vec![values.len()], sealed::bytes(values)));
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
    sealed::write(path, &document, &tensors)
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
    let Some(sealed) = Sealed::read(path)? else { return Ok(None) };
    let document: Document = sealed.document(|document: &Document| &document.facts, facts)?;
    let state = sealed.state(graph)?;
    let damaged = |reason: &str| sealed.damaged(&reason);
    let mut best = None;
    if let Some(mark) = document.best {
        let mut kept = Kept { masks: Vec::new(), tensors: BTreeMap::new() };
        for parameter in &graph.trained {
            let name = parameter.name.as_str();
            match parameter.scores_of() {
                Some(tensor) => {
                    let bytes = sealed.tensor(&format!("best/mask/{}", tensor.name)).unwrap_or_default();
                    let mask =
                        mask(&tensor.name, bytes).ok_or_else(|| damaged(&format!("the mask of `{}`", tensor.name)))?;
                    kept.masks.push(NamedMask { tensor: tensor.name.clone(), mask });
                }
                None => {
                    let values = sealed.tensor(&format!("best/{name}")).map(sealed::floats).unwrap_or_default();
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
