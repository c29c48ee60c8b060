//! Patches: a new revision of a pack as what changes in it, for devices that have the one before.
//!
//! A patch is a safetensors file, too: `__metadata__.overmask-patch` names both packs by their digests and lists the masks;
//! the tensor `begin` holds the new pack's file up to its masks, and `mask` each mask coded after the old one's of the same
//! tensor. What comes out is the new pack byte by byte, or an error: so it is as trustworthy as the pack itself, and the
//! pack's signature holds for it.

use std::collections::BTreeSet;

use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::container::{Container, Document, budget, unexpected};
use super::document::version;
use super::file::classes;
use super::{Codec, MaskEntry, PATCH_KEY, PackError, PackFile, Reason, SCHEMA, tensor, write};
use crate::base::Base;
use crate::codec::{self, CodecError};
use crate::fs::{hex, is_sha256};
use crate::mask::{Granularity, Mask};
use crate::parallel;

/// What such a file is called where a pack is wanted.
pub(super) const WHAT: &str = "a patch, which `overmask flash` takes where the pack before it is";

/// The name of the tensor with the new pack's start.
const BEGIN: &str = "begin";

/// The contents of the metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct PatchDocument {
    schema: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requires: Vec<String>,
    /// SHA-256 of the old pack's file.
    from: String,
    /// SHA-256 of the new pack's file.
    to: String,
    base_id: String,
    granularity: Granularity,
    masks: Vec<MaskEntry>,
    /// The new pack's signature, as minisign writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

/// A new revision of a pack, given the one before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    document: PatchDocument,
    begin: Vec<u8>,
    coded: Vec<u8>,
}

impl Patch {
    /// What changes from one pack to another of the same base; the new one's signature goes along, if it has one.
    ///
    /// # Errors
    /// When a pack cannot be used or does not fit the base, or the new one is coded `plain`.
    pub fn new(old: &PackFile, new: &[u8], signature: Option<String>, base: &Base) -> Result<Patch, PackError> {
        let file = PackFile::from_bytes(new)?;
        let document = file.document();
        if document.codec != Codec::Ranked {
            let reason = "is `plain`, and a patch is of `ranked` masks; see `overmask-export repack`";
            return Err(Reason::field("codec", reason).into());
        }
        let before = old.masks(Some(base))?;
        let masks = file.masks(Some(base))?;
        let coded = parallel::map(masks.iter().collect(), |named: &super::NamedMask| {
            let classes = classes(base, &named.tensor, document.granularity)?;
            let before = before.iter().find(|old| old.tensor == named.tensor).map(|old| &old.mask);
            let coded = code(&named.mask, before, &classes);
            coded.map_err(|error| PackError::from(Reason::field(&*named.tensor, error.to_string())))
        });
        let coded = coded.into_iter().collect::<Result<Vec<Vec<u8>>, _>>()?;
        let entry = |(entry, coded): (&MaskEntry, &Vec<u8>)| MaskEntry { length: coded.len(), ..entry.clone() };
        let patch = Patch {
            document: PatchDocument {
                schema: SCHEMA,
                requires: Vec::new(),
                from: old.digest().to_owned(),
                to: file.digest().to_owned(),
                base_id: document.base_id.clone(),
                granularity: document.granularity,
                masks: document.masks.iter().zip(&coded).map(entry).collect(),
                signature,
            },
            begin: new[..new.len() - file.sizes().masks - file.sizes().checksum].to_vec(),
            coded: coded.concat(),
        };
        // Packs of other programs may be coded otherwise than this one codes again.
        patch.apply(old, base)?;
        Ok(patch)
    }

