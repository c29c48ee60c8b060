//! Tests of trust: what minisign made is accepted, and whatever was changed is refused.

use std::io::Cursor;

use ::minisign::KeyPair;
use proptest::prelude::*;

use super::*;

/// A public key, a text and its signatures, made with the C program of Debian's minisign 0.11-1:
/// `minisign -G -W`, `minisign -S -t ...` and `minisign -S -l`.
const C_KEY: &str = "untrusted comment: minisign public key F098C5BBB34D36CC\n\
                     RWTMNk2zu8WY8AlhGdAUdp3STu8tUowpurBGbke6EuyX6RCtXJ+3yN+7\n";
const C_TEXT: &[u8] = b"One frozen base, many small packs.\n";
const C_SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
    RUTMNk2zu8WY8Ktsnu8UUnqpFThYM+AiW/TX1/7reG9mCVN+ky295gg9NwYIsLieuu6qejzPOm6ATg/y7C8hMb74Clp9qPo2Ygs=\n\
    trusted comment: file:text\tmade by minisign 0.11\n\
    Mn2YnAWnRCkP2l67lx+506U7TJMQnJfU8etgBKMMPGIXUYjNRa64JsHx98gzPNBy0ckezAma7lAiouQSWGlFDw==\n";
const C_LEGACY: &str = "untrusted comment: signature from minisign secret key\n\
    RWTMNk2zu8WY8MOm/m/bDZSY66kcPR5768jHaWp6NMSEHsYuCL3jP0RTpWd+caKd9IGnY2zTQo2xJqIvY0NE5DKnBvoWBdRlZAQ=\n\
    trusted comment: legacy\n\
    TxxECNwuuabknl4UYkHTzPsrzw38Bv5QjMR44c/kvFkKMgADMvMSGaMVu3EAePttulAkSTNlQ/C/DQOrDUZGBg==\n";

pub(crate) fn pair() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().unwrap()
}

pub(crate) fn public(pair: &KeyPair) -> PublicKey {
    PublicKey::parse(&pair.pk.to_box().unwrap().to_string()).unwrap()
}

pub(crate) fn sign(pair: &KeyPair, bytes: &[u8], comment: &str) -> String {
    ::minisign::sign(None, &pair.sk, Cursor::new(bytes), Some(comment), Some("test")).unwrap().to_string()
}

fn c_keyring() -> Keyring {
    Keyring::from_keys(vec![PublicKey::parse(C_KEY).unwrap()])
}

/// The error, whose exit code must be that of signatures.
fn refused(result: Result<Verified, TrustError>) -> TrustError {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Signature, "{error}");
    error
}

#[test]
fn what_the_c_program_signed_is_accepted() {
    let verified = c_keyring().verify(C_TEXT, C_SIGNATURE).unwrap();
    assert_eq!(verified.key_id, "F098C5BBB34D36CC");
    assert_eq!(verified.key_source, "the given key");
    assert_eq!(verified.trusted_comment, "file:text made by minisign 0.11");
    let error = refused(c_keyring().verify(C_TEXT, C_LEGACY));
    assert!(matches!(error, TrustError::Legacy { .. }));
    assert!(error.to_string().contains("sign the file again"), "{error}");
}

#[test]
fn keys_are_read_with_and_without_their_comment() {
    let bare = C_KEY.lines().nth(1).unwrap();
    for text in [C_KEY, bare, &format!("  {bare}\r\n"), &C_KEY.replace('\n', "\r\n")] {
        assert_eq!(PublicKey::parse(text).unwrap().key_id(), "F098C5BBB34D36CC", "{text:?}");
    }
    let secret = pair().sk.to_box(None).unwrap().to_string();
    let short = format!("untrusted comment: x\n{}", &bare[..52]);
    for (text, says) in [
        ("", "no line with the key"),
        ("untrusted comment: x\n", "no line with the key"),
        ("hello", "not base64"),
        (&short, "not base64"),
        (&format!("{bare}\n{bare}"), "more than"),
        (&secret, "secret key"),
        (C_SIGNATURE, "more than"),
    ] {
        let error = PublicKey::parse(text).unwrap_err();
        assert!(error.to_string().contains(says), "{text:?}: {error}");
        assert_eq!(error.kind(), ErrorKind::Signature);
    }
}

