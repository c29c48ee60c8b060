//! A base and a pack become one plain ONNX model, for programs that know neither: masks and deltas are
//! in the weights, pooling and head in the graph.
//!
//! The model is a folder, laid out as a base bundle is: `model.onnx` points into
//! `model.safetensors`, `tokenizer.json` is the base's but cuts texts as the task does, and `config.json` says what
//! the outputs mean.
//!
//! | the task's kind | the output `logits`, f32 |
//! | --- | --- |
//! | `classify`, `multilabel`, `regress` | [batch, labels] |
//! | `tag` | [batch, sequence, labels]: a word's are those of its first token |

#[cfg(test)]
pub(crate) mod tests;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use overmask::base::{Base, BaseError, file, write_weights};
use overmask::error::ErrorKind;
use overmask::fs::{Staged, StagedError};
use overmask::mask::MaskError;
use overmask::pack::tensor::{HEAD_BIAS, HEAD_WEIGHT};
use overmask::pack::{Pack, PackDocument, PackError, Pooling, TaskKind};
use overmask::task::{TaskError, Tokenizer};
use overmask_graph::encoder;
use overmask_graph::passes::head::{LOGITS, pool};
use overmask_graph::proto::data_type;
use overmask_graph::{External, GraphBuilder, OnnxError};
use serde::{Serialize, Serializer};

/// The file that says what the outputs mean.
pub const CONFIG: &str = "config.json";

/// What can go wrong when a model is exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The base.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The pack, or it was made for another base.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The base's graph.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// A mask does not cover its tensor.
    #[error("mask of `{tensor}`: {source}")]
    Mask {
        /// The tensor.
        tensor: String,
        /// Why.
        source: MaskError,
    },
    /// The graph has a value of a name that the export gives to one of its own.
    #[error(
        "{}: the graph has a value `{value}`, which is the name of an output or of the head; rename it and import \
         the base again",
        path.display()
    )]
    Taken {
        /// The graph's file.
        path: PathBuf,
        /// The name.
        value: String,
    },
    /// The base's tokenizer.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The folder cannot be written.
    #[error(transparent)]
    Staged(#[from] StagedError),
}

impl ExportError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Base(e) => e.kind(),
            Self::Pack(e) => e.kind(),
            Self::Onnx(e) => e.kind(),
            Self::Mask { .. } | Self::Taken { .. } => ErrorKind::CorruptFile,
            Self::Task(e) => e.kind(),
            Self::Staged(e) => e.kind(),
        }
    }
}

/// What of a task is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Everything: the output is `logits`.
    Whole,
    /// Masks and deltas, without pooling and head: the output is `last_hidden_state`.
    Encoder,
}

impl Extent {
    /// The name of the model's output.
    pub fn output(self) -> &'static str {
        match self {
            Self::Whole => LOGITS,
            Self::Encoder => encoder::OUTPUT,
        }
    }
}

/// Writes the model of a task into the folder `out`, which appears whole or not at all.
///
/// # Errors
/// When the pack was made for another base, the base cannot be read, something is at `out`, or it
/// cannot be written.
pub fn export(base: &Base, pack: &Pack, out: &Path, extent: Extent) -> Result<(), ExportError> {
    pack.check_base(base)?;
    let staged = Staged::new(out)?;
    let mut model = overmask_graph::read_model(&base.model_path())?;
    let names = overmask_graph::external_names(&model)?;
    let mut graph = model.graph.take().ok_or(OnnxError::NoGraph)?;
    let changed = pack.masks.iter().map(|m| &m.tensor).chain(pack.deltas.iter().map(|d| &d.tensor));
    if let Some(name) = changed.into_iter().find(|name| !names.contains(name)) {
        return Err(OnnxError::MissingInitializer { name: name.clone() }.into());
    }
    let mut tensors = Vec::with_capacity(names.len() + 2);
    for name in &names {
        let (shape, bytes) = tensor(base, pack, name)?;
        tensors.push((name.as_str(), shape.to_vec(), bytes));
    }
    if extent == Extent::Whole {
        let used = graph.node.iter().flat_map(|node| &node.output).chain(names.iter());
        let ours = [HEAD_WEIGHT, HEAD_BIAS, LOGITS];
        if let Some(value) = used.into_iter().find(|value| ours.contains(&value.as_str())) {
            return Err(ExportError::Taken { path: base.model_path(), value: value.clone() });
        }
        let head = &pack.head;
        tensors.push((HEAD_WEIGHT, vec![head.labels, head.hidden], Cow::Owned(bytes_of(&head.weight))));
        tensors.push((HEAD_BIAS, vec![head.labels], Cow::Owned(bytes_of(&head.bias))));
    }
    let listed: Vec<_> = tensors.iter().map(|(name, shape, bytes)| (*name, shape.as_slice(), &bytes[..])).collect();
    let offsets = staged.file(file::WEIGHTS, |out| write_weights(out, &listed))?;

    graph.initializer.retain(|tensor| !names.contains(&tensor.name));
    if extent == Extent::Whole {
        graph.output.clear();
    }
    let mut b = GraphBuilder::extend(graph);
    for (name, shape, bytes) in &tensors {
        let dims: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
        let at = External { location: file::WEIGHTS.to_owned(), offset: offsets[*name], length: bytes.len() as u64 };
        b.external_initializer(name, data_type::FLOAT, &dims, at);
    }
    if extent == Extent::Whole {
        add_head(&mut b, pack.document.text.pooling, pack.head.labels, pack.head.hidden);
    }
    staged.write(file::MODEL, &overmask_graph::encode(&b.finish()))?;

    let tokenizer = Tokenizer::open(base)?.to_json(pack.document.text.max_tokens)?;
    staged.write(file::TOKENIZER, tokenizer.as_bytes())?;
    let config = Config::new(&pack.document, extent);
    staged.file(CONFIG, |out| Ok(serde_json::to_writer_pretty(out, &config)?))?;
    Ok(staged.publish()?)
}

