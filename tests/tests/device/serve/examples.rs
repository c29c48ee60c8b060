//! The clients of `examples/serve/`, as a reader runs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use overmask_tests::{Ran, asset, ran, ran_with};
use serde_json::{Value, json};

use super::{Running, TEXTS, label, labels, start};
use crate::store::{Device, done, tool};

fn example(name: &str) -> Command {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/serve").join(name);
    Command::new(path)
}

fn served() -> (Device, Running) {
    let device = Device::new();
    let server = start(&device.full("store"), &[]);
    (device, server)
}

#[test]
fn curl_asks_over_tcp_and_unix() {
    tool("curl", "curl");
    let (device, server) = served();
    let expected = labels(&device, &device.pack("a", 2));
    let tcp = ["tcp".to_owned(), format!("http://{}", server.address)];
    let unix = ["unix".to_owned(), server.socket.display().to_string()];
    for server in [&tcp, &unix] {
        let got = done(ran(example("curl.sh").args(server).args(["a", TEXTS[1]])));
        let replies: Vec<Value> = got.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(replies[0]["status"], "ok");
        assert_eq!(label(&replies[1]), (expected[1].clone(), 2));
    }
    let failed = ran(example("curl.sh").args(tcp).args(["no \"task\"", "x"]));
    assert!(failed.code == 22 && failed.stdout.contains("unknown_task"), "{failed:?}");
}

#[test]
fn socat_passes_lines_on() {
    tool("socat", "socat");
    let (device, server) = served();
    let expected = labels(&device, &device.pack("b", 2));
    let requests: String =
        TEXTS.iter().map(|text| format!("{}\n", json!({"id": text, "task": "b", "text": text}))).collect();
    let got = done(ran_with(example("socat.sh").arg(&server.socket), requests.as_bytes()));
    let replies: Vec<Value> = got.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(replies.iter().map(|reply| label(reply).0).collect::<Vec<_>>(), expected);
}

#[test]
fn ten_lines_of_python_ask() {
    let (device, server) = served();
    let got = done(ran(example("client.py").arg(&server.socket).arg("a").args(TEXTS)));
    assert_eq!(got.stdout.lines().collect::<Vec<_>>(), labels(&device, &device.pack("a", 2)));
    let got: Ran = done(ran(example("client.py").arg(&server.socket).args(["c", "x"])));
    assert!(got.stdout.contains("no task `c`"), "{got:?}");
}

#[test]
fn prometheus_reads_the_metrics() {
    let (_device, server) = served();
    let mut lines = server.lines();
    (0..5).for_each(|_| drop(lines.label("a", "x")));
    let mut command = example("metrics.py");
    let got =
        done(ran(command.arg(format!("http://{}", server.address)).env("PYTHONPATH", asset("prometheus-client"))));
    for line in [
        "counter overmask_answers_total - 5",
        "counter overmask_errors_total code=overloaded 0",
        "gauge overmask_generation - 2",
        "histogram overmask_request_seconds_count - 5",
    ] {
        assert!(got.stdout.lines().any(|found| found.trim_end_matches(".0") == line), "{line}: {}", got.stdout);
    }
    assert!(got.stdout.contains("gauge process_open_fds - "), "{}", got.stdout);
}
