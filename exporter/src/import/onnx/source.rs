//! Reads an ONNX file and the files beside it that hold its tensors (ONNX specification, *External
//! data*). No path leaves the model's folder, or that of the file which a link to the model leads to, as in a hub's
//! cache; and nothing is allocated that a file does not hold.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use overmask_graph::proto::{DATA_LOCATION_EXTERNAL, GraphProto, TensorProto, data_type};
use overmask_graph::{self, OnnxError};

use super::Problem;
use crate::import::ImportError;

/// The largest protocol buffer that there is.
const MAX_BYTES: u64 = 2 << 30;

/// A model's graph with all tensors in it, and the version of its operator set.
///
/// # Errors
/// When a file is missing or damaged, or the model has what a graph alone cannot hold.
pub(super) fn read(path: &Path) -> Result<(GraphProto, i64), ImportError> {
    let model = overmask_graph::read_model_of(path, MAX_BYTES)?;
    let wrong = |place: &str, reason: &str| Err(Problem::new(place, reason).at(path));
    if !model.functions.is_empty() {
        return wrong(
            "field `functions`",
            "functions are not supported; inline them (`onnx.inliner.inline_local_functions`)",
        );
    }
    let own = model.opset_import.iter().find(|set| is_own(&set.domain));
    let Some(version) = own.map(|set| set.version) else {
        return wrong("field `opset_import`", "ONNX's own operator set is missing");
    };
    let mut graph = model.graph.ok_or(OnnxError::NoGraph)?;
    if !graph.sparse_initializer.is_empty() {
        return wrong("field `sparse_initializer`", "sparse tensors are not supported; export dense ones");
    }
    let mut tensors = Tensors { path, folders: folders(path)?, files: HashMap::new() };
    let constants = graph.node.iter_mut().flat_map(|n| &mut n.attribute).filter_map(|a| a.t.as_mut());
    for tensor in graph.initializer.iter_mut().chain(constants) {
        tensors.load(tensor)?;
    }
    Ok((graph, version))
}

/// The real folder of a model, and that of the file behind it where it is a link.
fn folders(path: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let real = |p: &Path| p.canonicalize().map_err(|source| ImportError::Read { path: p.to_owned(), source });
    let mut all = vec![real(folder)?];
    all.extend(real(path)?.parent().map(Path::to_owned).filter(|other| *other != all[0]));
    Ok(all)
}

/// Whether a domain is ONNX's own.
pub(super) fn is_own(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// Reads tensors of one model.
struct Tensors<'a> {
    path: &'a Path,
    /// Where external data may lie: the model's folder, and that of the real file behind a link.
    folders: Vec<PathBuf>,
    /// By their real paths: `s`, `./s` and a link to it are one file.
    files: HashMap<PathBuf, Data>,
}

/// A file beside the model.
struct Data {
    file: File,
    path: PathBuf,
    length: u64,
    /// Bytes that no tensor has taken yet: tensors do not overlap.
    left: u64,
}

