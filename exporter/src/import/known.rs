//! An encoder of a known family with the values of its tensors, out of a checkpoint or out of an ONNX graph.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use overmask::base::family::encoder::Encoder;
use overmask::base::{Architecture, MAX_LAYERS, TensorBytes};
use overmask_graph::proto::ModelProto;

use super::ImportError;
use super::config::Config;
use super::graph::{self, Needed};
use super::spelling::Own;

/// Tensors by name, wherever they come from.
pub(super) trait Tensors {
    /// How many there are.
    fn count(&self) -> usize;

    /// The values of one of a shape as little-endian f32 bytes.
    ///
    /// # Errors
    /// When it is missing, or of another shape or a type of no float.
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [u8]>, ImportError>;
}

/// An encoder, and its tensors in the order in which a forward pass reads them.
pub(super) struct Known<'a> {
    pub(super) encoder: Encoder,
    pub(super) architecture: Architecture,
    needed: Vec<Needed>,
    values: Vec<Cow<'a, [u8]>>,
    /// The names of the tensors that were read.
    pub(super) read: BTreeSet<String>,
}

impl<'a> Known<'a> {
    /// Reads what an encoder is made of. All names start with `own` in the base, and with `prefix` where they come from.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape; when there are too few for the number of layers.
    pub(super) fn collect(
        config: &Config,
        own: &str,
        prefix: &str,
        tensors: &'a impl Tensors,
    ) -> Result<Self, ImportError> {
        let Config { spelling, architecture, .. } = config;
        let encoder = Some(architecture).filter(|of| of.layers <= MAX_LAYERS).and_then(|of| Encoder::new(of, own));
        let encoder = encoder.ok_or_else(|| config.too_many_layers())?;
        let needed = encoder.tensors(config.segments);
        // Which may lack one that is made here, and have several in one.
        if needed.len() > (tensors.count() + 1) * spelling.most_parts() {
            return Err(config.too_many_layers());
        }
        let positions = encoder.embeddings.positions.as_ref().map(|table| &table.name);
        let mut values = Vec::with_capacity(needed.len());
        let mut read = BTreeSet::new();
        for (name, shape) in &needed {
            let Own { name: theirs, part, parts } = spelling.own(name.strip_prefix(own).unwrap_or(name));
            let theirs = format!("{prefix}{theirs}");
            let rows = |rows: usize| [&[rows], &shape[1..]].concat();
            // A config may ask for rows that are not there.
            let some = |whole: Cow<'a, [u8]>, of: usize, first: usize| {
                let mut rows = whole.chunks_exact((whole.len() / of.max(1)).max(1)).skip(first).take(shape[0]);
                if shape[0] == 0 || rows.len() < shape[0] {
                    return Err(config.no_positions());
                }
                Ok(Cow::Owned(rows.by_ref().flatten().copied().collect()))
            };
            values.push(match config.position_rows {
                all if Some(name) == positions && all != shape[0] => {
                    some(tensors.floats(&theirs, &rows(all))?, all, config.positions_before)?
                }
                // One segment, which adds nothing.
                _ if encoder.embeddings.segments.as_ref() == Some(name) && !spelling.has_segments => {
                    Cow::Owned(vec![0; 4 * shape[1]])
                }
                _ if parts > 1 => {
                    let all = shape[0] * parts;
                    some(tensors.floats(&theirs, &rows(all))?, all, shape[0] * part)?
                }
                _ => tensors.floats(&theirs, shape)?,
            });
            read.insert(theirs);
        }
        Ok(Known { encoder, architecture: architecture.clone(), needed, values, read })
    }

    /// The tensors as a bundle takes them.
    pub(super) fn tensors(&self) -> Vec<TensorBytes<'_>> {
        let values = self.needed.iter().zip(&self.values);
        values.map(|((name, shape), values)| (name.as_str(), shape.as_slice(), &values[..])).collect()
    }

    /// The forward graph; `offsets` says where in the weights' file each tensor starts.
    pub(super) fn graph(&self, offsets: &BTreeMap<String, u64>) -> ModelProto {
        graph::graph(&self.encoder, self.architecture.max_positions, &self.needed, offsets)
    }
}
