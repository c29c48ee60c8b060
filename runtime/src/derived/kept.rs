//! A derived file as a directory has it, looked at beside what it should hold: nothing is made or removed.

use std::path::PathBuf;
use std::time::Duration;

use super::DerivedFile;
use crate::fs::{Number, map};

/// A derived file as it is found, and what it takes to make it.
#[derive(Debug)]
pub struct Kept {
    /// Where it is, or would be; nowhere without a directory.
    pub path: Option<PathBuf>,
    /// Bytes that it has when it is right.
    pub bytes: u64,
    /// How it was found.
    pub state: KeptState,
    /// How long it took to make here what it should hold, in memory: for a pack, decoding its masks included.
    pub making: Duration,
}

/// How a derived file was found.
#[derive(Debug, PartialEq, Eq)]
pub enum KeptState {
    /// It is not there.
    Missing,
    /// It is there and not used, for this reason; the next start makes it again.
    Useless(String),
    /// It says that it is whole and holds other values than base and pack give: it was changed on purpose.
    Wrong,
    /// It holds what base and pack give.
    Right,
}

impl Kept {
    /// Compares a file with the values that it should hold.
    pub(crate) fn compare<T: Number>(file: Option<DerivedFile>, values: &[T], making: Duration) -> Self {
        let bytes = DerivedFile::size::<T>(values.len());
        let state = match file.as_ref().map(|file| file.look::<T>(|held| held.len() == values.len())) {
            None | Some(Ok(None)) => KeptState::Missing,
            Some(Err(useless)) => KeptState::Useless(useless.to_string()),
            Some(Ok(Some(held))) if map::bytes(&held[..]) == map::bytes(values) => KeptState::Right,
            Some(Ok(Some(_))) => KeptState::Wrong,
        };
        Kept { path: file.map(|file| file.path()), bytes, state, making }
    }
}
