//! Files that arrive in pieces: they go on where they stopped, and nothing wrong of them stays.

use super::*;

const BYTES: &[u8] = b"sixteen bytes, or";

fn sha256() -> String {
    hex(&Sha256::digest(BYTES))
}

fn begin(change: &Changing) -> Part {
    change.arrive(&sha256(), BYTES.len() as u64).unwrap()
}

#[test]
fn a_file_goes_on_where_it_stopped() {
    let place = place();
    let change = place.change();
    for (have, upto) in [(0, 5), (5, 5), (5, 16)] {
        let mut part = begin(&change);
        assert_eq!((part.have(), part.is_resumed()), (have as u64, have > 0));
        part.write(&BYTES[have..upto]).unwrap();
        assert!(kind_of(part.finish("x")).1.contains(&format!("x: it ended after {upto} of 17 bytes")));
    }
    assert_eq!(change.arriving().unwrap(), [(sha256(), 16)]);
    let mut part = begin(&change);
    part.take(&mut &b"r and no more is read"[..], "x").unwrap();
    let path = part.finish("x").unwrap();
    assert_eq!(fs::read(path).unwrap(), BYTES);
    // Whole, it needs nothing more.
    let part = begin(&change);
    assert_eq!(part.have(), 17);
    part.finish("x").unwrap();
}

#[test]
fn what_is_wrong_is_gone_and_begins_again() {
    let place = place();
    let change = place.change();
    let path = place.path(INCOMING).join(sha256());
    // Wrong bytes of the right length.
    let mut part = begin(&change);
    part.write(b"sixteen bytes, oR").unwrap();
    let (kind, said) = kind_of(part.finish("x"));
    assert!(kind == ErrorKind::InputData && said.contains("its sha256 is") && !said.contains("before"), "{said}");
    assert!(!path.exists());
    // A wrong beginning, as a power cut leaves it.
    fs::write(&path, [0; 9]).unwrap();
    let mut part = begin(&change);
    assert_eq!(part.have(), 9);
    part.write(&BYTES[9..]).unwrap();
    assert!(kind_of(part.finish("x")).1.contains("had arrived before"));
    assert_eq!(begin(&change).have(), 0);
    // What looks whole, is longer, or is no file.
    fs::write(&path, [0; 17]).unwrap();
    assert_eq!(begin(&change).have(), 0);
    fs::write(&path, [0; 18]).unwrap();
    assert_eq!(begin(&change).have(), 0);
    fs::create_dir(&path).unwrap();
    assert_eq!(begin(&change).have(), 0);
    #[cfg(unix)]
    {
        let victim = place.dir.path().join("victim");
        fs::write(&victim, b"sixteen").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let mut part = begin(&change);
        assert_eq!(part.have(), 0);
        part.write(BYTES).unwrap();
        part.finish("x").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"sixteen");
    }
}

#[test]
fn no_more_comes_than_was_announced_and_nothing_has_a_name_but_a_digest() {
    let place = place();
    let change = place.change();
    let mut part = begin(&change);
    part.write(&BYTES[..10]).unwrap();
    let (kind, said) = kind_of(part.write(&BYTES[..8]));
    assert!(kind == ErrorKind::InputData && said.contains("more than the 17 bytes"), "{said}");
    part.write(&BYTES[10..]).unwrap();
    part.finish("x").unwrap();
    for name in ["../current", "/etc/passwd", "", &"A".repeat(64), &"a".repeat(63), &format!("{}/", "a".repeat(63))] {
        let (kind, said) = kind_of(change.arrive(name, 3));
        assert!(kind == ErrorKind::InputData && said.contains("64 lower-case hex digits"), "{said}");
    }
    // Others' parts go, those that are asked for stay.
    change.arrive(&"ab".repeat(32), 4).unwrap().write(b"ab").unwrap();
    change.keep_arriving(|name| name == sha256()).unwrap();
    assert_eq!(change.arriving().unwrap(), [(sha256(), 17)]);
}

#[test]
fn a_base_is_taken_in_whole_or_not_at_all() {
    let place = place();
    let from = place.dir.path().join("base");
    fs::create_dir(&from).unwrap();
    let manifest = bundle(&from);
    let change = place.change();
    let before = place.content();
    for (name, at) in [("model.onnx", 2), ("model.safetensors", 65540), ("base.json", 70)] {
        let good = fs::read(from.join(name)).unwrap();
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(from.join(name), bad).unwrap();
        assert!(change.take_base(&from).is_err(), "{name}");
        change.collect().unwrap();
        assert_eq!(place.content(), before, "{name}");
        fs::write(from.join(name), good).unwrap();
    }
    // Something of it was there, from a flash that was ended.
    let tokenizer = &manifest.digests["tokenizer.json"];
    fs::create_dir_all(place.path(INCOMING)).unwrap();
    fs::write(place.path(INCOMING).join(tokenizer), b"\0").unwrap();
    let entry = change.take_base(&from).unwrap();
    assert_eq!(entry.base_id, manifest.base_id);
    change.open_unchecked(&entry).unwrap().verify().unwrap();
    // Again, nothing is copied; one that is damaged is replaced, at its place.
    let file = change.base_dir(&entry.base_id, entry.variant).join("model.onnx");
    let made = || fs::metadata(&file).unwrap().modified().unwrap();
    let first = made();
    assert_eq!((change.take_base(&from).unwrap(), made()), (entry.clone(), first));
    fs::write(&file, b"grapH").unwrap();
    assert_eq!(change.take_base(&from).unwrap(), entry);
    assert_eq!(fs::read(&file).unwrap(), b"graph");
    change.activate(Generation { bases: vec![entry], ..Generation::empty() }).unwrap();
    change.collect().unwrap();
    assert_eq!(names_in(&place.path(INCOMING)).unwrap(), [] as [&str; 0]);
}
