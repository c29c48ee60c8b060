//! What Linux says of itself in files. Everything is read below a root, so that tests can hand in a tree of their own;
//! what cannot be read is `None`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use overmask::fs::read_at_most;

/// The most that is read of a file; the largest, dpkg's list of packages, has a few MB.
const MAX_BYTES: u64 = 64 << 20;

/// A system, by the directory that holds its files.
pub(super) struct System {
    root: PathBuf,
}

impl System {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        System { root: root.into() }
    }

    /// The bytes of a file; its path begins below the root, without a slash.
    pub(super) fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        // Files of /proc and /sys say that they have no or 4096 bytes, whatever comes when they are read.
        read_at_most(&self.root.join(path), MAX_BYTES).ok()?
    }

    /// The text of a file, without blanks and zeros around it; none where nothing is left.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let bytes = self.bytes(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A file that holds a number.
    pub(super) fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// The names in a directory, in order; none where it cannot be read.
    pub(super) fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join(dir)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// The names in a directory that are a word and a number, as `policy10`, in the order of the numbers.
    pub(super) fn numbered(&self, dir: &str, word: &str) -> Vec<String> {
        let number = |name: &str| name.strip_prefix(word)?.parse::<u32>().ok();
        let mut names = self.names(dir);
        names.retain(|name| number(name).is_some());
        names.sort_by_key(|name| number(name));
        names
    }

    /// A value of a file of lines like `NAME="value"` or `name : value`.
    pub(super) fn value(&self, path: &str, name: &str, separator: char) -> Option<String> {
        let text = self.text(path)?;
        let mut pairs = text.lines().filter_map(|line| line.split_once(separator));
        let (_, value) = pairs.find(|(found, _)| found.trim() == name)?;
        let value = value.trim().trim_matches('"');
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// The version of an installed package of Debian, Ubuntu or alike.
    pub(super) fn package(&self, name: &str) -> Option<String> {
        let text = self.text("var/lib/dpkg/status")?;
        let mut packages = text.split("\n\n").map(|package| {
            let field = |name| package.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            (field("Package:"), field("Status:"), field("Version:"))
        });
        let (_, _, version) = packages
            .find(|(found, status, _)| *found == Some(name) && status.is_some_and(|s| s.ends_with(" installed")))?;
        version.map(str::to_owned)
    }

    /// The kind of file system that a path lies on, by the mount points.
    pub(super) fn file_system(&self, path: &Path) -> Option<String> {
        let path = path.canonicalize().ok()?;
        let mounts = self.text("proc/self/mountinfo")?;
        // The longest is nearest; of two at one place the later one lies above.
        let at = |line: &str| {
            let (place, kind) = line.split_once(" - ")?;
            let point = unescaped(place.split(' ').nth(4)?);
            Some((point, kind.split(' ').next()?.to_owned()))
        };
        let above = mounts.lines().filter_map(at).filter(|(point, _)| path.starts_with(point));
        above.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind)
    }
}

/// A path of mountinfo, in which `\040` is a space.
fn unescaped(path: &str) -> String {
    let mut parts = path.split('\\');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut all, part| {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => all.extend([char::from(code).to_string().as_str(), &part[3..]]),
            None => all.extend(["\\", part]),
        }
        all
    })
}

/// How many numbers a list like `0-3,8` holds; none where it is no such list.
pub(super) fn listed(list: &str) -> Option<usize> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (last + 1).checked_sub(first)
    };
    list.split(',').map(range).sum()
}

/// Numbers in order as a list like `0-3,8`.
pub(super) fn ranges(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let one = |run: &[u32]| match run {
        [first, .., last] => format!("{first}-{last}"),
        run => run.iter().map(u32::to_string).collect(),
    };
    runs.map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    #[test]
    fn what_linux_itself_has_is_read() {
        // Files that say they are empty.
        if cfg!(target_os = "linux") {
            let system = System::new("/");
            assert!(system.value("proc/meminfo", "MemTotal", ':').is_some_and(|total| total.ends_with(" kB")));
            assert!(system.bytes("proc/self/auxv").is_some_and(|bytes| bytes.len() >= 16));
            assert!(system.text("sys/devices/system/cpu/online").and_then(|list| listed(&list)).is_some_and(|n| n > 0));
            assert!(system.file_system(Path::new("/proc")).is_some_and(|kind| kind == "proc"));
        }
    }

    #[test]
    fn what_is_not_there_is_nothing() {
        let (_dir, system) = tree(&[("empty", "\n"), ("zeros", "Model\0"), ("word", "abc"), ("pipe/file", "1")]);
        assert_eq!(system.text("absent").or(system.text("empty")).or(system.text("pipe")), None);
        assert_eq!(system.text("zeros").unwrap(), "Model");
        assert_eq!((system.number::<u32>("word"), system.number("pipe/file")), (None, Some(1)));
        assert!(system.names("absent").is_empty());
    }

    #[test]
    fn names_with_numbers_are_in_their_order() {
        let (_dir, system) = tree(&[("d/policy10", ""), ("d/policy2", ""), ("d/boost", ""), ("d/policyx", "")]);
        assert_eq!(system.numbered("d", "policy"), ["policy2", "policy10"]);
    }

    #[test]
    fn only_installed_packages_have_a_version() {
        let status = "Package: a\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                      Package: ab\nStatus: install ok installed\nVersion: 2\nDescription: x\n Version: 3\n";
        let (_dir, system) = tree(&[("var/lib/dpkg/status", status)]);
        assert_eq!((system.package("a"), system.package("ab").as_deref()), (None, Some("2")));
        assert_eq!(system.package("b"), None);
    }

    #[test]
    fn the_nearest_mount_point_tells_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let spaced = dir.join("a b");
        std::fs::create_dir(&spaced).unwrap();
        let mounts = format!(
            "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n2 1 0:5 / {} rw - tmpfs none rw\n\
             3 1 0:6 / {} rw - vfat /dev/b rw\n4 1 0:6 / {} rw - f2fs /dev/b rw\n",
            dir.display(),
            spaced.display().to_string().replace(' ', "\\040"),
            spaced.display().to_string().replace(' ', "\\040"),
        );
        let (_tree, system) = tree(&[("proc/self/mountinfo", &mounts)]);
        let kind = |path: &Path| system.file_system(path).unwrap();
        assert_eq!([kind(&spaced), kind(&dir), kind(Path::new("/"))], ["f2fs", "tmpfs", "ext4"]);
        assert_eq!(system.file_system(&dir.join("absent")), None);
    }

    #[test]
    fn lists_of_processors_are_counted_and_written() {
        for (list, n) in [("0", 1), ("0-3", 4), ("0-1,4,6-7", 5)] {
            assert_eq!(listed(list), Some(n));
        }
        for wrong in ["", "a", "3-1", "0,", "-"] {
            assert_eq!(listed(wrong), None, "{wrong}");
        }
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(ranges(&[]), "");
    }
}
