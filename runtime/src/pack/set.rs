//! Pack sets: several packs in one file, for one flash.
//!
//! A set is a safetensors file, too: `__metadata__.overmask-set` names the packs in order, and
//! each tensor `pack/<name>` holds the bytes of one pack's file as they were.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::{PackError, PackFile, Reason, SCHEMA, read, write};

/// The key of the document in the safetensors metadata.
const KEY: &str = "overmask-set";

/// What a tensor's name starts with.
const PREFIX: &str = "pack/";

/// Several packs, each with a name of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct PackSet {
    /// Each pack with the bytes of its file.
    packs: Vec<(PackFile, Vec<u8>)>,
}

/// The contents of the metadata.
#[derive(Serialize, Deserialize)]
struct Document {
    schema: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requires: Vec<String>,
    /// Names of the packs' tasks, in order.
    packs: Vec<String>,
}

impl PackSet {
    /// A set of the packs of files; a set among them gives all of its own.
    ///
    /// # Errors
    /// When a file is no usable pack, or two packs have the same name.
    pub fn new(files: &[(PathBuf, Vec<u8>)]) -> Result<PackSet, PackError> {
        let (mut packs, mut names) = (Vec::new(), BTreeSet::new());
        for (path, bytes) in files {
            let found = members(bytes).map_err(|reason| PackError::Invalid { path: path.clone(), reason })?;
            for (pack, bytes) in found {
                let name = &pack.document().name;
                if !names.insert(name.clone()) {
                    return Err(PackError::SameName { path: path.clone(), name: name.clone() });
                }
                packs.push((pack, bytes));
            }
        }
        Ok(PackSet { packs })
    }

    /// The packs, in order.
    pub fn packs(&self) -> impl ExactSizeIterator<Item = &PackFile> {
        self.packs.iter().map(|(pack, _)| pack)
    }

    /// The bytes of the set's file; equal sets have equal bytes.
    ///
    /// # Errors
    /// When the container cannot hold them.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PackError> {
        let packs: Vec<String> = self.packs().map(|pack| pack.document().name.clone()).collect();
        let names: Vec<String> = packs.iter().map(|name| format!("{PREFIX}{name}")).collect();
        let mut tensors = Vec::new();
        for (name, (_, bytes)) in names.iter().zip(&self.packs) {
            let view = TensorView::new(Dtype::U8, vec![bytes.len()], bytes).map_err(Reason::from)?;
            tensors.push((name.as_str(), view));
        }
        let document = Document { schema: SCHEMA, requires: Vec::new(), packs };
        let text = serde_json::to_string(&document).map_err(Reason::from)?;
        Ok(write::checked(tensors, KEY, text)?)
    }
}

/// The packs in the bytes of a file, which is a pack or a pack set.
///
/// # Errors
/// When it is neither, or one of its packs cannot be used; the file is named.
pub fn read_packs(path: &Path, bytes: &[u8]) -> Result<Vec<PackFile>, PackError> {
    let found = members(bytes).map_err(|reason| PackError::Invalid { path: path.to_owned(), reason })?;
    let one = found.len() == 1 && found[0].1.len() == bytes.len();
    let origin = |pack: &PackFile| match one {
        true => path.to_owned(),
        false => PathBuf::from(format!("{}#{}", path.display(), pack.document().name)),
    };
    Ok(found.into_iter().map(|(pack, _)| PackFile { origin: Some(origin(&pack)), ..pack }).collect())
}

/// A file, and the name of one of its packs after `#`; the whole is a file's name if there is such
/// a file.
pub fn split_name(given: &Path) -> (PathBuf, Option<String>) {
    let whole = || (given.to_owned(), None);
    let Some(text) = given.to_str() else { return whole() };
    if given.exists() {
        return whole();
    }
    let mut parts = text.match_indices('#').map(|(at, _)| (PathBuf::from(&text[..at]), text[at + 1..].to_owned()));
    // Both a file's name and a task's may hold the sign.
    match parts.clone().find(|(path, _)| path.is_file()).or_else(|| parts.next()) {
        Some((path, name)) => (path, Some(name)),
        None => whole(),
    }
}

/// Those of a file's packs that have this name; all without one.
///
/// # Errors
/// When there is no such pack.
pub fn select(packs: Vec<PackFile>, path: &Path, name: Option<&str>) -> Result<Vec<PackFile>, PackError> {
    let Some(wanted) = name else { return Ok(packs) };
    let names = list(&packs);
    let found: Vec<PackFile> = packs.into_iter().filter(|pack| pack.document.name == wanted).collect();
    if found.is_empty() {
        return Err(PackError::NoSuchPack { path: path.to_owned(), name: wanted.to_owned(), names });
    }
    Ok(found)
}

/// The names of packs, for messages.
pub(super) fn list(packs: &[PackFile]) -> String {
    let names: Vec<String> = packs.iter().map(|pack| format!("`{}`", pack.document.name)).collect();
    names.join(", ")
}

/// The packs of a file with the bytes of each: one, or those of a set.
fn members(bytes: &[u8]) -> Result<Vec<(PackFile, Vec<u8>)>, Reason> {
    let text = match read::metadata(bytes, KEY) {
        Ok((_, text)) => text,
        Err(Reason::NotAPack) => return Ok(vec![(read::pack(bytes)?, bytes.to_vec())]),
        Err(other) => return Err(other),
    };
    let document: Document = serde_json::from_str(&text)?;
    read::version(document.schema, &document.requires)?;
    let tensors = SafeTensors::deserialize(bytes)?;
    read::checksum(bytes, &tensors)?;
    if tensors.len() != document.packs.len() + 1 {
        let reason = format!("names {} packs, the file holds {}", document.packs.len(), tensors.len() - 1);
        return Err(Reason::field("packs", reason));
    }
    // Before anything is read: a pack that is named often would be held as often.
    let different: BTreeSet<&String> = document.packs.iter().collect();
    if different.len() != document.packs.len() || different.is_empty() {
        return Err(Reason::field("packs", "is empty, or a name comes twice"));
    }
    let mut packs = Vec::new();
    for (i, name) in document.packs.iter().enumerate() {
        let field = format!("packs/{i}");
        let missing = |_| Reason::field(&*field, format!("there is no tensor `{PREFIX}{name}`"));
        let view = tensors.tensor(&format!("{PREFIX}{name}")).map_err(missing)?;
        let pack = read::pack(view.data()).map_err(|reason| Reason::field(&*field, reason.to_string()))?;
        if pack.document.name != *name {
            return Err(Reason::field(field, format!("is {name:?}, the pack's own name {:?}", pack.document.name)));
        }
        packs.push((pack, view.data().to_vec()));
    }
    Ok(packs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_follows_the_hash_after_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let named = |file: &str, name: &str| (at(file), Some(name.to_owned()));
        assert_eq!(split_name(&at("a#b")), named("a", "b"));
        std::fs::write(at("a#b"), b"").unwrap();
        assert_eq!(split_name(&at("a#b")), (at("a#b"), None));
        assert_eq!(split_name(&at("a#b#c#d")), named("a#b", "c#d"));
        assert_eq!(split_name(Path::new("x.pack")), (PathBuf::from("x.pack"), None));
    }
}
