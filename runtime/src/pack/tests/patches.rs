//! Patches: what comes out is the new pack, or an error.

use sha2::{Digest, Sha256};

use super::*;

/// A base, a pack for it, and the file of a later revision whose mask differs in a unit.
fn revisions(dir: &Path) -> (Base, PackFile, Vec<u8>) {
    let (base, pack) = ranked(dir);
    let old = PackFile::from_bytes(&pack.to_bytes(Some(&base)).unwrap()).unwrap();
    let mask = Mask::from_units(Granularity::Weight, 3, 4, (0..12).map(|i| i > 2)).unwrap();
    let document = PackDocument { revision: 2, ..pack.document };
    let masks = vec![NamedMask { tensor: "w".into(), mask }];
    let new = Pack::new(document, masks, pack.head, Vec::new()).unwrap().to_bytes(Some(&base)).unwrap();
    (base, old, new)
}

#[test]
fn a_patch_makes_the_new_pack_of_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let (base, old, new) = revisions(dir.path());
    let patch = Patch::new(&old, &new, Some("signed".to_owned()), &base).unwrap();
    let bytes = patch.to_bytes().unwrap();
    let again = Patch::from_bytes(&bytes).unwrap();
    assert_eq!(again, patch);
    assert_eq!(Patch::find(&bytes).unwrap(), Some(patch));
    assert!([&new[..], b"", &bytes[..100]].iter().all(|other| matches!(Patch::find(other), Ok(None))));
    // A damaged patch is one still.
    let damaged = [&bytes[..bytes.len() - 1], &[!bytes[bytes.len() - 1]]].concat();
    assert!(matches!(Patch::find(&damaged), Err(PackError::Bytes(Reason::Damaged))));
    assert_eq!((again.from(), again.signature()), (old.digest(), Some("signed")));
    assert_eq!(again.to(), PackFile::from_bytes(&new).unwrap().digest());
    assert_eq!(again.apply(&old, &base).unwrap(), new);
    // The other way round there is nothing to start from.
    let error = again.apply(&PackFile::from_bytes(&new).unwrap(), &base).unwrap_err();
    assert!(error.to_string().contains("field `from`"), "{error}");
    // No pack, and said so.
    for error in [PackFile::from_bytes(&bytes).unwrap_err(), Packs::from_bytes(dir.path(), &bytes, None).unwrap_err()] {
        assert!(error.to_string().contains("a patch, which `overmask flash` takes"), "{error}");
    }
    let plain = PackFile::from_bytes(&new).unwrap().decode(Some(&base)).unwrap();
    let plain = Pack { document: PackDocument { codec: Codec::Plain, ..plain.document.clone() }, ..plain };
    let error = Patch::new(&old, &plain.to_bytes(None).unwrap(), None, &base).unwrap_err();
    assert!(error.to_string().contains("repack"), "{error}");
}

#[test]
fn a_changed_patch_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (base, old, new) = revisions(dir.path());
    let bytes = Patch::new(&old, &new, None, &base).unwrap().to_bytes().unwrap();
    assert_eq!(Patch::from_bytes(&bytes).unwrap().apply(&old, &base).unwrap(), new);
    for at in 0..bytes.len() {
        for change in [1, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            assert!(Patch::from_bytes(&changed).is_err(), "byte {at}");
            // Made on purpose, with the checksum of what it is now.
            let end = changed.len() - 32;
            let sum = Sha256::digest(&changed[..end]);
            changed[end..].copy_from_slice(&sum);
            if let Ok(patch) = Patch::from_bytes(&changed) {
                match patch.apply(&old, &base) {
                    Ok(made) => assert_eq!(made, new, "byte {at}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::CorruptFile, "byte {at}: {error}"),
                }
            }
        }
        assert!(Patch::from_bytes(&bytes[..at]).is_err());
    }
}