impl Tensors<'_> {
    /// Brings a tensor's values into `raw_data`.
    fn load(&mut self, tensor: &mut TensorProto) -> Result<(), ImportError> {
        let path = self.path;
        let place = format!("tensor `{}`", tensor.name);
        let wrong = |reason: String| Problem::new(place.clone(), reason).at(path);
        let count = tensor.dims.iter().try_fold(1u64, |n, d| n.checked_mul(u64::try_from(*d).ok()?));
        let size = count.zip(bytes_of(tensor.data_type)).and_then(|(n, bytes)| n.checked_mul(bytes));
        let Some(size) = size else {
            let kind = tensor.data_type;
            return Err(wrong(format!("shape {:?} of element type {kind} is not supported", tensor.dims)));
        };
        if tensor.data_location == DATA_LOCATION_EXTERNAL {
            tensor.raw_data = self.read(tensor, size)?;
            tensor.data_location = 0;
            tensor.external_data.clear();
        } else if tensor.raw_data.is_empty() {
            match tensor.data_type {
                data_type::FLOAT => {
                    tensor.raw_data = tensor.float_data.drain(..).flat_map(f32::to_le_bytes).collect();
                }
                data_type::INT64 => {
                    tensor.raw_data = tensor.int64_data.drain(..).flat_map(i64::to_le_bytes).collect();
                }
                data_type::INT32 => {
                    tensor.raw_data = tensor.int32_data.drain(..).flat_map(i32::to_le_bytes).collect();
                }
                data_type::BOOL => {
                    tensor.raw_data = tensor.int32_data.drain(..).map(|v| u8::from(v != 0)).collect();
                }
                data_type::INT8 | data_type::UINT8 => {
                    tensor.raw_data = tensor.int32_data.drain(..).map(|v| v as u8).collect();
                }
                data_type::INT16 | data_type::UINT16 | data_type::FLOAT16 | data_type::BFLOAT16 => {
                    tensor.raw_data = tensor.int32_data.drain(..).flat_map(|v| (v as u16).to_le_bytes()).collect();
                }
                // No part of this program looks into the others; engines read them as they are.
                _ => return Ok(()),
            }
        }
        match tensor.raw_data.len() as u64 {
            found if found == size => Ok(()),
            found => Err(wrong(format!("has {found} bytes, shape {:?} takes {size}", tensor.dims))),
        }
    }

    fn read(&mut self, tensor: &TensorProto, size: u64) -> Result<Vec<u8>, ImportError> {
        let path = self.path;
        let wrong = |reason: String| Problem::new(format!("tensor `{}`", tensor.name), reason).at(path);
        let field = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str, default: u64| match field(key) {
            Some(text) => text.parse().map_err(|_| wrong(format!("external data field `{key}` is no number"))),
            None => Ok(default),
        };
        let location =
            field("location").ok_or_else(|| wrong("external data field `location` is missing".to_owned()))?;
        let (offset, length) = (number("offset", 0)?, number("length", size)?);
        if length != size {
            return Err(wrong(format!("has {length} bytes in `{location}`, shape {:?} takes {size}", tensor.dims)));
        }
        let data = self.open(location).map_err(|e| match e {
            Denied::Outside => wrong(format!(
                "`{location}` lies outside the model's folder; copy both into one, links followed (cp -L)"
            )),
            Denied::Io(path, source) => ImportError::Read { path, source },
        })?;
        if offset.checked_add(size).is_none_or(|end| end > data.length) {
            let have = data.length;
            return Err(wrong(format!("{size} bytes from {offset} on, but `{location}` has {have}; is it complete?")));
        }
        data.left = data.left.checked_sub(size).ok_or_else(|| wrong(format!("overlaps others in `{location}`")))?;
        let mut bytes = vec![0; size as usize];
        let mut fill = || {
            data.file.seek(SeekFrom::Start(offset))?;
            data.file.read_exact(&mut bytes)
        };
        fill().map_err(|source| ImportError::Read { path: data.path.clone(), source })?;
        Ok(bytes)
    }

    /// The file of a name in one of the model's folders or below it, opened once; not one that a link or `..` leads out
    /// of them.
    fn open(&mut self, location: &str) -> Result<&mut Data, Denied> {
        let plain = Path::new(location).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !plain || location.is_empty() {
            return Err(Denied::Outside);
        }
        let mut found = self.folders.iter().map(|folder| folder.join(location)).filter(|path| path.exists());
        let path = found.next().unwrap_or_else(|| self.folders[0].join(location));
        let path = path.canonicalize().map_err(|e| Denied::Io(path.clone(), e))?;
        if !self.folders.iter().any(|folder| path.starts_with(folder)) {
            return Err(Denied::Outside);
        }
        Ok(match self.files.entry(path) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(new) => {
                let path = new.key().clone();
                let open = || {
                    let file = overmask::fs::open(&path)?;
                    let length = file.metadata()?.len();
                    Ok((file, length))
                };
                let (file, length) = open().map_err(|e| Denied::Io(path.clone(), e))?;
                new.insert(Data { file, path, length, left: length })
            }
        })
    }
}

enum Denied {
    Outside,
    Io(PathBuf, std::io::Error),
}

/// Bytes of an element, for the types that have a fixed number of whole ones.
fn bytes_of(data_type: i32) -> Option<u64> {
    Some(match data_type {
        // Unsigned and signed bytes, booleans.
        2 | 3 | data_type::BOOL => 1,
        // 16-bit integers and floats.
        4 | 5 | 10 | 16 => 2,
        data_type::FLOAT | data_type::INT32 | 12 => 4,
        data_type::INT64 | 11 | 13 => 8,
        _ => return None,
    })
}
