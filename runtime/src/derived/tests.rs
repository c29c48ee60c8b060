#![cfg(unix)]

use std::convert::Infallible;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::again::is_inside;

const VALUES: [u32; 3] = [1, 2, u32::MAX];

/// A directory, and a file of it that is not there yet.
fn file() -> (TempDir, DerivedFile) {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(dir.path().join("a/b")).unwrap();
    let file = DerivedFile::new(&directory, "masks32", [7; 32]);
    (dir, file)
}

fn make(file: &DerivedFile) -> Derived<u32> {
    file.find_or_make(VALUES.len(), |_| Ok::<_, Infallible>(VALUES.to_vec())).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Everything in the directory of a file, by name.
fn names(file: &DerivedFile) -> Vec<String> {
    let entries = fs::read_dir(file.directory.path()).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn values_come_back_and_nothing_that_was_changed_does() {
    let (_dir, file) = file();
    assert!(file.find::<u32>(3).is_none());
    let made = make(&file);
    assert!(matches!(made, Derived::Mapped(_)));
    assert_eq!(made[..], VALUES);
    assert_eq!(made.as_ptr() as usize % 64, 0);
    assert_eq!(file.find::<u32>(3).unwrap()[..], VALUES);
    assert!(file.find::<u32>(4).is_none());
    let path = file.path();
    let bytes = fs::read(&path).unwrap();
    let put = |bytes: &[u8]| {
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    };
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 1;
        put(&other);
        assert!(file.find::<u32>(3).is_none(), "byte {at}");
    }
    for length in [0, 50, HEADER, bytes.len() - 1] {
        put(&bytes[..length]);
        assert!(file.find::<u32>(3).is_none());
    }
    put(&[&bytes[..], &[0; 4]].concat());
    assert!(file.find::<u32>(3).is_none());
    // Of another base or pack, under this one's name.
    put(&bytes);
    let other = DerivedFile { key: [8; 32], name: file.name.clone(), directory: file.directory.clone() };
    assert!(other.find::<u32>(3).is_none());
    // What is found wrong is made again.
    put(&bytes[..50]);
    make(&file);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn other_values_with_a_right_checksum_are_found_by_who_makes_them_again() {
    let (_dir, file) = file();
    let held = file.find_or_make(3, |_| Ok::<_, Infallible>(vec![0u32; 3])).unwrap();
    assert!(file.verify(&held, &[0; 3]).is_ok());
    let error = file.verify(&held, &VALUES).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CorruptFile);
    let said = error.to_string();
    assert!(said.contains(&file.name) && said.contains("was removed"), "{said}");
    assert!(names(&file).is_empty());
}

#[test]
fn what_is_made_is_for_its_user_alone() {
    let (_dir, file) = file();
    make(&file);
    assert_eq!((mode(file.directory.path()), mode(&file.path())), (0o700, 0o600));
    assert_eq!(names(&file), [&*file.name], "and nothing else is left");
}

#[test]
fn a_directory_that_others_can_write_to_or_a_link_to_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [real, link, file] = ["real", "link", "file"].map(|name| dir.path().join(name));
    fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    fs::write(&file, b"x").unwrap();
    let refused = |path: &Path, said: &str| {
        let error = Directory::open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceOrStore);
        assert!(error.to_string().contains(said), "{error}");
    };
    for mode in [0o777, 0o772, 0o702] {
        set_mode(&real, mode);
        refused(&real, "by others than its owner");
    }
    set_mode(&real, 0o755);
    assert_eq!(Directory::open(&real).unwrap().path(), real);
    refused(&link, "is a link");
    // Only root can give a directory away.
    if std::os::unix::fs::chown(&real, Some(12345), None).is_ok() {
        refused(&real, "belongs to user 12345");
        std::os::unix::fs::chown(&real, Some(0), None).unwrap();
    }
    refused(&dir.path().join("link/"), "is a link");
    refused(&file, "cannot use");
    refused(&file.join("below"), "cannot use");
}

