//! Reading packs. The bytes may be anything: every length is checked against what is there
//! before it is used.

use std::collections::BTreeSet;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};

use super::document::{PackDocument, check_name};
use super::file::{PackFile, Sizes};
use super::{Delta, FloatType, Golden, Head, METADATA_KEY, PackError, Reason, tensor};
use crate::fs::hex;

/// The most bytes that a pack may have: a bit for each weight of a base of eight thousand million.
pub const MAX_BYTES: u64 = 1 << 30;

/// The most bytes that the header may have, document included: JSON takes many times its size
/// when it is read.
pub(super) const MAX_HEADER: u64 = 4 << 20;

/// Bytes of a checksum.
pub(super) const CHECKSUM_BYTES: usize = 32;

/// Reads a whole file, of no more bytes than a pack may have; [`super::read_packs`] checks them.
///
/// # Errors
/// When it cannot be read, or is larger.
pub fn file(path: &Path) -> Result<Vec<u8>, PackError> {
    crate::fs::read_at_most(path, MAX_BYTES)
        .map_err(|source| PackError::Read { path: path.into(), source })?
        .ok_or_else(|| PackError::Invalid { path: path.into(), reason: Reason::TooLarge })
}

/// Checks that a file and its header are no larger than they may be; it begins with the header's length.
pub(super) fn check_size(bytes: &[u8]) -> Result<(), Reason> {
    let header = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    if bytes.len() as u64 > MAX_BYTES || header > MAX_HEADER { Err(Reason::TooLarge) } else { Ok(()) }
}

/// The text under a key of a safetensors file's metadata; [`Reason::NotAPack`] without one.
pub(super) fn metadata(bytes: &[u8], key: &str) -> Result<(usize, String), Reason> {
    check_size(bytes)?;
    let (header, metadata) = SafeTensors::read_metadata(bytes)?;
    let metadata = metadata.metadata().as_ref().ok_or(Reason::NotAPack)?;
    let text = metadata.get(key).ok_or(Reason::NotAPack)?;
    if metadata.len() > 1 {
        return Err(Reason::field("__metadata__", format!("has other keys than `{key}`")));
    }
    Ok((8 + header, text.clone()))
}

pub(super) fn pack(bytes: &[u8]) -> Result<PackFile, Reason> {
    let (header, text) = metadata(bytes, METADATA_KEY)?;
    // The version first: another schema may well have other fields.
    #[derive(serde::Deserialize)]
    struct Schema {
        schema: u32,
        #[serde(default)]
        requires: Vec<String>,
    }
    let Schema { schema, requires } = serde_json::from_str(&text)?;
    version(schema, &requires)?;
    let tensors = SafeTensors::deserialize(bytes)?;
    checksum(bytes, &tensors)?;
    let document: PackDocument = serde_json::from_str(&text)?;
    document.check()?;
    let known = [tensor::MASK, tensor::HEAD_WEIGHT, tensor::HEAD_BIAS, tensor::GOLDEN, tensor::CHECKSUM];
    if let Some(name) =
        tensors.names().into_iter().find(|name| !known.contains(name) && !name.starts_with(tensor::DELTA))
    {
        // Ignoring a tensor that changes the task would give wrong answers without a word.
        return Err(Reason::field(name, "this program does not know this tensor; install a newer one"));
    }
    let coded = masks(&document, &tensors)?.to_vec();
    let head = head(&document, &tensors)?;
    let deltas = deltas(&document, &tensors)?;
    let golden = golden(&document, &tensors)?;
    let size = |name: &str| tensors.tensor(name).map_or(0, |view| view.data().len());
    let quoted = serde_json::to_string(&text)?.len().min(header);
    let sizes = Sizes {
        container: header - quoted,
        document: quoted,
        head: size(tensor::HEAD_WEIGHT) + size(tensor::HEAD_BIAS),
        golden: size(tensor::GOLDEN),
        masks: coded.len(),
        deltas: deltas.iter().map(|delta| size(&format!("{}{}", tensor::DELTA, delta.tensor))).sum(),
        checksum: CHECKSUM_BYTES,
    };
    let digest = hex(&Sha256::digest(bytes));
    Ok(PackFile { document, head, deltas, golden, coded, sizes, digest, origin: None })
}

/// Checks that this program knows a schema and the features that a file asks for.
pub(super) fn version(schema: u32, requires: &[String]) -> Result<(), Reason> {
    if schema != super::SCHEMA {
        let reason = format!("version {schema}, this program reads {}; install a newer one", super::SCHEMA);
        return Err(Reason::field("schema", reason));
    }
    match requires.iter().find(|feature| !super::document::FEATURES.contains(&feature.as_str())) {
        Some(feature) => {
            let reason = format!("{feature:?}, which this program does not know; install a newer one");
            Err(Reason::field("requires", reason))
        }
        None => Ok(()),
    }
}

/// Checks that the file ends with the SHA-256 of all that comes before.
pub(super) fn checksum(bytes: &[u8], tensors: &SafeTensors<'_>) -> Result<(), Reason> {
    let view = required(tensors, tensor::CHECKSUM)?;
    if view.dtype() != Dtype::U8 || view.shape() != [CHECKSUM_BYTES] {
        return Err(unexpected(tensor::CHECKSUM, &view, &format!("U8 [{CHECKSUM_BYTES}]")));
    }
    let (before, end) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    if !std::ptr::eq(end, view.data()) {
        return Err(Reason::field(tensor::CHECKSUM, "is not the end of the file"));
    }
    if Sha256::digest(before)[..] == *end { Ok(()) } else { Err(Reason::Damaged) }
}

