//! Packs and bases through a real registry, Debian's `docker-registry`, on a port of this machine: anonymous, with a
//! password, with TLS. Each store is a device.

mod fake;
mod hostile;
mod link;
mod login;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use overmask_tests::{Ran, failed, json_lines, program, ran};
use serde_json::Value;
use tempfile::TempDir;

use super::{Device, done, overmask, seen, tool, verify};

/// A registry that runs.
struct Registry {
    dir: TempDir,
    server: Child,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A user and a password, and what `htpasswd -Bbn` makes of them.
const LOGIN: &str = "fleet:s3cret:with:colons";
const HTPASSWD: &str = "fleet:$2y$05$b9/Ih98w.ZbQ5AYb6VJKPenH/.mrjviS9DhHlPvtT/kf2Q/nWpBRa\n";

impl Registry {
    /// One that lets anybody in.
    fn new() -> Registry {
        Registry::with("", |_| ())
    }

    /// One with this in its configuration, where `DIR` is a directory that is filled first.
    fn with(config: &str, fill: impl FnOnce(&Path)) -> Registry {
        tool("docker-registry", "docker-registry");
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let (server, port) = (0..5).find_map(|_| serve(dir.path(), config)).expect("it does not start, see above");
        Registry { dir, server, port }
    }

    /// One that asks for a password.
    fn with_password() -> Registry {
        let config = "auth:\n  htpasswd:\n    realm: fleet\n    path: DIR/htpasswd\n";
        Registry::with(config, |dir| fs::write(dir.join("htpasswd"), HTPASSWD).unwrap())
    }

    fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }

    /// What it answers to a plain request.
    fn get(&self, path: &str, accept: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nAccept: {accept}\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        assert!(answer.starts_with(b"HTTP/1.0 200"), "{path}: {}", String::from_utf8_lossy(&answer));
        answer.split_off(end)
    }

    fn manifest(&self, repository: &str, tag: &str) -> Value {
        let accept = "application/vnd.oci.image.manifest.v1+json";
        serde_json::from_slice(&self.get(&format!("/v2/{repository}/manifests/{tag}"), accept)).unwrap()
    }
}

/// A server at a free port, if it was still free.
fn serve(dir: &Path, config: &str) -> Option<(Child, u16)> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "version: 0.1\nlog:\n  accesslog:\n    disabled: true\n  level: error\nstorage:\n  filesystem:\n    \
         rootdirectory: DIR/data\nhttp:\n  addr: 127.0.0.1:{port}\n{config}"
    );
    let path = dir.join("config.yml");
    fs::write(&path, config.replace("DIR", &dir.display().to_string())).unwrap();
    let log = fs::File::create(dir.join("log")).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut server = command.spawn().unwrap();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(20) && server.try_wait().unwrap().is_none() {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some((server, port));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = server.kill();
    let _ = server.wait();
    eprintln!("docker-registry: {}", fs::read_to_string(dir.join("log")).unwrap());
    None
}

/// A command that knows no login and no proxy but what a test says.
fn clean(mut command: Command) -> Command {
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env("REGISTRY_AUTH_FILE", "/no/such/auth.json");
    command
}

fn push<P: AsRef<OsStr>>(files: impl IntoIterator<Item = P>, name: &str) -> Command {
    let mut command = clean(program("overmask"));
    command.args(["push", "--json", "--plain-http"]).args(files).arg(name);
    command
}

fn pull(store: &Path, name: &str) -> Command {
    let mut command = clean(overmask("flash", store));
    command.args(["--json", "--threads", "1", "--plain-http", "--from", name]);
    command
}

/// The artifacts that were pushed, and the bytes that were sent for each.
fn sent(got: Ran) -> Vec<(String, u64)> {
    let rows = json_lines(&done(got));
    rows.iter().map(|row| (row["reference"].as_str().unwrap().to_owned(), row["sent"].as_u64().unwrap())).collect()
}

