//! Flashes that are refused: the old generation is untouched, and nothing is left of the new one.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use overmask::pack::{Codec, Pack, PackFile};
use overmask_tests::{failed, ran};

use super::{Device, files, flash, seen};

/// The command fails with this code and words, and all files stay as they were.
#[track_caller]
fn refused(store: &Path, command: &mut Command, code: i32, said: &[&str]) {
    let content = || files(store).into_iter().map(|path| (fs::read(&path).ok(), path)).collect::<Vec<_>>();
    let before = content();
    failed(&ran(command), code, said);
    let after = content();
    let names = |content: &[(Option<Vec<u8>>, std::path::PathBuf)]| {
        content.iter().map(|(_, path)| path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&before), names(&after));
    assert!(before == after, "a file was changed");
    assert_eq!(seen(store), "a 2, b 2");
}

fn change(from: &Path, to: &Path, device: &Device, edit: impl FnOnce(&mut Pack)) {
    let mut pack = PackFile::open(from).unwrap().decode(Some(&device.base)).unwrap();
    pack.document.codec = Codec::Plain;
    edit(&mut pack);
    pack.write(to, None).unwrap();
}

#[test]
fn what_is_wrong_with_a_pack_or_base() {
    let device = Device::new();
    let store = device.full("store");
    let [a, b] = device.packs(3);
    let wrong = device.path("wrong.pack");
    change(&a, &wrong, &device, |pack| pack.golden[1].logits[0] += 0.1);
    refused(&store, &mut flash(&store, [&b, &wrong]), 4, &["wrong.pack", "golden vectors", "native"]);
    let mut bytes = fs::read(&a).unwrap();
    bytes[200] ^= 1;
    fs::write(&wrong, &bytes).unwrap();
    refused(&store, &mut flash(&store, [&b, &wrong]), 4, &["wrong.pack", "damaged"]);
    refused(&store, &mut flash(&store, [&a, &device.pack("a", 4)]), 3, &["both of the task `a`"]);
    refused(&store, &mut flash(&store, [device.pack("a", 1)]), 3, &["is older", "--allow-downgrade"]);
    refused(&store, &mut flash(&store, [device.path("none.pack")]), 3, &["none.pack"]);
    change(&a, &wrong, &device, |pack| pack.document.base_id = "ab".repeat(32));
    refused(&store, &mut flash(&store, [&wrong]), 6, &["needs the base abab", "--base"]);
    change(&a, &wrong, &device, |pack| pack.document.name = "new".to_owned());
    fs::write(wrong.with_extension("pack.minisig"), [0xff; 9]).unwrap();
    refused(&store, &mut flash(&store, [&wrong]), 5, &["wrong.pack.minisig"]);

    let base = device.path("changed");
    for name in ["model.safetensors", "model.onnx", "tokenizer.json", "base.json"] {
        // As another base of which this store has nothing.
        let empty = device.path("empty");
        let _ = fs::remove_dir_all(&empty);
        device.empty("empty");
        super::copy(&device.base_dir(), &base);
        let mut bytes = fs::read(base.join(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(base.join(name), bytes).unwrap();
        failed(
            &ran(flash(&empty, [&a]).arg("--base").arg(&base)),
            4,
            &[if name == "base.json" { "changed" } else { name }],
        );
        assert_eq!(seen(&empty), "nothing");
        assert_eq!(device.litter(&empty), [] as [std::path::PathBuf; 0]);
    }
    device.check(&store, &["a 2, b 2"], "after all");
}

#[test]
fn what_is_no_pack_no_base_no_store_no_task_and_no_generation() {
    let device = Device::new();
    let store = device.full("store");
    let ([a, _], none, cut) = (device.packs(3), device.path("none"), device.path("cut.pack"));
    let bytes = fs::read(&a).unwrap();
    refused(&store, &mut flash(&store, [&device.base_dir()]), 3, &["base: is a directory; name a file"]);
    refused(&store, &mut flash(&store, [&device.base_dir().join("base.json")]), 4, &["no pack but JSON"]);
    // Within the length of the header, the header, the tensors, and the checksum.
    for length in [0, 5, 300, bytes.len() - 100, bytes.len() - 1] {
        fs::write(&cut, &bytes[..length]).unwrap();
        refused(&store, &mut flash(&store, [&cut]), 4, &["cut.pack: "]);
    }
    refused(&store, &mut flash(&store, ["-"]), 4, &["stdin: is no pack but an empty file"]);
    refused(&store, &mut flash::<&str>(&store, []), 2, &["<PACK>"]);
    for base in [&none, &a] {
        refused(&store, flash(&store, [&a]).arg("--base").arg(base), 3, &["base.json"]);
    }

    for (path, said) in [(&none, "none is no store: it has no store.json"), (&a, "a-3.pack is no directory")] {
        failed(&ran(&mut flash(path, [&a])), 8, &[said]);
        failed(&ran(super::run(path).arg("--store").arg(path)), 8, &[said]);
        failed(&ran(super::overmask("serve", path).arg("--stdio")), 8, &[said]);
        for command in [&["list"][..], &["status"], &["verify"], &["gc"], &["policy"], &["rollback"], &["remove", "a"]]
        {
            failed(&ran(super::overmask("store", path).args(command)), 8, &[said]);
        }
    }
    failed(&ran(super::overmask("store", &a).arg("init")), 8, &["a-3.pack is no directory"]);

    refused(&store, super::run(&store).args(["--task", "c"]), 3, &["no active task `c`; there are: a, b"]);
    refused(&store, super::overmask("store", &store).args(["remove", "c"]), 3, &["no task or base `c`; it has a, b"]);
    for command in [&["rollback", "--to", "7"][..], &["pin", "7"]] {
        refused(&store, super::overmask("store", &store).args(command), 3, &["no generation 7; it has 1, 2"]);
    }
    refused(&store, super::overmask("store", &store).args(["rollback", "--to", "x"]), 2, &["'x'", "--to"]);
    let empty = device.empty("empty");
    failed(&ran(super::run(&empty).args(["--task", "c"])), 3, &["has no tasks; `overmask flash` brings some"]);
    failed(&ran(super::overmask("store", &empty).arg("rollback")), 3, &["no whole generation before", "it has none"]);
    device.check(&store, &["a 2, b 2"], "after all");
}

#[test]
fn a_store_that_somebody_else_changes() {
    let device = Device::new();
    let store = device.full("store");
    let lock = File::options().write(true).open(store.join("lock")).unwrap();
    lock.lock().unwrap();
    refused(&store, flash(&store, device.packs(3)).arg("--no-wait"), 8, &["by another process"]);
    for command in [&["rollback"][..], &["gc"], &["pin", "1"], &["remove", "a"], &["policy", "--keep", "5"]] {
        refused(&store, super::overmask("store", &store).args(command).arg("--no-wait"), 8, &["by another process"]);
    }
    // Who reads does not ask.
    assert_eq!(ran(&mut super::verify(&store)).code, 0);
    let mut waits = flash(&store, device.packs(3)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(waits.try_wait().unwrap().is_none(), "it waits");
    assert_eq!(seen(&store), "a 2, b 2");
    drop(lock);
    let got: overmask_tests::Ran = waits.wait_with_output().unwrap().into();
    failed(&got, 0, &["waiting for it"]);
    device.check(&store, &["a 3, b 3"], "waited");
}
