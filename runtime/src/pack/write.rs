//! Writing packs: fixed order, nothing from the clock or the machine, so that equal packs are
//! equal files.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};

use super::container::{CHECKSUM_BYTES, budget, finite, spend};
use super::file::classes;
use super::{
    Codec, Delta, FloatType, METADATA_KEY, MaskEntry, NamedMask, Pack, PackDocument, PackError, Reason, tensor,
};
use crate::base::Base;
use crate::codec;
use crate::parallel;

/// Checks everything about a pack that reading its file would.
pub(super) fn check(pack: &Pack) -> Result<(), Reason> {
    let document = document(pack, pack.masks.iter().map(|_| 0))?;
    let labels = document.labels.len();
    let head = &pack.head;
    if head.labels != labels {
        return Err(Reason::field("head", format!("has {} rows for {labels} labels", head.labels)));
    }
    let shapes = [(tensor::HEAD_WEIGHT, &head.weight, labels * head.hidden), (tensor::HEAD_BIAS, &head.bias, labels)];
    for (name, values, expected) in shapes {
        if values.len() != expected || expected == 0 {
            return Err(Reason::field(name, format!("has {} values, must have {expected}", values.len())));
        }
        storable(name, values, head.dtype)?;
    }
    for (i, delta) in pack.deltas.iter().enumerate() {
        let name = format!("{}{}", tensor::DELTA, delta.tensor);
        if pack.deltas[..i].iter().any(|other| other.tensor == delta.tensor) {
            return Err(Reason::field(name, "comes twice"));
        }
        if pack.masks.iter().any(|mask| mask.tensor == delta.tensor) {
            return Err(Reason::field(name, "is of a tensor that has a mask, too"));
        }
        super::check_name(&delta.tensor).map_err(|reason| Reason::field(&*name, format!("the name {reason}")))?;
        if delta.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)) != Some(delta.values.len()) {
            let reason = format!("has {} values for the shape {:?}", delta.values.len(), delta.shape);
            return Err(Reason::field(name, reason));
        }
        storable(&name, &delta.values, delta.dtype)?;
    }
    for golden in &pack.golden {
        if golden.logits.len() != golden.input.rows() * labels {
            let (rows, found) = (golden.input.rows(), golden.logits.len());
            let what = golden.input.what();
            let reason = format!("{what} has {found} logits for {rows} rows of {labels} labels");
            return Err(Reason::field(tensor::GOLDEN, reason));
        }
        finite(tensor::GOLDEN, &golden.logits)?;
    }
    Ok(())
}

/// Checks that a type can hold finite values.
fn storable(name: &str, values: &[f32], dtype: FloatType) -> Result<(), Reason> {
    if let Some(value) = values.iter().find(|v| v.is_finite() && !dtype.round(**v).is_finite()) {
        return Err(Reason::field(name, format!("{value} is more than {dtype} can hold; store it as f32")));
    }
    finite(name, values)
}

/// The document of a pack's file, whose coded masks have these lengths.
fn document(pack: &Pack, lengths: impl Iterator<Item = usize>) -> Result<PackDocument, Reason> {
    let mut document = pack.document.clone();
    for named in &pack.masks {
        let found = named.mask.granularity();
        if found != document.granularity {
            let reason = format!("is `{}`, but the mask of `{}` is `{found}`", document.granularity, named.tensor);
            return Err(Reason::field("granularity", reason));
        }
    }
    let entry = |(named, length): (&NamedMask, usize)| MaskEntry {
        tensor: named.tensor.clone(),
        outputs: named.mask.outputs(),
        inputs: named.mask.inputs(),
        length,
    };
    document.masks = pack.masks.iter().zip(lengths).map(entry).collect();
    document.golden = pack.golden.iter().map(|g| g.input.clone()).collect();
    document.check()?;
    Ok(document)
}

pub(super) fn bytes(pack: &Pack, base: Option<&Base>) -> Result<Vec<u8>, PackError> {
    check(pack)?;
    let coded = parallel::map(pack.masks.iter().collect(), |named| encode(pack, named, base));
    let coded = coded.into_iter().collect::<Result<Vec<Vec<u8>>, PackError>>()?;
    let document = document(pack, coded.iter().map(Vec::len))?;
    Ok(container(pack, &document, &coded.concat())?)
}

