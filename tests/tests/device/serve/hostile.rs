//! Clients that are slow, broken, too many, too large, or send what is no request: others are served on, in bounded
//! memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use overmask_tests::Numbers;
use serde_json::{Value, json};

use super::{Http, Lines, Running, TEXTS, label, start};
use crate::store::{Device, tool};

/// Megabytes that a server may take for clients that mean ill, beyond what it has for others.
const GROWTH: f64 = 48e6;

/// Asks all the time, on lines and HTTP, while something is done; all of it is answered. Returns the slowest answer.
fn served_on(server: &Running, meanwhile: impl FnOnce()) -> Duration {
    let (is_over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let asks = scope.spawn(|| {
            let (mut lines, mut http, mut slowest) = (server.lines(), server.http(), Duration::ZERO);
            while !is_over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                let text = TEXTS[count.fetch_add(1, Ordering::Relaxed) % TEXTS.len()];
                lines.label("a", text);
                assert_eq!(http.post(&json!({"task": "b", "text": text})).0, 200);
                slowest = slowest.max(begin.elapsed());
            }
            slowest
        });
        // Who never asked anything gives way to others.
        while count.load(Ordering::Relaxed) < 2 && !asks.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        meanwhile();
        is_over.store(true, Ordering::Relaxed);
        let slowest = asks.join().unwrap();
        println!("{} pairs of answers meanwhile, the slowest after {slowest:?}", count.load(Ordering::Relaxed));
        slowest
    })
}

#[track_caller]
fn bounded(server: &Running, before: (f64, f64)) {
    let (bytes, files) = server.size();
    println!("{:.1} MB, before {:.1} MB; {files} files", bytes / 1e6, before.0 / 1e6);
    assert!(bytes < before.0 + GROWTH, "{bytes}, before {}", before.0);
}

/// So many connections that send nothing, or half of something.
fn connections(count: usize, more: &[&str]) {
    // Both ends of a connection count, the server's in its own process.
    let limit = format!("--nofile={}:", count + 1000);
    let raised = std::process::Command::new(tool("prlimit", "util-linux"))
        .args(["--pid", &std::process::id().to_string(), &limit])
        .status();
    assert!(raised.unwrap().success(), "`ulimit -Hn` is too low for {count} connections");
    let device = Device::new();
    let server = start(&device.full("store"), more);
    let _ = served_on(&server, || thread::sleep(Duration::from_millis(50)));
    let before = server.size();
    let mut open: Vec<Box<dyn Send>> = Vec::new();
    let slowest = served_on(&server, || {
        for i in 0..count {
            let halves: [&[u8]; 4] = [
                b"",
                b"POST /v1/run HTTP/1.1\r\nHost: x\r\n",
                b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"text",
                b"{\"text",
            ];
            let bytes = halves[i % halves.len()];
            // The server may close it at any time for another.
            if i % 2 == 0 {
                let mut stream = TcpStream::connect(&server.address).unwrap();
                let _ = stream.write_all(bytes);
                open.push(Box::new(stream));
            } else {
                let mut stream = UnixStream::connect(&server.socket).unwrap();
                let _ = stream.write_all(bytes);
                open.push(Box::new(stream));
            }
        }
    });
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let metrics = server.metrics();
    println!("{count} connections, {} open", metrics["overmask_connections"]);
    // Half requests that took too long are gone, too.
    assert!(metrics["overmask_connections"] <= 512.0 && metrics["overmask_connections_refused_total"] > 0.0);
    bounded(&server, before);
    drop(open);
    assert_eq!(server.lines().label("a", "x").1, 2);
    assert_eq!(server.stop(), 0);
}

#[test]
fn idle_connections_give_way() {
    connections(600, &["--max-connections", "50"]);
}

#[test]
#[ignore = "opens 10,000 connections"]
fn ten_thousand_connections_keep_nobody_out() {
    connections(10_000, &[]);
}

/// Requests of so many bytes: with their length said, in chunks, and as a line without an end.
fn bodies(bytes: usize) {
    let device = Device::new();
    let server = start(&device.full("store"), &[]);
    let before = server.size();
    let piece = vec![b'a'; 1 << 20];
    served_on(&server, || {
        let mut http = server.http();
        http.raw(
            format!("POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: {bytes}\r\n\r\n{{\"text\":\"").as_bytes(),
        );
        let (status, said) = http.receive();
        assert!(status == 413 && said.contains("--max-body"), "{said}");

        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(b"POST /v1/run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let mut http = Http::new(stream.try_clone().unwrap());
        for _ in 0..bytes / piece.len() {
            let sent = write!(stream, "{:x}\r\n", piece.len()).and_then(|()| stream.write_all(&piece));
            if sent.and_then(|()| stream.write_all(b"\r\n")).is_err() {
                break;
            }
        }
        // The reply may be lost where the connection is closed under what was sent on.
        let mut rest = Vec::new();
        if http.0.read_to_end(&mut rest).is_ok() {
            assert!(rest.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&rest));
        }

        let mut lines = server.lines();
        for _ in 0..bytes / piece.len() {
            lines.to.write_all(&piece).unwrap();
        }
        lines.to.write_all(b"\n").unwrap();
        assert_eq!(lines.receive()["error"]["code"], "too_large");
        assert_eq!(lines.label("a", "x").1, 2);
        bounded(&server, before);
    });
    assert_eq!(server.stop(), 0);
}

#[test]
fn large_bodies_are_refused() {
    bodies(32 << 20);
}

