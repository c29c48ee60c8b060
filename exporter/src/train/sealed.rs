//! The file of a run: a document and tensors in one safetensors file, which is written beside and renamed, and believed
//! when it is read only if nothing in it has changed.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use overmask::fs::hex;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::TrainError;
use super::graph::Graph;

/// The keys of the document, and of the SHA-256 of document and tensors, in the file's metadata.
const KEYS: [&str; 2] = ["overmask-run", "sha256"];

/// A tensor to write: name, type, shape, bytes.
pub(super) type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// The state of a run, for each parameter its values and two moments, as tensors.
pub(super) fn of_state(graph: &Graph, state: &[Vec<f32>]) -> Vec<Tensor> {
    let of = |(parameter, values): (&super::graph::Trained, &[Vec<f32>])| {
        let named = parameter.state().into_iter().zip(values);
        let tensor = |(name, values): (String, &Vec<f32>)| {
            (format!("state/{name}"), Dtype::F32, parameter.dims.clone(), bytes(values))
        };
        named.map(tensor).collect::<Vec<_>>()
    };
    graph.trained.iter().zip(state.chunks_exact(3)).flat_map(of).collect()
}

pub(super) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Writes a file so that it appears whole or not at all.
pub(super) fn write(path: &Path, document: &impl Serialize, tensors: &[Tensor]) -> Result<(), TrainError> {
    let failed = |source: io::Error| TrainError::Write { path: path.to_owned(), source };
    let document = serde_json::to_string(document).map_err(|e| failed(e.into()))?;
    let sha256 = digest(&document, tensors.iter().map(|(name, _, _, bytes)| (name.as_str(), bytes.as_slice())));
    let metadata = HashMap::from([(KEYS[0].to_owned(), document), (KEYS[1].to_owned(), sha256)]);
    let views =
        tensors.iter().map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let bytes = views.and_then(|views| safetensors::serialize(views, Some(metadata)));
    let bytes = bytes.map_err(|e| failed(io::Error::other(e)))?;
    overmask::fs::write_atomically(path, |file| file.write_all(&bytes)).map_err(failed)
}

/// A file as it was written.
pub(super) struct Sealed {
    path: PathBuf,
    text: String,
    tensors: BTreeMap<String, Vec<u8>>,
}

impl Sealed {
    /// Reads a file, if it is there.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, TrainError> {
        let bytes = match overmask::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                return Err(TrainError::Checkpoint { path: path.to_owned(), reason: format!("cannot be read: {e}") });
            }
        };
        let damaged = |e: &dyn Display| damaged(path, e);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
        let [text, sha256] = KEYS.map(|key| metadata.metadata().as_ref().and_then(|m| m.get(key)));
        let (text, sha256) = text.zip(sha256).ok_or_else(|| damaged(&"it says nothing of a run"))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e))?;
        let tensors: BTreeMap<String, Vec<u8>> =
            tensors.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect();
        if digest(text, tensors.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))) != *sha256 {
            return Err(damaged(&"its bytes have changed"));
        }
        Ok(Some(Sealed { path: path.to_owned(), text: text.clone(), tensors }))
    }

    /// The document, whose facts must be these.
    ///
    /// # Errors
    /// When it is of a run with other data or options: the first that differs is named.
    pub(super) fn document<D: DeserializeOwned>(
        &self,
        facts_of: impl Fn(&D) -> &BTreeMap<String, Value>,
        facts: &BTreeMap<String, Value>,
    ) -> Result<D, TrainError> {
        let document: D = serde_json::from_str(&self.text).map_err(|e| self.damaged(&e))?;
        let found = facts_of(&document);
        let names = facts.keys().chain(found.keys());
        if let Some(name) = names.into_iter().find(|name| facts.get(*name) != found.get(*name)) {
            let [then, now] =
                [found, facts].map(|facts| facts.get(name).map_or("nothing".to_owned(), Value::to_string));
            let reason = format!("is of a run in which `{name}` was {then}, not {now}");
            return Err(TrainError::Checkpoint { path: self.path.clone(), reason });
        }
        Ok(document)
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&[u8]> {
        self.tensors.get(name).map(Vec::as_slice)
    }

    /// The state that [`of_state`] has written.
    pub(super) fn state(&self, graph: &Graph) -> Result<Vec<Vec<f32>>, TrainError> {
        let of = |(name, count): (String, usize)| {
            let values = self.tensor(&format!("state/{name}")).map(floats).unwrap_or_default();
            match values.len() == count {
                true => Ok(values),
                false => Err(self.damaged(&format!("`{name}` has {} values", values.len()))),
            }
        };
        let named = graph.trained.iter().flat_map(|parameter| {
            let count = parameter.dims.iter().product();
            parameter.state().map(|name| (name, count))
        });
        named.map(of).collect()
    }

    pub(super) fn damaged(&self, reason: &dyn Display) -> TrainError {
        damaged(&self.path, reason)
    }
}

fn damaged(path: &Path, reason: &dyn Display) -> TrainError {
    TrainError::DamagedCheckpoint { path: path.to_owned(), reason: reason.to_string() }
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
