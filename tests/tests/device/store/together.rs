//! Several at once: two flashes, and flashes while others read.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use overmask::store::Store;
use overmask_tests::{Ran, program, ran};

use super::{Device, answered, flash, run, seen, verify};

#[test]
fn of_two_flashes_one_wins_and_the_other_waits_or_says_so() {
    let device = Device::new();
    let store = device.full("store");
    for (round, wait) in [true, false, true, false].into_iter().enumerate() {
        let revision = 10 * (round as u64 + 1);
        let spawn = |revision| {
            let mut command = flash(&store, device.packs(revision));
            command.args((!wait).then_some("--no-wait")).arg("--allow-downgrade");
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        // Made before: both begin at once.
        let _ = (device.packs(revision), device.packs(revision + 1));
        let before = Store::open(&store).unwrap().current().unwrap().number;
        let both = [spawn(revision), spawn(revision + 1)];
        let both = both.map(|child| Ran::from(child.wait_with_output().unwrap()));
        let won = both.iter().filter(|got| got.code == 0).count();
        for got in &both {
            assert!(got.code == 0 || !wait && got.code == 8 && got.stderr.contains("by another process"), "{got:?}");
        }
        assert!(won > 0, "{both:?}");
        assert_eq!(Store::open(&store).unwrap().current().unwrap().number, before + won as u64);
        let now = seen(&store);
        let of = |revision: u64| format!("a {revision}, b {revision}");
        assert!([of(revision), of(revision + 1)].contains(&now), "{now}");
        assert_eq!(ran(&mut verify(&store)).code, 0);
        assert_eq!(device.litter(&store), [] as [std::path::PathBuf; 0]);
    }
}

/// Readers see one generation each time, while so many flashes go on; so does one that stays.
fn readers(flashes: u64) {
    let device = Device::new();
    let store = device.full("store");
    let packs: Vec<_> = (3..7).map(|revision| device.packs(revision)).collect();
    let (is_over, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let now = seen(&store);
                    let (a, b) = now.split_once(", ").unwrap();
                    assert_eq!(a[2..], b[2..], "a mix");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // One that opened the store before, and is asked after its generation is gone.
        let mut stays = program("overmask");
        stays.args(["run", "--json", "--threads", "1", "--store"]).arg(&store).env("OVERMASK_CACHE", "");
        let mut stays = stays.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut to = stays.stdin.take().unwrap();
        let mut ask = || std::io::Write::write_all(&mut to, b"a b c\n").unwrap();
        ask();
        std::thread::sleep(std::time::Duration::from_millis(500));
        for i in 0..flashes {
            let got = ran(flash(&store, &packs[i as usize % packs.len()]).arg("--allow-downgrade"));
            assert_eq!(got.code, 0, "{got:?}");
            if i % 5 == 4 {
                let got = ran(&mut verify(&store));
                assert_eq!(got.code, 0, "{got:?}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
        ask();
        drop(to);
        let got = Ran::from(stays.wait_with_output().unwrap());
        assert_eq!(answered(&got), "a 2, b 2, a 2, b 2");
    });
    println!("{} reads by 8 readers during {flashes} flashes", reads.load(Ordering::Relaxed));
    // Readers may have made derived files of what was gone by then: the next flash removes them.
    device.check(&store, &[&seen(&store)], "readers");
    assert_eq!(ran(&mut run(&store)).code, 0);
}

#[test]
fn readers_see_one_generation() {
    readers(12);
}

#[test]
#[ignore = "takes minutes"]
fn readers_see_one_generation_for_long() {
    readers(300);
}
