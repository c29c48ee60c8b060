//! Graphs whose structure is that of a known family: their weights become a base that the engine `native` runs, if that
//! base computes what the graph does.
//!
//! What a graph computes is hard to tell from its nodes, as every exporter writes others. So the `config.json` that
//! belongs to the model says what encoder it is, the names say which weight is which, and a try says whether that is so.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overmask::base::Base;
use overmask::engine::{Changes, Device, Engine, EngineError, EngineOptions, TokenBatch};
use overmask_ort::OrtEngine;

use super::{Weight, padding};
use crate::import::config::Config;
use crate::import::known::{Known, Tensors};
use crate::import::{ImportError, files};

/// The part of the largest value by which the base may differ from the graph: what roundings in another order do.
const TOLERANCE: f32 = 1e-4;

/// The `config.json` of a model: beside it, or above the folder that models in ONNX have in a repository of a hub.
pub(super) fn config_beside(model: &Path) -> Option<PathBuf> {
    let folder = match model.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => return None,
    };
    let above = folder.file_name().filter(|name| *name == "onnx").and(folder.parent());
    let above = above.map(|above| if above.as_os_str().is_empty() { Path::new(".") } else { above });
    let mut places = [Some(folder), above].into_iter().flatten().map(|place| place.join(files::CONFIG));
    places.find(|path| path.is_file())
}

/// How many tokens a text may have, where the config says so and no table of positions does.
pub(super) fn positions_of(config: &Config) -> Option<usize> {
    (config.position_rows == 0).then_some(config.architecture.max_positions)
}

/// The encoder that a config describes, of a graph's weights; texts may have so many tokens at most, where that is said.
///
/// # Errors
/// When it is none that is known, or the graph has not its weights under their names.
pub(super) fn of_config<'a>(
    mut config: Config,
    weights: &'a GraphWeights<'a>,
    max_positions: Option<usize>,
) -> Result<Known<'a>, ImportError> {
    let own = &mut config.architecture.max_positions;
    *own = (*own).min(max_positions.unwrap_or(*own));
    Known::collect(&config, "", "", weights)
}

/// The weights of a graph.
pub(super) struct GraphWeights<'a> {
    /// The file, for messages.
    pub(super) path: &'a Path,
    pub(super) weights: &'a [Weight],
}

impl Tensors for GraphWeights<'_> {
    fn count(&self) -> usize {
        self.weights.len()
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [u8]>, ImportError> {
        let wrong = |reason| ImportError::Tensor { path: self.path.to_owned(), name: name.to_owned(), reason };
        // A model with modules around the encoder puts their names before those of its tensors, not always the same.
        let is_same = |of: &str| of.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'));
        let mut all = self.weights.iter().filter(|weight| is_same(&weight.name));
        let found = match (all.next(), all.next()) {
            (Some(found), None) => found,
            (None, _) => return Err(wrong("is missing".to_owned())),
            (Some(_), Some(_)) => return Err(wrong("is there more than once".to_owned())),
        };
        match (found.shape.as_slice(), shape) {
            (found_shape, shape) if found_shape == shape => Ok(Cow::Borrowed(&found.bytes)),
            // A linear weight that no mask touches stays as the graph has it, [inputs, outputs].
            ([inputs, outputs], [rows, columns]) if [outputs, inputs] == [rows, columns] => {
                let values = found.bytes.as_chunks::<4>().0;
                Ok(Cow::Owned(
                    (0..*outputs).flat_map(|j| (0..*inputs).flat_map(move |i| values[i * outputs + j])).collect(),
                ))
            }
            (found, _) => Err(wrong(format!("has shape {found:?}, not {shape:?}"))),
        }
    }
}

/// Runs texts on two bases, one of a known family and one of the graph as it is.
///
/// # Errors
/// In words: why the first cannot stand for the second.
pub(super) fn compare(known: &Base, graph: &Base) -> Result<(), String> {
    let (short, long) = padding::texts(known).map_err(|error| error.to_string())?;
    for batch in [&short, &long] {
        let states = |base| states(base, batch).map_err(|error| error.to_string());
        let (known, graph) = (states(known)?, states(graph)?);
        let largest = graph.iter().fold(1f32, |most, v| most.max(v.abs()));
        let apart = known.iter().zip(&graph).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let is_finite = known.iter().all(|value| value.is_finite());
        if known.len() != graph.len() || !is_finite || apart > TOLERANCE * largest {
            return Err(format!("its vectors are up to {apart:.1e} apart from the graph's"));
        }
    }
    Ok(())
}

fn states(base: &Base, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
    let base = Arc::new(Base::open(base.dir())?);
    let engine = OrtEngine::new(base, Device::Cpu, &EngineOptions::default().threads(1))?;
    let task = engine.add(Changes::masks_alone(&[]))?;
    Ok(engine.encode(task, batch)?.data().to_vec())
}
