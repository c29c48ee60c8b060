//! The masks of one task in one file that is mapped and used as it lies.
//!
//! Such a file is derived from a pack and can be made again at any time. All numbers are
//! little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | `OVMASKS` and a zero |
//! | 8..40 | SHA-256 of everything after it |
//! | 40..44 | version, 1 |
//! | 44..52 | rows and columns of a block (u32 each), 0 and 0 for single weights |
//! | 52..60 | number of masks (u64) |
//! | 60..92 | key: what the masks were made from |
//! | 92.. | a table with an entry a mask: outputs, inputs, the byte at which its bits start, and the length of the tensor's name (u64 each), then the name in UTF-8 |
//!
//! The bits of the masks follow in the order of the table, each as [`Mask::as_bytes`] gives them,
//! from the next multiple of 64 bytes on: a cache line, and the widest vector register. The bytes
//! between are 0, and the file ends with a whole 64.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::bits::{Bits, padding};
use super::{Granularity, Mask, unit_grid};
use crate::base::hex;
use crate::error::ExitCode;
use crate::fs::write_atomically;
use crate::mmap;

/// Where bits start, and what they are padded to, in bytes.
pub const ALIGNMENT: usize = 64;

const MAGIC: &[u8; 8] = b"OVMASKS\0";
const VERSION: u32 = 1;
/// What the digest covers starts here.
const DIGESTED: usize = 40;

/// What can be wrong with a file of resident masks.
#[derive(Debug, thiserror::Error)]
pub enum ResidentError {
    /// The file cannot be read.
    #[error("cannot read the resident masks {path}: {source}; if they are not there, make them from the pack")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the resident masks {path}: {source}; look at the directory, its permissions and free space")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is of another kind or version.
    #[error("{path} holds no resident masks of version {VERSION}; it is derived: delete it, and it is made again")]
    NotResident {
        /// The file.
        path: PathBuf,
    },
    /// The file is not as it was written.
    #[error("{path} is damaged: {field}, at byte {offset}; it is derived: delete it, and it is made again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        field: &'static str,
        /// Where, in bytes from the file's start.
        offset: usize,
    },
    /// The masks were made from something else.
    #[error("{path} was made from {}, not from {}; it is derived: delete it, and it is made again", hex(.found), hex(.expected))]
    OtherKey {
        /// The file.
        path: PathBuf,
        /// The key that was asked for.
        expected: [u8; 32],
        /// The key in the file.
        found: [u8; 32],
    },
    /// The masks to write are not of one granularity.
    #[error(
        "cannot write {path}: the mask of `{tensor}` is of `{found}`, the ones before of `{expected}`; a task has one granularity"
    )]
    Granularity {
        /// The file.
        path: PathBuf,
        /// The first tensor whose mask is of another granularity.
        tensor: String,
        /// The granularity of the first mask.
        expected: Granularity,
        /// The granularity of this one.
        found: Granularity,
    },
}

impl ResidentError {
    /// The program's exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Read { .. } => ExitCode::InputData,
            Self::Write { .. } => ExitCode::DeviceOrStore,
            _ => ExitCode::CorruptFile,
        }
    }
}

/// Writes the masks of a task, with their tensors' names, so that the file appears whole or not
/// at all. The same masks and key give the same bytes.
///
/// `key` names what the masks were made from, for example the digest of a pack.
///
/// # Errors
/// When the masks are not all of one granularity, or the file cannot be written.
pub fn write(path: &Path, key: &[u8; 32], masks: &[(&str, &Mask)]) -> Result<(), ResidentError> {
    let expected = masks.first().map_or(Granularity::Weight, |(_, mask)| mask.granularity());
    if let Some((tensor, mask)) = masks.iter().find(|(_, mask)| mask.granularity() != expected) {
        let (tensor, found) = ((*tensor).to_owned(), mask.granularity());
        return Err(ResidentError::Granularity { path: path.into(), tensor, expected, found });
    }
    let bytes = file_of(expected, key, masks);
    write_atomically(path, |file| file.write_all(&bytes))
        .map_err(|source| ResidentError::Write { path: path.into(), source })
}

