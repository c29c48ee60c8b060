//! Whose a file is.

use std::fs::Metadata;

/// Why a file or a directory is not to be believed like code, in words that go on after its path: it belongs to
/// another user than this process's or root, or others than its owner may write to it. `None` where neither is so.
pub fn untrusted(found: &Metadata) -> Option<String> {
    of_another(found).or_else(|| open_to_others(found))
}

/// Whether it belongs to another user than this process's or root; in such words.
#[cfg(unix)]
pub fn of_another(found: &Metadata) -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    let (owner, user) = (found.uid(), rustix::process::geteuid().as_raw());
    let is_another = ![0, user].contains(&owner);
    is_another.then(|| format!("belongs to user {owner}, neither to the one that runs this ({user}) nor to root"))
}

/// Whether others than its owner may write to it; in such words.
///
/// A group with the number of its owner, root apart, is that user's own, by the convention of systems that give each
/// user one and let it write (umask 002).
#[cfg(unix)]
pub fn open_to_others(found: &Metadata) -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    let mode = found.mode() & 0o7777;
    let is_own_group = found.uid() != 0 && found.gid() == found.uid();
    let others = if is_own_group { 0o002 } else { 0o022 };
    (mode & others != 0)
        .then(|| format!("can be written by others than its owner (mode {mode:04o}; `chmod go-w` ends that)"))
}

/// Where owners are not known nothing is believed.
#[cfg(not(unix))]
pub fn of_another(_: &Metadata) -> Option<String> {
    Some("has no owner that could be checked on this system".to_owned())
}

/// Where modes are not known, neither.
#[cfg(not(unix))]
pub fn open_to_others(_: &Metadata) -> Option<String> {
    Some("has no mode that could be checked on this system".to_owned())
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    #[test]
    fn what_others_may_write_to_is_not_trusted() {
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::{MetadataExt, PermissionsExt};

        let dir = tempfile::tempdir().unwrap();
        let found = dir.path().metadata().unwrap();
        let own_group = found.uid() != 0 && found.uid() == found.gid();
        for (mode, trusted) in [(0o700, true), (0o755, true), (0o770, own_group), (0o702, false), (0o777, false)] {
            set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            let found = super::untrusted(&dir.path().metadata().unwrap());
            assert_eq!(found.is_none(), trusted, "{found:?}");
            assert!(found.is_none_or(|reason| reason.contains(&format!("{mode:04o}"))));
        }
        // Root's own is anybody's to believe.
        assert_eq!(super::untrusted(&std::fs::metadata("/").unwrap()), None);
    }
}
