//! Whether a shared library may be loaded from where it lies. It is code, so nobody but the user and root may be able
//! to put another in its place.

use std::path::Path;

/// Why a library is not to be loaded: which place on the way to it is somebody else's, or can be written by others.
#[cfg(unix)]
pub(crate) fn objection(library: &Path) -> Option<String> {
    // The name may be a link: neither it nor the file that it leads to may be exchanged.
    let (Some(Ok(dir)), Ok(file)) = (library.parent().map(Path::canonicalize), library.canonicalize()) else {
        return Some(format!("{} leads to no file", library.display()));
    };
    // What the library loads besides lies beside it: there nobody else may put a file.
    let near = [dir.as_path(), file.as_path(), file.parent().unwrap_or(&file)];
    dir.ancestors().chain(file.ancestors()).find_map(|place| objection_to(place, near.contains(&place)))
}

/// The same for one place; `near` the library it may not even be a directory like `/tmp`, where everybody may write
/// but nobody can rename or remove what is another's.
#[cfg(unix)]
fn objection_to(place: &Path, near: bool) -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    use overmask::fs::{of_another, open_to_others};

    const STICKY: u32 = 0o1000;

    let name = place.display();
    let found = match place.metadata() {
        Ok(found) => found,
        Err(e) => return Some(format!("{name}: {e}")),
    };
    let guarded = !near && found.mode() & STICKY != 0;
    let open = || open_to_others(&found).filter(|_| !guarded);
    of_another(&found).or_else(open).map(|reason| format!("{name} {reason}"))
}

/// Elsewhere files have owners of another kind.
#[cfg(not(unix))]
pub(crate) fn objection(_library: &Path) -> Option<String> {
    None
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_what_nobody_else_can_write_is_loaded() {
        // Its own parent is likely to be open to all and sticky, as /tmp is.
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("lib");
        fs::create_dir(&dir).unwrap();
        let file = dir.join("lib.so.1");
        fs::write(&file, "").unwrap();
        let says = |path: &Path, place: &Path| {
            let said = objection(path).unwrap_or_default();
            assert!(said.contains(&format!("{} ", place.display())), "{said:?}");
        };
        let real = |path: &Path| path.canonicalize().unwrap();
        mode(&dir, 0o755);
        mode(&file, 0o644);
        assert_eq!(objection(&file), None);
        for open in [0o666, 0o646] {
            mode(&file, open);
            says(&file, &real(&file));
        }
        mode(&file, 0o644);
        for open in [0o777, 0o757, 0o1777] {
            mode(&dir, open);
            says(&file, &real(&dir));
        }
        mode(&dir, 0o755);
        // A directory further up, unless nobody can put another `lib` there.
        mode(home.path(), 0o777);
        says(&file, &real(home.path()));
        mode(home.path(), 0o1777);
        assert_eq!(objection(&file), None);
        // A link in a good place to a file in a bad one, and the other way round.
        mode(home.path(), 0o755);
        let other = home.path().join("open");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("lib.so.2"), "").unwrap();
        symlink(other.join("lib.so.2"), dir.join("lib.so")).unwrap();
        symlink(&file, other.join("lib.so")).unwrap();
        mode(&other, 0o757);
        says(&dir.join("lib.so"), &real(&other));
        says(&other.join("lib.so"), &real(&other));
        assert!(objection(&dir.join("absent")).is_some());
    }
}
