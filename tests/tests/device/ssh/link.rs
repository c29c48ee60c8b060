//! A link that is cut in the midst of a flash over ssh: the next flash goes on where it stopped.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use overmask::store::Store;
use overmask_tests::{json_lines, ran};

use super::{Place, done, lock};

/// A way to a port on which each connection is cut after so many bytes from who connects; `cuts` has one for each, and
/// those after them are not cut.
pub(super) struct Link {
    pub(super) port: u16,
    /// Bytes that were let through, of all connections.
    through: Arc<AtomicU64>,
}

impl Link {
    pub(super) fn to(port: u16, cuts: Vec<u64>) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link { port: listener.local_addr().unwrap().port(), through: Arc::default() };
        let through = Arc::clone(&link.through);
        // It ends with the tests.
        thread::spawn(move || {
            let mut cuts = cuts.into_iter();
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
                let (most, through) = (cuts.next().unwrap_or(u64::MAX), Arc::clone(&through));
                let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
                thread::spawn(move || pass(back.0, back.1, u64::MAX, &AtomicU64::new(0)));
                thread::spawn(move || pass(near, far, most, &through));
            }
        });
        link
    }
}

/// Lets bytes through until there are no more, or have been so many; then both streams are cut.
fn pass(mut from: TcpStream, mut to: TcpStream, mut most: u64, through: &AtomicU64) {
    let mut buffer = [0; 4096];
    while most > 0 {
        let room = buffer.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        let Ok(n @ 1..) = from.read(&mut buffer[..room]) else { break };
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        most -= n as u64;
        through.fetch_add(n as u64, Ordering::SeqCst);
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// What has arrived in a store, once nobody writes to it any more.
fn arrived(place: &Place, store: &Path) -> u64 {
    let opened = Store::open(store).unwrap();
    let now = || {
        let _lock = lock(store);
        let arriving: u64 = opened.arriving().unwrap().into_iter().map(|(_, bytes)| bytes).sum();
        let is_settled = store.join("base").exists();
        arriving + if is_settled { base_bytes(place) } else { 0 }
    };
    let mut before = now();
    loop {
        // Longer than the server takes to see that a connection is gone.
        thread::sleep(Duration::from_millis(400));
        match now() {
            same if same == before => return same,
            other => before = other,
        }
    }
}

fn base_bytes(place: &Place) -> u64 {
    let names = place.base.manifest().digests.keys();
    names.map(|name| fs::metadata(place.base_dir().join(name)).unwrap().len()).sum()
}

#[test]
fn a_link_that_is_cut_goes_on_where_it_was() {
    let place = Place::new();
    let pack = place.pack(1);
    let flash = |store: &Path, link: &Link| {
        let ssh = format!("{} -o Port={}", place.ssh(), link.port);
        ran(place.flash_to("board1.example", store, &ssh).arg(&pack))
    };
    let sent = |got| json_lines(&done(got)).pop().unwrap()["sent"].as_u64().unwrap();
    let whole = Link::to(place.port, Vec::new());
    let all = sent(flash(&place.store("whole"), &whole));
    assert_eq!(all, base_bytes(&place) + fs::metadata(&pack).unwrap().len());
    let through = whole.through.load(Ordering::SeqCst);
    assert!(through > all, "{through}");
    let (cuts, mut within) = (8, 0);
    for i in 1..=cuts {
        let cut = through * i / (cuts + 1);
        let store = place.store(&format!("store-{i}"));
        let got = flash(&store, &Link::to(place.port, vec![cut]));
        assert_eq!(got.code, 8, "cut at {cut} of {through}: {got:?}");
        assert!(got.stderr.contains("cannot reach board1.example"), "{got:?}");
        let there = arrived(&place, &store);
        assert!(there < cut, "{there} of {cut}");
        assert_eq!(Store::open(&store).unwrap().current().unwrap().number, 0);
        let rest = sent(flash(&store, &whole));
        assert_eq!(rest, all - there, "cut at {cut}: the rest only");
        println!("cut at {cut} of {through}: {there} of {all} were there, {rest} were sent");
        within += usize::from(there > 0);
        assert!(place.answers(&store));
        assert_eq!(Store::open(&store).unwrap().arriving().unwrap(), []);
    }
    assert!(within >= 5, "{within} of {cuts} cuts left something");
}
