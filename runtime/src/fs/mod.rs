//! The ground floor: files and directories that appear whole or not at all, reading regular files and no more of
//! one than it may have, what their JSON costs, maps, digests, whose a file is, and what there is room for. It knows
//! no other part of the library.

mod digest;
mod disk;
mod json;
pub(crate) mod map;
mod owner;
pub(crate) mod read;
mod staged;
mod write;

pub use digest::{file_digest, hex, is_sha256};
pub use disk::{Mapping, Space, space, try_map};
pub use json::{JsonBudget, OverBudget};
pub use map::Number;
pub use owner::{of_another, open_to_others, untrusted};
pub use read::{open, read, read_at_most, read_to_string};
pub use staged::{Staged, StagedError};
pub use write::{fits, place, write_atomically, write_new, write_shared};
