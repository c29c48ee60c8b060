//! Where derived and temporary files go: room, kind of file system, and whether files there can be mapped.

use std::io::ErrorKind;
use std::path::Path;

use overmask::fs::{Mapping, Space, space, try_map};
use serde_json::{Value, json};

#[cfg(feature = "native")]
use super::finding::count;
use super::finding::{Finding, Level, or_unknown, size};
use super::system::System;

/// Less room than this is told: what is derived of MiniLM-L6 takes 42 MB.
const LITTLE: u64 = 64 << 20;

/// A directory's file system.
struct Disk {
    kind: Option<String>,
    space: Option<Space>,
    mapping: Mapping,
}

impl Disk {
    fn of(system: &System, dir: &Path) -> Self {
        // The empty path is what lies above a relative one.
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        Disk { kind: system.file_system(dir), space: space(dir).ok(), mapping: try_map(dir) }
    }

    fn found(&self) -> String {
        let free = or_unknown(self.space.map(|space| size(space.free)));
        let read_only = if self.space.is_some_and(|space| space.read_only) { "read-only, " } else { "" };
        let maps = match &self.mapping {
            Mapping::Works => "maps work".to_owned(),
            Mapping::NotTried(_) => "maps not tried".to_owned(),
            Mapping::Fails(error) => format!("maps fail ({error})"),
        };
        format!("file system {}, {read_only}{free} free, {maps}", or_unknown(self.kind.as_ref()))
    }

    /// What a finding about the directory tells in facts; `more` are an object's.
    fn facts(&self, path: &Path, more: Value) -> Value {
        let maps = match self.mapping {
            Mapping::Works => Some(true),
            Mapping::NotTried(_) => None,
            Mapping::Fails(_) => Some(false),
        };
        let mut facts = json!({
            "path": path.display().to_string(), "file_system": self.kind, "maps": maps,
            "free_bytes": self.space.map(|space| space.free), "total_bytes": self.space.map(|space| space.total),
            "read_only": self.space.map(|space| space.read_only),
        });
        if let (Value::Object(all), Value::Object(more)) = (&mut facts, more) {
            all.extend(more);
        }
        facts
    }

    /// With what is wrong with it, `variable` being what names another directory.
    fn judge(&self, finding: Finding, variable: &str) -> Finding {
        let is_little = self.space.is_some_and(|space| space.free < LITTLE);
        // Where nothing can be written for another reason, room is of no use.
        let is_written = !matches!(&self.mapping, Mapping::NotTried(error) if error.kind() != ErrorKind::StorageFull);
        let fails = matches!(self.mapping, Mapping::Fails(_));
        finding
            .advise_if(is_little && is_written, Level::Warning, || {
                format!("make room, or let {variable} name another directory")
            })
            .advise_if(fails, Level::Warning, || {
                format!("files there cannot be mapped: let {variable} name a directory on another file system")
            })
    }
}

/// The directory of temporary files.
pub(super) fn temporary(system: &System, path: &Path) -> Finding {
    let disk = Disk::of(system, path);
    let finding =
        Finding::new("temporary", format!("{}: {}", path.display(), disk.found()), disk.facts(path, json!({})));
    let finding = match &disk.mapping {
        Mapping::NotTried(error) => finding
            .advise(Level::Warning, format!("nothing can be written there ({error}): set TMPDIR to another directory")),
        _ => finding,
    };
    disk.judge(finding, "TMPDIR")
}

/// The directory of derived files, as it was opened, if it is there.
#[cfg(feature = "native")]
pub(super) fn derived(
    system: &System,
    path: Option<&Path>,
    opened: &Result<Option<overmask::derived::Directory>, overmask::derived::DerivedError>,
) -> Finding {
    const CHECK: &str = "derived";
    const VARIABLE: &str = "OVERMASK_CACHE";
    let Some(path) = path else {
        let advice = format!("each start makes in memory what they would hold; {VARIABLE} names a directory for them");
        return Finding::new(CHECK, "none are kept", json!({ "path": null })).advise(Level::Note, advice);
    };
    let shown = path.display();
    match opened {
        Err(error) => {
            let facts = json!({ "path": shown.to_string(), "refused": error.to_string() });
            let advice = format!("nothing is kept until then; {VARIABLE} names another directory");
            Finding::new(CHECK, error.to_string(), facts).advise(Level::Warning, advice)
        }
        Ok(None) => {
            let above = path.ancestors().skip(1).find(|dir| dir.as_os_str().is_empty() || dir.is_dir());
            let disk = Disk::of(system, above.unwrap_or(path));
            let facts = disk.facts(path, json!({ "files": null, "bytes": null, "left": null }));
            let found = |what: &str| Finding::new(CHECK, format!("{shown} {what}; {}", disk.found()), facts);
            let finding = match &disk.mapping {
                Mapping::NotTried(error) => found("is not there").advise(
                    Level::Warning,
                    format!("it cannot be made ({error}): let {VARIABLE} name a directory that can"),
                ),
                _ => found("is not there: the first start makes it"),
            };
            disk.judge(finding, VARIABLE)
        }
        Ok(Some(directory)) => {
            let disk = Disk::of(system, path);
            let contents = directory.contents().ok();
            let held = contents.map_or_else(
                || "unknown files".to_owned(),
                |held| format!("{}, {}", count(held.files, "file"), size(held.bytes)),
            );
            let facts = disk.facts(
                path,
                json!({
                    "files": contents.map(|held| held.files), "bytes": contents.map(|held| held.bytes),
                    "left": contents.map(|held| held.left),
                }),
            );
            let mut finding = Finding::new(CHECK, format!("{shown}: {held}, {}", disk.found()), facts);
            if let Mapping::NotTried(error) = &disk.mapping {
                let advice = format!(
                    "nothing can be written there ({error}): what is there is used, and `overmask prepare` makes such \
                     files ahead"
                );
                finding = finding.advise(Level::Note, advice);
            }
            let left = contents.map_or(0, |held| held.left);
            finding = finding.advise_if(left > 0, Level::Note, || {
                format!(
                    "{} left by programs that were ended: the next file that is made removes them",
                    count(left, "draft")
                )
            });
            disk.judge(with_kind(finding, disk.kind.as_deref()), VARIABLE)
        }
    }
}

