//! A registry that means harm: whatever it says is refused, within bounds of time, memory and disk.

use std::process::Command;
use std::time::{Duration, Instant};

use overmask_tests::{Ran, failed, ran};
use serde_json::json;

use super::super::{Device, done, files, seen, under};
use super::fake::{Content, Heard, Reply, Server, demo};
use super::{clean, len, pull, push, received};

/// A command in little memory, which must end soon.
fn bounded(command: &Command) -> Ran {
    let mut command = under(["sh", "-c", "ulimit -v 600000; exec \"$0\" \"$@\""], command);
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"] {
        command.env_remove(name);
    }
    let begin = Instant::now();
    let got = Ran::from(command.output().unwrap());
    assert!(begin.elapsed() < Duration::from_secs(60), "{got:?}");
    assert!(!got.stderr.contains('\u{1b}') && !got.stdout.contains('\u{1b}'), "{got:?}");
    got
}

#[test]
fn what_it_says_is_refused() {
    let device = Device::new();
    let good = demo(&device);
    let (manifest, pack) = (good.manifest_path(), good.pack_path());
    let weights = good.base_layer("model.safetensors");
    let weights_path = Content::blob_path(&weights);
    let base_json = Content::blob_path(&good.base_layer("base.json"));
    // One answer is another.
    let other = |path: &str, reply: Reply| {
        let mut content = good.clone();
        content.replies.insert(path.to_owned(), reply);
        content
    };
    // One word of the manifest of the packs, or of their base, is another.
    let packs = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut content = good.clone();
        change(&mut content.packs);
        content.settle()
    };
    let base = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut content = good.clone();
        change(&mut content.base);
        content.settle()
    };
    // It wants a token, which it gives itself.
    let token = |reply: Reply| {
        let asks = Reply::status(401).with("WWW-Authenticate", "Bearer realm=\"/token\"");
        let mut content = other(&manifest, asks);
        content.replies.insert("/token?scope=repository:demo:pull".to_owned(), reply);
        content
    };
    let pack_bytes = std::fs::read(device.pack("a", 1)).unwrap();
    let wrong: Vec<u8> = pack_bytes.iter().map(|byte| byte ^ 1).collect();
    let path = "sha256:../../../../../../etc/passwd";
    let escape = r#"{"errors": [{"code": "DENIED", "message": "\u001b[2J\u202eowned\r\n"}]}"#;
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []});
    let deep = "[".repeat(1 << 20);
    let many = format!("{{\"layers\": [{}0]}}", "0,".repeat(1 << 20));
    let cases: Vec<(&str, Content, i32, &str)> = vec![
        ("an endless manifest", other(&manifest, Reply::endless(" ")), 4, "more than 4194304 bytes"),
        ("an endless error", other(&manifest, Reply::endless("x").of(500)), 8, "500"),
        ("an error with escapes", other(&manifest, Reply::json(escape).of(500)), 8, "owned"),
        ("no manifest", other(&manifest, Reply::json("[1]")), 4, "no manifest"),
        ("deep JSON", other(&manifest, Reply::json(&deep)), 4, "demo:1"),
        ("broad JSON", other(&manifest, Reply::json(&many)), 4, "demo:1"),
        ("an index", other(&manifest, Reply::json(&index.to_string())), 4, "no manifest"),
        ("another artifact", packs(&|it| it["layers"][0]["mediaType"] = json!("text/plain")), 4, "holds no pack"),
        ("a path as a digest", packs(&|it| it["layers"][0]["digest"] = json!(path)), 4, "64 hex digits"),
        ("too large", packs(&|it| it["layers"][0]["size"] = json!(u64::MAX)), 4, "a flash may have"),
        ("a large pack", packs(&|it| it["layers"][0]["size"] = json!(1 << 30)), 4, "another length"),
        ("a small pack", packs(&|it| it["layers"][0]["size"] = json!(10)), 4, "another length"),
        ("another pack", other(&pack, Reply::bytes(wrong)), 4, "its sha256 is"),
        ("an endless pack", other(&pack, Reply::endless("x")), 4, "its sha256 is"),
        ("no pack", other(&pack, Reply::status(404)), 8, "404"),
        ("half a pack", other(&pack, Reply::bytes(pack_bytes).cut(1000)), 8, "after 1000 of"),
        ("an endless base.json", other(&base_json, Reply::endless("x")), 4, "base.json"),
        ("an endless base", other(&weights_path, Reply::endless("x")), 4, "its sha256 is"),
        ("a base that fills the disk", base(&|it| it["layers"][2]["size"] = json!(1u64 << 60)), 8, "bytes more"),
        (
            "a base of more than all",
            base(&|it| {
                (1..4).for_each(|i| it["layers"][i]["size"] = json!(u64::MAX));
            }),
            8,
            "bytes more",
        ),
        ("another base", base(&|it| it["layers"][0] = good.packs["layers"][0].clone()), 4, "it is no base"),
        ("a base without files", base(&|it| it["layers"] = json!([it["layers"][0]])), 4, "it lacks"),
        ("too many headers", other(&manifest, Reply::status(200).with("X", &"y".repeat(1 << 20))), 8, "cannot reach"),
        ("a redirection to itself", other(&pack, Reply::to(&pack)), 4, "redirects more than 5 times"),
        ("a redirection elsewhere", other(&pack, Reply::to("http://127.0.0.2/x")), 4, "not HTTPS"),
        ("a redirection to a file", other(&pack, Reply::to("file:///etc/passwd")), 4, "leads to"),
        ("a redirection with a login", other(&pack, Reply::to("https://a:b@127.0.0.1/")), 4, "a login in it"),
        ("a redirection nowhere", other(&pack, Reply::status(307)), 4, "leads to"),
        ("a login of its own kind", other(&manifest, Reply::status(401)), 8, "does not say how"),
        ("a token with a line end", token(Reply::json(r#"{"token": "a\r\nX: y"}"#)), 4, "it is none"),
        ("an endless token", token(Reply::endless("x")), 4, "more than 1048576 bytes"),
    ];
    let store = device.full("store");
    done(ran(super::super::overmask("store", &store).args(["remove", "a"])));
    let before = files(&store);
    for (name, content, code, said) in cases {
        // On a device that has nothing, and on one whose base is there.
        let (empty, server) = (device.empty("empty"), Server::new(move |_, heard: &Heard| content.reply(heard)));
        let got = bounded(&pull(&empty, &server.name()));
        assert_eq!(got.code, code, "{name}: {got:?}");
        failed(&got, code, &[said]);
        let is_kept = got.stderr.contains("cannot reach");
        let left: Vec<_> = files(&empty).into_iter().filter(|path| path.is_file()).collect();
        let kept = if is_kept { left.len() } else { 3 };
        assert_eq!(left.len(), kept, "{name}: {left:?} are more than policy, pointer and lock");
        std::fs::remove_dir_all(&empty).unwrap();
        if name.contains("base") {
            continue;
        }
        failed(&bounded(pull(&store, &server.name()).arg("--allow-downgrade")), code, &[said]);
        if !is_kept {
            assert_eq!(files(&store), before, "{name}");
        }
    }
    device.check(&store, &["b 2"], "hostile registries");
}

#[test]
fn a_name_is_no_path() {
    let device = Device::new();
    let mut content = demo(&device);
    let names = ["../../../../../../tmp/owned.pack", "/etc/passwd", "\u{1b}[2J\r\nowned", "", &"x".repeat(100_000)];
    for (i, name) in names.iter().enumerate() {
        content.packs["layers"][0]["annotations"]["org.opencontainers.image.title"] = json!(name);
        for layer in content.base["layers"].as_array_mut().unwrap() {
            layer["annotations"]["org.opencontainers.image.title"] = json!(name);
        }
        let settled = content.clone().settle();
        let server = Server::new(move |_, heard: &Heard| settled.reply(heard));
        let store = device.empty(&format!("store-{i}"));
        assert!(received(bounded(&pull(&store, &server.name()))) > 0);
        assert_eq!(device.litter(&store), [] as [std::path::PathBuf; 0]);
        // What it is called is said, in a line of its own.
        let got = bounded(pull(&device.full(&format!("full-{i}")), &server.name()).arg("-v"));
        assert_eq!((got.code, got.stderr.contains('\u{1b}')), (3, false), "{got:?}");
        assert!(got.stderr.lines().all(|line| line.len() < 1000), "{got:?}");
    }
}

#[test]
fn it_learns_nothing_of_the_device() {
    let device = Device::new();
    let mut content = demo(&device);
    let weights = Content::blob_path(&content.base_layer("model.safetensors"));
    // As registries do that keep their blobs elsewhere: at another port, another host to whoever has a login.
    let blob = content.replies[&weights].clone();
    let elsewhere = Server::new(move |_, _: &Heard| blob.clone());
    content.replies.insert(weights, Reply::to(&format!("http://{}/blob", elsewhere.host())));
    let server = Server::new(move |_, heard: &Heard| match heard.headers.contains_key("authorization") {
        true => content.reply(heard),
        false => Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let store = device.empty("store");
    let auth = device.path("auth.json");
    std::fs::write(&auth, json!({"auths": {server.host(): {"auth": "YTpi"}}}).to_string()).unwrap();
    let from = || ran(pull(&store, &server.name()).env("REGISTRY_AUTH_FILE", &auth));
    assert!(received(from()) > len(&device.pack("a", 1)));
    assert_eq!(seen(&store), "a 1");
    let heard = elsewhere.heard();
    assert_eq!((heard.len(), heard[0].headers.get("authorization")), (1, None), "{heard:?}");
    assert_eq!(received(from()), 0);
    for heard in server.heard().iter().chain(&heard) {
        assert_eq!(heard.method, "GET");
        let known = ["host", "user-agent", "accept", "authorization", "range"];
        let unknown: Vec<_> = heard.headers.keys().filter(|name| !known.contains(&name.as_str())).collect();
        assert!(unknown.is_empty(), "{heard:?}");
        assert!(heard.headers["user-agent"].starts_with("overmask/"));
    }
}

#[test]
fn who_is_pushed_to_gets_no_more_than_was_meant() {
    let device = Device::new();
    let pack = device.pack("a", 1);
    let run = |server: &Server| {
        let mut command = clean(push([&pack], &server.name()));
        bounded(command.arg("-v"))
    };
    for (location, code, said) in [
        ("http://127.0.0.2:9/upload", 4, "not HTTPS"),
        ("file:///etc/passwd", 4, "leads to"),
        ("", 4, "leads to"),
        ("https://a:b@x.example/", 4, "a login in it"),
    ] {
        let server = Server::new(move |_, heard: &Heard| match heard.method.as_str() {
            "POST" => Reply::status(202).with("Location", location),
            _ => Reply::status(404),
        });
        failed(&run(&server), code, &[said]);
    }
    let server = Server::new(|_, heard: &Heard| match heard.method.as_str() {
        "HEAD" => Reply::status(404),
        _ => Reply::endless("x").of(500),
    });
    failed(&run(&server), 8, &["500"]);
}
