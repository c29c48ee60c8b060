//! `overmask serve` on the real program and a tiny base: what it answers, and what it bears. What a test does in seconds
//! here it does to the end with `--ignored`.
#![cfg(target_os = "linux")]

mod cache;
mod examples;
mod hostile;
mod kills;
mod protocol;
mod switching;
mod systemd;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use overmask::task::Runner;
use overmask_tests::{classify, engine};
use serde_json::{Value, json};

use crate::store::{Device, overmask};

/// How long anything may take that is to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs; it is killed with this.
struct Running {
    child: Child,
    socket: PathBuf,
    /// Its address on TCP.
    address: String,
    stderr: Arc<Mutex<String>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command of a server on a store, which listens at a Unix socket beside it and at some port.
fn command(store: &Path) -> (Command, PathBuf) {
    let mut command = overmask("serve", store);
    let socket = store.with_extension("sock");
    command.args(["--threads", "1", "-v", "--listen", "tcp:0", "--listen"]);
    command.arg(format!("unix:{}", socket.display()));
    (command, socket)
}

/// A server on a store, with more arguments, that listens.
fn start(store: &Path, more: &[&str]) -> Running {
    let (mut command, socket) = command(store);
    command.args(more);
    started(command, socket)
}

fn started(mut command: Command, socket: PathBuf) -> Running {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let from = BufReader::new(child.stderr.take().unwrap());
    let (stderr, (tell, told)) = (Arc::new(Mutex::new(String::new())), mpsc::channel());
    let said = Arc::clone(&stderr);
    std::thread::spawn(move || {
        for line in from.lines().map_while(Result::ok) {
            if let Some((_, address)) = line.split_once("listening at tcp:") {
                let _ = tell.send(address.to_owned());
            }
            let mut said = said.lock().unwrap();
            said.push_str(&line);
            said.push('\n');
        }
    });
    let address = told.recv_timeout(PATIENCE);
    let address = address.unwrap_or_else(|_| panic!("no server: {}", stderr.lock().unwrap()));
    Running { child, socket, address, stderr }
}

impl Running {
    fn lines(&self) -> Lines {
        Lines::new(&self.socket)
    }

    fn http(&self) -> Http<TcpStream> {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Http::new(stream)
    }

    fn said(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits until it has said something on stderr.
    #[track_caller]
    fn says(&self, words: &str) {
        let begin = Instant::now();
        while !self.said().contains(words) {
            assert!(begin.elapsed() < PATIENCE, "{words:?} is missing: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it answers with this generation.
    #[track_caller]
    fn reaches(&self, generation: u64) {
        let begin = Instant::now();
        while self.metric("overmask_generation") != generation as f64 {
            assert!(begin.elapsed() < PATIENCE, "generation {generation} is missing: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, text) = self.http().get("/metrics");
        assert_eq!(status, 200);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap())).unwrap())
            .collect()
    }

    fn metric(&self, name: &str) -> f64 {
        self.metrics()[name]
    }

    /// Its resident memory in bytes, and its open files.
    fn size(&self) -> (f64, f64) {
        let metrics = self.metrics();
        (metrics["process_resident_memory_bytes"], metrics["process_open_fds"])
    }

    /// Ends it as systemd does, and returns its exit code.
    fn stop(mut self) -> i32 {
        self.signal("TERM");
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

/// A connection that speaks lines.
struct Lines {
    from: BufReader<UnixStream>,
    to: UnixStream,
}

impl Lines {
    fn new(socket: &Path) -> Self {
        Self::connect(socket).unwrap()
    }

    fn connect(socket: &Path) -> std::io::Result<Self> {
        let to = UnixStream::connect(socket)?;
        to.set_read_timeout(Some(PATIENCE))?;
        Ok(Lines { from: BufReader::new(to.try_clone()?), to })
    }

    fn send(&mut self, line: &str) {
        self.to.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn ask(&mut self, request: &Value) -> Value {
        self.send(&request.to_string());
        self.receive()
    }

    /// The label that a task gives to a text, and the generation.
    fn label(&mut self, task: &str, text: &str) -> (String, u64) {
        label(&self.ask(&json!({"task": task, "text": text})))
    }
}

#[track_caller]
fn label(reply: &Value) -> (String, u64) {
    let label = reply["answers"][0]["label"].as_str().unwrap_or_else(|| panic!("{reply}"));
    (label.to_owned(), reply["generation"].as_u64().unwrap())
}

/// A connection that speaks HTTP.
struct Http<S>(BufReader<S>);

impl<S: Read + Write> Http<S> {
    fn new(stream: S) -> Self {
        Http(BufReader::new(stream))
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn request(&mut self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.raw(format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
        self.receive()
    }

    fn get(&mut self, path: &str) -> (u16, String) {
        self.request("GET", path, "")
    }

    fn post(&mut self, body: &Value) -> (u16, Value) {
        let (status, text) = self.request("POST", "/v1/run", &body.to_string());
        (status, serde_json::from_str(&text).unwrap())
    }

    /// The status and the body of what comes.
    fn receive(&mut self) -> (u16, String) {
        let (mut status, mut length) = (0, 0);
        for place in 0.. {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let line = line.trim_end().to_ascii_lowercase();
            if place == 0 {
                status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {line:?}")).parse().unwrap();
            }
            if let Some(found) = line.strip_prefix("content-length: ") {
                length = found.parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }
}

/// Texts to ask, short and longer ones.
const TEXTS: [&str; 8] = [
    "a b c",
    "the quick brown fox",
    "x",
    "jumps over the lazy dog and on and on and on",
    "where is lima",
    "b a",
    "one two three four five six seven",
    "the end",
];

/// The labels that a pack gives to [`TEXTS`].
fn labels(device: &Device, pack: &Path) -> Vec<String> {
    let runner = Runner::new(engine("native", &device.base), Arc::clone(&device.base)).unwrap();
    let task = runner.add(pack).unwrap();
    classify(&runner, task, &TEXTS).into_iter().map(|prediction| prediction.label).collect()
}

/// The number of a store's active generation.
fn generation(store: &Path) -> u64 {
    overmask::store::Store::open(store).unwrap().current().unwrap().number
}

/// The program's file, for what starts it by other means.
fn program_path() -> PathBuf {
    fs::canonicalize(overmask_tests::program("overmask").get_program()).unwrap()
}
