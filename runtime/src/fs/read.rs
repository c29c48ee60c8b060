//! Reading no more than a file may have.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The bytes of a file, or `None` when there are more than `limit`; no more than that are read.
///
/// # Errors
/// What the file system reports.
pub fn read_at_most(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_a_file_may_have() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"four").unwrap();
        assert_eq!(read_at_most(&path, 4).unwrap().unwrap(), b"four");
        assert_eq!(read_at_most(&path, 3).unwrap(), None);
        assert!(read_at_most(&dir.path().join("b"), 3).is_err());
    }
}