#[test]
#[ignore = "sends gigabytes"]
fn bodies_of_a_gigabyte_are_refused() {
    bodies(1 << 30);
}

#[test]
fn who_is_slow_is_given_up() {
    let device = Device::new();
    let server = start(&device.full("store"), &["--io-timeout", "1", "--idle-timeout", "1"]);
    let before = server.size();
    served_on(&server, || {
        let (mut body, mut head, mut line) = (server.http(), server.http(), server.lines());
        body.raw(b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"text");
        head.raw(b"POST /v1/run HTTP/1.1\r\nHost: x\r\n");
        line.to.write_all(b"{\"text").unwrap();
        assert_eq!(body.receive().0, 408);
        let mut rest = Vec::new();
        head.0.read_to_end(&mut rest).unwrap();
        assert_eq!(line.receive()["error"]["code"], "too_slow");
        assert_eq!(line.from.read_to_end(&mut rest).unwrap(), 0);

        // Who sends and does not read is not read from, and then given up.
        let mut deaf = server.lines();
        deaf.to.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        let request = format!("{}\n", json!({"id": "x".repeat(1000), "task": "a", "text": "x"}));
        let sent = (0..100_000).take_while(|_| deaf.to.write_all(request.as_bytes()).is_ok()).count();
        println!("{sent} requests were taken of who reads no reply");
        assert!(sent < 100_000);
    });
    bounded(&server, before);
}

#[test]
fn what_is_no_request_costs_nobody() {
    let device = Device::new();
    let server = start(&device.full("store"), &["--io-timeout", "1", "--idle-timeout", "1"]);
    let before = server.size();
    let good = json!({"id": 1, "task": "a", "text": "the quick brown fox"}).to_string();
    let http = format!("POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{good}", good.len());
    let mut cases: Vec<Vec<u8>> = [
        "GET / HTTP/9.9\r\n\r\n",
        "POST /v1/run HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "POST /v1/run HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST /v1/run HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        "POST /v1/run HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "{\"text\":\"x\",\"task\":\"a\"}}\n",
        "[[[[[[[[[[[[[[[[\n",
        "{\"id\":1e999999,\"text\":\"\\ud800\"}\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    cases.push(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)).into_bytes());
    cases.push([b"GET / HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(10_000)].concat());
    cases.push(format!("{}\n", "[".repeat(500_000)).into_bytes());
    let mut numbers = Numbers::new(7);
    for _ in 0..600 {
        let mut bytes = if numbers.uniform() < 0.5 { http.clone() } else { good.clone() + "\n" }.into_bytes();
        for _ in 0..3 {
            let place = (numbers.uniform() * bytes.len() as f32) as usize;
            bytes[place] = (numbers.uniform() * 256.0) as u8;
        }
        cases.push(bytes);
    }
    served_on(&server, || {
        for (i, bytes) in cases.iter().enumerate() {
            let mut end = Vec::new();
            if i % 2 == 0 {
                let mut stream = TcpStream::connect(&server.address).unwrap();
                let _ = stream.write_all(bytes);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut end);
            } else {
                let mut stream = UnixStream::connect(&server.socket).unwrap();
                let _ = stream.write_all(bytes);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut end);
            }
        }
    });
    bounded(&server, before);
    assert!(!server.said().contains("panicked"), "{}", server.said());
    assert_eq!(server.stop(), 0);
}

#[test]
fn who_comes_too_many_is_told_to_come_again() {
    let device = Device::new();
    let server = start(&device.full("store"), &["--queue", "4", "--max-wait", "3000", "--max-batch", "8"]);
    let request = json!({"task": "a", "text": "x"});
    let mut waits: Vec<Lines> = (0..4).map(|_| server.lines()).collect();
    waits.iter_mut().for_each(|lines| lines.send(&request.to_string()));
    while server.metric("overmask_queue_answers") < 4.0 {
        thread::sleep(Duration::from_millis(2));
    }
    let mut http = server.http();
    http.raw(
        format!("POST /v1/run HTTP/1.0\r\nContent-Length: {}\r\n\r\n{request}", request.to_string().len()).as_bytes(),
    );
    let mut reply = String::new();
    http.0.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.0 429") && reply.to_lowercase().contains("\r\nretry-after: 1\r\n"), "{reply}");
    assert!(reply.contains("overloaded"), "{reply}");
    // Those that wait are answered all the same.
    let labels: Vec<_> = waits.iter_mut().map(|lines| label(&lines.receive()).1).collect();
    assert_eq!(labels, [2; 4]);

    drop(server);
    // So is memory: large requests that do not end.
    let server = start(&device.path("store"), &["--max-memory", "1", "--max-body", "900000"]);
    let half = "{\"text\":\"".to_owned() + &"x".repeat(600_000);
    let mut first = server.lines();
    first.to.write_all(half.as_bytes()).unwrap();
    while server.metric("overmask_held_bytes") < 500_000.0 {
        thread::sleep(Duration::from_millis(2));
    }
    let whole: Value = json!({"task": "a", "text": "x".repeat(600_000)});
    assert_eq!(server.http().post(&whole).0, 429);
    assert_eq!(server.lines().ask(&whole)["error"]["code"], "overloaded");
    assert_eq!(server.lines().label("a", "x").1, 2);
    first.to.write_all(b"\",\"task\":\"a\"}\n").unwrap();
    assert_eq!(label(&first.receive()).1, 2);
    assert_eq!(server.http().post(&whole).0, 200);
    assert_eq!(server.metric("overmask_held_bytes"), 0.0);
}
