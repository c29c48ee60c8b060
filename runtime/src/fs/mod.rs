//! The ground floor: files and directories that appear whole or not at all, reading no more than a file may
//! have, what their JSON costs, maps, and digests. It knows no other part of the library.

mod digest;
mod json;
pub(crate) mod map;
mod read;
mod staged;
mod write;

pub use digest::{file_digest, hex};
pub use json::{JsonBudget, OverBudget};
pub use read::read_at_most;
pub use staged::{Staged, StagedError};
pub use write::{place, write_atomically, write_new};