#[test]
fn every_changed_byte_is_refused() {
    let mut bytes = C_TEXT.to_vec();
    let keyring = c_keyring();
    for i in 0..bytes.len() {
        for change in 1..=255 {
            bytes[i] ^= change;
            assert!(matches!(refused(keyring.verify(&bytes, C_SIGNATURE)), TrustError::BadSignature { .. }));
            bytes[i] ^= change;
        }
    }
    bytes.push(0);
    refused(keyring.verify(&bytes, C_SIGNATURE));
    bytes.truncate(C_TEXT.len() - 1);
    refused(keyring.verify(&bytes, C_SIGNATURE));
}

/// Changed, added and lost characters: what is still accepted has the same signed lines.
#[test]
fn every_changed_character_of_a_signature_is_refused() {
    let keyring = c_keyring();
    let signed = |text: &str| text.lines().skip(1).filter(|l| !l.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let mut accepted = 0;
    for i in 0..=C_SIGNATURE.len() {
        let (before, after) = C_SIGNATURE.split_at(i);
        let rest = after.get(1..).unwrap_or_default();
        let others = ["A", "B", "z", "/", "+", "=", " ", "\t", "\n", "\r", "\0", "é"];
        let changed = others.iter().flat_map(|c| [format!("{before}{c}{rest}"), format!("{before}{c}{after}")]);
        for text in changed.chain([format!("{before}{rest}")]).filter(|text| text != C_SIGNATURE) {
            match keyring.verify(C_TEXT, &text) {
                Ok(_) => {
                    assert_eq!(signed(&text), signed(C_SIGNATURE), "{text:?}");
                    assert!(text.starts_with("untrusted comment: "), "{text:?}");
                    accepted += 1;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Signature, "{text:?}: {error}"),
            }
        }
    }
    assert!(accepted > 0, "the untrusted comment may change");
}

#[test]
fn another_key_is_refused_even_under_the_same_id() {
    let ours = pair();
    let signature = sign(&ours, C_TEXT, "");
    let error = refused(c_keyring().verify(C_TEXT, &signature));
    assert!(matches!(&error, TrustError::UnknownKey { key_id, .. } if key_id == public(&ours).key_id()), "{error}");
    assert!(error.to_string().contains("(the given key)"), "{error}");
    refused(Keyring::from_keys(Vec::new()).verify(C_TEXT, &signature));

    // The other key takes the id of ours.
    let mut other = pair().pk.to_bytes();
    other[2..10].copy_from_slice(ours.pk.keynum());
    let other = ::minisign::PublicKey::from_bytes(&other).unwrap().to_box().unwrap().to_string();
    let other = PublicKey::parse(&other).unwrap();
    let alone = Keyring::from_keys(vec![other.clone()]);
    assert!(matches!(refused(alone.verify(C_TEXT, &signature)), TrustError::BadSignature { .. }));
    let both = Keyring::from_keys(vec![other, public(&ours)]);
    assert_eq!(both.verify(C_TEXT, &signature).unwrap().key_id, public(&ours).key_id());
}

#[test]
fn a_comment_cannot_drive_the_terminal() {
    let ours = pair();
    let signature = sign(&ours, C_TEXT, "a\u{1b}[2Jb\u{9b}c\u{202e}d\té");
    let verified = Keyring::from_keys(vec![public(&ours)]).verify(C_TEXT, &signature).unwrap();
    assert_eq!(verified.trusted_comment, "a [2Jb c d é");
}

#[test]
fn a_keyring_is_a_directory_of_keys() {
    let dir = tempfile::tempdir().unwrap();
    for dir in [dir.path().join("absent"), dir.path().to_owned()] {
        let error = Keyring::open(&dir).unwrap_err();
        assert!(matches!(error, TrustError::NoKeys { .. }), "{error}");
        assert!(error.to_string().contains("another directory"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Signature);
    }
    let ours = pair();
    std::fs::write(dir.path().join("b.pub"), C_KEY).unwrap();
    std::fs::write(dir.path().join("a.pub"), ours.pk.to_box().unwrap().to_bytes()).unwrap();
    std::fs::write(dir.path().join("README"), "not a key").unwrap();
    let keyring = Keyring::open(dir.path()).unwrap();
    let ids: Vec<&str> = keyring.keys().iter().map(PublicKey::key_id).collect();
    assert_eq!(ids, [public(&ours).key_id(), "F098C5BBB34D36CC"]);
    let verified = keyring.verify(C_TEXT, C_SIGNATURE).unwrap();
    assert_eq!(verified.key_source, dir.path().join("b.pub").display().to_string());
    let error = refused(keyring.verify(C_TEXT, &sign(&pair(), C_TEXT, "")));
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");

    // Whatever is wrong with a key is an error that names it.
    let broken = dir.path().join("c.pub");
    for bytes in [&b"oops"[..], &[0xff; 60], &[b'A'; 5000], b""] {
        std::fs::write(&broken, bytes).unwrap();
        let error = Keyring::open(dir.path()).unwrap_err();
        assert!(error.to_string().starts_with(&broken.display().to_string()), "{error}");
    }
    std::fs::remove_file(&broken).unwrap();
    std::fs::create_dir(&broken).unwrap();
    let error = Keyring::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains(&broken.display().to_string()), "{error}");
    assert_eq!(error.kind(), ErrorKind::InputData);
    assert_eq!(Keyring::open(&dir.path().join("README")).unwrap_err().kind(), ErrorKind::InputData);
    assert_eq!(PublicKey::read(&dir.path().join("no.pub")).unwrap_err().kind(), ErrorKind::InputData);
}

#[test]
fn a_signature_lies_beside_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trec.v1.pack");
    let beside = dir.path().join("trec.v1.pack.minisig");
    assert_eq!(signature_path(&path), beside);
    let keyring = c_keyring();
    // The file itself is never opened, so it need not be there.
    let check = || keyring.verify_file_bytes(&path, C_TEXT);
    let error = refused(check());
    assert!(matches!(error, TrustError::MissingSignature { .. }));
    assert!(error.to_string().contains(&beside.display().to_string()), "{error}");
    std::fs::write(&beside, C_SIGNATURE).unwrap();
    assert_eq!(check().unwrap().key_id, "F098C5BBB34D36CC");
    for bytes in [&[0xff; 60][..], &[b'\n'; 20_000], b""] {
        std::fs::write(&beside, bytes).unwrap();
        let error = refused(check());
        assert!(matches!(error, TrustError::MalformedSignature { .. }));
        assert!(error.to_string().starts_with(&beside.display().to_string()), "{error}");
    }
    std::fs::remove_file(&beside).unwrap();
    std::fs::create_dir(&beside).unwrap();
    assert!(matches!(refused(check()), TrustError::ReadSignature { .. }));
}

proptest! {
    #[test]
    fn hostile_signatures_are_errors(
        text in prop_oneof![
            any::<String>(),
            "untrusted comment: .{0,9}\n[A-Za-z0-9+/=]{0,110}\n(trusted comment: )?.{0,9}\n[A-Za-z0-9+/=]{0,90}\n?",
            ("[ -~é]{0,9}", 0..400_usize, 0..400_usize).prop_map(|(new, from, to)| {
                let (from, to) = (from.min(C_SIGNATURE.len()), to.min(C_SIGNATURE.len()));
                format!("{}{new}{}", &C_SIGNATURE[..from.min(to)], &C_SIGNATURE[from.max(to)..])
            }),
        ],
        bytes in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        prop_assert!(c_keyring().verify(&bytes, &text).is_err());
    }

    #[test]
    fn hostile_keys_are_errors(text in any::<String>()) {
        prop_assert!(PublicKey::parse(&text).is_err());
    }
}
