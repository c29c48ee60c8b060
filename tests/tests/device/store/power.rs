//! A power cut at any moment of a flash: the program's calls are recorded and played back to a [model](super::disk) of
//! a disk, which is cut off after each of them, with all, nothing or some of what was not synced.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use overmask_tests::{Numbers, ran};

use super::disk::{Disk, Left};
use super::trace::{Call, calls, first_thread, recorded};
use super::{Device, copy, flash, overmask, seen, verify};

/// Runs a command and returns what it did.
fn log(command: &Command, device: &Device) -> String {
    let log = device.path("log");
    let got = ran(&mut recorded(command, &log, &[]));
    assert_eq!(got.code, 0, "{got:?}");
    first_thread(&log)
}

/// The same for a command that is killed at a call.
fn killed_log(command: &Command, call: &Call, device: &Device) -> String {
    let log = device.path("log");
    let got = ran(&mut recorded(command, &log, &["-e", &call.inject("signal=KILL")]));
    assert_eq!(got.code, -1, "{call:?}: {got:?}");
    first_thread(&log)
}

/// A disk on which commands run, one after the other.
struct Bench<'a> {
    device: &'a Device,
    name: &'static str,
    disk: Disk,
    states: Vec<&'a str>,
    numbers: Numbers,
    /// Of so many moments one is looked at, and so many choices of what is left.
    step: usize,
    choices: usize,
    moments: usize,
    cuts: BTreeSet<Vec<(String, Vec<u8>)>>,
}

impl<'a> Bench<'a> {
    fn new(device: &'a Device, name: &'static str, step: usize, choices: usize) -> Self {
        let (disk, numbers) = (Disk::of(&device.path("disk")), Numbers::new(step as u64));
        Bench { device, name, disk, states: Vec::new(), numbers, step, choices, moments: 0, cuts: BTreeSet::new() }
    }

