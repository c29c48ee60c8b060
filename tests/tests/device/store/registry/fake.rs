//! A registry in a few lines, which does what a test has it do: the one that everybody fears.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use overmask::fs::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Device;

/// What was asked.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) method: String,
    pub(super) path: String,
    /// By name in lower case.
    pub(super) headers: BTreeMap<String, String>,
}

/// What is answered.
#[derive(Clone)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The body comes again and again, and nothing says how long it is.
    is_endless: bool,
    /// Only so many bytes of the body come.
    cut: Option<usize>,
}

impl Reply {
    pub(super) fn status(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Vec::new(), is_endless: false, cut: None }
    }

    pub(super) fn bytes(body: impl Into<Vec<u8>>) -> Reply {
        Reply { body: body.into(), ..Reply::status(200) }
    }

    pub(super) fn json(text: &str) -> Reply {
        Reply::bytes(text).with("Content-Type", "application/json")
    }

    pub(super) fn endless(body: &str) -> Reply {
        Reply { is_endless: true, ..Reply::bytes(body.repeat(1000)) }
    }

    pub(super) fn to(location: &str) -> Reply {
        Reply::status(307).with("Location", location)
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with another status.
    pub(super) fn of(self, status: u16) -> Reply {
        Reply { status, ..self }
    }

    pub(super) fn cut(self, after: usize) -> Reply {
        Reply { cut: Some(after), ..self }
    }

    fn write(&self, to: &mut TcpStream) -> std::io::Result<()> {
        write!(to, "HTTP/1.1 {} X\r\nConnection: close\r\n", self.status)?;
        for (name, value) in &self.headers {
            write!(to, "{name}: {value}\r\n")?;
        }
        if self.is_endless {
            to.write_all(b"\r\n")?;
            loop {
                to.write_all(&self.body)?;
            }
        }
        let is_said = self.headers.iter().any(|(name, _)| name == "Content-Length");
        if !is_said {
            write!(to, "Content-Length: {}\r\n", self.body.len())?;
        }
        to.write_all(b"\r\n")?;
        to.write_all(&self.body[..self.cut.unwrap_or(self.body.len()).min(self.body.len())])
    }
}

/// A server, for as long as the test program runs.
pub(super) struct Server {
    host: String,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Server {
    pub(super) fn new(answer: impl Fn(u16, &Heard) -> Reply + Send + Sync + 'static) -> Server {
        Server::at("127.0.0.1", answer)
    }

    /// At an address of this machine.
    pub(super) fn at(address: &str, answer: impl Fn(u16, &Heard) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let local = listener.local_addr().unwrap();
        let (heard, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let list = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (list, answer) = (Arc::clone(&list), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(asked) = hear(&stream) else { return };
                    list.lock().unwrap().push(asked.clone());
                    // Whoever is asked may hang up.
                    let _ = answer(local.port(), &asked).write(&mut stream);
                });
            }
        });
        Server { host: local.to_string(), heard }
    }

    pub(super) fn host(&self) -> String {
        self.host.clone()
    }

    pub(super) fn port(&self) -> u16 {
        self.host.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// The artifact that it has.
    pub(super) fn name(&self) -> String {
        format!("{}/demo:1", self.host)
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

fn hear(stream: &TcpStream) -> Option<Heard> {
    let mut from = BufReader::new(stream.take(1 << 16));
    let mut line = String::new();
    from.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        from.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
            None => return Some(Heard { method, path, headers }),
        };
    }
}

/// What a registry has: the answers to paths.
#[derive(Clone)]
pub(super) struct Content {
    /// By path.
    pub(super) replies: BTreeMap<String, Reply>,
    /// Whether it knows of ranges.
    pub(super) has_ranges: bool,
    /// The manifest of the packs, and that of their base; after a change of one: [`Content::settle`].
    pub(super) packs: Value,
    pub(super) base: Value,
    pub(super) base_tag: String,
}

/// The pack `a`, revision 1, with its base, as `overmask push` would put them there; written down once more.
pub(super) fn demo(device: &Device) -> Content {
    let mut replies = BTreeMap::new();
    let mut layer = |media_type: &str, title: &str, bytes: Vec<u8>| {
        let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        let size = bytes.len();
        replies.insert(format!("/v2/demo/blobs/{digest}"), Reply::bytes(bytes));
        let annotations = json!({"org.opencontainers.image.title": title});
        json!({"mediaType": media_type, "digest": digest, "size": size, "annotations": annotations})
    };
    let pack = device.pack("a", 1);
    let packs = json!([layer("application/vnd.overmask.pack.v1+safetensors", "a-1.pack", fs::read(pack).unwrap())]);
    let read = |name: &str| fs::read(device.base_dir().join(name)).unwrap();
    let mut base = vec![layer("application/vnd.overmask.base.v1+json", "base.json", read("base.json"))];
    for name in device.base.manifest().digests.keys() {
        base.push(layer("application/vnd.overmask.base.file.v1", name, read(name)));
    }
    let manifest = |kind: &str, layers: Value| {
        let empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": kind,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2}, "layers": layers,
        })
    };
    let packs = manifest("application/vnd.overmask.pack.v1", packs);
    let base = manifest("application/vnd.overmask.base.v1", json!(base));
    let base_tag = format!("base-{}", device.base.base_id());
    Content { replies, has_ranges: true, packs, base, base_tag }.settle()
}

impl Content {
    /// Answers with the manifests as they are now.
    pub(super) fn settle(mut self) -> Content {
        let path = |tag: &str| format!("/v2/demo/manifests/{tag}");
        self.replies.insert(path("1"), Reply::json(&self.packs.to_string()));
        self.replies.insert(path(&self.base_tag), Reply::json(&self.base.to_string()));
        self
    }

    /// Where the blob of a layer is.
    pub(super) fn blob_path(layer: &Value) -> String {
        format!("/v2/demo/blobs/{}", layer["digest"].as_str().unwrap())
    }

    /// The layer of the base that has this title.
    pub(super) fn base_layer(&self, title: &str) -> Value {
        let is_it = |layer: &&Value| layer["annotations"]["org.opencontainers.image.title"] == title;
        self.base["layers"].as_array().unwrap().iter().find(is_it).unwrap().clone()
    }

    pub(super) fn manifest_path(&self) -> String {
        "/v2/demo/manifests/1".to_owned()
    }

    /// Where the pack is.
    pub(super) fn pack_path(&self) -> String {
        Content::blob_path(&self.packs["layers"][0])
    }

    pub(super) fn reply(&self, heard: &Heard) -> Reply {
        let Some(reply) = self.replies.get(&heard.path) else { return Reply::status(404) };
        let from = heard.headers.get("range").filter(|_| self.has_ranges && reply.status == 200);
        let from = from.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let Some(from) = from.filter(|from| *from < reply.body.len()) else { return reply.clone() };
        let range = format!("bytes {from}-{}/{}", reply.body.len() - 1, reply.body.len());
        let part = Reply { body: reply.body[from..].to_vec(), status: 206, ..reply.clone() };
        part.with("Content-Range", &range)
    }
}
