//! A connection to a registry that is cut: what has arrived stays, and only the rest is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use overmask::store::Store;
use overmask_tests::{Numbers, failed, ran};

use super::super::{Device, seen};
use super::fake::{Content, Heard, Server, demo};
use super::{base_bytes, len, pull, received};

/// A registry that hangs up after so many bytes of each blob; with none it is well.
fn cut(content: Content) -> (Server, Arc<AtomicUsize>) {
    let after = Arc::new(AtomicUsize::new(usize::MAX));
    let limit = Arc::clone(&after);
    let server = Server::new(move |_, heard: &Heard| {
        let reply = content.reply(heard);
        match limit.load(Ordering::SeqCst) {
            usize::MAX => reply,
            limit if heard.path.contains("/blobs/") => reply.cut(limit),
            _ => reply,
        }
    });
    (server, after)
}

#[test]
fn what_has_arrived_is_not_pulled_again() {
    let device = Device::new();
    let all = base_bytes(&device) + len(&device.pack("a", 1));
    let manifest = len(&device.base_dir().join("base.json"));
    let (server, after) = cut(demo(&device));
    let longest = len(&device.base_dir().join("model.safetensors"));
    let mut numbers = Numbers::new(1);
    let (mut within, mut saved) = (0, 0);
    for i in 0..16 {
        let store = device.empty(&format!("store-{i}"));
        // Only what is longer than that is cut.
        let at = (numbers.uniform() * longest as f32) as usize;
        after.store(at, Ordering::SeqCst);
        failed(&ran(&mut pull(&store, &server.name())), 8, &["cannot reach 127.0.0.1"]);
        let opened = Store::open(&store).unwrap();
        assert_eq!(opened.current().unwrap().number, 0);
        let there: u64 = opened.arriving().unwrap().into_iter().map(|(_, bytes)| bytes).sum();
        after.store(usize::MAX, Ordering::SeqCst);
        let heard = server.heard().len();
        assert_eq!(received(ran(&mut pull(&store, &server.name()))), all - there, "cut {i} at {at}");
        let ranges = server.heard().split_off(heard).into_iter().filter(|heard| heard.headers.contains_key("range"));
        assert!(there == 0 || ranges.count() > 0, "cut {i} at {at}");
        assert_eq!(opened.arriving().unwrap(), []);
        device.check(&store, &["a 1"], &format!("cut {i} at {at}"));
        (within, saved) = (within + usize::from(there > manifest), saved + there);
    }
    println!("16 cuts, {within} within files; {saved} bytes were not pulled again of {} in all", 16 * all);
    assert!(within > 8);
}

#[test]
fn a_registry_need_not_know_of_ranges_nor_keep_its_word() {
    let device = Device::new();
    let all = base_bytes(&device) + len(&device.pack("a", 1));
    let content = Content { has_ranges: false, ..demo(&device) };
    let weights = content.base_layer("model.safetensors")["size"].as_u64().unwrap();
    let (server, after) = cut(content);
    let store = device.empty("store");
    let pack = len(&device.pack("a", 1));
    after.store(usize::try_from(weights - 1).unwrap(), Ordering::SeqCst);
    failed(
        &ran(&mut pull(&store, &server.name())),
        8,
        &["cannot reach", "bytes of model.safetensors", "goes on from there"],
    );
    after.store(usize::MAX, Ordering::SeqCst);
    // The weights come from their beginning; all else is there.
    let came = received(ran(&mut pull(&store, &server.name())));
    assert!(came >= weights && came < all - pack, "{came} of {all}");
    device.check(&store, &["a 1"], "no ranges");

    // What lies there already is not what it should be: it is pulled again, once.
    let (server, after) = cut(demo(&device));
    let store = device.empty("other");
    after.store(usize::try_from(weights - 1).unwrap(), Ordering::SeqCst);
    failed(&ran(&mut pull(&store, &server.name())), 8, &["cannot reach"]);
    after.store(usize::MAX, Ordering::SeqCst);
    let sha256 = &device.base.manifest().digests["model.safetensors"];
    let part = store.join("incoming").join(sha256);
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let got = ran(&mut pull(&store, &server.name()));
    assert_eq!(got.code, 0, "{got:?}");
    assert!(got.stderr.contains("pulled again"), "{got:?}");
    assert_eq!(seen(&store), "a 1");
    device.check(&store, &["a 1"], "damaged");
}
