//! Generations that come and go while the server answers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use overmask::pack::FloatType;
use overmask::store::Store;
use overmask_tests::{Recipe, ran};
use serde_json::{Value, json};

use super::{Running, TEXTS, generation, label, labels, start};
use crate::store::{Device, done, flash, overmask, verify};

/// Tasks that clients switch among.
const TASKS: [&str; 20] = [
    "t00", "t01", "t02", "t03", "t04", "t05", "t06", "t07", "t08", "t09", "t10", "t11", "t12", "t13", "t14", "t15",
    "t16", "t17", "t18", "t19",
];

/// Revisions of each task that are flashed in turn.
const REVISIONS: u64 = 4;

/// Megabytes that the server may have more at the end than after a quarter.
const GROWTH: f64 = 8e6;

/// The server stays as large as it was.
#[track_caller]
fn flat(before: (f64, f64), after: (f64, f64)) {
    let (more, files) = (after.0 - before.0, after.1 - before.1);
    println!("{:.1} MB and {} files; {:.1} MB, {files} files more than early on", after.0 / 1e6, after.1, more / 1e6);
    assert!(more < GROWTH && files < 4.0, "{before:?}, {after:?}");
}

/// So many texts by 4 clients that each switch among 20 tasks, and flashes in between: every answer is right for the
/// generation that it names.
fn clients(texts: usize) {
    let device = Device::new();
    let packs = |revision| TASKS.map(|task| device.pack(task, revision));
    let mut expected = BTreeMap::new();
    for revision in 1..=REVISIONS {
        for (task, pack) in TASKS.iter().zip(packs(revision)) {
            expected.insert((*task, revision), labels(&device, &pack));
        }
    }
    let store = device.empty("store");
    done(ran(flash(&store, packs(1)).arg("--base").arg(device.base_dir())));
    let server = start(&store, &[]);
    let (asked, seen) = (AtomicUsize::new(0), Mutex::new(BTreeMap::from([(1, 1)])));
    let mut sizes = Vec::new();
    let mut flashed = BTreeMap::from([(1, 1)]);
    thread::scope(|scope| {
        for client in 0..4 {
            let (server, asked, seen, expected) = (&server, &asked, &seen, &expected);
            scope.spawn(move || {
                let (mut lines, mut http) = (server.lines(), server.http());
                for i in 0.. {
                    // However fast the server is: until it has answered for a few generations.
                    if asked.fetch_add(1, Ordering::Relaxed) >= texts && seen.lock().unwrap().len() > 2 {
                        break;
                    }
                    let (task, text) = (TASKS[(i * 7 + client) % TASKS.len()], (i + client) % TEXTS.len());
                    let request = json!({"id": i, "task": task, "text": TEXTS[text]});
                    let reply = if client == 3 { http.post(&request).1 } else { lines.ask(&request) };
                    let (label, generation) = label(&reply);
                    let revision: u64 = label.split(' ').nth(1).unwrap().parse().unwrap();
                    assert_eq!(label, expected[&(task, revision)][text], "{reply}");
                    assert_eq!(reply["id"], i);
                    let first = *seen.lock().unwrap().entry(generation).or_insert(revision);
                    assert_eq!(first, revision, "generation {generation} answers with two revisions");
                }
            });
        }
        for round in 1.. {
            let done_so_far = asked.load(Ordering::Relaxed);
            if sizes.is_empty() && done_so_far >= texts / 4 {
                sizes.push(server.size());
            }
            if done_so_far >= texts && seen.lock().unwrap().len() > 2 {
                break;
            }
            let revision = round % REVISIONS + 1;
            done(ran(flash(&store, packs(revision)).arg("--allow-downgrade")));
            flashed.insert(generation(&store), revision);
        }
    });
    let seen = seen.into_inner().unwrap();
    println!("{texts} texts, {} flashes, answers of {} generations", flashed.len() - 1, seen.len());
    assert!(seen.iter().all(|(generation, revision)| flashed[generation] == *revision), "{seen:?}, {flashed:?}");
    assert!(seen.len() > 2, "{seen:?}");
    let last = *flashed.keys().last().unwrap();
    server.reaches(last);
    flat(sizes[0], server.size());
    assert_eq!(ran(&mut verify(&store)).code, 0);
    assert!(!server.said().contains("error"), "{}", server.said());
    assert_eq!(server.stop(), 0);
}

#[test]
fn every_answer_is_right_for_its_generation() {
    clients(10_000);
}

#[test]
#[ignore = "takes minutes"]
fn every_answer_of_many_is_right_for_its_generation() {
    clients(100_000);
}