/// The coded masks, whose lengths are those that the document gives.
fn masks<'a>(document: &PackDocument, tensors: &SafeTensors<'a>) -> Result<&'a [u8], Reason> {
    let bytes = match tensors.tensor(tensor::MASK) {
        Ok(view) if view.dtype() == Dtype::U8 && view.shape().len() == 1 => view.data(),
        Ok(view) => return Err(unexpected(tensor::MASK, &view, "U8 with one dimension")),
        Err(_) => &[],
    };
    let taken = document.masks.iter().fold(0usize, |sum, entry| sum.saturating_add(entry.length));
    if taken != bytes.len() {
        return Err(Reason::field(tensor::MASK, format!("has {} bytes, the masks take {taken}", bytes.len())));
    }
    Ok(bytes)
}

fn head(document: &PackDocument, tensors: &SafeTensors<'_>) -> Result<Head, Reason> {
    let labels = document.labels.len();
    let view = required(tensors, tensor::HEAD_WEIGHT)?;
    let hidden = match view.shape() {
        [rows, hidden] if *rows == labels && *hidden > 0 => *hidden,
        _ => return Err(unexpected(tensor::HEAD_WEIGHT, &view, &format!("[{labels}, width of the base]"))),
    };
    let dtype = FloatType::of(view.dtype())
        .ok_or_else(|| unexpected(tensor::HEAD_WEIGHT, &view, &format!("F16, BF16 or F32 [{labels}, {hidden}]")))?;
    let weight = floats(tensor::HEAD_WEIGHT, &view, dtype, &[labels, hidden])?;
    let bias = floats(tensor::HEAD_BIAS, &required(tensors, tensor::HEAD_BIAS)?, dtype, &[labels])?;
    Ok(Head { weight, bias, labels, hidden, dtype })
}

fn golden(document: &PackDocument, tensors: &SafeTensors<'_>) -> Result<Vec<Golden>, Reason> {
    let labels = document.labels.len();
    let rows = document.golden.iter().fold(0usize, |rows, input| rows.saturating_add(input.rows()));
    let logits = match tensors.tensor(tensor::GOLDEN) {
        Ok(_) if rows == 0 => return Err(Reason::field(tensor::GOLDEN, "is there, but no golden texts are")),
        Ok(view) => floats(tensor::GOLDEN, &view, FloatType::F32, &[rows, labels])?,
        Err(_) if rows == 0 => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut rest = logits.as_slice();
    let golden = document.golden.iter().map(|input| {
        let (logits, after) = rest.split_at(input.rows() * labels);
        rest = after;
        Golden { input: input.clone(), logits: logits.to_vec() }
    });
    Ok(golden.collect())
}

/// The replaced tensors, sorted by name.
fn deltas(document: &PackDocument, tensors: &SafeTensors<'_>) -> Result<Vec<Delta>, Reason> {
    let masked: BTreeSet<&str> = document.masks.iter().map(|entry| entry.tensor.as_str()).collect();
    let mut deltas = Vec::new();
    for (name, view) in tensors.tensors() {
        let Some(replaced) = name.strip_prefix(tensor::DELTA) else { continue };
        let wrong = |reason: String| Err(Reason::field(&*name, reason));
        if let Err(reason) = check_name(replaced) {
            return wrong(format!("the name {reason}"));
        }
        if masked.contains(replaced) {
            return wrong("is of a tensor that has a mask, too".to_owned());
        }
        let Some(dtype) = FloatType::of(view.dtype()) else {
            return Err(unexpected(&name, &view, "F16, BF16 or F32"));
        };
        let values = floats(&name, &view, dtype, view.shape())?;
        deltas.push(Delta { tensor: replaced.to_owned(), shape: view.shape().to_vec(), values, dtype });
    }
    deltas.sort_by(|a, b| a.tensor.cmp(&b.tensor));
    Ok(deltas)
}

fn required<'a>(tensors: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, Reason> {
    tensors.tensor(name).map_err(|_| Reason::field(name, "the tensor is missing"))
}

/// The values of a tensor of the given type and shape; all must be finite.
fn floats(name: &str, view: &TensorView<'_>, dtype: FloatType, shape: &[usize]) -> Result<Vec<f32>, Reason> {
    if view.dtype() != dtype.dtype() || view.shape() != shape {
        return Err(unexpected(name, view, &format!("{:?} {shape:?}", dtype.dtype())));
    }
    let values = dtype.read(view.data());
    finite(name, &values)?;
    Ok(values)
}

pub(super) fn finite(name: &str, values: &[f32]) -> Result<(), Reason> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(Reason::field(name, format!("value {i} is {}, must be a finite number", values[i]))),
        None => Ok(()),
    }
}

fn unexpected(name: &str, view: &TensorView<'_>, expected: &str) -> Reason {
    Reason::field(name, format!("is {:?} {:?}, must be {expected}", view.dtype(), view.shape()))
}
