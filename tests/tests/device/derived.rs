//! Derived files of the program `overmask`: whose they must be, and what becomes of damaged and of forged ones.
#![cfg(unix)]

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use overmask_tests::{Ran, Recipe, base, base_dir, failed, json_lines, program, ran};
use tempfile::TempDir;

/// A folder with a pack and the place of a cache.
struct Folder {
    dir: TempDir,
    pack: PathBuf,
    cache: PathBuf,
}

fn folder() -> Folder {
    let dir = tempfile::tempdir().unwrap();
    let [pack, cache] = ["demo.pack", "cache"].map(|name| dir.path().join(name));
    Recipe { name: "demo", ..Default::default() }.pack(&base()).write(&pack, Some(&base())).unwrap();
    Folder { dir, pack, cache }
}

impl Folder {
    fn run_on(&self, base: &Path) -> Command {
        let mut command = program("overmask");
        command.args(["run", "--engine", "native", "--json", "What is a fjord?", "--base"]).arg(base);
        command.arg("--pack").arg(&self.pack).env("OVERMASK_CACHE", &self.cache);
        command
    }

    fn run(&self) -> Ran {
        ran(&mut self.run_on(&base_dir()))
    }

    /// An answer, and nothing else.
    #[track_caller]
    fn answer(&self) -> String {
        let got = self.run();
        assert_eq!((got.code, got.stderr.as_str()), (0, ""));
        got.stdout
    }

    /// An answer, and a warning with all of these words.
    #[track_caller]
    fn answer_with(&self, said: &[&str]) -> String {
        let got = self.run();
        failed(&got, 0, said);
        got.stdout
    }

    fn verify(&self) -> Ran {
        let mut command = program("overmask");
        command.args(["verify", "--engine", "native", "--json", "--base"]).arg(base_dir()).arg(&self.pack);
        ran(command.env("OVERMASK_CACHE", &self.cache))
    }

    /// The masks' file and the weights'.
    #[track_caller]
    fn files(&self) -> [PathBuf; 2] {
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.cache).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let names: Vec<&str> = paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert!(names.len() == 2 && names[0].starts_with("masks32-") && names[1].starts_with("panels32-"), "{names:?}");
        paths.try_into().unwrap()
    }
}