/// The bytes that came.
fn received(got: Ran) -> u64 {
    let rows = json_lines(&done(got));
    rows.iter().find(|row| row["step"] == "receive").unwrap()["bytes"].as_u64().unwrap()
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// The bytes of a base's files.
fn base_bytes(device: &Device) -> u64 {
    let names = device.base.manifest().digests.keys().map(String::as_str).chain(["base.json"]);
    names.map(|name| len(&device.base_dir().join(name))).sum()
}

#[test]
fn what_is_pushed_is_flashed() {
    let (device, registry) = (Device::new(), Registry::new());
    let (first, packs) = (registry.name("tasks/demo:1"), device.packs(1));
    let bytes: u64 = packs.iter().map(|path| len(path)).sum();
    let base_id = device.base.base_id();
    let pushed = sent(ran(push(&packs, &first).arg("--base").arg(device.base_dir())));
    let base = (registry.name(&format!("tasks/demo:base-{base_id}")), base_bytes(&device));
    assert_eq!(pushed, [base.clone(), (first.clone(), bytes)]);
    // What is there is not sent again, and the same files make the same artifact.
    let digest = |got: &Ran| json_lines(got).last().unwrap()["sha256"].as_str().unwrap().to_owned();
    let again = ran(push(&packs, &first).arg("--base").arg(device.base_dir()));
    let pinned = format!("{}@sha256:{}", registry.name("tasks/demo"), digest(&again));
    assert_eq!(sent(again), [(base.0, 0), (first.clone(), 0)]);

    let store = device.empty("store");
    assert_eq!(received(ran(&mut pull(&store, &first))), base.1 + bytes);
    assert_eq!(seen(&store), "a 1, b 1");
    done(ran(&mut verify(&store)));
    assert_eq!(device.litter(&store), [] as [PathBuf; 0]);
    // What the store has is not pulled: neither the same again, nor the base for other packs.
    assert_eq!(received(ran(&mut pull(&store, &pinned))), 0);
    let (second, packs) = (registry.name("tasks/demo:2"), device.packs(2));
    sent(ran(&mut push(&packs, &second)));
    assert_eq!(received(ran(&mut pull(&store, &second))), packs.iter().map(|path| len(path)).sum::<u64>());
    assert_eq!(seen(&store), "a 2, b 2");
    let got = ran(&mut pull(&store, &pinned));
    failed(&got, 3, &["tasks/demo@sha256:", "(a-1.pack)", "older"]);
    device.check(&store, &["a 2, b 2"], "none");
}

#[test]
fn an_artifact_is_what_other_tools_expect() {
    let (device, registry) = (Device::new(), Registry::new());
    let pack = device.pack("a", 7);
    let maker = device.path("maker.key");
    done(ran(program("overmask-export").args(["keygen", "--no-password", "-o"]).arg(device.path("maker"))));
    done(ran(program("overmask-export").arg("sign").arg(&pack).arg("--key").arg(&maker)));
    sent(ran(push([&pack], &registry.name("demo:7")).arg("--base").arg(device.base_dir())));
    let manifest = registry.manifest("demo", "7");
    assert_eq!(manifest["schemaVersion"], 2);
    assert_eq!(manifest["artifactType"], "application/vnd.overmask.pack.v1");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
    let annotations = &manifest["annotations"];
    assert_eq!(annotations["org.opencontainers.image.version"], "7");
    assert_eq!(annotations["dev.overmask.tasks"], "a");
    assert_eq!(annotations["dev.overmask.bases"], device.base.base_id());
    // Each layer is a file as it is, with its name.
    let layers = |manifest: &Value, repository: &str| {
        for layer in manifest["layers"].as_array().unwrap() {
            let title = layer["annotations"]["org.opencontainers.image.title"].as_str().unwrap();
            let dir = if title.starts_with("a-7") { pack.parent().unwrap().to_owned() } else { device.base_dir() };
            let path = format!("/v2/{repository}/blobs/{}", layer["digest"].as_str().unwrap());
            assert_eq!(registry.get(&path, "*/*"), fs::read(dir.join(title)).unwrap(), "{title}");
        }
        manifest["layers"].as_array().unwrap().iter().map(|layer| layer["mediaType"].clone()).collect::<Vec<_>>()
    };
    let types = layers(&manifest, "demo");
    assert_eq!(types[0], "application/vnd.overmask.pack.v1+safetensors");
    assert_eq!(types[1], "application/vnd.overmask.signature.v1+minisign");
    let manifest = registry.manifest("demo", &format!("base-{}", device.base.base_id()));
    assert_eq!(manifest["artifactType"], "application/vnd.overmask.base.v1");
    let types = layers(&manifest, "demo");
    assert_eq!((types.len(), types[0].as_str()), (4, Some("application/vnd.overmask.base.v1+json")));
    // Tags are listed as everywhere.
    let tags: Value = serde_json::from_slice(&registry.get("/v2/demo/tags/list", "*/*")).unwrap();
    assert_eq!(tags["tags"].as_array().unwrap().len(), 2);
}

#[test]
fn a_base_can_go_alone_and_signatures_go_along() {
    let (device, registry) = (Device::new(), Registry::new());
    let mut alone = push([] as [&str; 0], &registry.name("bases/tiny:1"));
    let pushed = sent(ran(alone.arg("--base").arg(device.base_dir())));
    assert_eq!(pushed.iter().map(|(_, sent)| *sent).collect::<Vec<_>>(), [base_bytes(&device), 0]);
    let keys = device.path("keys");
    fs::create_dir(&keys).unwrap();
    done(ran(program("overmask-export").args(["keygen", "--no-password", "-o"]).arg(keys.join("fleet"))));
    let (signed, unsigned) = (device.pack("a", 1), device.pack("a", 2));
    done(ran(program("overmask-export").arg("sign").arg(&signed).arg("--key").arg(keys.join("fleet.key"))));
    for (pack, tag) in [(&signed, "bases/tiny:signed"), (&unsigned, "bases/tiny:unsigned")] {
        sent(ran(&mut push([pack], &registry.name(tag))));
    }
    let store = device.empty("store");
    done(ran(overmask("store", &store).args(["policy", "--require-signature", "true"])));
    let from = |tag: &str| {
        let mut command = pull(&store, &registry.name(tag));
        command.env("OVERMASK_KEYRING", &keys);
        ran(&mut command)
    };
    failed(&from("bases/tiny:unsigned"), 5, &["(a-2.pack)", "is not signed"]);
    assert_eq!(device.litter(&store), [] as [PathBuf; 0], "no base is pulled for what is refused");
    assert_eq!(received(from("bases/tiny:1")), base_bytes(&device));
    assert!(received(from("bases/tiny:signed")) > len(&signed));
    assert_eq!(seen(&store), "a 1");
    let other = device.path("other");
    fs::create_dir(&other).unwrap();
    done(ran(program("overmask-export").args(["keygen", "--no-password", "-o"]).arg(other.join("other"))));
    let got = ran(pull(&store, &registry.name("bases/tiny:signed")).env("OVERMASK_KEYRING", &other));
    failed(&got, 5, &["signature"]);
}

#[test]
fn what_is_missing_or_wrong_is_told() {
    let (device, registry) = (Device::new(), Registry::new());
    let (store, pack) = (device.empty("store"), device.pack("a", 1));
    let name = registry.name("demo:1");
    let got = ran(&mut push([&pack], &name));
    assert_eq!(got.code, 0, "{got:?}");
    assert!(got.stderr.contains("does not have the base"), "{got:?}");
    failed(&ran(&mut pull(&store, &name)), 6, &["(a-1.pack) needs the base", "overmask push --base DIR"]);
    failed(&ran(&mut pull(&store, &registry.name("demo:2"))), 8, &["demo has no 2"]);
    failed(&ran(&mut pull(&store, &registry.name("nobody:1"))), 8, &["nobody has no 1"]);
    for name in ["demo:1", "https://x.example/demo:1", "x.example/Demo", "x.example/../demo"] {
        failed(&ran(&mut pull(&store, name)), 2, &["is no reference", "HOST/REPOSITORY:TAG"]);
        failed(&ran(&mut push([&pack], name)), 2, &["is no reference"]);
    }
    failed(&ran(&mut push([] as [&str; 0], &name)), 2, &["nothing is to be pushed"]);
    let pinned = format!("{}@sha256:{}", registry.name("demo"), "0".repeat(64));
    failed(&ran(&mut push([&pack], &pinned)), 2, &["named by a tag"]);
    failed(&ran(&mut pull(&store, &pinned)), 8, &["demo has no sha256:000"]);
    failed(&ran(&mut push([&device.path("none.pack")], &name)), 3, &["none.pack"]);
    let twice = device.path("copy.pack");
    fs::copy(&pack, &twice).unwrap();
    failed(&ran(&mut push([&pack, &twice], &name)), 3, &["copy.pack", "task `a`"]);
    let mut bytes = fs::read(&pack).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&twice, bytes).unwrap();
    failed(&ran(&mut push([&twice], &name)), 4, &["copy.pack"]);
    let mut flash = overmask("flash", &store);
    failed(&ran(flash.arg(&pack).arg("--plain-http")), 2, &["--from"]);
    failed(&ran(pull(&store, &name).arg(&pack)), 2, &["cannot be used with"]);
    failed(&ran(pull(&store, &name).args(["--to", "board"])), 2, &["cannot be used with"]);
    // Nobody listens, and who listens does not speak TLS.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    failed(&ran(&mut pull(&store, &format!("127.0.0.1:{port}/demo:1"))), 8, &["cannot reach", "refused"]);
    let mut secure = clean(overmask("flash", &store));
    failed(&ran(secure.args(["--from", &name])), 8, &["does not speak TLS", "--plain-http"]);
    // Only `localhost` is taken to be without TLS.
    let mut local = clean(overmask("flash", &store));
    let got = ran(local.args(["--from", &format!("localhost:{}/demo:1", registry.port)]));
    assert!([6, 8].contains(&got.code) && !got.stderr.contains("TLS"), "{got:?}");
    assert_eq!(super::files(&store.join("incoming")), Default::default());
    assert_eq!(seen(&store), "nothing");
}
