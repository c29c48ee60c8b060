//! Reading packs. The bytes may be anything: every length is checked against what is there
//! before it is used.

use std::collections::BTreeSet;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};

use super::container::{CHECKSUM_BYTES, Container, Document, MAX_BYTES, budget, finite, unexpected};
use super::document::{PackDocument, check_name, version};
use super::file::{PackFile, Sizes};
use super::{Delta, FloatType, Golden, Head, PackError, Reason, patch, tensor};
use crate::fs::{JsonBudget, hex};

/// Reads a whole file, of no more bytes than a pack may have; [`super::Packs::from_bytes`] checks them.
///
/// # Errors
/// When it cannot be read, or is larger.
pub fn file(path: &Path) -> Result<Vec<u8>, PackError> {
    let reason = || Reason::TooLarge { part: "file", limit: MAX_BYTES };
    crate::fs::read_at_most(path, MAX_BYTES)
        .map_err(|source| PackError::Read { path: path.into(), source })?
        .ok_or_else(|| PackError::Invalid { path: path.into(), reason: reason() })
}

impl PackFile {
    /// Checks the bytes of a pack.
    ///
    /// # Errors
    /// When they are no usable pack.
    pub fn from_bytes(bytes: &[u8]) -> Result<PackFile, PackError> {
        Ok(pack(bytes, &mut budget())?)
    }
}

/// The pack in a file.
pub(super) fn pack(bytes: &[u8], budget: &mut JsonBudget) -> Result<PackFile, Reason> {
    let container = Container::parse(bytes, budget)?;
    match container.document(budget)? {
        Document::Pack(text) => of_container(&container, text),
        Document::Set(_) => Err(Reason::NotAPack { found: "a set of packs" }),
        Document::Patch(_) => Err(Reason::NotAPack { found: patch::WHAT }),
    }
}

/// The pack in a file whose header was parsed, and whose document has this text.
pub(super) fn of_container(container: &Container<'_>, text: &str) -> Result<PackFile, Reason> {
    // The version first: another schema may well have other fields.
    #[derive(serde::Deserialize)]
    struct Schema {
        schema: u32,
        #[serde(default)]
        requires: Vec<String>,
    }
    let Schema { schema, requires } = serde_json::from_str(text)?;
    version(schema, &requires)?;
    container.check_sum()?;
    let document: PackDocument = serde_json::from_str(text)?;
    document.check()?;
    let known = [tensor::MASK, tensor::HEAD_WEIGHT, tensor::HEAD_BIAS, tensor::GOLDEN, tensor::CHECKSUM];
    let names = container.names();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str()) && !name.starts_with(tensor::DELTA)) {
        // Ignoring a tensor that changes the task would give wrong answers without a word.
        return Err(Reason::field(name, "this program does not know this tensor; install a newer one"));
    }
    let coded = masks(&document, container)?.to_vec();
    let head = head(&document, container)?;
    let deltas = deltas(&document, container, &names)?;
    let golden = golden(&document, container)?;
    let size = |name: &str| container.tensor(name).ok().flatten().map_or(0, |view| view.data().len());
    let header = container.header_bytes();
    let quoted = serde_json::to_string(text)?.len().min(header);
    let sizes = Sizes {
        container: header - quoted,
        document: quoted,
        head: size(tensor::HEAD_WEIGHT) + size(tensor::HEAD_BIAS),
        golden: size(tensor::GOLDEN),
        masks: coded.len(),
        deltas: deltas.iter().map(|delta| size(&format!("{}{}", tensor::DELTA, delta.tensor))).sum(),
        checksum: CHECKSUM_BYTES,
    };
    let digest = hex(&Sha256::digest(container.bytes()));
    Ok(PackFile { document, head, deltas, golden, coded, sizes, digest, origin: None })
}

/// The coded masks, whose lengths are those that the document gives.
fn masks<'a>(document: &PackDocument, tensors: &Container<'a>) -> Result<&'a [u8], Reason> {
    let bytes = match tensors.tensor(tensor::MASK)? {
        Some(view) if view.dtype() == Dtype::U8 && view.shape().len() == 1 => view.data(),
        Some(view) => return Err(unexpected(tensor::MASK, &view, "U8 with one dimension")),
        None => &[],
    };
    let taken = document.masks.iter().fold(0usize, |sum, entry| sum.saturating_add(entry.length));
    if taken != bytes.len() {
        return Err(Reason::field(tensor::MASK, format!("has {} bytes, the masks take {taken}", bytes.len())));
    }
    Ok(bytes)
}

fn head(document: &PackDocument, tensors: &Container<'_>) -> Result<Head, Reason> {
    let labels = document.labels.len();
    let view = tensors.required(tensor::HEAD_WEIGHT)?;
    let hidden = match view.shape() {
        [rows, hidden] if *rows == labels && *hidden > 0 => *hidden,
        _ => return Err(unexpected(tensor::HEAD_WEIGHT, &view, &format!("[{labels}, width of the base]"))),
    };
    let dtype = FloatType::of(view.dtype())
        .ok_or_else(|| unexpected(tensor::HEAD_WEIGHT, &view, &format!("F16, BF16 or F32 [{labels}, {hidden}]")))?;
    let weight = floats(tensor::HEAD_WEIGHT, &view, dtype, &[labels, hidden])?;
    let bias = floats(tensor::HEAD_BIAS, &tensors.required(tensor::HEAD_BIAS)?, dtype, &[labels])?;
    Ok(Head { weight, bias, labels, hidden, dtype })
}

fn golden(document: &PackDocument, tensors: &Container<'_>) -> Result<Vec<Golden>, Reason> {
    let labels = document.labels.len();
    let rows = document.golden.iter().fold(0usize, |rows, input| rows.saturating_add(input.rows()));
    let logits = match tensors.tensor(tensor::GOLDEN)? {
        Some(_) if rows == 0 => return Err(Reason::field(tensor::GOLDEN, "is there, but no golden texts are")),
        None if rows == 0 => Vec::new(),
        _ => floats(tensor::GOLDEN, &tensors.required(tensor::GOLDEN)?, FloatType::F32, &[rows, labels])?,
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
fn deltas(document: &PackDocument, tensors: &Container<'_>, names: &[String]) -> Result<Vec<Delta>, Reason> {
    let masked: BTreeSet<&str> = document.masks.iter().map(|entry| entry.tensor.as_str()).collect();
    let mut deltas = Vec::new();
    for name in names {
        let Some(replaced) = name.strip_prefix(tensor::DELTA) else { continue };
        let view = tensors.required(name)?;
        let wrong = |reason: String| Err(Reason::field(name, reason));
        if let Err(reason) = check_name(replaced) {
            return wrong(format!("the name {reason}"));
        }
        if masked.contains(replaced) {
            return wrong("is of a tensor that has a mask, too".to_owned());
        }
        let Some(dtype) = FloatType::of(view.dtype()) else {
            return Err(unexpected(name, &view, "F16, BF16 or F32"));
        };
        let values = floats(name, &view, dtype, view.shape())?;
        deltas.push(Delta { tensor: replaced.to_owned(), shape: view.shape().to_vec(), values, dtype });
    }
    deltas.sort_by(|a, b| a.tensor.cmp(&b.tensor));
    Ok(deltas)
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
