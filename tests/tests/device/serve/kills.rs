//! The end of a server, wanted or not, and the start of the next one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use overmask_tests::ran;
use serde_json::json;

use super::{Lines, TEXTS, label, start};
use crate::store::{Device, done, flash, verify};

/// Asks until there is an answer; returns how long that took.
fn first_answer(socket: &Path, begin: Instant) -> Duration {
    loop {
        if let Ok(mut lines) = Lines::connect(socket) {
            assert_eq!(lines.label("a", "x").1 % 2, 0);
            return begin.elapsed();
        }
        assert!(begin.elapsed() < super::PATIENCE, "no server");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Kills a server under load so many times; another is started at once, as systemd does.
fn kills(count: usize) {
    let device = Device::new();
    let store = device.full("store");
    let mut server = start(&store, &[]);
    let (socket, is_over) = (server.socket.clone(), AtomicBool::new(false));
    let mut took = Vec::new();
    thread::scope(|scope| {
        for client in 0..2 {
            let (socket, is_over) = (&socket, &is_over);
            scope.spawn(move || {
                use std::io::{BufRead, Write};
                let mut connection = None;
                for i in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    // It breaks whenever the server is killed.
                    let Some(lines) = &mut connection else {
                        connection = Lines::connect(socket).ok();
                        continue;
                    };
                    let request = json!({"task": "b", "text": TEXTS[(i + client) % TEXTS.len()]});
                    let mut reply = String::new();
                    let sent = lines.to.write_all(format!("{request}\n").as_bytes());
                    match sent.and_then(|()| lines.from.read_line(&mut reply)) {
                        Ok(1..) if reply.ends_with('\n') => drop(label(&serde_json::from_str(&reply).unwrap())),
                        _ => connection = None,
                    }
                }
            });
        }
        for _ in 0..count {
            thread::sleep(Duration::from_millis(30));
            server.child.kill().unwrap();
            server.child.wait().unwrap();
            let begin = Instant::now();
            server = start(&store, &[]);
            took.push(first_answer(&socket, begin));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    took.sort();
    println!("{count} kills; first answer after {:?}, at most {:?}", took[count / 2], took[count - 1]);
    // At a median: other tests run beside this one.
    assert!(took[count / 2] < Duration::from_millis(100), "{took:?}");
    assert_eq!(done(ran(&mut verify(&store))).stdout.lines().count(), 1);
    device.check(&store, &["a 2, b 2"], "kill -9 of the server");
}

#[test]
fn a_killed_server_is_back_at_once() {
    kills(8);
}

#[test]
#[ignore = "takes a minute"]
fn a_server_that_is_killed_often_is_back_at_once() {
    kills(200);
}

#[test]
fn a_server_that_is_stopped_answers_what_it_has() {
    let device = Device::new();
    let store = device.full("store");
    let server = start(&store, &["--max-wait", "3000"]);
    let (mut waits, mut http, mut idle) = (server.lines(), server.http(), server.lines());
    waits.send(&json!({"task": "a", "text": "x"}).to_string());
    while server.metric("overmask_queue_answers") < 1.0 {
        thread::sleep(Duration::from_millis(2));
    }
    let socket = server.socket.clone();
    let (begin, pid) = (Instant::now(), server.child.id().to_string());
    let stops = thread::spawn(move || server.stop());
    // It is not waited for others any more.
    assert_eq!(label(&waits.receive()).1, 2);
    assert_eq!(stops.join().unwrap(), 0);
    assert!(begin.elapsed() < Duration::from_secs(2), "{pid}: {:?}", begin.elapsed());
    assert!(!socket.exists());
    // Connections without a request are closed.
    use std::io::Read;
    let mut rest = Vec::new();
    assert_eq!(idle.to.read_to_end(&mut rest).unwrap() + http.0.read_to_end(&mut rest).unwrap(), 0);
}

#[test]
fn a_flash_is_taken_without_being_told() {
    let device = Device::new();
    let store = device.full("store");
    let server = start(&store, &[]);
    let mut lines = server.lines();
    for revision in 3..8 {
        done(ran(&mut flash(&store, device.packs(revision))));
        let begin = Instant::now();
        while lines.label("a", "x").1 != revision {
            assert!(begin.elapsed() < super::PATIENCE);
        }
    }
}
