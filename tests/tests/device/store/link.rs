//! A flash to another machine over a link that is cut: it goes on where it was, and sends the rest only.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use overmask::store::Store;
use overmask_tests::{Numbers, Ran, failed, json_lines, program, ran};

use super::{Device, done, overmask, seen};

/// What takes the place of `ssh`: it runs the command line in a shell on this machine, and hangs up after the first
/// bytes of what it is sent. (`head` would keep bytes back.)
fn ssh(device: &Device, cut: Option<u64>) -> PathBuf {
    let path = device.path("ssh");
    let head = cut.map(|bytes| format!("dd bs=1 count={bytes} status=none |")).unwrap_or_default();
    let script = format!("#!/bin/sh\nfor line; do :; done\n{head} exec sh -c \"$line\"\n");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn send(device: &Device, store: &Path, revision: u64, cut: Option<u64>) -> Command {
    let mut command = to(device, store, cut);
    command.arg("--base").arg(device.base_dir()).args(device.packs(revision));
    command
}

/// A flash of a store as that of another machine, still without what is flashed.
pub(super) fn to(device: &Device, store: &Path, cut: Option<u64>) -> Command {
    let mut command = program("overmask");
    command.args(["flash", "--json", "--to", "user@board", "--ssh"]).arg(ssh(device, cut));
    command.arg("--program").arg(program("overmask").get_program());
    command.arg("--store").arg(store);
    // The program there has no store by itself.
    command.env("OVERMASK_STORE", "/no/such/store").env("OVERMASK_CACHE", "");
    command
}

fn sent(got: Ran) -> u64 {
    let rows = json_lines(&done(got));
    let last = rows.last().unwrap();
    assert_eq!((last["to"].as_str(), last["is_new"].as_bool()), (Some("user@board"), Some(true)));
    let steps: Vec<&str> = rows.iter().filter_map(|row| row["step"].as_str()).collect();
    assert!(steps.contains(&"receive") && steps.contains(&"golden"), "{steps:?}");
    last["sent"].as_u64().unwrap()
}

/// Cuts a link so often, somewhere in what is sent.
fn cut(count: usize) {
    let device = Device::new();
    let store = device.empty("store");
    let all = sent(ran(&mut send(&device, &store, 1, None)));
    assert_eq!(seen(&store), "a 1, b 1");
    let mut numbers = Numbers::new(count as u64);
    let (mut within, mut saved) = (0, 0);
    for i in 0..count {
        fs::remove_dir_all(&store).unwrap();
        device.empty("store");
        // Offer and manifest are sent before the files.
        let at = (numbers.uniform() * (all as f32 + 8000.0)) as u64;
        let got = ran(&mut send(&device, &store, 1, Some(at)));
        let opened = Store::open(&store).unwrap();
        if got.code == 0 {
            assert!(at >= all, "{at}: {got:?}");
            continue;
        }
        // The store, too, may have said that nothing more came.
        let code = if got.stderr.contains("user@board: the sender: it ") { 3 } else { 8 };
        failed(&got, code, &["user@board"]);
        assert_eq!(opened.current().unwrap().number, 0, "cut {i} at {at}");
        let arriving: u64 = opened.arriving().unwrap().into_iter().map(|(_, bytes)| bytes).sum();
        let is_settled = store.join("base").exists();
        let base: u64 = device.base.manifest().digests.keys().map(|name| bytes(&device.base_dir().join(name))).sum();
        let there = arriving + if is_settled { base } else { 0 };
        let rest = sent(ran(&mut send(&device, &store, 1, None)));
        assert_eq!(rest, all - there, "cut {i} at {at}");
        assert_eq!(opened.arriving().unwrap(), []);
        device.check(&store, &["a 1, b 1"], &format!("cut {i} at {at}"));
        (within, saved) = (within + usize::from(there > 0), saved + there);
    }
    println!("{count} cuts, {within} within files; {saved} bytes were not sent again of {} in all", all * count as u64);
    assert!(within > count / 3);
}

fn bytes(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn at_some_offsets() {
    cut(16);
}

#[test]
#[ignore = "takes a minute"]
fn at_a_hundred_offsets() {
    cut(100);
}

#[test]
fn the_other_side_says_what_is_wrong() {
    let device = Device::new();
    let store = device.full("store");
    let got = ran(send(&device, &store, 3, None).arg("--allow-downgrade"));
    assert_eq!(sent(got), device.packs(3).iter().map(|path| bytes(path)).sum::<u64>(), "the base is there");
    failed(&ran(&mut send(&device, &store, 1, None)), 3, &["user@board: ", "is older"]);
    assert_eq!(device.litter(&store), [] as [PathBuf; 0]);
    failed(&ran(&mut send(&device, &device.path("none"), 1, None)), 8, &["user@board", "no store.json"]);
    let lock = fs::File::options().write(true).open(store.join("lock")).unwrap();
    lock.lock().unwrap();
    let mut waits = send(&device, &store, 4, None).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(waits.try_wait().unwrap().is_none());
    drop(lock);
    assert!(waits.wait().unwrap().success());
    assert_eq!(ran(overmask("store", &store).arg("verify")).code, 0);
    device.check(&store, &["a 4, b 4"], "waited");
}
