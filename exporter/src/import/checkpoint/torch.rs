//! Files that `torch.save` wrote (`pytorch_model.bin`): a zip file of a pickle, which says what tensors there are, and
//! of a file for the values of each. Files of PyTorch before 1.6 are something else, and refused.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, Tensor};
use super::{Stored, bytes_of};

/// The tensors of a file's bytes, by name.
///
/// # Errors
/// A reason in words.
pub(super) fn tensors(bytes: &[u8]) -> Result<Vec<(String, Stored)>, String> {
    if !bytes.starts_with(b"PK\x03\x04") {
        return Err("it is no zip file, as PyTorch writes it since 1.6".to_owned());
    }
    let broken = |e: zip::result::ZipError| format!("its zip file is broken: {e}");
    let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let names: Vec<String> = zip.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
    let mut roots = names.iter().filter_map(|name| name.strip_suffix("data.pkl").filter(|root| is_folder(root)));
    let (Some(root), None) = (roots.next(), roots.next()) else {
        return Err("there is no one data.pkl in its zip file".to_owned());
    };
    let mut place = |name: &str| -> Result<Range<usize>, String> {
        let entry =
            zip.by_name(&format!("{root}{name}")).map_err(|e| format!("`{root}{name}` in its zip file: {e}"))?;
        let wrong = |reason: &str| format!("`{root}{name}` in its zip file {reason}");
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(wrong("is packed, which torch never does"));
        }
        let range = entry.data_start().and_then(|start| Some((start, start.checked_add(entry.size())?)));
        let range = range.and_then(|(from, to)| Some(usize::try_from(from).ok()?..usize::try_from(to).ok()?));
        range.filter(|range| range.end <= bytes.len()).ok_or_else(|| wrong("is cut off"))
    };
    if names.iter().any(|name| name.strip_prefix(root) == Some("byteorder")) && bytes[place("byteorder")?] != *b"little"
    {
        return Err("its numbers are not little-endian; save it on a machine that is".to_owned());
    }
    let described = pickle::tensors(&bytes[place("data.pkl")?])?;
    let mut storages: HashMap<String, Range<usize>> = HashMap::new();
    let mut all = Vec::with_capacity(described.len());
    for (name, tensor) in described {
        let key = tensor.storage.key.to_string();
        let values = match storages.get(&key) {
            Some(values) => values.clone(),
            None => {
                let values = place(&format!("data/{key}"))?;
                storages.entry(key).or_insert(values).clone()
            }
        };
        let stored = stored(&tensor, values).map_err(|reason| format!("tensor `{name}` {reason}"))?;
        all.push((name, stored));
    }
    Ok(all)
}

/// Whether a name is that of one folder.
fn is_folder(name: &str) -> bool {
    name.strip_suffix('/').is_some_and(|folder| !folder.is_empty() && !folder.contains('/'))
}

/// Where a tensor lies whose storage's values are there.
fn stored(tensor: &Tensor, values: Range<usize>) -> Result<Stored, String> {
    let Tensor { storage, offset, shape, strides } = tensor;
    let size = bytes_of(storage.dtype);
    if storage.count.checked_mul(size) != Some(values.len()) {
        return Err(format!("has {} values in {} bytes", storage.count, values.len()));
    }
    if !is_dense(shape, strides) {
        return Err(format!(
            "does not lie row by row (shape {shape:?}, strides {strides:?}); save it with `.contiguous()`"
        ));
    }
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let end = count.and_then(|n| n.checked_add(*offset)).filter(|end| *end <= storage.count);
    let end = end.ok_or_else(|| format!("has shape {shape:?}, but there are {} values", storage.count))?;
    let at = values.start + offset * size..values.start + end * size;
    Ok(Stored { file: 0, dtype: storage.dtype, shape: shape.clone(), at })
}

/// Whether values lie row by row. An axis of length 1 may say any stride.
fn is_dense(shape: &[usize], strides: &[usize]) -> bool {
    let mut next = Some(1usize);
    shape.len() == strides.len()
        && shape.iter().zip(strides).rev().all(|(length, stride)| {
            let fits = *length <= 1 || next == Some(*stride);
            next = next.and_then(|n| n.checked_mul(*length));
            fits
        })
}
