//! Pack sets: several packs in one file, for one flash.
//!
//! A set is a safetensors file, too: `__metadata__.overmask-set` names the packs in order, and
//! each tensor `pack/<name>` holds the bytes of one pack's file as they were.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::container::{Container, Document, budget, spend};
use super::document::version;
use super::{PackError, PackFile, Reason, SCHEMA, SET_KEY, patch, read, write};
use crate::fs::JsonBudget;

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
struct SetDocument {
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
    /// When the container cannot hold them, or they are more than is read of one file.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PackError> {
        let packs: Vec<String> = self.packs().map(|pack| pack.document().name.clone()).collect();
        let names: Vec<String> = packs.iter().map(|name| format!("{PREFIX}{name}")).collect();
        let mut tensors = Vec::new();
        for (name, (_, bytes)) in names.iter().zip(&self.packs) {
            let view = TensorView::new(Dtype::U8, vec![bytes.len()], bytes).map_err(Reason::from)?;
            tensors.push((name.as_str(), view));
        }
        let document = SetDocument { schema: SCHEMA, requires: Vec::new(), packs };
        let text = serde_json::to_string(&document).map_err(Reason::from)?;
        let bytes = write::checked(tensors, SET_KEY, text)?;
        // What is not read shall not be written.
        let (budget, packs) = (&mut budget(), self.packs.iter().map(|(_, bytes)| bytes));
        std::iter::once(&bytes).chain(packs).try_for_each(|bytes| spend(bytes, budget))?;
        Ok(bytes)
    }
}

/// What a pack's file holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Packs {
    /// A pack.
    One(Box<PackFile>),
    /// A set: some packs, or the one of them that was asked for by name.
    Set(Vec<PackFile>),
}

impl Packs {
    /// Reads and checks a file, or of a set the pack that is named as `SET#NAME`.
    ///
    /// # Errors
    /// When the file cannot be read, or as [`Packs::from_bytes`].
    pub fn open(path: &Path) -> Result<Packs, PackError> {
        let (path, name) = split_name(path);
        Packs::from_bytes(&path, &read::file(&path)?, name.as_deref())
    }

    /// Checks the bytes that were read from a file. With a name, only the pack of that name is looked at.
    ///
    /// # Errors
    /// When they are neither a pack nor a set, a pack that is looked at cannot be used, or there is none of
    /// that name; the file is named.
    pub fn from_bytes(path: &Path, bytes: &[u8], name: Option<&str>) -> Result<Packs, PackError> {
        Packs::chosen(path, bytes, name.map_or(Choice::All, Choice::Named))
    }

    /// Checks those of the packs that are chosen; no other is looked at.
    fn chosen(path: &Path, bytes: &[u8], choice: Choice<'_>) -> Result<Packs, PackError> {
        let invalid = |reason| PackError::Invalid { path: path.to_owned(), reason };
        let found = |origin: PathBuf, pack| PackFile { origin: Some(origin), ..pack };
        let no_such = |wanted: &str, names: &[&str]| PackError::NoSuchPack {
            path: path.to_owned(),
            name: wanted.to_owned(),
            names: list(names),
        };
        let budget = &mut budget();
        let container = Container::parse(bytes, budget).map_err(invalid)?;
        match container.document(budget).map_err(invalid)? {
            Document::Pack(text) => {
                let pack = read::of_container(&container, text).map_err(invalid)?;
                let own = pack.document.name.as_str();
                match choice {
                    Choice::Named(wanted) if wanted != own => Err(no_such(wanted, &[own])),
                    _ => Ok(Packs::One(Box::new(found(path.to_owned(), pack)))),
                }
            }
            Document::Patch(_) => Err(invalid(Reason::NotAPack { found: patch::WHAT })),
            Document::Set(text) => {
                let members = Members::new(&container, text).map_err(invalid)?;
                let names: Vec<&str> = members.names.iter().map(String::as_str).collect();
                let places = match choice {
                    Choice::Named(wanted) => match names.iter().position(|name| *name == wanted) {
                        Some(place) => place..place + 1,
                        None => return Err(no_such(wanted, &names)),
                    },
                    Choice::Only if names.len() > 1 => {
                        return Err(PackError::Several { path: path.to_owned(), names: list(&names) });
                    }
                    Choice::Only | Choice::All => 0..names.len(),
                };
                let pack = |place: usize| {
                    let (pack, _) = members.pack(place, budget).map_err(invalid)?;
                    Ok(found(PathBuf::from(format!("{}#{}", path.display(), names[place])), pack))
                };
                places.map(pack).collect::<Result<_, _>>().map(Packs::Set)
            }
        }
    }

