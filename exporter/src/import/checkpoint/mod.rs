//! The tensors of a checkpoint, whatever files they lie in: one safetensors file or several with an index, or what
//! `torch.save` wrote.

mod pickle;
#[cfg(test)]
mod tests;
mod torch;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use overmask::fs::JsonBudget;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::Deserialize;

use super::bundle::read;
use super::files::{self, need};
use super::known::Tensors;
use super::{ImportError, MAX_JSON};

/// What has a checkpoint's tensors, the first that is there: one file or an index of several, and how they are
/// written.
const WEIGHTS: [(&str, Index, Format); 4] = [
    (files::WEIGHTS, Index::No, Format::Safetensors),
    ("model.safetensors.index.json", Index::Yes, Format::Safetensors),
    ("pytorch_model.bin", Index::No, Format::Torch),
    ("pytorch_model.bin.index.json", Index::Yes, Format::Torch),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Index {
    Yes,
    No,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    Safetensors,
    Torch,
}

/// The tensors of a checkpoint.
pub(super) struct Checkpoint {
    /// The file that a message names: the one with all tensors, or the index of several.
    path: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
    tensors: BTreeMap<String, Stored>,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
struct Stored {
    /// Its place in the list of files.
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Its bytes in the file.
    at: Range<usize>,
}

/// What an index says: the file of each tensor.
#[derive(Deserialize)]
struct WeightMap {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens that of a directory.
    ///
    /// # Errors
    /// When there is none, or a file of it is missing or malformed.
    pub(super) fn open(dir: &Path) -> Result<Checkpoint, ImportError> {
        let found = WEIGHTS.iter().find(|(name, ..)| dir.join(name).is_file());
        let Some((name, index, format)) = found else {
            return Err(need(dir, files::WEIGHTS).err().unwrap_or_else(|| ImportError::Read {
                path: dir.join(files::WEIGHTS),
                source: std::io::ErrorKind::NotFound.into(),
            }));
        };
        let mut all = Checkpoint { path: dir.join(name), files: Vec::new(), tensors: BTreeMap::new() };
        match index {
            Index::No => all.add(dir.join(name), *format, None)?,
            Index::Yes => {
                let WeightMap { weight_map } = files::json(&all.path)?;
                let parts: BTreeSet<&String> = weight_map.values().collect();
                for part in parts {
                    // A name within the directory.
                    if part.is_empty() || Path::new(part).file_name() != Some(part.as_ref()) {
                        return Err(ImportError::Unsupported {
                            path: all.path,
                            field: "weight_map",
                            found: format!("`{part}`"),
                            supported: "names of files beside it",
                        });
                    }
                    all.add(dir.join(part), *format, Some(&weight_map))?;
                }
                if let Some((name, part)) = weight_map.iter().find(|(name, _)| !all.tensors.contains_key(*name)) {
                    let reason = format!("is missing in {part}");
                    return Err(ImportError::Tensor { path: all.path, name: name.clone(), reason });
                }
            }
        }
        Ok(all)
    }

    /// Takes in the tensors of a file; of one of several, those that the index says to be there.
    fn add(
        &mut self,
        path: PathBuf,
        format: Format,
        index: Option<&BTreeMap<String, String>>,
    ) -> Result<(), ImportError> {
        let bytes = read(&path)?;
        let stored = match format {
            Format::Safetensors => of_safetensors(&path, &bytes)?,
            Format::Torch => {
                torch::tensors(&bytes).map_err(|reason| ImportError::Torch { path: path.clone(), reason })?
            }
        };
        let own = path.file_name().and_then(|name| name.to_str());
        let here = |name: &str| index.is_none_or(|map| map.get(name).map(String::as_str) == own);
        let file = self.files.len();
        for (name, stored) in stored.into_iter().filter(|(name, _)| here(name)) {
            self.tensors.insert(name, Stored { file, ..stored });
        }
        self.files.push((path, bytes));
        Ok(())
    }

    /// The file that a message names.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The name under which a tensor is there: checkpoints that were once TensorFlow's call a norm's parts `gamma`
    /// and `beta`.
    pub(super) fn name_of<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let old = |from: &str, to: &str| Some(format!("{}{to}", name.strip_suffix(from)?));
        let old = || old("LayerNorm.weight", "LayerNorm.gamma").or_else(|| old("LayerNorm.bias", "LayerNorm.beta"));
        match self.tensors.get_key_value(name) {
            Some((own, _)) => Some(own),
            None => self.tensors.get_key_value(&old()?).map(|(own, _)| own.as_str()),
        }
    }
}

impl Tensors for Checkpoint {
    fn count(&self) -> usize {
        self.tensors.len()
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [u8]>, ImportError> {
        let stored = self.name_of(name).and_then(|name| self.tensors.get(name));
        let path = stored.map_or(&self.path, |stored| &self.files[stored.file].0);
        let wrong = |reason| ImportError::Tensor { path: path.clone(), name: name.to_owned(), reason };
        let stored = stored.ok_or_else(|| wrong("is missing".to_owned()))?;
        if stored.shape != shape {
            return Err(wrong(format!("has shape {:?}, not {shape:?}", stored.shape)));
        }
        let data = &self.files[stored.file].1[stored.at.clone()];
        let halves = |convert: fn(u16) -> f32| {
            let pairs = data.as_chunks::<2>().0.iter();
            Cow::Owned(pairs.flat_map(|b| convert(u16::from_le_bytes(*b)).to_le_bytes()).collect())
        };
        match stored.dtype {
            Dtype::F32 => Ok(Cow::Borrowed(data)),
            Dtype::BF16 => Ok(halves(|b| half::bf16::from_bits(b).to_f32())),
            Dtype::F16 => Ok(halves(|b| half::f16::from_bits(b).to_f32())),
            other => Err(wrong(format!("is {other:?}; supported: F32, BF16, F16"))),
        }
    }
}

fn of_safetensors(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Stored)>, ImportError> {
    let costly = |source| ImportError::Json { path: path.to_owned(), source };
    JsonBudget::new(MAX_JSON).take_header(bytes).map_err(costly)?;
    let wrong = |source| ImportError::Weights { path: path.to_owned(), source };
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
    let data = 8 + header;
    let stored = metadata.tensors().into_iter().map(|(name, info)| {
        let (from, to) = info.data_offsets;
        (name, Stored { file: 0, dtype: info.dtype, shape: info.shape.clone(), at: data + from..data + to })
    });
    Ok(stored.collect())
}

/// How many tensors a file of `torch.save` has.
pub(super) fn torch_tensors(bytes: &[u8]) -> Option<usize> {
    torch::tensors(bytes).ok().map(|all| all.len())
}

/// How many tensors a pickle describes.
pub(super) fn pickled_tensors(bytes: &[u8]) -> Option<usize> {
    pickle::tensors(bytes).ok().map(|all| all.len())
}

/// Bytes of an element, of the types that torch's storages have.
fn bytes_of(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F64 | Dtype::I64 => 8,
        Dtype::F32 | Dtype::I32 => 4,
        Dtype::F16 | Dtype::BF16 | Dtype::I16 => 2,
        _ => 1,
    }
}
