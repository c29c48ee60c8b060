//! A hostile peer: whatever it says is refused, within bounds of time, memory and disk.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use overmask_tests::{Ran, failed, program, ran_with};
use serde_json::json;

use super::{Device, files, overmask, seen, under};

/// `store receive` in little memory, with something on stdin that may not end.
fn receive(store: &Path, from: &str) -> Ran {
    let mut command = overmask("store", store);
    command.args(["receive", "--threads", "1"]);
    let script = format!("ulimit -v 600000; {from} | \"$0\" \"$@\"");
    let mut command = under(["sh", "-c", &script], &command);
    let begin = Instant::now();
    let got = Ran::from(command.output().unwrap());
    assert!(begin.elapsed() < Duration::from_secs(60), "{from}: {got:?}");
    got
}

#[test]
fn who_sends() {
    let device = Device::new();
    let store = device.full("store");
    let before = files(&store);
    let offer = |packs: serde_json::Value| {
        json!({"offer": 1, "bases": [], "packs": packs, "allow_downgrade": true, "allow_worse": true}).to_string()
    };
    let pack = |name: &str, sha256: &str, bytes: u64| json!([{"name": name, "sha256": sha256, "bytes": bytes, "signature": null}]);
    let sha = "0".repeat(64);
    let lines = Cell::new(0);
    let line = |text: String| {
        lines.set(lines.get() + 1);
        let path = device.path(&format!("line-{}", lines.get()));
        fs::write(&path, text + "\n").unwrap();
        path.display().to_string()
    };
    let endless = |offer: String| format!("(cat {}; exec cat /dev/zero)", line(offer));
    let cases = [
        ("true".to_owned(), 3, "it hung up"),
        ("cat /dev/zero".to_owned(), 3, "a line without end"),
        ("yes '{'".to_owned(), 3, "not understood"),
        (endless(offer(pack("../../x", &sha, 1_000_000))), 3, "its sha256 is"),
        (endless(offer(pack("x", "../../../etc/passwd", 10))), 3, "64 lower-case hex digits"),
        (endless(offer(pack("x", &sha, u64::MAX))), 3, "its packs 18446744073709551615"),
        (format!("cat {}", line(offer(pack("x", &sha, 100)))), 3, "it ended after 0 of 100 bytes"),
    ];
    for (from, code, said) in cases {
        failed(&receive(&store, &from), code, &[said]);
    }
    let after: Vec<_> = files(&store).difference(&before).cloned().collect();
    assert!(after.is_empty(), "{after:?}");
    device.check(&store, &["a 2, b 2"], "hostile senders");
}

/// A program in the place of `ssh` says something to who sends.
fn send(device: &Device, script: &str) -> Ran {
    let ssh = device.path("ssh");
    fs::write(&ssh, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = program("overmask");
    command.args(["flash", "--to", "board", "--ssh"]).arg(&ssh).args(device.packs(1));
    let mut command = under(["sh", "-c", "ulimit -v 600000; exec \"$0\" \"$@\""], &command);
    let begin = Instant::now();
    let got = Ran::from(command.stdin(Stdio::null()).output().unwrap());
    assert!(begin.elapsed() < Duration::from_secs(60), "{script}: {got:?}");
    got
}

#[test]
fn who_receives() {
    let device = Device::new();
    let hello = r#"echo '{"hello":1,"bases":[],"packs":[]}'"#;
    let step = r#"yes '{"step":{"name":"x","ms":1,"bytes":0}}'"#;
    let wants = r#"echo '{"wants":[{"sha256":"/etc/passwd","from":0}]}'"#;
    let escape = r#"printf '{"failed":{"message":"\\u001b[2Jowned\\r\\n","kind":"signature"}}\n'"#;
    let cases = [
        ("exit 255".to_owned(), 8, "it hung up"),
        ("echo 'Permission denied (publickey).' >&2; exit 255".to_owned(), 8, "Permission denied"),
        ("exec cat /dev/zero".to_owned(), 8, "a line without end"),
        (format!("{hello}; exec {step}"), 8, "steps without end"),
        (format!("{hello}; {wants}; exec cat >/dev/null"), 8, "not offered"),
        (format!("{hello}; {escape}; exec cat >/dev/null"), 5, "owned"),
    ];
    for (script, code, said) in cases {
        let got = send(&device, &script);
        failed(&got, code, &["board", said]);
        assert!(!got.stderr.contains('\u{1b}') && !got.stdout.contains('\u{1b}'), "{got:?}");
    }
}

#[test]
fn what_is_no_pack_at_stdin() {
    let device = Device::new();
    let store = device.full("store");
    let mut command: Command = overmask("flash", &store);
    failed(&ran_with(command.arg("-"), &[0; 100_000]), 4, &["stdin"]);
    assert_eq!(seen(&store), "a 2, b 2");
}