    /// The bytes of the patch's file.
    ///
    /// # Errors
    /// When the container cannot hold them.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PackError> {
        let view = |bytes| TensorView::new(Dtype::U8, vec![<[u8]>::len(bytes)], bytes).map_err(Reason::from);
        let tensors = vec![(BEGIN, view(&self.begin)?), (tensor::MASK, view(&self.coded)?)];
        let text = serde_json::to_string(&self.document).map_err(Reason::from)?;
        Ok(write::checked(tensors, PATCH_KEY, text)?)
    }

    /// Checks the bytes of a patch.
    ///
    /// # Errors
    /// When they are no usable patch.
    pub fn from_bytes(bytes: &[u8]) -> Result<Patch, PackError> {
        let budget = &mut budget();
        let container = Container::parse(bytes, budget)?;
        let Document::Patch(text) = container.document(budget)? else {
            return Err(Reason::NotAPack { found: "no patch" }.into());
        };
        Ok(Patch::read(&container, text)?)
    }

    /// The patch that some bytes are; none where they are a pack, or anything else.
    ///
    /// # Errors
    /// When they are a patch, and not a usable one.
    pub fn find(bytes: &[u8]) -> Result<Option<Patch>, PackError> {
        let budget = &mut budget();
        let Ok(container) = Container::parse(bytes, budget) else { return Ok(None) };
        let Ok(Document::Patch(text)) = container.document(budget) else { return Ok(None) };
        Ok(Some(Patch::read(&container, text)?))
    }

    /// Reads a file that says that it is one.
    fn read(container: &Container<'_>, text: &str) -> Result<Patch, Reason> {
        let document: PatchDocument = serde_json::from_str(text)?;
        version(document.schema, &document.requires)?;
        container.check_sum()?;
        for (field, digest) in [("from", &document.from), ("to", &document.to), ("base_id", &document.base_id)] {
            if !is_sha256(digest) {
                return Err(Reason::field(field, "is not 64 lower-case hex digits"));
            }
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = document.masks.iter().find(|entry| !seen.insert(&entry.tensor)) {
            return Err(Reason::field(&*twice.tensor, "comes twice"));
        }
        let bytes = |name| {
            let view = container.required(name)?;
            match (view.dtype(), view.shape()) {
                (Dtype::U8, [_]) => Ok(view.data().to_vec()),
                _ => Err(unexpected(name, &view, "U8 [bytes]")),
            }
        };
        let (begin, coded) = (bytes(BEGIN)?, bytes(tensor::MASK)?);
        if let Some(other) =
            container.names().iter().find(|n| ![BEGIN, tensor::MASK, tensor::CHECKSUM].contains(&n.as_str()))
        {
            return Err(Reason::field(&**other, "is no tensor of a patch"));
        }
        let all = document.masks.iter().try_fold(0usize, |sum, entry| sum.checked_add(entry.length));
        if all != Some(coded.len()) {
            return Err(Reason::field("masks", format!("do not add up to the {} bytes of `mask`", coded.len())));
        }
        Ok(Patch { document, begin, coded })
    }

    /// SHA-256 of the old pack's file, lower-case hex.
    pub fn from(&self) -> &str {
        &self.document.from
    }

    /// SHA-256 of the new pack's file, likewise.
    pub fn to(&self) -> &str {
        &self.document.to
    }

    /// The base of both.
    pub fn base_id(&self) -> &str {
        &self.document.base_id
    }

    /// The new pack's signature, if it has one.
    pub fn signature(&self) -> Option<&str> {
        self.document.signature.as_deref()
    }

    /// The bytes of the new pack's file.
    ///
    /// # Errors
    /// When the old pack or the base is another, or the patch is damaged: when another file would come out.
    pub fn apply(&self, old: &PackFile, base: &Base) -> Result<Vec<u8>, PackError> {
        let PatchDocument { from, to, granularity, masks, .. } = &self.document;
        if old.digest() != from {
            return Err(Reason::field("from", format!("is {from}, not the pack {}", old.digest())).into());
        }
        let before = old.masks(Some(base))?;
        let mut rest = &self.coded[..];
        let parts = masks.iter().map(|entry| {
            // That the lengths add up was checked when the patch was read.
            let (coded, after) = rest.split_at(entry.length.min(rest.len()));
            rest = after;
            (entry, coded)
        });
        let coded = parallel::map(parts.collect(), |(entry, coded): (&MaskEntry, &[u8])| {
            let wrong = |reason: String| PackError::from(Reason::field(&*entry.tensor, reason));
            let classes = classes(base, &entry.tensor, *granularity)?;
            let shape = base.maskable(&entry.tensor).map(|tensor| (tensor.outputs, tensor.inputs));
            if shape != Some((entry.outputs, entry.inputs)) {
                return Err(wrong(format!("is [{}, {}], not as in the base", entry.outputs, entry.inputs)));
            }
            let before = before.iter().find(|old| old.tensor == entry.tensor).map(|old| &old.mask);
            let mask =
                decode(coded, before, *granularity, entry, &classes).map_err(|error| wrong(error.to_string()))?;
            codec::encode(&mask, &classes).map_err(|error| wrong(error.to_string()))
        });
        let coded = coded.into_iter().collect::<Result<Vec<Vec<u8>>, PackError>>()?.concat();
        let mut new = [&self.begin[..], &coded].concat();
        let sum = Sha256::digest(&new);
        new.extend_from_slice(&sum);
        let found = hex(&Sha256::digest(&new));
        if found != *to {
            let reason = format!("is {to}, and what comes out is {found}; take the whole pack instead");
            return Err(Reason::field("to", reason).into());
        }
        Ok(new)
    }
}

/// A mask after another of the same units, if there is one; the first byte tells.
fn code(mask: &Mask, before: Option<&Mask>, classes: &[u8]) -> Result<Vec<u8>, CodecError> {
    let alone = [&[0], &codec::encode(mask, classes)?[..]].concat();
    match before.filter(|before| before.granularity() == mask.granularity()) {
        Some(before) => {
            let after = [&[1], &codec::encode_after(mask, before, classes)?[..]].concat();
            Ok(if after.len() < alone.len() { after } else { alone })
        }
        None => Ok(alone),
    }
}

fn decode(
    coded: &[u8],
    before: Option<&Mask>,
    granularity: Granularity,
    entry: &MaskEntry,
    classes: &[u8],
) -> Result<Mask, CodecError> {
    match (coded.split_first(), before.filter(|before| before.granularity() == granularity)) {
        (Some((0, coded)), _) => codec::decode(coded, granularity, entry.outputs, entry.inputs, classes),
        (Some((1, coded)), Some(before)) => codec::decode_after(coded, before, classes),
        _ => Err(CodecError::Short),
    }
}
