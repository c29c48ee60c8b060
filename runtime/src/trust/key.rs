//! A public key, and the file that it comes in.

use std::path::Path;

use minisign_verify::PublicKey as Key;

use super::TrustError;
use super::minisign::{SecretKeyKind, head, key_id};
use crate::fs::read_at_most;

/// Public key files have about 120 bytes; more than this is something else.
const MAX_FILE: u64 = 4096;

/// What the comment line starts with; an editor may have taken the space after it.
const COMMENT: &str = "untrusted comment:";

/// A public key that signatures are checked with.
#[derive(Debug, Clone)]
pub struct PublicKey {
    pub(super) key: Key,
    pub(super) id: u64,
    source: String,
    key_id: String,
}

impl PublicKey {
    /// Reads a minisign public key file (`.pub`).
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, TrustError> {
        let place = path.display().to_string();
        let wrong = |reason: &str| TrustError::MalformedKey { key: place.clone(), reason: reason.to_owned() };
        let bytes = read_at_most(path, MAX_FILE)
            .map_err(|source| TrustError::ReadKey { path: path.to_owned(), source })?
            .ok_or_else(|| wrong("the file is too large for a key"))?;
        let text = String::from_utf8(bytes).map_err(|_| wrong("the file is no text"))?;
        Self::from_text(&text, &place)
    }

    /// A public key from a text: the base64 line alone, or with the comment line before it.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        Self::from_text(text, "the given key")
    }

    fn from_text(text: &str, place: &str) -> Result<Self, TrustError> {
        let wrong = |reason: &str| TrustError::MalformedKey { key: place.to_owned(), reason: reason.to_owned() };
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
        lines.next_if(|line| line.starts_with(COMMENT));
        let base64 = lines.next().ok_or_else(|| wrong("there is no line with the key"))?;
        if SecretKeyKind::of_line(base64).is_some() {
            return Err(wrong("it is a secret key, which belongs to its owner only"));
        }
        if lines.next().is_some() {
            return Err(wrong("there is more than a comment line and a line with the key"));
        }
        let key = Key::from_base64(base64).map_err(|_| wrong("the key's line is not base64 of an Ed25519 key"))?;
        let (_, id) = head(base64).ok_or_else(|| wrong("the key's line is too short"))?;
        Ok(PublicKey { key, id, source: place.to_owned(), key_id: key_id(id) })
    }

    /// The id that signatures name the key by, as minisign prints it: 16 upper-case hex digits.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Where the key came from: its file, or `the given key`.
    pub fn source(&self) -> &str {
        &self.source
    }
}
