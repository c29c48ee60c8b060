//! `model.safetensors` of a bundle: mapped for reading, written with its data on a page boundary.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use half::bf16;
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::{BaseError, Int8Tensor, MAX_JSON, Precision};
use crate::fs::{JsonBudget, Number, map};

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

    fn info(&self, name: &str) -> Result<&TensorInfo, BaseError> {
        let no_tensor = || BaseError::NoTensor { path: self.path.clone(), name: name.to_owned() };
        self.metadata.info(name).ok_or_else(no_tensor)
    }

    /// The numbers of a tensor that has them.
    fn numbers<T: Number>(&self, name: &str, info: &TensorInfo) -> Result<&[T], BaseError> {
        let unaligned = || {
            let order = if cfg!(target_endian = "little") { "" } else { ", or this processor is big-endian" };
            self.wrong(name, format!("is not aligned to {} bytes{order}", align_of::<T>()))
        };
        map::numbers(self.bytes(info)).ok_or_else(unaligned)
    }

    /// Shape and little-endian bytes of an f32 tensor.
    pub(super) fn tensor_bytes(&self, name: &str) -> Result<(&[usize], &[u8]), BaseError> {
        let info = self.info(name)?;
        match info.dtype {
            Dtype::F32 => Ok((&info.shape, self.bytes(info))),
            other => Err(self.wrong(name, format!("is {other:?}, not F32"))),
        }
    }

    pub(super) fn tensor_f32(&self, name: &str) -> Result<(&[usize], &[f32]), BaseError> {
        let (shape, _) = self.tensor_bytes(name)?;
        Ok((shape, self.numbers(name, self.info(name)?)?))
    }

    /// Refuses codes without a scale for each row.
    pub(super) fn check_scales(&self) -> Result<(), BaseError> {
        let codes = self.metadata.tensors().into_iter().filter(|(_, info)| info.dtype == Dtype::I8);
        codes.map(|(name, _)| name).try_for_each(|name| self.stored(&name).map(drop))
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    pub(super) fn shape(&self, name: &str) -> Result<&[usize], BaseError> {
        Ok(&self.info(name)?.shape)
    }

    /// Shape and values of a tensor, as they are stored.
    pub(super) fn stored(&self, name: &str) -> Result<(&[usize], Stored<'_>), BaseError> {
        let info = self.info(name)?;
        let values = match info.dtype {
            Dtype::F32 => Stored::F32(self.numbers(name, info)?),
            Dtype::BF16 => Stored::Bf16(self.numbers(name, info)?),
            Dtype::I8 => {
                let scales = scales_name(name);
                let (shape, of_rows) = self.tensor_f32(&scales)?;
                match info.shape[..] {
                    [rows, inputs] if shape == [rows] => {
                        Stored::Int8 { codes: self.numbers(name, info)?, scales: of_rows, inputs }
                    }
                    _ => return Err(self.wrong(&scales, format!("is {shape:?}, `{name}` is {:?}", info.shape))),
                }
            }
            other => return Err(self.wrong(name, format!("is {other:?}, none of F32, BF16 and I8"))),
        };
        Ok((&info.shape, values))
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

    /// Refuses weights with a value that is no finite number, as nothing that they compute would be one, or with a code
    /// that there is not.
    pub(super) fn check_values(&self) -> Result<(), BaseError> {
        for (name, info) in self.metadata.tensors() {
            let found = match info.dtype {
                Dtype::F32 => first_not_finite(&info.shape, self.numbers::<f32>(&name, info)?.iter().copied()),
                Dtype::BF16 => {
                    first_not_finite(&info.shape, self.numbers::<bf16>(&name, info)?.iter().map(|value| value.to_f32()))
                }
                // The codes go from -127 to 127: kernels add up products of two of them in 16 bits.
                Dtype::I8 => self.bytes(info).contains(&0x80).then(|| "has a code of -128".to_owned()),
                _ => None,
            };
            found.map_or(Ok(()), |reason| Err(self.wrong(&name, reason)))?;
        }
        Ok(())
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

/// The values of a tensor, as a base stores them.
#[derive(Debug, Clone, Copy)]
pub enum Stored<'a> {
    /// As they are.
    F32(&'a [f32]),
    /// Rounded.
    Bf16(&'a [bf16]),
    /// Codes [rows, inputs], with a scale a row.
    Int8 {
        /// From -127 to 127.
        codes: &'a [i8],
        /// What a code of each row is multiplied with.
        scales: &'a [f32],
        /// Codes of a row.
        inputs: usize,
    },
}

impl<'a> Stored<'a> {
    /// What they are stored as.
    pub fn precision(&self) -> Precision {
        match self {
            Self::F32(_) => Precision::F32,
            Self::Bf16(_) => Precision::Bf16,
            Self::Int8 { .. } => Precision::Int8,
        }
    }

    /// The values as f32: a view where that is what they are.
    pub fn widened(self) -> Cow<'a, [f32]> {
        match self {
            Self::F32(values) => Cow::Borrowed(values),
            Self::Bf16(values) => values.iter().map(|value| value.to_f32()).collect(),
            Self::Int8 { codes, scales, inputs } => {
                let rows = codes.chunks_exact(inputs.max(1)).zip(scales);
                rows.flat_map(|(codes, scale)| codes.iter().map(move |code| f32::from(*code) * scale)).collect()
            }
        }
    }

    /// Adds a row of a table to as many values as a row has.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn add_row(&self, row: usize, to: &mut [f32]) {
        let range = row * to.len()..(row + 1) * to.len();
        match self {
            Self::F32(values) => to.iter_mut().zip(&values[range]).for_each(|(to, value)| *to += value),
            Self::Bf16(values) => to.iter_mut().zip(&values[range]).for_each(|(to, value)| *to += value.to_f32()),
            Self::Int8 { codes, scales, .. } => {
                let scale = scales[row];
                to.iter_mut().zip(&codes[range]).for_each(|(to, code)| *to += f32::from(*code) * scale);
            }
        }
    }
}

/// The name of the tensor with the scales of an int8 one.
pub fn scales_name(name: &str) -> String {
    format!("{name}.scales")
}

/// The first value of a tensor that is no finite number, and where it is, in words; `bytes` are little-endian f32
/// values.
pub fn not_finite(shape: &[usize], bytes: &[u8]) -> Option<String> {
    first_not_finite(shape, bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)))
}