    /// Plays what a command did. The store may be at one of `states` after each of its calls.
    fn play(&mut self, log: &str, states: &[&'a str]) {
        self.states = states.to_vec();
        for line in log.lines() {
            if !self.disk.replay(line) {
                continue;
            }
            self.moments += 1;
            if self.moments.is_multiple_of(self.step) {
                self.cut(line);
            }
        }
        self.disk.end();
    }

    /// The same for what another test cuts.
    fn done_before(&mut self, log: &str) {
        for line in log.lines() {
            self.disk.replay(line);
        }
        self.disk.end();
    }

    fn cut(&mut self, line: &str) {
        let mut numbers = self.numbers.clone();
        for choice in 0..2 + self.choices {
            let mut left = match choice {
                0 => Left::All,
                1 => Left::Nothing,
                _ => Left::Some(&mut numbers),
            };
            self.look(&mut left, &format!("{} {line:.60}, moment {}, choice {choice}", self.name, self.moments));
            if self.disk.at_stake() == 0 {
                break;
            }
        }
        self.numbers = numbers;
    }

    /// Checks what is left, unless that was seen before.
    fn look(&mut self, left: &mut Left<'_>, fault: &str) {
        let disk = self.device.path("cut");
        self.disk.cut(left, &disk);
        let store = disk.join("store");
        let files = super::files(&disk).into_iter().map(|path| {
            (path.to_str().unwrap().to_owned(), if path.is_file() { fs::read(&path).unwrap() } else { Vec::new() })
        });
        if !self.cuts.insert(files.collect()) {
            return;
        }
        // Until there is a policy there is no store: what can be made again is no loss.
        if self.states.contains(&"no store") && !store.join("store.json").exists() {
            let got = ran(overmask("store", &store).args(["init", "--keep", "2"]));
            assert_eq!(got.code, 0, "{fault}: {got:?}");
            self.device.goes_on(&store, fault);
            return;
        }
        self.device.check(&store, &self.states, fault);
    }

    /// What was done is done: nothing of it is lost any more.
    fn is_done(&mut self, state: &'a str) {
        self.states = vec![state];
        self.look(&mut Left::Nothing, &format!("{}, done", self.name));
        let mut numbers = self.numbers.clone();
        for _ in 0..self.choices {
            self.look(&mut Left::Some(&mut numbers), &format!("{}, done", self.name));
        }
        self.numbers = numbers;
        println!(
            "{}: cut at {} of {} moments, {} disks",
            self.name,
            self.moments / self.step,
            self.moments,
            self.cuts.len()
        );
    }
}

/// A store is made, then base and packs are flashed for the first time.
fn first(step: usize, choices: usize) {
    let device = Device::new();
    let store = device.path("disk/store");
    fs::create_dir(device.path("disk")).unwrap();
    let mut bench = Bench::new(&device, "first flash", step, choices);
    let made = log(overmask("store", &store).args(["init", "--keep", "2"]), &device);
    let flashed = log(flash(&store, device.packs(1)).arg("--base").arg(device.base_dir()), &device);
    bench.play(&made, &["no store", "nothing"]);
    bench.play(&flashed, &["nothing", "a 1, b 1"]);
    bench.is_done("a 1, b 1");
    assert!(bench.cuts.len() > 5);
}

/// A flash in place of another, that removes an old generation; then back again.
fn next(step: usize, choices: usize) {
    let device = Device::new();
    let store = device.path("disk/store");
    fs::create_dir(device.path("disk")).unwrap();
    copy(&device.full("full"), &store);
    let mut bench = Bench::new(&device, "flash, rollback, gc", step, choices);
    let flashed = log(&flash(&store, device.packs(3)), &device);
    bench.play(&flashed, &["a 2, b 2", "a 3, b 3"]);
    let back = log(overmask("store", &store).arg("rollback"), &device);
    bench.play(&back, &["a 3, b 3", "a 2, b 2"]);
    let collected = log(overmask("store", &store).arg("gc"), &device);
    bench.play(&collected, &["a 2, b 2"]);
    bench.is_done("a 2, b 2");
    assert!(bench.cuts.len() > 5);
}

/// A command is killed, so that what it did is not synced, the next one builds on it, and then the power is cut.
fn killed(every: usize, step: usize, choices: usize) {
    let device = Device::new();
    let (store, full) = (device.path("disk/store"), device.full("full"));
    fs::create_dir(device.path("disk")).unwrap();
    let (mut moments, mut cuts) = (0, 0);
    copy(&full, &store);
    let calls = calls(&flash(&store, device.packs(3)), device.dir.path());
    for call in calls.iter().skip(every - 1).step_by(every) {
        copy(&full, &store);
        let mut bench = Bench::new(&device, "killed, flashed again", step, choices);
        let first = killed_log(&flash(&store, device.packs(3)), call, &device);
        // Only what follows is cut: the other test does the rest.
        bench.done_before(&first);
        let again = log(&flash(&store, device.packs(3)), &device);
        bench.play(&again, &["a 2, b 2", "a 3, b 3"]);
        bench.is_done("a 3, b 3");
        (moments, cuts) = (moments + bench.moments / step, cuts + bench.cuts.len());
        assert_eq!(ran(&mut verify(&store)).code, 0);
    }
    println!("killed and flashed again: cut at {moments} moments, {cuts} disks");
}

/// A pointer that was moved back by a process that was killed, then what it leads away from is collected.
#[test]
fn after_a_way_back_that_was_killed() {
    let device = Device::new();
    let (store, full) = (device.path("disk/store"), device.full("full"));
    fs::create_dir(device.path("disk")).unwrap();
    copy(&full, &store);
    let calls = calls(overmask("store", &store).arg("rollback"), device.dir.path());
    let mut back_again = 0;
    for call in &calls {
        copy(&full, &store);
        let mut bench = Bench::new(&device, "rollback killed, gc", 1, 2);
        let back = killed_log(overmask("store", &store).arg("rollback"), call, &device);
        bench.done_before(&back);
        let is_back = seen(&store) == "a 1, b 1";
        let collected = log(overmask("store", &store).arg("gc"), &device);
        bench.play(&collected, &["a 2, b 2", "a 1, b 1"]);
        back_again += usize::from(is_back);
        bench.is_done(if is_back { "a 1, b 1" } else { "a 2, b 2" });
    }
    assert!(back_again > 1 && back_again < calls.len(), "{back_again}");
}

/// What the model is for: a store of which nothing was synced is lost.
#[test]
fn the_model_loses_what_was_not_synced() {
    let device = Device::new();
    let store = device.path("disk/store");
    fs::create_dir(device.path("disk")).unwrap();
    copy(&device.full("full"), &store);
    let mut disk = Disk::of(&device.path("disk"));
    let flashed = log(&flash(&store, device.packs(3)), &device);
    for line in flashed.lines().filter(|line| !line.contains("fsync")) {
        disk.replay(line);
    }
    let cut = device.path("cut");
    disk.cut(&mut Left::Nothing, &cut);
    assert_eq!(seen(&cut.join("store")), "a 2, b 2");
    disk.cut(&mut Left::All, &cut);
    assert_eq!(seen(&cut.join("store")), "a 3, b 3");
    let same = |path: &Path| super::files(path).into_iter().filter(|path| path.is_file()).count();
    assert_eq!(same(&cut.join("store")), same(&store));
    let mut numbers = Numbers::new(1);
    let mut lost = 0;
    for _ in 0..30 {
        disk.cut(&mut Left::Some(&mut numbers), &cut);
        lost += usize::from(ran(&mut verify(&cut.join("store"))).code != 0);
    }
    assert!(lost > 3, "{lost} of 30");
}

#[test]
fn at_some_moments() {
    first(4, 2);
    next(4, 2);
    killed(9, 5, 1);
}

#[test]
#[ignore = "takes minutes"]
fn at_every_moment() {
    first(1, 8);
    next(1, 8);
}

#[test]
#[ignore = "takes many minutes"]
fn at_every_moment_after_a_kill() {
    killed(1, 4, 2);
}
