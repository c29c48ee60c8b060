//! The server under systemd: it says when it is ready, is watched, and takes sockets that are open already.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Lines, command, program_path, started};
use crate::store::Device;

/// What systemd hears, one thing after the other.
struct Heard {
    socket: UnixDatagram,
    all: String,
}

impl Heard {
    #[track_caller]
    fn waits_for(&mut self, words: &str) {
        let mut bytes = [0; 256];
        while !self.all.contains(words) {
            let length = self.socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{error}: {}", self.all));
            self.all.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
            self.all.push('\n');
        }
        self.all.clear();
    }
}

#[test]
fn systemd_is_told_and_watches() {
    let device = Device::new();
    let socket = UnixDatagram::bind(device.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut heard = Heard { socket, all: String::new() };
    let (mut server, path) = command(&device.full("store"));
    server.env("NOTIFY_SOCKET", device.path("notify")).env("WATCHDOG_USEC", "200000");
    let server = started(server, path);
    heard.waits_for("READY=1\nSTATUS=generation 2, 2 tasks");
    for _ in 0..3 {
        heard.waits_for("WATCHDOG=1");
    }
    server.signal("HUP");
    heard.waits_for("RELOADING=1");
    heard.waits_for("READY=1");
    server.signal("TERM");
    heard.waits_for("STOPPING=1");
}

#[test]
fn sockets_of_systemd_are_served() {
    let device = Device::new();
    let store = device.full("store");
    let path = device.path("passed.sock");
    let socket = UnixListener::bind(&path).unwrap();
    // As systemd passes them: from 3 on, for the process that is started.
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" serve --threads 1";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(program_path()).env("OVERMASK_STORE", &store).env("OVERMASK_CACHE", "");
    // A client may come before the server.
    let mut early = Lines::new(&path);
    early.send(&json!({"task": "a", "text": "x"}).to_string());
    let mut child = shell.stdin(Stdio::from(OwnedFd::from(socket))).spawn().unwrap();
    assert_eq!(super::label(&early.receive()).1, 2);
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let begin = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(5));
    // It is systemd's to remove.
    assert!(path.exists());
}
