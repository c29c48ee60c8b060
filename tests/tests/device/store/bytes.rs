//! One byte of a store is changed: `store verify` finds it, names the file and says what to do.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use overmask::store::Store;
use overmask_tests::{failed, json_lines, ran};

use super::{Device, copy, flash, overmask, run, seen, verify};

/// Whether what is wrong with a file is told with its name and what to do, and whether that is harmful.
fn found(store: &Path, file: &Path) -> Option<bool> {
    let seen = Store::open(store).unwrap().verify(None).unwrap();
    let finding = seen.findings.iter().find(|finding| finding.file == file)?;
    assert!(!finding.cure.is_empty() && !finding.reason.is_empty());
    Some(finding.is_harmful)
}

/// Changes one byte of so many, in every file.
fn changed(step: usize) {
    let device = Device::new();
    let (full, store) = (device.full("full"), device.path("store"));
    copy(&full, &store);
    assert_eq!(ran(&mut verify(&store)).code, 0);
    let (mut count, mut kinds) = (0, 0);
    let files: Vec<_> = super::files(&store).into_iter().filter(|path| path.is_file()).collect();
    for file in &files {
        let bytes = fs::read(file).unwrap();
        let open = || File::options().write(true).open(file).unwrap();
        let mut opened = open();
        kinds += 1;
        // Each file's first byte and last, too.
        let last = bytes.len().saturating_sub(1);
        for at in (0..bytes.len()).filter(|at| at % step == 0 || *at == last) {
            let change = |byte: u8| opened.write_all_at(&[byte], at as u64).unwrap();
            change(bytes[at] ^ (1 << (at % 8)));
            assert_eq!(found(&store, file), Some(true), "{} at {at}", file.display());
            count += 1;
            // A derived file that is damaged is removed.
            if file.exists() {
                change(bytes[at]);
            } else {
                fs::write(file, &bytes).unwrap();
                fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
                opened = open();
            }
        }
    }
    println!("{count} bytes in {kinds} files");
    assert_eq!(ran(&mut verify(&store)).code, 0);
    // Two generations of two packs, with their derived files.
    assert_eq!(kinds, 3 + 2 + 4 + 4 + 1 + 4, "{files:?}");
}

#[test]
fn one_of_some_bytes() {
    changed(211);
}

#[test]
#[ignore = "takes minutes"]
fn any_one_byte() {
    changed(1);
}

#[test]
fn the_program_tells_which_file_and_what_to_do() {
    let device = Device::new();
    let (full, store) = (device.full("full"), device.path("store"));
    let active = Store::open(&full).unwrap().current().unwrap().tasks[0].sha256.clone();
    let cures = [
        ("store.json", "overmask store policy", 0),
        ("current", "overmask store rollback", 4),
        ("generations/2", "overmask store rollback", 4),
        ("generations/1", "overmask store gc", 0),
        ("model.safetensors", "overmask flash --base", 0),
        ("model.onnx", "overmask flash --base", 0),
        ("tokenizer.json", "overmask flash --base", 4),
        ("base.json", "overmask flash --base", 4),
        (active.as_str(), "flash the pack again", 4),
        ("panels32-", "it was removed", 0),
        ("masks32-", "it was removed", 0),
    ];
    for (name, cure, code) in cures {
        copy(&full, &store);
        let files: Vec<_> = super::files(&store).into_iter().filter(|path| path.is_file()).collect();
        let file = files.iter().find(|path| path.to_str().unwrap().contains(name)).unwrap();
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(file, bytes).unwrap();
        // What runs finds what it reads whole; derived files are made again.
        let got = ran(&mut run(&store));
        if !name.contains("32-") {
            assert_eq!(got.code, code, "{name}: {got:?}");
        }
        copy(&full, &store);
        let mut bytes = fs::read(file).unwrap();
        bytes[middle] ^= 4;
        fs::write(file, bytes).unwrap();
        let got = ran(verify(&store).arg("--json"));
        failed(&got, 4, &["1 of ", "damaged"]);
        let rows = json_lines(&got);
        assert_eq!(rows.len(), 2, "{name}: {rows:?}");
        assert_eq!(rows[0]["file"], file.to_str().unwrap());
        assert!(rows[0]["cure"].as_str().unwrap().contains(cure), "{name}: {rows:?}");
        assert_eq!((&rows[1]["ok"], &rows[1]["findings"]), (&false.into(), &1.into()));
    }
}

#[test]
fn what_verify_says_is_what_helps() {
    let device = Device::new();
    let (full, store) = (device.full("full"), device.path("store"));
    let damage = |name: &str| {
        copy(&full, &store);
        let file =
            super::files(&store).into_iter().find(|p| p.is_file() && p.to_str().unwrap().contains(name)).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_eq!(ran(&mut verify(&store)).code, 4);
    };
    let rollback = || ran(overmask("store", &store).arg("rollback"));
    for (name, then) in [("current", "a 2, b 2"), ("generations/2", "a 1, b 1")] {
        damage(name);
        failed(&ran(&mut flash(&store, device.packs(3))), 4, &[name, "store rollback"]);
        assert_eq!(rollback().code, 0);
        // One that is damaged stays until then.
        assert_eq!(ran(overmask("store", &store).arg("gc")).code, 0);
        device.check(&store, &[then], name);
    }
    damage("generations/1");
    assert_eq!(seen(&store), "a 2, b 2");
    failed(&rollback(), 3, &["no whole generation"]);
    assert_eq!(ran(overmask("store", &store).arg("gc")).code, 0);
    device.check(&store, &["a 2, b 2"], "generations/1");
    damage("store.json");
    failed(&ran(&mut flash(&store, device.packs(3))), 4, &["store.json", "store policy"]);
    let got = ran(overmask("store", &store).args(["policy", "--keep", "2"]));
    failed(&got, 0, &["written anew"]);
    device.check(&store, &["a 2, b 2"], "store.json");
    for name in ["model.safetensors", "model.onnx", "base.json", "tokenizer.json"] {
        damage(name);
        let got = ran(flash(&store, device.packs(3)).arg("--base").arg(device.base_dir()));
        failed(&got, 0, &["the base is taken in anew"]);
        device.check(&store, &["a 3, b 3"], name);
    }
    damage(".pack");
    let again = [device.packs(1), device.packs(2)].concat();
    // Of which generation it is shows by its name only.
    for packs in again.chunks(2) {
        assert_eq!(ran(flash(&store, packs).arg("--allow-downgrade")).code, 0);
    }
    device.check(&store, &["a 2, b 2"], ".pack");
}

#[test]
fn a_damaged_pack_costs_its_own_task_alone() {
    let device = Device::new();
    let store = device.full("store");
    let opened = Store::open(&store).unwrap();
    let path = opened.path_of(opened.current().unwrap().task("a").unwrap());
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let got = ran(&mut run(&store));
    failed(&got, 4, &["the task `a` is left out", path.to_str().unwrap(), "flash the pack again", "1 of 2 tasks"]);
    let rows = json_lines(&got);
    assert_eq!((rows.len(), rows[0]["task"].as_str()), (1, Some("b")));
    failed(&ran(run(&store).args(["--task", "a"])), 4, &[path.to_str().unwrap(), "is damaged"]);
    assert_eq!(ran(run(&store).args(["--task", "b"])).code, 0);
    fs::remove_file(&path).unwrap();
    failed(&ran(run(&store).args(["--task", "a"])), 4, &[path.to_str().unwrap(), "is missing"]);
    assert_eq!(ran(flash(&store, [device.pack("a", 2)]).arg("--json")).code, 0);
    device.check(&store, &["a 2, b 2"], "flashed again");
}
