//! The safetensors file around a pack or a set: its header is parsed once, and what it says is checked
//! against the bytes that are there.

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};
use sha2::{Digest, Sha256};

use super::{METADATA_KEY, PATCH_KEY, Reason, SET_KEY, guess, tensor};
use crate::fs::JsonBudget;

/// The most bytes that a pack may have: a bit for each weight of a base of eight thousand million.
pub const MAX_BYTES: u64 = 1 << 30;

/// The most bytes that the header may have, document included.
const MAX_HEADER: u64 = 4 << 20;

/// What reading the JSON of a file may take in memory: of header and document, and of those of all packs that
/// are read of a set.
const MAX_JSON: u64 = 64 << 20;

/// Bytes of a checksum.
pub(super) const CHECKSUM_BYTES: usize = 32;

/// Which of the three a file is, with the text of its document.
pub(super) enum Document<'a> {
    Pack(&'a str),
    Set(&'a str),
    Patch(&'a str),
}

/// A file whose header was parsed.
pub(super) struct Container<'a> {
    bytes: &'a [u8],
    /// Where the tensors' bytes begin.
    data_start: usize,
    metadata: Metadata,
}

/// The budget of a file.
pub(super) fn budget() -> JsonBudget {
    JsonBudget::new(MAX_JSON)
}

impl<'a> Container<'a> {
    /// Parses the header of a file that is no larger than one may be.
    pub(super) fn parse(bytes: &'a [u8], budget: &mut JsonBudget) -> Result<Self, Reason> {
        if let Some(found) = guess::other_kind(bytes) {
            return Err(Reason::NotAPack { found });
        }
        check_size(bytes)?;
        budget.take_header(bytes)?;
        // The crate checks that the header is there and that offsets cover the data exactly.
        let (header, metadata) = SafeTensors::read_metadata(bytes)?;
        Ok(Container { bytes, data_start: 8 + header, metadata })
    }

    /// The one text of metadata, which says what the file is.
    pub(super) fn document(&self, budget: &mut JsonBudget) -> Result<Document<'_>, Reason> {
        let no_document = || Reason::NotAPack { found: "safetensors without the metadata of one" };
        let texts = self.metadata.metadata().as_ref().ok_or_else(no_document)?;
        let get = |key| texts.get(key).map(String::as_str).map(|text| (key, text));
        let set = get(SET_KEY).map(|(key, text)| (key, text, Document::Set(text)));
        let patch = || get(PATCH_KEY).map(|(key, text)| (key, text, Document::Patch(text)));
        let pack = || get(METADATA_KEY).map(|(key, text)| (key, text, Document::Pack(text)));
        let (key, text, document) = set.or_else(patch).or_else(pack).ok_or_else(no_document)?;
        if texts.len() != 1 {
            return Err(Reason::field("__metadata__", format!("has other keys than `{key}`")));
        }
        budget.take(text.as_bytes())?;
        Ok(document)
    }

    /// All bytes of the file.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes before those of the tensors.
    pub(super) fn header_bytes(&self) -> usize {
        self.data_start
    }

    fn view(&self, info: &TensorInfo) -> Result<TensorView<'a>, Reason> {
        let (from, to) = info.data_offsets;
        Ok(TensorView::new(info.dtype, info.shape.clone(), &self.bytes[self.data_start + from..self.data_start + to])?)
    }

    /// The tensor of this name, if there is one.
    pub(super) fn tensor(&self, name: &str) -> Result<Option<TensorView<'a>>, Reason> {
        self.metadata.info(name).map(|info| self.view(info)).transpose()
    }

    /// The tensor of this name.
    pub(super) fn required(&self, name: &str) -> Result<TensorView<'a>, Reason> {
        self.tensor(name)?.ok_or_else(|| Reason::field(name, "the tensor is missing"))
    }

    /// The names of all tensors.
    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Checks that the file ends with the SHA-256 of all that comes before.
    pub(super) fn check_sum(&self) -> Result<(), Reason> {
        let view = self.required(tensor::CHECKSUM)?;
        if view.dtype() != Dtype::U8 || view.shape() != [CHECKSUM_BYTES] {
            return Err(unexpected(tensor::CHECKSUM, &view, &format!("U8 [{CHECKSUM_BYTES}]")));
        }
        let (before, end) = self.bytes.split_at(self.bytes.len() - CHECKSUM_BYTES);
        if !std::ptr::eq(end, view.data()) {
            return Err(Reason::field(tensor::CHECKSUM, "is not the end of the file"));
        }
        if Sha256::digest(before)[..] == *end { Ok(()) } else { Err(Reason::Damaged) }
    }
}

/// Takes from the budget what reading a file costs.
pub(super) fn spend(bytes: &[u8], budget: &mut JsonBudget) -> Result<(), Reason> {
    Container::parse(bytes, budget)?.document(budget).map(drop)
}

/// Checks that a file and its header are no larger than they may be.
fn check_size(bytes: &[u8]) -> Result<(), Reason> {
    let header = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    let parts = [("file", bytes.len() as u64, MAX_BYTES), ("header", header, MAX_HEADER)];
    match parts.into_iter().find(|(_, found, limit)| found > limit) {
        Some((part, _, limit)) => Err(Reason::TooLarge { part, limit }),
        None => Ok(()),
    }
}

/// A tensor that is of another type or shape than it must be.
pub(super) fn unexpected(name: &str, view: &TensorView<'_>, expected: &str) -> Reason {
    Reason::field(name, format!("is {:?} {:?}, must be {expected}", view.dtype(), view.shape()))
}

/// Checks that all values of a tensor are numbers.
pub(super) fn finite(name: &str, values: &[f32]) -> Result<(), Reason> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(Reason::field(name, format!("value {i} is {}, must be a finite number", values[i]))),
        None => Ok(()),
    }
}