    /// The packs, in order.
    pub fn into_vec(self) -> Vec<PackFile> {
        match self {
            Packs::One(pack) => vec![*pack],
            Packs::Set(packs) => packs,
        }
    }
}

impl PackFile {
    /// Reads and checks a pack file, or the pack of a set that is named as `SET#NAME`.
    ///
    /// # Errors
    /// When the file cannot be read, is no usable pack, or is a set and no name tells which of
    /// its packs is meant.
    pub fn open(path: &Path) -> Result<PackFile, PackError> {
        let (path, name) = split_name(path);
        let packs = Packs::chosen(&path, &read::file(&path)?, name.as_deref().map_or(Choice::Only, Choice::Named))?;
        // No set is empty.
        Ok(packs.into_vec().swap_remove(0))
    }
}

/// Which packs of a set are read.
#[derive(Clone, Copy)]
enum Choice<'n> {
    All,
    /// The one of this name.
    Named(&'n str),
    /// The one that it holds; an error where it holds several.
    Only,
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

/// Names of packs, for messages.
pub(super) fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The packs that a set names.
struct Members<'c, 'a> {
    container: &'c Container<'a>,
    names: Vec<String>,
}

impl<'a> Members<'_, 'a> {
    fn new<'c>(container: &'c Container<'a>, text: &str) -> Result<Members<'c, 'a>, Reason> {
        let document: SetDocument = serde_json::from_str(text)?;
        version(document.schema, &document.requires)?;
        container.check_sum()?;
        // Besides the packs there is the checksum.
        let held = container.names().len() - 1;
        if held != document.packs.len() {
            let reason = format!("names {} packs, the file holds {held}", document.packs.len());
            return Err(Reason::field("packs", reason));
        }
        // Before anything is read: a pack that is named often would be held as often.
        let different: BTreeSet<&String> = document.packs.iter().collect();
        if different.len() != document.packs.len() || different.is_empty() {
            return Err(Reason::field("packs", "is empty, or a name comes twice"));
        }
        Ok(Members { container, names: document.packs })
    }

    /// The pack of the name at this place, with the bytes of its file.
    fn pack(&self, i: usize, budget: &mut JsonBudget) -> Result<(PackFile, &'a [u8]), Reason> {
        let (field, name) = (format!("packs/{i}"), &self.names[i]);
        let tensor = format!("{PREFIX}{name}");
        let missing = || Reason::field(&*field, format!("there is no tensor `{tensor}`"));
        let bytes = self.container.tensor(&tensor)?.ok_or_else(missing)?.data();
        let pack = read::pack(bytes, budget).map_err(|reason| Reason::field(&*field, reason.to_string()))?;
        if pack.document.name != *name {
            return Err(Reason::field(field, format!("is {name:?}, the pack's own name {:?}", pack.document.name)));
        }
        Ok((pack, bytes))
    }
}

/// The packs of a file with the bytes of each: one, or those of a set.
fn members(bytes: &[u8]) -> Result<Vec<(PackFile, Vec<u8>)>, Reason> {
    let budget = &mut budget();
    let container = Container::parse(bytes, budget)?;
    match container.document(budget)? {
        Document::Patch(_) => Err(Reason::NotAPack { found: patch::WHAT }),
        Document::Pack(text) => Ok(vec![(read::of_container(&container, text)?, bytes.to_vec())]),
        Document::Set(text) => {
            let members = Members::new(&container, text)?;
            let pack = |i| members.pack(i, budget).map(|(pack, bytes)| (pack, bytes.to_vec()));
            (0..members.names.len()).map(pack).collect()
        }
    }
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
