//! `model.safetensors` of a bundle: mapped for reading, written with its data on a page boundary.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::{BaseError, MAX_JSON};
use crate::fs::{JsonBudget, map};

/// The data section starts on a multiple of this, so that a map of it is page-aligned
/// on every machine that we know of (x86-64: 4 kB, arm64 with large pages: 64 kB).
const PAGE: usize = 64 << 10;

/// A mapped safetensors file.
#[derive(Debug)]
pub(super) struct Weights {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    metadata: Metadata,
}

impl Weights {
    pub(super) fn open(path: &Path) -> Result<Self, BaseError> {
        let map = map::map(path).map_err(|source| BaseError::Io { path: path.into(), source })?;
        let mut budget = JsonBudget::new(MAX_JSON);
        budget.take_header(&map).map_err(|source| BaseError::Json { path: path.into(), source })?;
        // The crate checks that the header is there and that offsets cover the data exactly.
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|source| BaseError::Weights { path: path.into(), source })?;
        Ok(Weights { path: path.to_owned(), map, data_start: header + 8, metadata })
    }

    fn bytes<'a>(&'a self, info: &TensorInfo) -> &'a [u8] {
        let (from, to) = info.data_offsets;
        &self.map[self.data_start + from..self.data_start + to]
    }

    fn wrong(&self, name: &str, reason: String) -> BaseError {
        BaseError::Field { path: self.path.clone(), field: name.to_owned(), reason }
    }

    /// Shape and little-endian bytes of an f32 tensor.
    pub(super) fn tensor_bytes(&self, name: &str) -> Result<(&[usize], &[u8]), BaseError> {
        let no_tensor = || BaseError::NoTensor { path: self.path.clone(), name: name.to_owned() };
        let info = self.metadata.info(name).ok_or_else(no_tensor)?;
        match info.dtype {
            Dtype::F32 => Ok((&info.shape, self.bytes(info))),
            other => Err(self.wrong(name, format!("is {other:?}, not F32"))),
        }
    }

    pub(super) fn tensor_f32(&self, name: &str) -> Result<(&[usize], &[f32]), BaseError> {
        let (shape, bytes) = self.tensor_bytes(name)?;
        let values = map::as_f32(bytes).ok_or_else(|| self.wrong(name, "is not aligned to 4 bytes".to_owned()))?;
        Ok((shape, values))
    }

    /// Name and shape of the one tensor whose name ends so: a checkpoint may put a prefix before
    /// all names.
    pub(super) fn only(&self, suffix: &str) -> Result<(String, &[usize]), BaseError> {
        let mut found = self.metadata.tensors().into_iter().filter(|(name, _)| name.ends_with(suffix));
        match (found.next(), found.count()) {
            (Some((name, info)), 0) => Ok((name, &info.shape)),
            (first, others) => Err(BaseError::Field {
                path: self.path.clone(),
                field: suffix.to_owned(),
                reason: format!("{} tensors have a name that ends so, not one", others + usize::from(first.is_some())),
            }),
        }
    }

    /// Refuses weights with a value that is no finite number: nothing that they compute would be one.
    pub(super) fn check_finite(&self) -> Result<(), BaseError> {
        let wrong =
            |(name, shape, bytes): (String, &[usize], &[u8])| Some(self.wrong(&name, not_finite(shape, bytes)?));
        self.iter_f32().into_iter().find_map(wrong).map_or(Ok(()), Err)
    }

    /// Name, shape and bytes of every f32 tensor.
    pub(super) fn iter_f32(&self) -> Vec<(String, &[usize], &[u8])> {
        let tensors = self.metadata.tensors().into_iter();
        tensors
            .filter(|(_, info)| info.dtype == Dtype::F32)
            .map(|(name, info)| (name, info.shape.as_slice(), self.bytes(info)))
            .collect()
    }
}

/// The first value of a tensor that is no finite number, and where it is, in words; `bytes` are little-endian f32
/// values.
pub fn not_finite(shape: &[usize], bytes: &[u8]) -> Option<String> {
    let values = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let (place, value) = values.enumerate().find(|(_, value)| !value.is_finite())?;
    // The place's coordinates, the last axis first.
    let mut left = place;
    let mut at: Vec<usize> = shape.iter().rev().map(|size| (left % size, left /= size).0).collect();
    at.reverse();
    Some(format!("the value at {at:?} is {value}, which is no finite number"))
}

/// A tensor to write: name, shape, little-endian f32 bytes.
pub type TensorBytes<'a> = (&'a str, &'a [usize], &'a [u8]);

/// Writes f32 tensors as a safetensors file whose data section starts on a page boundary, in
/// the order given, and returns where in the file each tensor's bytes start.
///
/// # Errors
/// What the writer reports.
pub fn write_weights(out: &mut impl Write, tensors: &[TensorBytes<'_>]) -> std::io::Result<BTreeMap<String, u64>> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (name, shape, bytes) in tensors {
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [at, at + bytes.len()]});
        header.insert((*name).to_owned(), entry);
        at += bytes.len();
    }
    let mut text = serde_json::to_vec(&header)?;
    // The format allows trailing spaces in the header: they move the data to the boundary.
    let start = (8 + text.len()).next_multiple_of(PAGE);
    text.resize(start - 8, b' ');
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(&text)?;
    let mut offsets = BTreeMap::new();
    let mut at = start as u64;
    for (name, _, bytes) in tensors {
        out.write_all(bytes)?;
        offsets.insert((*name).to_owned(), at);
        at += bytes.len() as u64;
    }
    Ok(offsets)
}