/// With what to know of kinds of file systems that are not made for such files.
#[cfg(feature = "native")]
fn with_kind(finding: Finding, kind: Option<&str>) -> Finding {
    match kind {
        Some("tmpfs" | "ramfs") => {
            finding.advise(Level::Note, "it lies in memory: after a restart the first start makes all again")
        }
        Some("nfs" | "nfs4" | "cifs" | "smb3" | "9p") => {
            finding.advise(Level::Note, "it lies on another machine: a program that maps it ends when that goes away")
        }
        _ => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    #[test]
    fn a_directory_that_can_be_written_is_good_and_none_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let mounts = format!("2 1 0:5 / {} rw - f2fs none rw\n", real.display());
        let (_tree, system) = tree(&[("proc/self/mountinfo", &mounts)]);
        let found = temporary(&system, &real);
        assert!(found.found.contains("file system f2fs, ") && found.found.ends_with("maps work"), "{found:?}");
        assert_eq!((&found.facts["maps"], &found.facts["read_only"]), (&json!(true), &json!(false)));
        let absent = temporary(&system, &real.join("absent"));
        assert_eq!((absent.level, &absent.facts["maps"]), (Level::Warning, &json!(null)));
        assert!(absent.advice[0].contains("set TMPDIR"), "{absent:?}");
    }

    #[test]
    fn little_room_and_maps_that_fail_are_warned_of() {
        let judge = |free, read_only, mapping| {
            let disk = Disk { kind: None, space: Some(Space { free, total: 1 << 40, read_only }), mapping };
            disk.judge(Finding::new("x", disk.found(), json!({})), "TMPDIR")
        };
        assert_eq!(judge(LITTLE, false, Mapping::Works).level, Level::Ok);
        assert!(judge(LITTLE - 1, false, Mapping::Works).advice[0].starts_with("make room"));
        let image = judge(0, true, Mapping::NotTried(ErrorKind::ReadOnlyFilesystem.into()));
        assert_eq!(
            (image.level, image.found.as_str()),
            (Level::Ok, "file system unknown, read-only, 0.0 kB free, maps not tried")
        );
        let full = judge(0, false, Mapping::NotTried(ErrorKind::StorageFull.into()));
        assert!(full.level == Level::Warning && full.advice[0].starts_with("make room"), "{full:?}");
        let failed = judge(LITTLE, false, Mapping::Fails(std::io::Error::other("no maps")));
        assert!(failed.level == Level::Warning && failed.advice[0].contains("cannot be mapped"), "{failed:?}");
    }

    #[cfg(all(unix, feature = "native"))]
    #[test]
    fn the_directory_of_derived_files_is_looked_at_and_not_made() {
        use std::os::unix::fs::PermissionsExt;

        use overmask::derived::Directory;

        let dir = tempfile::tempdir().unwrap();
        let (_tree, system) = tree(&[]);
        let path = dir.path().join("a/cache");
        let absent = derived(&system, Some(&path), &Ok(None));
        assert!(
            absent.level == Level::Ok && absent.found.contains("is not there: the first start makes it"),
            "{absent:?}"
        );
        assert!(!path.exists());

        let opened = Ok(Some(Directory::open(&path).unwrap()));
        std::fs::write(path.join(format!("masks32-{}", "a".repeat(32))), "1234").unwrap();
        std::fs::write(path.join(".derived-left"), "").unwrap();
        let found = derived(&system, Some(&path), &opened);
        assert!(found.found.contains(": 1 file, 0.0 kB, "), "{found:?}");
        assert_eq!((found.level, &found.facts["left"]), (Level::Note, &json!(1)));

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let open = derived(&system, Some(&path), &Directory::open(&path).map(Some));
        assert!(open.level == Level::Warning && open.found.contains("by others than its owner"), "{open:?}");
        assert_eq!(derived(&system, None, &Ok(None)).level, Level::Note);
        assert_eq!(with_kind(Finding::new("x", "", json!({})), Some("tmpfs")).level, Level::Note);
        assert_eq!(with_kind(Finding::new("x", "", json!({})), Some("ext4")).level, Level::Ok);
    }
}
