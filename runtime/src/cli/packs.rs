//! The packs that a command is given: single ones, whole sets, or one of a set; signed or not.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::CodedError;
use crate::pack::{PackFile, read_file, read_packs};
use crate::trust::{Keyring, PublicKey, Verified, default_keyring};

/// Whose packs are taken.
#[derive(Debug, Args)]
#[command(next_help_heading = "Trust")]
pub(super) struct TrustArgs {
    /// Take only packs with a signature of this public key (FILE.minisig beside FILE)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["keyring", "require_signature"])]
    key: Option<PathBuf>,
    /// Take only packs with a signature of one of the keys (*.pub) in this directory
    #[arg(long, value_name = "DIR")]
    keyring: Option<PathBuf>,
    /// Take only packs with a signature; without --keyring, of the keys in the directory that
    /// OVERMASK_KEYRING names, else in /etc/overmask/keys
    #[arg(long)]
    require_signature: bool,
}

impl TrustArgs {
    /// The keys of which one must have signed; none if unsigned packs are taken.
    fn keyring(&self) -> anyhow::Result<Option<Keyring>> {
        Ok(match (&self.key, &self.keyring) {
            (Some(key), _) => Some(Keyring::from_keys(vec![PublicKey::read(key)?])),
            (None, Some(dir)) => Some(Keyring::open(dir)?),
            (None, None) if self.require_signature => Some(Keyring::open(&default_keyring())?),
            (None, None) => None,
        })
    }
}

/// A pack with the path that the user gave, and who signed its file.
pub(super) struct Given {
    pub(super) path: String,
    pub(super) file: PackFile,
    pub(super) signed: Option<Verified>,
}

/// Reads the packs of some files. A file may be a set, which gives all its packs, or a set with
/// `#` and the name of one of them.
pub(super) fn read(paths: &[PathBuf], trust: &TrustArgs) -> anyhow::Result<Vec<Given>> {
    let keyring = trust.keyring()?;
    let mut all = Vec::new();
    for given in paths {
        let (path, wanted) = split(given);
        // Read once: the bytes whose signature is checked are those that are used.
        let bytes = read_file(&path)?;
        let signed = keyring.as_ref().map(|keys| keys.verify_file_bytes(&path, &bytes)).transpose()?;
        let mut packs = read_packs(&path, &bytes)?;
        if let Some(name) = wanted {
            let names: Vec<String> = packs.iter().map(|p| format!("`{}`", p.document().name)).collect();
            packs.retain(|pack| pack.document().name == name);
            if packs.is_empty() {
                let message = format!("{} holds no pack `{name}`, only {}", path.display(), names.join(", "));
                return Err(CodedError::input(message).into());
            }
        }
        all.extend(packs.into_iter().map(|file| {
            let path = file.origin().unwrap_or(&path).display().to_string();
            Given { path, file, signed: signed.clone() }
        }));
    }
    Ok(all)
}

/// A file and the name after `#`, unless the whole is a file's name.
fn split(given: &Path) -> (PathBuf, Option<String>) {
    match given.to_str().and_then(|text| text.rsplit_once('#')) {
        Some((path, name)) if !given.exists() => (PathBuf::from(path), Some(name.to_owned())),
        _ => (given.to_owned(), None),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_follows_the_last_hash_of_what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a#b");
        assert_eq!(split(&odd), (dir.path().join("a"), Some("b".to_owned())));
        std::fs::write(&odd, b"").unwrap();
        assert_eq!(split(&odd), (odd.clone(), None));
        assert_eq!(split(Path::new("x.pack")), (PathBuf::from("x.pack"), None));
    }
}