/// A tensor of the base as the task has it: its shape and its bytes.
fn tensor<'a>(base: &'a Base, pack: &Pack, name: &str) -> Result<(&'a [usize], Cow<'a, [u8]>), ExportError> {
    if let Some(delta) = pack.deltas.iter().find(|delta| delta.tensor == name) {
        // Its shape is the base's: that was checked.
        return Ok((base.tensor_f32(name)?.0, Cow::Owned(bytes_of(&delta.values))));
    }
    if let Some(named) = pack.masks.iter().find(|named| named.tensor == name) {
        let (shape, values) = base.tensor_f32(name)?;
        let mut values = values.to_vec();
        let masked = named.mask.apply(&mut values);
        masked.map_err(|source| ExportError::Mask { tensor: name.to_owned(), source })?;
        return Ok((shape, Cow::Owned(bytes_of(&values))));
    }
    let (shape, bytes) = base.tensor_bytes(name)?;
    Ok((shape, Cow::Borrowed(bytes)))
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Pooling and the head on top of the encoder. A tagger's head reads every token: which ones words
/// begin with is the caller's matter.
fn add_head(b: &mut GraphBuilder, pooling: Pooling, labels: usize, width: usize) {
    let (seen, rows): (_, &[&str]) = match pooling {
        Pooling::Mean | Pooling::Cls => (pool(b, pooling, width), &["batch"]),
        Pooling::First => (encoder::OUTPUT.to_owned(), &["batch", "sequence"]),
    };
    let weight = b.op("Transpose", &[HEAD_WEIGHT], &[]);
    let product = b.op("MatMul", &[&seen, &weight], &[]);
    b.node("Add", &[&product, HEAD_BIAS], &[LOGITS], &[]);
    let labels = labels.to_string();
    b.output(LOGITS, data_type::FLOAT, &[rows, &[labels.as_str()]].concat());
}

/// What `config.json` holds.
#[derive(Debug, Serialize)]
struct Config<'a> {
    /// The task's name.
    name: &'a str,
    revision: u64,
    task: TaskKind,
    output: &'static str,
    /// The label of each column of the logits.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "by_number")]
    id2label: Option<&'a [String]>,
    /// Tokens after which a text is cut, special tokens included.
    max_tokens: usize,
    pooling: Pooling,
    pair: bool,
    base_id: &'a str,
}

impl<'a> Config<'a> {
    fn new(document: &'a PackDocument, extent: Extent) -> Self {
        let PackDocument { name, revision, kind, labels, text, base_id, .. } = document;
        Config {
            name,
            revision: *revision,
            task: *kind,
            output: extent.output(),
            id2label: (extent == Extent::Whole).then_some(labels),
            max_tokens: text.max_tokens,
            pooling: text.pooling,
            pair: text.pair,
            base_id,
        }
    }
}

/// An object whose keys are the numbers, in their order.
fn by_number<S: Serializer>(labels: &Option<&[String]>, serializer: S) -> Result<S::Ok, S::Error> {
    let labels = labels.unwrap_or_default();
    serializer.collect_map(labels.iter().enumerate().map(|(i, label)| (i.to_string(), label)))
}