/// The coded mask.
fn encode(pack: &Pack, named: &NamedMask, base: Option<&Base>) -> Result<Vec<u8>, PackError> {
    let mask = &named.mask;
    if pack.document.codec == Codec::Plain {
        return Ok(mask.as_bytes().to_vec());
    }
    let base = base.ok_or_else(|| PackError::NeedsBase { pack: format!("`{}`", pack.document.name) })?;
    let wrong = |reason: String| PackError::Bytes(Reason::field(&*named.tensor, reason));
    codec::encode(mask, &classes(base, &named.tensor, mask.granularity())?).map_err(|e| wrong(e.to_string()))
}

/// The safetensors file around a document and the coded masks.
fn container(pack: &Pack, document: &PackDocument, masks: &[u8]) -> Result<Vec<u8>, Reason> {
    let (head, labels) = (&pack.head, document.labels.len());
    let (weight, bias) = (head.dtype.to_bytes(&head.weight), head.dtype.to_bytes(&head.bias));
    let golden: Vec<f32> = pack.golden.iter().flat_map(|g| g.logits.iter().copied()).collect();
    let golden = FloatType::F32.to_bytes(&golden);
    let dtype = head.dtype.dtype();
    let deltas: Vec<(String, Vec<u8>)> = pack
        .deltas
        .iter()
        .map(|delta| (format!("{}{}", tensor::DELTA, delta.tensor), delta.dtype.to_bytes(&delta.values)))
        .collect();
    let mut tensors = vec![
        (tensor::HEAD_WEIGHT, TensorView::new(dtype, vec![labels, head.hidden], &weight)?),
        (tensor::HEAD_BIAS, TensorView::new(dtype, vec![labels], &bias)?),
    ];
    if !pack.golden.is_empty() {
        tensors
            .push((tensor::GOLDEN, TensorView::new(Dtype::F32, vec![golden.len() / (4 * labels), labels], &golden)?));
    }
    for (Delta { shape, dtype, .. }, (name, bytes)) in pack.deltas.iter().zip(&deltas) {
        tensors.push((name, TensorView::new(dtype.dtype(), shape.clone(), bytes)?));
    }
    if !pack.masks.is_empty() {
        tensors.push((tensor::MASK, TensorView::new(Dtype::U8, vec![masks.len()], masks)?));
    }
    checked(tensors, METADATA_KEY, serde_json::to_string(document)?)
}

/// A safetensors file with one text of metadata, that ends with the SHA-256 of all before.
pub(super) fn checked(
    mut tensors: Vec<(&str, TensorView<'_>)>,
    key: &str,
    metadata: String,
) -> Result<Vec<u8>, Reason> {
    const BLANK: [u8; CHECKSUM_BYTES] = [0; CHECKSUM_BYTES];
    // Tensors are sorted by type, largest first, then by name: of the bytes, this is the last.
    tensors.push((tensor::CHECKSUM, TensorView::new(Dtype::U8, vec![BLANK.len()], &BLANK)?));
    // One key only: the order of several in a hash map would differ from run to run.
    let mut bytes = safetensors::serialize(tensors, Some(HashMap::from([(key.to_owned(), metadata)])))?;
    // What is not read shall not be written.
    spend(&bytes, &mut budget())?;
    let end = bytes.len() - BLANK.len();
    let (before, end) = bytes.split_at_mut(end);
    end.copy_from_slice(&Sha256::digest(before));
    Ok(bytes)
}

/// Writes the bytes of a pack or a pack set beside their place and renames them, so that the file
/// appears as a whole.
///
/// # Errors
/// What the file system reports.
pub fn file(path: &Path, bytes: &[u8]) -> Result<(), PackError> {
    crate::fs::write_atomically(path, |file| std::io::Write::write_all(file, bytes))
        .map_err(|source| PackError::Write { path: path.into(), source })
}