fn file_of(granularity: Granularity, key: &[u8; 32], masks: &[(&str, &Mask)]) -> Vec<u8> {
    let (rows, cols) = match granularity {
        Granularity::Weight => (0, 0),
        Granularity::TwoOfFour => (0, 4),
        Granularity::Block { rows, cols } => (rows, cols),
    };
    let mut bytes = [&MAGIC[..], &[0; 32]].concat();
    bytes.extend([VERSION, rows, cols].iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend((masks.len() as u64).to_le_bytes());
    bytes.extend(key);

    let table: usize = masks.iter().map(|(name, _)| 4 * size_of::<u64>() + name.len()).sum();
    let mut start = (bytes.len() + table).next_multiple_of(ALIGNMENT);
    for (name, mask) in masks {
        let numbers = [mask.outputs(), mask.inputs(), start, name.len()];
        bytes.extend(numbers.iter().flat_map(|number| (*number as u64).to_le_bytes()));
        bytes.extend(name.as_bytes());
        start += mask.as_bytes().len().next_multiple_of(ALIGNMENT);
    }
    for (_, mask) in masks {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(mask.as_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    let digest = Sha256::digest(&bytes[DIGESTED..]);
    bytes[MAGIC.len()..DIGESTED].copy_from_slice(&digest);
    bytes
}

/// Opens a file that [`write()`] made: the tensors' names and masks, in the order in which they
/// were written. The masks lie in one map of the file, which lives as long as any of them; the
/// bits of each start on a 64-byte boundary.
///
/// The whole file is read once, to check its digest.
///
/// # Errors
/// When the file cannot be read, is damaged or of another kind or version, or was written with
/// another key.
pub fn open(path: &Path, key: &[u8; 32]) -> Result<Vec<(String, Mask)>, ResidentError> {
    let map = Arc::new(mmap::map(path).map_err(|source| ResidentError::Read { path: path.into(), source })?);
    let read = read(&map).map_err(|problem| match problem {
        Problem::NotResident => ResidentError::NotResident { path: path.into() },
        Problem::Damaged { field, offset } => ResidentError::Damaged { path: path.into(), field, offset },
    });
    let Contents { granularity, key: found, entries } = read?;
    if found != *key {
        return Err(ResidentError::OtherKey { path: path.into(), expected: *key, found });
    }
    let mask = |Entry { name, outputs, inputs, units, start }: Entry| match Bits::mapped(&map, start, units) {
        Some(units) => Ok((name.to_owned(), Mask { granularity, outputs, inputs, units })),
        None => Err(ResidentError::Damaged { path: path.into(), field: "the bits of a mask", offset: start }),
    };
    entries.into_iter().map(mask).collect()
}

/// A file's contents, all of whose numbers are checked.
struct Contents<'a> {
    granularity: Granularity,
    key: [u8; 32],
    entries: Vec<Entry<'a>>,
}

/// A mask in the table.
struct Entry<'a> {
    name: &'a str,
    outputs: usize,
    inputs: usize,
    /// What the granularity makes of outputs and inputs.
    units: usize,
    /// The byte at which its bits start.
    start: usize,
}

/// An error that does not know its file's name.
enum Problem {
    NotResident,
    Damaged { field: &'static str, offset: usize },
}

fn read(bytes: &[u8]) -> Result<Contents<'_>, Problem> {
    if !bytes.starts_with(MAGIC) {
        return Err(Problem::NotResident);
    }
    let mut reader = Reader { bytes, at: MAGIC.len() };
    let digest: [u8; 32] = *reader.take("digest")?;
    if reader.u32("version")? != VERSION {
        return Err(Problem::NotResident);
    }
    if Sha256::digest(&bytes[DIGESTED..])[..] != digest {
        return reader.damaged("its sha256 is not the one at its start", MAGIC.len());
    }
    // A damaged file does not come further, but a hostile one may: nothing below is believed.
    let at = reader.at;
    let granularity = match (reader.u32("block rows")?, reader.u32("block columns")?) {
        (0, 0) => Granularity::Weight,
        (0, 4) => Granularity::TwoOfFour,
        (rows @ 1.., cols @ 1..) => Granularity::Block { rows, cols },
        _ => return reader.damaged("an empty block", at),
    };
    let number = reader.size("number of masks")?;
    let key = *reader.take("key")?;
    let mut entries = Vec::new();
    // An entry takes bytes, so the file's length bounds how many there are.
    for _ in 0..number {
        entries.push(entry(&mut reader, granularity)?);
    }

    reader.zeros_to_boundary()?;
    for entry in &entries {
        if entry.start != reader.at {
            return reader.damaged("bits of a mask that do not follow those before", entry.start);
        }
        let bits = reader.slice(entry.units.div_ceil(8), "bits of a mask")?;
        if granularity == Granularity::TwoOfFour
            && Mask::from_bytes(granularity, entry.outputs, entry.inputs, bits).is_err()
        {
            return reader.damaged("a mask that keeps more than two of four", entry.start);
        }
        if padding(bits, entry.units) != 0 {
            return reader.damaged("bits after a mask's last that are not 0", reader.at - 1);
        }
        reader.zeros_to_boundary()?;
    }
    if reader.at != bytes.len() {
        return reader.damaged("bytes after the last mask", reader.at);
    }
    Ok(Contents { granularity, key, entries })
}

fn entry<'a>(reader: &mut Reader<'a>, granularity: Granularity) -> Result<Entry<'a>, Problem> {
    let at = reader.at;
    let (outputs, inputs) = (reader.size("outputs")?, reader.size("inputs")?);
    let Ok((down, across)) = unit_grid(granularity, outputs, inputs) else {
        return reader.damaged("a tensor that is too large", at);
    };
    let start = reader.size("start of the bits")?;
    let length = reader.size("length of a name")?;
    let at = reader.at;
    let Ok(name) = std::str::from_utf8(reader.slice(length, "name of a tensor")?) else {
        return reader.damaged("a tensor's name that is not UTF-8", at);
    };
    Ok(Entry { name, outputs, inputs, units: down * across, start })
}

/// Bytes that are read from the first to the last and never past it.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn slice(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], Problem> {
        let Some(part) = self.bytes.get(self.at..).and_then(|rest| rest.get(..length)) else {
            return self.damaged(field, self.at);
        };
        self.at += length;
        Ok(part)
    }

    fn take<const N: usize>(&mut self, field: &'static str) -> Result<&'a [u8; N], Problem> {
        let at = self.at;
        self.slice(N, field)?.first_chunk().ok_or(Problem::Damaged { field, offset: at })
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(*self.take(field)?))
    }

    /// A u64 that this machine can address.
    fn size(&mut self, field: &'static str) -> Result<usize, Problem> {
        let at = self.at;
        let number = u64::from_le_bytes(*self.take(field)?);
        usize::try_from(number).map_err(|_| Problem::Damaged { field, offset: at })
    }

    fn zeros_to_boundary(&mut self) -> Result<(), Problem> {
        let at = self.at;
        let zeros = self.slice(at.next_multiple_of(ALIGNMENT) - at, "padding")?;
        if zeros.iter().all(|byte| *byte == 0) { Ok(()) } else { self.damaged("padding that is not 0", at) }
    }

    fn damaged<T>(&self, field: &'static str, offset: usize) -> Result<T, Problem> {
        Err(Problem::Damaged { field, offset })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
