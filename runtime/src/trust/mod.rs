//! Who made a pack: detached signatures in the minisign format, and the keys that a device trusts.
//!
//! The signature of `FILE` lies beside it as `FILE.minisig`, as minisign writes it: Ed25519 over
//! the file's BLAKE2b-512 digest, and a second Ed25519 signature over the first and a trusted
//! comment (<https://jedisct1.github.io/minisign/>). The old kind that signs the bytes themselves
//! is refused.
//!
//! A [`Keyring`] checks bytes, not files: whoever uses a file reads it once, has these bytes
//! checked, and parses the same bytes. Then it does not matter whether the file changes between
//! the check and the use.

mod key;
mod keyring;
pub mod minisign;
#[cfg(test)]
pub(crate) mod tests;

pub use key::PublicKey;
pub use keyring::{Keyring, Verified, read_signature};

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::ErrorKind;

/// Where a device keeps the keys that it trusts, if nothing else is said.
pub const DEFAULT_KEYRING: &str = "/etc/overmask/keys";

/// Where the signature of a file lies: beside it, with `.minisig` after its whole name.
pub fn signature_path(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".minisig");
    PathBuf::from(name)
}

/// What can go wrong between a file and the trust in who made it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// There is no signature beside the file.
    #[error(
        "{file} is not signed: there is no {signature}; get the signature from the file's maker, or sign the file \
         with `overmask-export sign`"
    )]
    MissingSignature {
        /// The file.
        file: PathBuf,
        /// Where its signature would be.
        signature: PathBuf,
    },
    /// The signature's file cannot be read.
    #[error("cannot read the signature {path}: {source}")]
    ReadSignature {
        /// The signature's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is no signature in the minisign format.
    #[error("{signature} is no minisign signature: {reason}; get the file and its signature again")]
    MalformedSignature {
        /// The signature's file, or `the signature` if it came from none.
        signature: String,
        /// What is wrong and where.
        reason: String,
    },
    /// The signature is of the old kind, over the file itself and not over its digest.
    #[error(
        "{signature} is of minisign's old kind, which is not accepted; sign the file again with `overmask-export \
         sign`, or with a current minisign without `-l`"
    )]
    Legacy {
        /// The signature's file, or `the signature` if it came from none.
        signature: String,
    },
    /// No trusted key has the id of the key that signed.
    #[error(
        "{signature} was made with the key {key_id}, which is not among the trusted keys ({keyring}); if you trust its \
         maker, add the public key (a .pub file) there"
    )]
    UnknownKey {
        /// The signature's file, or `the signature` if it came from none.
        signature: String,
        /// The id of the key that signed, as minisign prints it.
        key_id: String,
        /// Where the trusted keys come from.
        keyring: String,
    },
    /// The signature does not belong to these bytes.
    #[error(
        "{signature} (key {key_id}) does not match what it should have signed: the file or the signature was changed \
         or damaged; do not use the file, get both again"
    )]
    BadSignature {
        /// The signature's file, or `the signature` if it came from none.
        signature: String,
        /// The id of the key that it names, as minisign prints it.
        key_id: String,
    },
    /// The text is no public key in the minisign format.
    #[error("{key} is no minisign public key: {reason}; replace it with the .pub file of a key pair")]
    MalformedKey {
        /// The key's file, or `the given key` if it came from none.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The directory of trusted keys is missing or has no keys.
    #[error(
        "there are no trusted keys in {dir}; put the public keys (.pub files) of those whose packs may run here into \
         it, or name another directory"
    )]
    NoKeys {
        /// The directory.
        dir: PathBuf,
    },
    /// A public key's file cannot be read.
    #[error("cannot read the public key {path}: {source}")]
    ReadKey {
        /// The key's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory of trusted keys cannot be listed.
    #[error("cannot list the trusted keys in {dir}: {source}")]
    ReadKeyring {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl TrustError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ReadKey { source, .. } | Self::ReadKeyring { source, .. } => match source.kind() {
                // What someone named and what is not there, or something else, is not the device's fault.
                io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => {
                    ErrorKind::InputData
                }
                _ => ErrorKind::DeviceOrStore,
            },
            _ => ErrorKind::Signature,
        }
    }
}
