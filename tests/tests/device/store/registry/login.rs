//! Logins and certificates: who asks for them gets them, and nobody else.

use std::fs;
use std::path::Path;
use std::process::Command;

use overmask_tests::{failed, ran};

use super::super::{Device, done, overmask, seen, tool};
use super::fake::{Heard, Reply, Server, demo};
use super::{LOGIN, Registry, clean, pull, push, received, sent};

/// A file of logins with one for each of these hosts.
fn auths(path: &Path, login: &str, hosts: &[String]) {
    let auth = base64(login.as_bytes());
    let entries: serde_json::Map<String, serde_json::Value> =
        hosts.iter().map(|host| (host.clone(), serde_json::json!({ "auth": auth }))).collect();
    fs::write(path, serde_json::json!({ "auths": entries }).to_string()).unwrap();
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, i| bits << 8 | u32::from(*chunk.get(i).unwrap_or(&0)));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[test]
fn with_a_password() {
    let (device, registry) = (Device::new(), Registry::with_password());
    let (store, name) = (device.empty("store"), registry.name("tasks/demo:1"));
    let [good, bad, helper] = ["good.json", "bad.json", "helper.json"].map(|name| device.path(name));
    let host = format!("127.0.0.1:{}", registry.port);
    auths(&good, LOGIN, std::slice::from_ref(&host));
    auths(&bad, "fleet:wrong", std::slice::from_ref(&host));
    fs::write(&helper, serde_json::json!({"credHelpers": {&host: "vault"}}).to_string()).unwrap();
    let push = |auth: &Path| {
        let mut command = push(device.packs(1), &name);
        ran(command.arg("--base").arg(device.base_dir()).env("REGISTRY_AUTH_FILE", auth))
    };
    failed(&push(&device.path("none.json")), 8, &["asks for a login", "podman login"]);
    failed(&push(&bad), 8, &["refuses", "401"]);
    failed(&push(&helper), 8, &["the helper `vault`", "REGISTRY_AUTH_FILE"]);
    assert!(sent(push(&good)).iter().all(|(_, sent)| *sent > 0));
    failed(&ran(&mut pull(&store, &name)), 8, &["asks for a login"]);
    // From where podman and docker keep it.
    let home = device.path("home");
    fs::create_dir_all(home.join(".docker")).unwrap();
    fs::copy(&good, home.join(".docker/config.json")).unwrap();
    let mut command = pull(&store, &name);
    for name in ["REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"] {
        command.env_remove(name);
    }
    assert!(received(ran(command.env("HOME", &home))) > 0);
    assert_eq!(seen(&store), "a 1, b 1");
}

#[test]
fn with_tls() {
    let device = Device::new();
    let config = "  tls:\n    certificate: DIR/server.pem\n    key: DIR/server.key\n";
    let registry = Registry::with(config, |dir| {
        let openssl = |args: &str| {
            let mut command = Command::new("openssl");
            let got = ran(command.args(args.split(' ')).current_dir(dir));
            assert_eq!(got.code, 0, "{got:?}");
        };
        let found = Command::new("openssl").arg("version").output();
        assert!(found.is_ok(), "`openssl` is missing; install the package `openssl` of Debian");
        fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=fleet"));
        openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=registry"));
        openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile san",
        );
    });
    let ca = registry.dir.path().join("ca.pem");
    let (store, name) = (device.empty("store"), registry.name("tasks/demo:1"));
    let push = |args: &[&std::ffi::OsStr]| {
        let mut command = clean(overmask("push", &store));
        ran(command.arg("--base").arg(device.base_dir()).args(device.packs(1)).arg(&name).args(args))
    };
    failed(&push(&[]), 8, &["cannot reach", "certificate", "--ca-file"]);
    failed(&push(&["--plain-http".as_ref()]), 8, &["refuses", "400"]);
    failed(&push(&["--ca-file".as_ref(), device.pack("a", 1).as_ref()]), 3, &["a-1.pack", "no certificate"]);
    done(push(&["--ca-file".as_ref(), ca.as_ref()]));
    let mut flash = clean(overmask("flash", &store));
    done(ran(flash.args(["--threads", "1", "--from", &name]).env("SSL_CERT_FILE", &ca)));
    assert_eq!(seen(&store), "a 1, b 1");
    tool("docker-registry", "docker-registry");
}

/// A registry that gives tokens, at an address of its own, to who has the password.
fn with_tokens(device: &Device, realm: impl Fn(u16) -> String + Send + Sync + 'static) -> Server {
    let content = demo(device);
    let password = format!("Basic {}", base64(LOGIN.as_bytes()));
    Server::new(move |port, heard: &Heard| {
        let authorization = heard.headers.get("authorization").map_or("", String::as_str);
        if heard.path.starts_with("/token?") {
            return match authorization == password {
                true => Reply::json(r#"{"access_token": "t0ken", "expires_in": 60}"#),
                false => Reply::status(401),
            };
        }
        match authorization == "Bearer t0ken" {
            true => content.reply(heard),
            false => {
                let asks = format!("Bearer realm=\"{}\",service=\"fleet registry\"", realm(port));
                Reply::status(401).with("WWW-Authenticate", &asks)
            }
        }
    })
}

#[test]
fn with_a_token() {
    let device = Device::new();
    let server = with_tokens(&device, |port| format!("http://127.0.0.1:{port}/token"));
    let (store, auth) = (device.empty("store"), device.path("auth.json"));
    failed(&ran(&mut pull(&store, &server.name())), 8, &["asks for a login", "no login is kept"]);
    auths(&auth, "fleet:wrong", &[server.host()]);
    let from = || ran(pull(&store, &server.name()).env("REGISTRY_AUTH_FILE", &auth));
    failed(&from(), 8, &["asks for a login", "is not taken"]);
    auths(&auth, LOGIN, &[server.host()]);
    assert!(received(from()) > 0);
    assert_eq!(seen(&store), "a 1");
    let asked = server.heard().into_iter().find(|heard| heard.path.starts_with("/token?")).unwrap();
    assert_eq!(asked.path, "/token?scope=repository:demo:pull&service=fleet%20registry");
    // The password goes to whom the registry names for tokens, and nowhere else.
    let sent = server.heard().into_iter().filter(|heard| heard.headers.contains_key("authorization"));
    assert!(
        sent.into_iter()
            .all(|heard| { heard.path.starts_with("/token?") == heard.headers["authorization"].starts_with("Basic ") })
    );
}

#[test]
fn a_password_goes_to_nobody_without_tls() {
    let device = Device::new();
    // It answers at another address of this machine, as another host would.
    let thief = Server::at("127.0.0.2", |_, _: &Heard| Reply::json(r#"{"token": "t"}"#));
    let realm = format!("http://127.0.0.2:{}/token", thief.port());
    let server = with_tokens(&device, move |_| realm.clone());
    let (store, auth) = (device.empty("store"), device.path("auth.json"));
    auths(&auth, LOGIN, &[server.host(), format!("127.0.0.2:{}", thief.port())]);
    let got = ran(pull(&store, &server.name()).env("REGISTRY_AUTH_FILE", &auth));
    failed(&got, 4, &["the token that it asks for", "not HTTPS"]);
    assert_eq!(thief.heard().len(), 0);
}