#[test]
fn neither_links_nor_pipes_nor_what_others_can_write_is_followed_or_believed() {
    let (dir, file) = file();
    make(&file);
    let path = file.path();
    let victim = dir.path().join("victim");
    fs::rename(&path, &victim).unwrap();
    let good = fs::read(&victim).unwrap();
    symlink(&victim, &path).unwrap();
    assert!(file.find::<u32>(3).is_none());
    fs::write(&victim, b"precious").unwrap();
    assert_eq!(make(&file)[..], VALUES);
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(fs::read(&path).unwrap(), good);

    set_mode(&path, 0o666);
    assert!(file.find::<u32>(3).is_none());
    make(&file);
    assert_eq!(mode(&path), 0o600);

    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(file.find::<u32>(3).is_none());
    assert!(matches!(make(&file), Derived::Mapped(_)));

    // A directory cannot be replaced by a file.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(make(&file), Derived::Memory(_)));
    assert_eq!(names(&file), [&*file.name]);
}

#[test]
fn what_is_made_is_said_to_be_kept_where_it_is_and_nothing_is_left_of_what_fails() {
    let (_dir, file) = file();
    let failed = file.find_or_make::<u32, bool>(3, Err);
    assert!(failed.unwrap_err());
    assert!(names(&file).is_empty());
}

#[test]
fn drafts_of_the_dead_and_files_that_nobody_uses_make_room() {
    let (_dir, file) = file();
    let at = |name: &str| file.directory.path().join(name);
    let old = format!("panels32-{}", "0".repeat(32));
    let [dead, ours, foreign] = [".derived-dead", &old, ".overmask-another"].map(at);
    let set_age = |path: &Path, days: u64| {
        let then = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
        let times = FileTimes::new().set_modified(then).set_accessed(then);
        File::options().write(true).open(path).unwrap().set_times(times).unwrap();
    };
    for (path, days) in [(&dead, 0), (&ours, 29), (&foreign, 400)] {
        fs::write(path, b"x").unwrap();
        set_age(path, days);
    }
    let alive = file.begin().unwrap();
    assert_eq!(file.directory.contents().unwrap(), Contents { files: 1, bytes: 1, left: 1 });
    make(&file);
    assert_eq!(file.directory.contents().unwrap().left, 0, "one is being written");
    let mut left = vec![".overmask-another", file.name.as_str(), old.as_str()];
    left.sort_unstable();
    assert_eq!(names(&file).iter().filter(|name| !name.starts_with(".derived-")).collect::<Vec<_>>(), left);
    assert_eq!(names(&file).len(), 4, "and one that is being written");
    drop(alive);

    // One that is used is marked, another goes when something is made.
    set_age(&file.path(), 31);
    set_age(&ours, 31);
    assert!(file.find::<u32>(3).is_some());
    let other = DerivedFile::new(&file.directory, "panels32", [9; 32]);
    make(&other);
    let mut left = vec![".overmask-another", file.name.as_str(), other.name.as_str()];
    left.sort_unstable();
    assert_eq!(names(&file), left);
}

#[test]
fn only_the_names_of_derived_files_are_theirs() {
    let digits = "0123456789abcdef".repeat(2);
    for kind in ["panels32", "masks32", "panels16"] {
        assert!(is_derived(&format!("{kind}-{digits}")));
    }
    for other in ["panels32".to_owned(), format!("photos-{digits}"), format!("masks32-{digits}0"), digits.clone()] {
        assert!(!is_derived(&other), "{other}");
    }
}

/// Run twice: as it is, and by itself in a process that may write no file of more than 32 kilobytes.
#[test]
fn a_file_that_is_too_large_for_the_process_stays_in_memory() {
    if is_inside("ulimit -f 32") {
        let (_dir, file) = file();
        let large = file.find_or_make(10_000, |_| Ok::<_, Infallible>(vec![1u32; 10_000])).unwrap();
        assert!(matches!(large, Derived::Memory(_)));
        assert!(names(&file).is_empty());
    }
}