/// The bytes of a derived file with other values and the checksum that belongs to them.
pub(crate) fn forged(bytes: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (header, values) = bytes.split_at(128);
    let (mut header, mut values) = (header.to_vec(), values.to_vec());
    change(&mut values);
    let mut lanes = [FACTOR; 8];
    let mut words = values.clone();
    words.resize((values.len() / 64 + 1) * 64, 0);
    for (i, word) in words.as_chunks::<8>().0.iter().enumerate() {
        lanes[i % 8] = (lanes[i % 8] ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(32);
    }
    header[40..104].copy_from_slice(&lanes.map(u64::to_le_bytes).concat());
    [header, values].concat()
}

#[test]
fn what_is_kept_is_used_again_and_made_again_when_damaged() {
    let mut folder = folder();
    let first = folder.answer();
    let files = folder.files();
    let made = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let times = files.each_ref().map(|path| made(path));
    assert_eq!(folder.answer(), first);
    assert_eq!(files.each_ref().map(|path| made(path)), times, "they are not written again");
    for file in &files {
        let good = fs::read(file).unwrap();
        let mut bad = good.clone();
        bad[5000] ^= 16;
        fs::write(file, &bad).unwrap();
        assert_eq!(folder.answer_with(&[file.to_str().unwrap(), "is damaged"]), first);
        assert_eq!(fs::read(file).unwrap(), good);
    }
    folder.cache = PathBuf::new();
    assert_eq!(folder.answer(), first, "nothing is kept");
}

#[test]
fn a_file_that_is_forged_with_a_right_checksum_is_found_by_verify() {
    let folder = folder();
    let first = folder.answer();
    for (i, file) in folder.files().iter().enumerate() {
        let good = fs::read(file).unwrap();
        fs::write(file, forged(&good, |_| ())).unwrap();
        assert_eq!(fs::read(file).unwrap(), good, "the checksum is that of the program");
        assert_eq!(json_lines(&folder.verify())[0]["derived_files"], 2);
        // Half of the masks' bits, or of the weights.
        fs::write(file, forged(&good, |values| values.iter_mut().step_by(2).for_each(|byte| *byte = 0))).unwrap();
        assert_ne!(folder.answer(), first, "it is believed, as its directory is its user's alone: {i}");
        let found = folder.verify();
        failed(&found, 4, &[file.to_str().unwrap(), "holds other values", "was removed"]);
        assert_eq!(found.stdout, "");
        assert_eq!(folder.answer(), first);
        assert_eq!(fs::read(file).unwrap(), good);
    }
}

#[test]
fn a_directory_that_others_can_write_to_is_of_no_use_and_links_are_not_followed() {
    let folder = folder();
    let first = folder.answer();
    let [masks, weights] = folder.files();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!([&folder.cache, &masks, &weights].map(|path| mode(path)), [0o700, 0o600, 0o600]);

    let victim = folder.dir.path().join("victim");
    fs::write(&victim, b"precious").unwrap();
    fs::remove_file(&weights).unwrap();
    symlink(&victim, &weights).unwrap();
    assert_eq!(folder.answer_with(&[weights.to_str().unwrap(), "is a link"]), first);
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert!(fs::symlink_metadata(&weights).unwrap().is_file());

    fs::remove_file(&weights).unwrap();
    fs::set_permissions(&folder.cache, Permissions::from_mode(0o777)).unwrap();
    assert_eq!(folder.answer_with(&[folder.cache.to_str().unwrap(), "by others", "OVERMASK_CACHE"]), first);
    assert!(!weights.exists());
}

#[test]
fn nothing_is_made_of_a_base_that_is_not_what_its_digests_say() {
    let mut folder = folder();
    let copy = folder.dir.path().join("base");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(base_dir()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let weights = copy.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    // The lowest bits of some weight.
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    failed(&ran(&mut folder.run_on(&copy)), 4, &["model.safetensors", "sha256 is", "copy the base again"]);
    assert_eq!(fs::read_dir(&folder.cache).unwrap().count(), 0);
    // Where nothing is kept, reading every byte is left to `verify`.
    folder.cache = PathBuf::new();
    assert_eq!(ran(&mut folder.run_on(&copy)).code, 0);
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_an_error_and_not_waited_for() {
    let folder = folder();
    let pipe = folder.dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    failed(&ran(folder.run_on(&base_dir()).arg("--pack").arg(&pipe)), 3, &["is a pipe"]);
    failed(&ran(folder.run_on(&base_dir()).arg("--key").arg(&pipe)), 8, &["is a pipe"]);
    let signature = folder.dir.path().join("demo.pack.minisig");
    fs::rename(&pipe, &signature).unwrap();
    let keys = folder.dir.path().join("keys");
    fs::create_dir(&keys).unwrap();
    let key = "untrusted comment: x\nRWTMNk2zu8WY8AlhGdAUdp3STu8tUowpurBGbke6EuyX6RCtXJ+3yN+7\n";
    fs::write(keys.join("a.pub"), key).unwrap();
    failed(&ran(folder.run_on(&base_dir()).arg("--keyring").arg(&keys)), 5, &["is a pipe"]);
    failed(&ran(folder.run_on(&base_dir()).arg("--pack").arg("/dev/zero")), 3, &["is a device"]);
}

#[test]
fn the_environment_is_text_and_in_the_help() {
    let folder = folder();
    for name in ["OVERMASK_ISA", "OVERMASK_LOG"] {
        let got = ran(folder.run_on(&base_dir()).env(name, OsStr::from_bytes(b"\xff")));
        failed(&got, 2, &[name, "is not UTF-8"]);
    }
    for arguments in [["--help"].as_slice(), &["man"]] {
        for program in ["overmask", "overmask-export"].map(program).iter_mut() {
            let help = ran(program.args(arguments)).stdout;
            for name in ["CACHE", "ISA", "KEYRING", "LOG"] {
                assert!(help.contains(&format!("OVERMASK_{name}")), "{name}: {help}");
            }
        }
    }
}

#[test]
fn what_is_prepared_is_what_a_first_start_makes_and_maps() {
    let folder = folder();
    let prepared = folder.dir.path().join("image/derived");
    let prepare = |base: &Path, to: &Path| {
        let mut command = program("overmask");
        command.args(["prepare", "--json", "--base"]).arg(base).arg("--derived").arg(to);
        ran(command.arg("--pack").arg(&folder.pack).env_remove("OVERMASK_CACHE"))
    };
    let got = prepare(&base_dir(), &prepared);
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
    let rows = json_lines(&got);
    let first = folder.answer();
    let content = |dir: &Path| {
        let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        let mut files: Vec<_> = files
            .map(|file| (file.file_name(), fs::read(file.path()).unwrap(), file.metadata().unwrap().len()))
            .collect();
        files.sort();
        files
    };
    let files = content(&prepared);
    assert!(files == content(&folder.cache), "a start makes other files");
    let told: Vec<_> = rows.iter().map(|row| (row["file"].as_str().unwrap(), row["bytes"].as_u64().unwrap())).collect();
    assert_eq!(told.len(), 2);
    for (path, bytes) in told {
        assert!(files.iter().any(|(name, _, len)| prepared.join(name) == Path::new(path) && *len == bytes), "{path}");
    }
    // A device maps them, and writes nothing.
    let made =
        |dir: &Path| fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().modified().unwrap()).max();
    let before = made(&prepared);
    let got = ran(folder.run_on(&base_dir()).env("OVERMASK_CACHE", &prepared));
    assert_eq!((got.code, &got.stdout, made(&prepared)), (0, &first, before));

    // What is forged is removed and named; what cannot be written to is told.
    let masks =
        prepared.join(files.iter().find(|(name, ..)| name.to_str().unwrap().starts_with("masks")).unwrap().0.clone());
    let mut bytes = fs::read(&masks).unwrap();
    bytes[500] ^= 1;
    fs::write(&masks, &bytes).unwrap();
    failed(&prepare(&base_dir(), &prepared), 0, &["is damaged"]);
    assert!(content(&prepared) == files);
    failed(&prepare(&base_dir(), &folder.pack), 8, &["demo.pack"]);
    failed(&prepare(folder.dir.path(), &prepared), 3, &["base.json"]);
}