fn first_not_finite(shape: &[usize], values: impl Iterator<Item = f32>) -> Option<String> {
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
pub fn write_weights(out: &mut impl Write, tensors: &[TensorBytes<'_>]) -> io::Result<BTreeMap<String, u64>> {
    write_variant(out, tensors, Precision::F32)
}

/// Writes tensors in a precision, one after the other so that no more than one is held, and returns where the bytes of
/// each start, and those of the scales: all tensors that are no matrices as they are and before the others, matrices as
/// the variant chain has them.
///
/// # Errors
/// What the writer reports; when a tensor has the name of another one's scales.
pub fn write_variant(
    out: &mut impl Write,
    tensors: &[TensorBytes<'_>],
    precision: Precision,
) -> io::Result<BTreeMap<String, u64>> {
    // The widest numbers first, so that all are aligned whatever the shapes.
    let (matrices, others): (Vec<&TensorBytes<'_>>, Vec<_>) =
        tensors.iter().partition(|(_, shape, _)| shape.len() == 2 && precision != Precision::F32);
    let mut entries: Vec<Entry> = others.iter().map(|tensor| Entry::of(tensor, "F32", 4)).collect();
    if precision == Precision::Int8 {
        entries.extend(matrices.iter().map(|(name, shape, _)| Entry {
            name: scales_name(name),
            dtype: "F32",
            shape: vec![shape[0]],
            bytes: 4 * shape[0],
        }));
    }
    let (dtype, size) = if precision == Precision::Int8 { ("I8", 1) } else { ("BF16", 2) };
    entries.extend(matrices.iter().map(|tensor| Entry::of(tensor, dtype, size)));
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    if let Some([name, _]) = names.array_windows().find(|[a, b]| a == b) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("there would be two tensors `{name}`")));
    }
    write_header(out, &entries)?;
    others.iter().try_for_each(|(_, _, bytes)| out.write_all(bytes))?;
    let values = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let quantize = |(_, shape, bytes): &TensorBytes<'_>| Int8Tensor::quantize(&values(bytes), shape[1]);
    if precision == Precision::Int8 {
        for tensor in &matrices {
            let scales = quantize(tensor);
            scales.scales().iter().try_for_each(|scale| out.write_all(&scale.to_le_bytes()))?;
        }
    }
    for tensor in &matrices {
        match precision {
            Precision::Int8 => out.write_all(map::bytes(quantize(tensor).codes()))?,
            _ => {
                let rounded = values(tensor.2).into_iter().map(|value| bf16::from_f32(value).to_le_bytes());
                out.write_all(rounded.collect::<Vec<_>>().as_flattened())?;
            }
        }
    }
    Ok(offsets(&entries))
}

/// A tensor in the header of a safetensors file.
struct Entry {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: usize,
}

impl Entry {
    /// A tensor whose values take so many bytes each.
    fn of((name, shape, bytes): &TensorBytes<'_>, dtype: &'static str, size: usize) -> Self {
        Entry { name: (*name).to_owned(), dtype, shape: shape.to_vec(), bytes: bytes.len() / 4 * size }
    }
}

/// The header of these tensors, whose data lie one after the other. Each starts on a multiple of its values' size if the
/// sizes of those before it are.
fn header(entries: &[Entry]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for Entry { name, dtype, shape, bytes } in entries {
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes]});
        header.insert(name.clone(), entry);
        at += bytes;
    }
    let mut text = serde_json::Value::from(header).to_string().into_bytes();
    // The format allows trailing spaces in the header: they move the data to the boundary.
    text.resize((8 + text.len()).next_multiple_of(PAGE) - 8, b' ');
    text
}

fn write_header(out: &mut impl Write, entries: &[Entry]) -> io::Result<()> {
    let text = header(entries);
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(&text)
}

/// Where the bytes of each tensor start in the file.
fn offsets(entries: &[Entry]) -> BTreeMap<String, u64> {
    let mut at = 8 + header(entries).len() as u64;
    let start = |entry: &Entry| {
        let start = at;
        at += entry.bytes as u64;
        (entry.name.clone(), start)
    };
    entries.iter().map(start).collect()
}