/// So many short texts by clients that do not wait for replies, reloads in between.
fn short_texts(texts: usize) {
    const CLIENTS: usize = 4;
    let device = Device::new();
    let store = device.full("store");
    let server = start(&store, &["--queue", "4096"]);
    let answered = AtomicUsize::new(0);
    let mut sizes = Vec::new();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, answered) = (&server, &answered);
            scope.spawn(move || {
                let mut lines = server.lines();
                let mut to = lines.to.try_clone().unwrap();
                scope.spawn(move || {
                    for i in (client..texts).step_by(CLIENTS) {
                        let request = json!({"id": i, "task": "b", "text": TEXTS[i % 3]});
                        std::io::Write::write_all(&mut to, format!("{request}\n").as_bytes()).unwrap();
                    }
                });
                for i in (client..texts).step_by(CLIENTS) {
                    let reply = lines.receive();
                    assert!(label(&reply).0.starts_with("b ") && reply["id"] == i, "{reply}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0.. {
            let so_far = answered.load(Ordering::Relaxed);
            if sizes.is_empty() && so_far >= texts / 4 {
                sizes.push(server.size());
            }
            if so_far >= texts {
                break;
            }
            match round % 3 {
                0 => server.signal("HUP"),
                1 => drop(done(ran(overmask("store", &store).args(["rollback", "--to", "1"])))),
                _ => drop(done(ran(overmask("store", &store).args(["rollback", "--to", "2"])))),
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let metrics = server.metrics();
    println!("{texts} texts, {} reloads", metrics["overmask_switches_total"]);
    assert_eq!(metrics["overmask_answers_total"], texts as f64);
    assert!(metrics.iter().all(|(name, count)| !name.starts_with("overmask_errors") || *count == 0.0), "{metrics:?}");
    flat(sizes[0], server.size());
    assert_eq!(server.stop(), 0);
}

#[test]
fn many_short_texts_leave_nothing() {
    short_texts(20_000);
}

#[test]
#[ignore = "takes minutes"]
fn a_million_short_texts_leave_nothing() {
    short_texts(1_000_000);
}

/// Asks two tasks and switches while they wait; returns both replies.
fn while_they_wait(store: &Path, server: &Running, change: impl FnOnce()) -> [Value; 2] {
    let mut clients = ["a", "b"].map(|task| (task, server.lines()));
    for (task, lines) in &mut clients {
        lines.send(&json!({"id": task, "task": task, "text": "x"}).to_string());
    }
    while server.metric("overmask_queue_answers") < 2.0 {
        thread::sleep(Duration::from_millis(2));
    }
    change();
    server.reaches(generation(store));
    // All of the batch is there.
    let mut third = server.lines();
    third.send(&json!({"texts": vec!["x"; 32]}).to_string());
    clients.map(|(_, mut lines)| lines.receive())
}

#[test]
fn a_task_that_is_removed_fails_alone() {
    let device = Device::new();
    let store = device.full("store");
    let server = start(&store, &["--max-wait", "20000", "--max-batch", "32"]);
    let [a, b] = while_they_wait(&store, &server, || drop(done(ran(overmask("store", &store).args(["remove", "a"])))));
    assert_eq!((&a["id"], &a["error"]["code"]), (&json!("a"), &json!("unknown_task")), "{a}");
    assert_eq!(label(&b), (labels(&device, &device.pack("b", 2))[2].clone(), 3));
    assert_eq!(server.metric("overmask_tasks"), 1.0);
}

#[test]
fn a_pack_that_makes_the_engine_fail_fails_alone() {
    let device = Device::new();
    let store = device.full("store");
    let recipe = Recipe { name: "a", labels: 2, max_tokens: 16, ..Default::default() };
    let mut pack = recipe.pack(&device.base);
    pack.document.revision = 3;
    pack.head.dtype = FloatType::F32;
    pack.head.weight.fill(f32::MAX);
    let path = device.path("wild.pack");
    pack.write(&path, Some(&device.base)).unwrap();
    let server = start(&store, &["--max-wait", "20000", "--max-batch", "32"]);
    let [a, b] = while_they_wait(&store, &server, || drop(done(ran(&mut flash(&store, [&path])))));
    assert_eq!(a["error"]["code"], "engine_failed", "{a}");
    assert!(a["error"]["message"].as_str().unwrap().contains("not finite"), "{a}");
    assert_eq!(label(&b).1, 3);
    drop(server);
    // One text for both: what can be answered is.
    let server = start(&store, &[]);
    let reply = server.lines().ask(&json!({"text": "x"}));
    assert_eq!(reply["answers"][0]["error"]["code"], "engine_failed", "{reply}");
    assert_eq!(label(&json!({"answers": [reply["answers"][1]], "generation": 3})).1, 3);
}

#[test]
fn a_damaged_pack_costs_its_task_until_it_is_mended() {
    let device = Device::new();
    let store = device.full("store");
    let opened = Store::open(&store).unwrap();
    let of_a = opened.path_of(opened.current().unwrap().task("a").unwrap());
    let good = fs::read(&of_a).unwrap();
    fs::write(&of_a, b"damaged").unwrap();
    let server = start(&store, &[]);
    let mut lines = server.lines();
    let reply = lines.ask(&json!({"task": "a", "text": "x"}));
    assert_eq!(reply["error"]["code"], "task_unavailable", "{reply}");
    assert_eq!(server.http().post(&json!({"task": "a", "text": "x"})).0, 503);
    assert_eq!(lines.label("b", "x").1, 2);
    assert_eq!(server.metric("overmask_tasks_unavailable"), 1.0);
    server.says("error: the task `a` cannot be used");
    fs::write(&of_a, &good).unwrap();
    server.signal("HUP");
    server.says("generation 2 was opened");
    while server.metric("overmask_tasks_unavailable") > 0.0 {
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(lines.label("a", "x"), (labels(&device, &device.pack("a", 2))[2].clone(), 2));

    // A pointer that leads to nothing: what answers goes on.
    let current = fs::read(store.join("current")).unwrap();
    fs::write(store.join("current"), b"damaged").unwrap();
    server.signal("HUP");
    server.says("error: the generation stays as it is");
    assert_eq!(lines.label("a", "x").1, 2);
    fs::write(store.join("current"), current).unwrap();
    assert_eq!(server.metric("overmask_switches_failed_total"), 1.0);
    assert_eq!(server.stop(), 0);
}
