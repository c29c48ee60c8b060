//! Silence and trickles have an end. (All else that a registry may do is tried on the program: `tests/`.)

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use overmask::store::{Policy, Store};

use crate::artifact::{Descriptor, PACK};
use crate::{Access, OciError, Options, Registry};

const IDLE: Duration = Duration::from_millis(300);

/// A registry that does this with each connection, after the request.
fn registry(answer: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> Registry {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/demo:1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                answer(stream);
            });
        }
    });
    let options = Options { plain_http: Some(true), idle: IDLE, ..Options::default() };
    Registry::open(&name.parse().unwrap(), Access::Pull, &options).unwrap()
}

/// Asks for a manifest and for a blob, which both must end soon, with the connection.
fn ends(registry: &Registry) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::init(&dir.path().join("store"), &Policy::default()).unwrap().change(|| false).unwrap();
    let blob = Descriptor::new(PACK, &"a".repeat(64), 100_000, "x");
    let mut part = store.arrive(blob.sha256(), blob.size).unwrap();
    for ask in [0, 1] {
        let begin = Instant::now();
        let error = match ask {
            0 => registry.manifest("1").unwrap_err(),
            _ => registry.blob_into(&blob, &mut part, "x").unwrap_err(),
        };
        assert!(matches!(error, OciError::Reach { .. }), "{error}");
        assert!(begin.elapsed() < IDLE * 20, "{:?}: {error}", begin.elapsed());
    }
}

fn wait() {
    std::thread::sleep(Duration::from_secs(20));
}

#[test]
fn silence_has_an_end() {
    ends(&registry(|stream| {
        wait();
        drop(stream);
    }));
    ends(&registry(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
        wait();
    }));
    ends(&registry(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nxxx");
        wait();
    }));
}

#[test]
fn a_trickle_has_an_end() {
    fn trickle(mut stream: TcpStream, first: &[u8]) {
        let _ = stream.write_all(first);
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(IDLE / 6);
        }
    }
    ends(&registry(|stream| trickle(stream, b"HTTP/1.1 200 OK\r\nX: ")));
    ends(&registry(|stream| trickle(stream, b"HTTP/1.1 200 OK\r\n\r\n")));
}
