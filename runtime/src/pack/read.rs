//! Reading packs. The bytes may be anything: every length is checked against what is there
//! before it is used.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};

use super::document::PackDocument;
use super::{Golden, Head, METADATA_KEY, NamedMask, Pack, Reason, tensor};
use crate::base::hex;
use crate::mask::Mask;

/// The most bytes that a pack may have: a bit for each weight of a base of eight thousand million.
pub(super) const MAX_BYTES: u64 = 1 << 30;

/// The most weights that a pack's masks may cover: sums over them never overflow.
const MAX_WEIGHTS: u64 = 1 << 48;

/// Reads a whole file, at most one byte more than a pack may have.
pub(super) fn file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn pack(bytes: &[u8]) -> Result<Pack, Reason> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Reason::TooLarge);
    }
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let text = metadata.metadata().as_ref().and_then(|m| m.get(METADATA_KEY)).ok_or(Reason::NotAPack)?;
    // The version first: another schema may well have other fields.
    #[derive(serde::Deserialize)]
    struct Schema {
        schema: u32,
    }
    let Schema { schema } = serde_json::from_str(text)?;
    if schema != super::SCHEMA {
        let reason = format!("version {schema}, this program reads {}; install a newer one", super::SCHEMA);
        return Err(Reason::field("schema", reason));
    }
    let document: PackDocument = serde_json::from_str(text)?;
    document.check()?;

    let tensors = SafeTensors::deserialize(bytes)?;
    let known = [tensor::MASK, tensor::HEAD_WEIGHT, tensor::HEAD_BIAS, tensor::GOLDEN];
    if let Some(name) = tensors.names().into_iter().find(|name| !known.contains(name)) {
        // Ignoring a tensor that changes the task would give wrong answers without a word.
        return Err(Reason::field(name, "this program does not know this tensor; install a newer one"));
    }
    let masks = masks(&document, &tensors)?;
    let head = head(&document, &tensors)?;
    let golden = golden(&document, &tensors)?;
    let (digest, file_bytes) = (hex(&Sha256::digest(bytes)), bytes.len() as u64);
    Ok(Pack { document, masks, head, golden, digest, file_bytes })
}

fn masks(document: &PackDocument, tensors: &SafeTensors<'_>) -> Result<Vec<NamedMask>, Reason> {
    let bytes = match tensors.tensor(tensor::MASK) {
        Ok(view) if view.dtype() == Dtype::U8 && view.shape().len() == 1 => view.data(),
        Ok(view) => return Err(unexpected(tensor::MASK, &view, "U8 with one dimension")),
        Err(_) => &[],
    };
    let mut masks = Vec::with_capacity(document.masks.len());
    let (mut end, mut weights) = (0, 0u64);
    for (i, entry) in document.masks.iter().enumerate() {
        if entry.offset != end {
            let reason = format!("is {}, but the mask before ends at {end}", entry.offset);
            return Err(Reason::field(format!("masks/{i}/offset"), reason));
        }
        let rest = &bytes[end..];
        let Some(bits) = rest.get(..entry.length) else {
            let reason = format!("is {}, but tensor `mask` has {} bytes left", entry.length, rest.len());
            return Err(Reason::field(format!("masks/{i}/length"), reason));
        };
        let mask = Mask::from_bytes(document.granularity, entry.outputs, entry.inputs, bits)
            .map_err(|source| Reason::Mask { tensor: entry.tensor.clone(), offset: entry.offset, source })?;
        // Few bytes can cover many weights, where the blocks are large.
        weights = weights.saturating_add((entry.outputs * entry.inputs) as u64);
        if weights > MAX_WEIGHTS {
            let reason = format!("the masks up to this one cover {weights} weights, more than any base has");
            return Err(Reason::field(format!("masks/{i}"), reason));
        }
        masks.push(NamedMask { tensor: entry.tensor.clone(), mask });
        end += entry.length;
    }
    if end != bytes.len() {
        return Err(Reason::field(tensor::MASK, format!("has {} bytes, the masks take {end}", bytes.len())));
    }
    Ok(masks)
}

fn head(document: &PackDocument, tensors: &SafeTensors<'_>) -> Result<Head, Reason> {
    let labels = document.labels.len();
    let view = required(tensors, tensor::HEAD_WEIGHT)?;
    let hidden = match view.shape() {
        [rows, hidden] if *rows == labels && *hidden > 0 => *hidden,
        _ => return Err(unexpected(tensor::HEAD_WEIGHT, &view, &format!("F32 [{labels}, width of the base]"))),
    };
    let weight = floats(tensor::HEAD_WEIGHT, &view, &[labels, hidden])?;
    let bias = floats(tensor::HEAD_BIAS, &required(tensors, tensor::HEAD_BIAS)?, &[labels])?;
    Ok(Head { weight, bias, labels, hidden })
}

fn golden(document: &PackDocument, tensors: &SafeTensors<'_>) -> Result<Vec<Golden>, Reason> {
    let (texts, labels) = (document.golden.len(), document.labels.len());
    let logits = match tensors.tensor(tensor::GOLDEN) {
        Ok(view) => floats(tensor::GOLDEN, &view, &[texts, labels])?,
        Err(_) if texts == 0 => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let rows = logits.chunks_exact(labels);
    let golden = document.golden.iter().zip(rows);
    Ok(golden.map(|(text, logits)| Golden { text: text.clone(), logits: logits.to_vec() }).collect())
}

fn required<'a>(tensors: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, Reason> {
    tensors.tensor(name).map_err(|_| Reason::field(name, "the tensor is missing"))
}

/// The values of an F32 tensor of the given shape; all must be finite.
fn floats(name: &str, view: &TensorView<'_>, shape: &[usize]) -> Result<Vec<f32>, Reason> {
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        return Err(unexpected(name, view, &format!("F32 {shape:?}")));
    }
    let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(Reason::field(name, format!("value {i} is {}, must be a finite number", values[i]))),
        None => Ok(values),
    }
}

fn unexpected(name: &str, view: &TensorView<'_>, expected: &str) -> Reason {
    Reason::field(name, format!("is {:?} {:?}, must be {expected}", view.dtype(), view.shape()))
}
