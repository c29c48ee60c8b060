//! A pack as its file holds it: whole and consistent, the masks still coded.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Codec, Delta, Golden, Head, MaskEntry, NamedMask, Pack, PackDocument, PackError, Reason, fit};
use crate::base::Base;
use crate::codec::{self, CodecError};
use crate::mask::{Granularity, Mask};
use crate::parallel;

/// A pack file that was read and checked, as far as that goes without a base.
#[derive(Debug, Clone, PartialEq)]
pub struct PackFile {
    pub(super) document: PackDocument,
    pub(super) head: Head,
    pub(super) deltas: Vec<Delta>,
    pub(super) golden: Vec<Golden>,
    /// The tensor `mask`.
    pub(super) coded: Vec<u8>,
    pub(super) sizes: Sizes,
    pub(super) digest: String,
    /// The file that it came from, if any.
    pub(super) origin: Option<PathBuf>,
}

/// What a pack's bytes are spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// The safetensors header without the document.
    pub container: usize,
    /// The JSON document.
    pub document: usize,
    /// The classifier.
    pub head: usize,
    /// The recorded logits.
    pub golden: usize,
    /// The coded masks.
    pub masks: usize,
    /// The replaced tensors.
    pub deltas: usize,
    /// The checksum.
    pub checksum: usize,
}

impl Sizes {
    /// All bytes of the file.
    pub fn total(&self) -> usize {
        self.container + self.document + self.head + self.golden + self.masks + self.deltas + self.checksum
    }
}

impl PackFile {
    /// Names, settings, provenance, and where the coded masks are.
    pub fn document(&self) -> &PackDocument {
        &self.document
    }

    /// The classifier.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The replaced tensors, sorted by name.
    pub fn deltas(&self) -> &[Delta] {
        &self.deltas
    }

    /// SHA-256 of the file, lower-case hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What the file's bytes are spent on.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// The file that it was read from; a pack of a set has the set's path, `#` and its name.
    pub fn origin(&self) -> Option<&Path> {
        self.origin.as_deref()
    }

    /// Checks that the pack was made for a base: identities, tokenizer, shapes, lengths.
    ///
    /// # Errors
    /// [`PackError::OtherBase`], naming the pack's field.
    pub fn check_base(&self, base: &Base) -> Result<(), PackError> {
        let shapes = self.document.masks.iter().map(fit::MaskShape::from);
        fit::check(&self.title(), &self.document, self.head.hidden, shapes, &self.deltas, base)
    }

    /// Decodes the masks for a base, on all processors. The base may be left out for
    /// [`Codec::Plain`].
    ///
    /// # Errors
    /// When the pack was made for another base, a mask is damaged, or a base is needed.
    pub fn decode(self, base: Option<&Base>) -> Result<Pack, PackError> {
        let masks = self.masks(base)?;
        let PackFile { document, head, deltas, golden, .. } = self;
        let document = PackDocument { masks: Vec::new(), golden: Vec::new(), ..document };
        Ok(Pack { document, masks, deltas, head, golden })
    }

    /// What a task has on top of the encoder.
    pub(crate) fn into_head(self) -> (PackDocument, Head, Vec<Golden>) {
        (self.document, self.head, self.golden)
    }

    /// The masks alone, decoded; otherwise as [`PackFile::decode`].
    ///
    /// # Errors
    /// The same.
    pub fn masks(&self, base: Option<&Base>) -> Result<Vec<NamedMask>, PackError> {
        base.map_or(Ok(()), |base| self.check_base(base))?;
        let decoded = parallel::map(self.coded_masks().collect(), |(entry, offset, bytes)| {
            let mask = self.decode_mask(entry, offset, bytes, base)?;
            Ok(NamedMask { tensor: entry.tensor.clone(), mask })
        });
        decoded.into_iter().collect()
    }

    /// Every coded mask: its entry, its first byte in the tensor `mask`, and its bytes.
    fn coded_masks(&self) -> impl Iterator<Item = (&MaskEntry, usize, &[u8])> {
        // That the lengths add up to the tensor was checked when the file was read.
        let mut rest = self.coded.as_slice();
        self.document.masks.iter().map(move |entry| {
            let offset = self.coded.len() - rest.len();
            let (bytes, after) = rest.split_at(entry.length.min(rest.len()));
            rest = after;
            (entry, offset, bytes)
        })
    }

    fn decode_mask(
        &self,
        entry: &MaskEntry,
        offset: usize,
        bytes: &[u8],
        base: Option<&Base>,
    ) -> Result<Mask, PackError> {
        let (granularity, MaskEntry { tensor, outputs, inputs, .. }) = (self.document.granularity, entry);
        let mask = match self.document.codec {
            Codec::Plain => Mask::from_bytes(granularity, *outputs, *inputs, bytes).map_err(CodecError::from),
            Codec::Ranked => {
                let base = base.ok_or_else(|| PackError::NeedsBase { pack: self.title() })?;
                // The check of the base has seen that it has the tensor, in this shape.
                codec::decode(bytes, granularity, *outputs, *inputs, &classes(base, tensor, granularity)?)
            }
        };
        mask.map_err(|source| self.wrong(Reason::Mask { tensor: tensor.clone(), offset, source }))
    }

    /// The pack's file, or else its name, for messages.
    fn title(&self) -> String {
        match &self.origin {
            Some(path) => path.display().to_string(),
            None => format!("`{}`", self.document.name),
        }
    }

    fn wrong(&self, reason: Reason) -> PackError {
        match &self.origin {
            Some(path) => PackError::Invalid { path: path.clone(), reason },
            None => PackError::Bytes(reason),
        }
    }
}

/// What masks of a tensor are coded given.
pub(super) fn classes(base: &Base, tensor: &str, granularity: Granularity) -> Result<Vec<u8>, PackError> {
    let no_tensor = || PackError::Bytes(Reason::field(tensor, "is no maskable tensor of the base"));
    Ok(codec::classes(&base.int8(base.maskable(tensor).ok_or_else(no_tensor)?)?, granularity))
}
