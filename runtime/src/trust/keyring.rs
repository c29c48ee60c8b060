//! The keys that are trusted, and checking bytes against them.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use minisign_verify::Signature;

use super::minisign::{head, key_id};
use super::{PublicKey, TrustError, signature_path};
use crate::fs::read_at_most;
use crate::text::printable;

/// Signature files have about 300 bytes and a comment.
const MAX_SIGNATURE: u64 = 16 * 1024;

/// What the first two bytes of a signature say: over the digest, or over the bytes themselves.
const PREHASHED: [u8; 2] = *b"ED";
const LEGACY: [u8; 2] = *b"Ed";

/// The public keys whose signatures are accepted.
#[derive(Debug, Clone)]
pub struct Keyring {
    keys: Vec<PublicKey>,
    place: String,
}

/// A signature that was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The id of the key that signed, as minisign prints it.
    pub key_id: String,
    /// Where that key came from: its file, or `the given key`.
    pub key_source: String,
    /// The comment that was signed along, in a form that is safe to print on one line: what
    /// could drive a terminal or turn the text's direction is replaced by spaces.
    pub trusted_comment: String,
}

impl Keyring {
    /// The keys of a directory: every `*.pub` in it, in the order of their names. One that cannot
    /// be used is an error, not skipped: else a typing error could go unseen for long.
    ///
    /// # Errors
    /// When the directory or a key cannot be read, a key file holds something else, or there
    /// are no keys.
    pub fn open(dir: &Path) -> Result<Self, TrustError> {
        let mut paths = match key_files(dir) {
            Ok(paths) => paths,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(TrustError::ReadKeyring { dir: dir.to_owned(), source }),
        };
        if paths.is_empty() {
            return Err(TrustError::NoKeys { dir: dir.to_owned() });
        }
        paths.sort();
        let keys = paths.iter().map(|path| PublicKey::read(path)).collect::<Result<_, _>>()?;
        Ok(Keyring { keys, place: dir.display().to_string() })
    }

    /// A keyring of given keys.
    pub fn from_keys(keys: Vec<PublicKey>) -> Self {
        let place = match keys.as_slice() {
            [one] => one.source().to_owned(),
            _ => "the given keys".to_owned(),
        };
        Keyring { keys, place }
    }

    /// The keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Checks that `signature`, the text of a signature file, is one of these bytes by a trusted
    /// key. What is done afterwards must be done with the same bytes.
    ///
    /// # Errors
    /// When it is not, or not a signature.
    pub fn verify(&self, bytes: &[u8], signature: &str) -> Result<Verified, TrustError> {
        self.check(bytes, signature, "the signature")
    }

    /// Reads the signature beside `path` and checks that it is one of `bytes`, which the caller
    /// has read from `path`.
    ///
    /// Only the signature is read here: `path` is not opened again, and the caller goes on with
    /// the very bytes that were checked. So there is no moment between the check and the use in
    /// which another file could take the place of the checked one.
    ///
    /// # Errors
    /// When there is no signature, it cannot be read, or it is not one of these bytes by a
    /// trusted key.
    pub fn verify_file_bytes(&self, path: &Path, bytes: &[u8]) -> Result<Verified, TrustError> {
        let signature = signature_path(path);
        match read_signature(path)? {
            Some(text) => self.check(bytes, &text, &signature.display().to_string()),
            None => Err(TrustError::MissingSignature { file: path.to_owned(), signature }),
        }
    }

    fn check(&self, bytes: &[u8], text: &str, place: &str) -> Result<Verified, TrustError> {
        let signature = || place.to_owned();
        let (parsed, id) = parse(text).map_err(|fault| match fault {
            Fault::Legacy => TrustError::Legacy { signature: signature() },
            Fault::Text(reason) => TrustError::MalformedSignature { signature: signature(), reason: reason.to_owned() },
        })?;
        let mut named = self.keys.iter().filter(|key| key.id == id).peekable();
        if named.peek().is_none() {
            let keyring = self.place.clone();
            return Err(TrustError::UnknownKey { signature: signature(), key_id: key_id(id), keyring });
        }
        // An id is a name that anyone may give a key: all keys that have it are tried.
        let signer = named.find(|key| key.key.verify(bytes, &parsed, false).is_ok());
        let signer = signer.ok_or_else(|| TrustError::BadSignature { signature: signature(), key_id: key_id(id) })?;
        Ok(Verified {
            key_id: signer.key_id().to_owned(),
            key_source: signer.source().to_owned(),
            trusted_comment: printable(parsed.trusted_comment()),
        })
    }
}

/// The signature beside a file, as it stands there, unchecked; `None` if there is none.
///
/// # Errors
/// When it cannot be read, or is no text of a signature's size.
pub fn read_signature(file: &Path) -> Result<Option<String>, TrustError> {
    let path = signature_path(file);
    let wrong = |reason: &str| TrustError::MalformedSignature {
        signature: path.display().to_string(),
        reason: reason.to_owned(),
    };
    let text = match read_at_most(&path, MAX_SIGNATURE) {
        Ok(text) => text.ok_or_else(|| wrong("the file is too large"))?,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TrustError::ReadSignature { path, source }),
    };
    String::from_utf8(text).map(Some).map_err(|_| wrong("the file is no text"))
}

/// Every `*.pub` of a directory.
fn key_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "pub") {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Why a text is no signature that can be checked.
enum Fault {
    Legacy,
    Text(&'static str),
}

/// A signature and the id of its key. Stricter than the crate that verifies, as minisign is: the
/// first line must be a comment and the fourth the last, so nothing unsigned hides in the file.
fn parse(text: &str) -> Result<(Signature, u64), Fault> {
    let mut lines = text.lines();
    if !lines.next().is_some_and(|line| line.starts_with("untrusted comment: ")) {
        return Err(Fault::Text("line 1 is not `untrusted comment: ...`"));
    }
    let base64 = lines.next().unwrap_or_default();
    let (kind, id) = head(base64).ok_or(Fault::Text("line 2 is not base64"))?;
    match kind {
        PREHASHED => {}
        LEGACY => return Err(Fault::Legacy),
        _ => return Err(Fault::Text("line 2 is of an unknown algorithm")),
    }
    if !lines.next().is_some_and(|line| line.starts_with("trusted comment: ")) {
        return Err(Fault::Text("line 3 is not `trusted comment: ...`"));
    }
    if lines.next().is_none() || lines.any(|line| !line.is_empty()) {
        return Err(Fault::Text("there are not four lines"));
    }
    let signature = Signature::decode(text).map_err(|_| Fault::Text("line 2 or 4 is not base64 of a signature"))?;
    Ok((signature, id))
}
