//! A flash that is killed: at random instants, and at each call that writes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use overmask_tests::{Numbers, ran};

use super::trace::{at_call, calls};
use super::{Device, copy, flash, overmask, seen};

/// A command on a store that stands in some way, and what the tasks answer with before and after it.
struct Change {
    name: &'static str,
    /// Makes the command on a copy of a store.
    command: Box<dyn Fn(&Path) -> Command>,
    template: PathBuf,
    states: Vec<String>,
}

fn changes(device: &Device) -> Vec<Change> {
    let (empty, full) = (device.empty("empty"), device.full("full"));
    let first = [device.packs(1).to_vec(), vec!["--base".into(), device.base_dir()]].concat();
    let next = device.packs(3);
    let store = |arguments: &'static [&'static str]| -> Box<dyn Fn(&Path) -> Command> {
        Box::new(move |path| {
            let mut command = overmask("store", path);
            command.args(arguments);
            command
        })
    };
    // Something to collect: a generation that was gone back from, and what a broken flash has left.
    let littered = device.path("littered");
    copy(&full, &littered);
    ran(overmask("store", &littered).arg("rollback"));
    std::fs::create_dir_all(littered.join("incoming/base-x")).unwrap();
    std::fs::write(littered.join(format!("packs/{}.pack", "0".repeat(64))), "x").unwrap();
    let change = |name, command, template: &Path, after: &str| {
        let states = vec![seen(template), after.to_owned()];
        Change { name, command, template: template.to_owned(), states }
    };
    vec![
        change("first flash", Box::new(move |path| flash(path, &first)), &empty, "a 1, b 1"),
        change("flash", Box::new(move |path| flash(path, &next)), &full, "a 3, b 3"),
        change("rollback", store(&["rollback"]), &full, "a 1, b 1"),
        change("remove", store(&["remove", "b"]), &full, "a 2"),
        change("gc", store(&["gc"]), &littered, "a 1, b 1"),
        change("policy", store(&["policy", "--keep", "3"]), &full, "a 2, b 2"),
    ]
}

impl Change {
    fn check(&self, device: &Device, store: &Path, fault: &str) {
        let states: Vec<&str> = self.states.iter().map(String::as_str).collect();
        device.check(store, &states, &format!("{}, {fault}", self.name));
    }
}

/// Kills flashes so often, each after a time from none to a little more than they take.
fn at_random(count: usize) {
    let device = Device::new();
    let store = device.path("store");
    let mut numbers = Numbers::new(count as u64);
    for change in changes(&device).into_iter().take(2) {
        let time = || {
            copy(&change.template, &store);
            let begin = Instant::now();
            assert_eq!(ran(&mut (change.command)(&store)).code, 0);
            begin.elapsed()
        };
        let (mut whole, mut killed, mut late) = (Duration::ZERO, 0, 0);
        while killed < count {
            // It changes with what else the machine does.
            if (killed + late) % 20 == 0 {
                let mut times = [time(), time(), time()];
                times.sort();
                whole = times[1];
            }
            copy(&change.template, &store);
            let mut child = (change.command)(&store);
            let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_secs_f32(whole.as_secs_f32() * 1.1 * numbers.uniform()));
            let _ = child.kill();
            let is_late = child.wait().unwrap().success();
            (killed, late) = (killed + usize::from(!is_late), late + usize::from(is_late));
            change.check(&device, &store, &format!("kill {killed} of {count}"));
            assert!(late < 100 + 10 * count, "no kill comes in time");
        }
        println!("{}: {killed} kills, at last within {whole:?}; {late} more came too late", change.name);
    }
}

#[test]
fn at_some_instants() {
    at_random(40);
}

#[test]
#[ignore = "takes minutes"]
fn at_a_thousand_instants() {
    at_random(1000);
}

/// Lets something happen at the calls of each change, one of `step` of them.
fn at_calls(what: &str, step: usize, check: impl Fn(&Device, &Change, &Path, overmask_tests::Ran, &str)) {
    let device = Device::new();
    let store = device.path("store");
    let mut failed = 0;
    for (i, change) in changes(&device).into_iter().enumerate() {
        copy(&change.template, &store);
        let calls = calls(&(change.command)(&store), device.dir.path());
        let mut count = 0;
        for call in calls.iter().skip(i % step.min(calls.len())).step_by(step) {
            copy(&change.template, &store);
            let got = ran(&mut at_call(&(change.command)(&store), call, what));
            failed += usize::from(got.code != 0);
            count += 1;
            check(&device, &change, &store, got, &format!("{what} at {call:?}"));
        }
        println!("{}: {what} at {count} of {} calls", change.name, calls.len());
    }
    println!("{what}: {failed} commands failed");
    assert!(failed > 5, "nothing happened");
}

fn killed(step: usize) {
    at_calls("signal=KILL", step, |device, change, store, got, fault| {
        assert!(got.code == -1 || got.code == 0, "{fault}: {got:?}");
        change.check(device, store, fault);
    });
}

/// An error of the disk: a clear one of the program, which leaves nothing.
fn failed(step: usize, error: &str) {
    at_calls(&format!("error={error}"), step, |device, change, store, got, fault| {
        assert!([0, 8].contains(&got.code), "{fault}: {got:?}");
        assert!(!got.stderr.contains("panicked"), "{fault}: {got:?}");
        let is_left = got.stderr.contains("cannot remove") || got.stderr.contains("cannot sync");
        if got.code == 8 && !is_left && change.name.contains("flash") {
            assert!(got.stderr.contains("error: "), "{fault}: {got:?}");
            assert_eq!(device.litter(store), [] as [PathBuf; 0], "{fault}: {got:?}");
        }
        change.check(device, store, fault);
    });
}

#[test]
fn at_some_calls() {
    killed(4);
}

#[test]
#[ignore = "takes minutes"]
fn at_every_call() {
    killed(1);
}

#[test]
fn errors_at_some_calls() {
    failed(7, "ENOSPC");
    failed(9, "EIO");
}

#[test]
#[ignore = "takes minutes"]
fn errors_at_every_call() {
    failed(1, "ENOSPC");
    failed(1, "EIO");
}
