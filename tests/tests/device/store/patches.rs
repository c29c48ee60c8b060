//! A new revision as a patch: from the pack that the store has, here and over a link.

use std::fs;
use std::path::{Path, PathBuf};

use overmask::mask::Granularity;
use overmask_tests::{Ran, Recipe, failed, json_lines, program, ran, ran_with};

use super::link::to;
use super::{Device, done, flash, overmask, seen, verify};

/// Two revisions of a task's pack that differ in little, and the patch between them.
struct Revisions {
    device: Device,
    old: PathBuf,
    new: PathBuf,
    patch: PathBuf,
}

impl Revisions {
    fn new() -> Revisions {
        let device = Device::new();
        let [old, new, patch] = ["a-1.pack", "a-2.pack", "a-1-2.patch"].map(|name| device.path(name));
        // The same masks, large beside all else.
        let recipe = Recipe { name: "a", granularity: Granularity::Weight, sparsity: 0.5, ..Default::default() };
        device.write(&old, &recipe, 1);
        device.write(&new, &recipe, 2);
        done(make(&device, &old, &new, &patch));
        Revisions { device, old, new, patch }
    }

    /// A store with the old revision.
    fn store(&self, name: &str) -> PathBuf {
        let store = self.device.empty(name);
        done(ran(flash(&store, [&self.old]).arg("--base").arg(self.device.base_dir())));
        assert_eq!(seen(&store), "a 1");
        store
    }
}

fn make(device: &Device, old: &Path, new: &Path, patch: &Path) -> Ran {
    let mut command = program("overmask-export");
    command.args(["patch", "-q"]).args([old, new]).arg("--base").arg(device.base_dir());
    ran(command.arg("-o").arg(patch))
}

#[test]
fn a_patch_is_flashed_as_the_pack_that_it_makes() {
    let revisions = Revisions::new();
    let Revisions { device, new, patch, .. } = &revisions;
    assert!(fs::metadata(patch).unwrap().len() < fs::metadata(new).unwrap().len());
    let store = revisions.store("store");
    done(ran(&mut flash(&store, [patch])));
    assert_eq!(seen(&store), "a 2");
    let packs: Vec<Vec<u8>> =
        fs::read_dir(store.join("packs")).unwrap().map(|e| fs::read(e.unwrap().path()).unwrap()).collect();
    assert!(packs.contains(&fs::read(new).unwrap()), "the very bytes of the new pack");
    done(ran(&mut verify(&store)));
    assert_eq!(device.litter(&store), [] as [PathBuf; 0]);

    // Beside its pack, which is enough, wherever that goes.
    let store = revisions.store("both");
    done(ran(&mut flash(&store, [new, patch])));
    assert_eq!(seen(&store), "a 2");

    // From stdin, as a message of any transport brings it.
    let store = revisions.store("stdin");
    done(ran_with(&mut flash(&store, ["-"]), &fs::read(patch).unwrap()));
    assert_eq!(seen(&store), "a 2");
}

#[test]
fn what_a_patch_cannot_start_from_is_said() {
    let revisions = Revisions::new();
    let Revisions { device, old, new, patch } = &revisions;
    let other = device.empty("other");
    failed(&ran(&mut flash(&other, [patch])), 6, &["a-1-2.patch", "--base"]);
    done(ran(flash(&other, [device.pack("b", 1)]).arg("--base").arg(device.base_dir())));
    failed(&ran(&mut flash(&other, [patch])), 3, &["a-1-2.patch", "flash the whole pack"]);
    let store = revisions.store("store");
    let good = fs::read(patch).unwrap();
    for at in [good.len() / 3, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(patch, bad).unwrap();
        failed(&ran(&mut flash(&store, [patch])), 4, &["a-1-2.patch"]);
        assert_eq!(seen(&store), "a 1");
    }
    assert_eq!(device.litter(&store), [] as [PathBuf; 0]);
    failed(&make(device, &device.path("absent.pack"), new, patch), 3, &["absent.pack"]);
    failed(&make(device, old, patch, &device.path("x.patch")), 4, &["a-1-2.patch"]);
    failed(&make(device, old, new, old), 2, &["-o"]);
    failed(&make(device, old, &device.pack("b", 1), &device.path("x.patch")), 3, &["Nothing was written"]);
    assert!(!device.path("x.patch").exists());
    let mut command = overmask("run", &store);
    command.args(["--base"]).arg(device.base_dir()).arg("--pack").arg(patch).arg("a");
    assert_eq!(ran(&mut command).code, 4);
}

/// Each store is sent what is less for it.
#[test]
fn who_has_the_old_pack_is_sent_the_patch_and_others_the_pack() {
    let revisions = Revisions::new();
    let Revisions { device, new, patch, .. } = &revisions;
    let bare = device.empty("bare");
    done(ran(flash(&bare, [device.pack("b", 1)]).arg("--base").arg(device.base_dir())));
    for (store, file, tasks) in [(revisions.store("has"), patch, "a 2"), (bare, new, "a 2, b 1")] {
        let got = done(ran(to(device, &store, None).args([new, patch])));
        let sent = json_lines(&got).last().unwrap()["sent"].as_u64().unwrap();
        assert_eq!(sent, fs::metadata(file).unwrap().len());
        assert_eq!(seen(&store), tasks);
        done(ran(&mut verify(&store)));
        assert_eq!(device.litter(&store), [] as [PathBuf; 0]);
    }
}
