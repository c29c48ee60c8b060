//! The ground floor: files and directories that appear whole or not at all, reading regular files and no more of
//! one than it may have, what their JSON costs, maps, digests, and whose a file is. It knows no other part of the
//! library.

mod digest;
mod json;
pub(crate) mod map;
mod owner;
pub(crate) mod read;
mod staged;
mod write;

pub use digest::{file_digest, hex, is_sha256};
pub use json::{JsonBudget, OverBudget};
pub use owner::{of_another, open_to_others, untrusted};
pub use read::{open, read, read_at_most, read_to_string};
pub use staged::{Staged, StagedError};
pub use write::{fits, place, write_atomically, write_new, write_shared};
