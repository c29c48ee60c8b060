//! The packs that a command is given: single ones, whole sets, or one of a set; signed or not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use overmask::base::Base;
use overmask::pack::{PackFile, Packs, read_file, split_name};
use overmask::trust::{Keyring, PublicKey, Verified};
use overmask_cli::EngineArgs;

const TRUST: &str = "Trust";

/// The tasks that a command computes, and what with.
#[derive(Debug, Args)]
pub(super) struct TaskArgs {
    /// Directory of the base bundle
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// A task's pack, a pack set, or one pack of a set (SET#NAME); give it again for more tasks
    #[arg(long = "pack", value_name = "FILE", required = true)]
    packs: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

impl TaskArgs {
    /// Opens the base and reads the packs, which must fit it: what can be wrong with the files is found before
    /// an engine starts, but for what only shows when masks are decoded.
    pub(super) fn open(&self) -> anyhow::Result<(Arc<Base>, Vec<Given>)> {
        let base = Arc::new(Base::open(&self.base)?);
        let given = read(&self.packs, &self.trust)?;
        given.iter().try_for_each(|given| given.file.check_base(&base))?;
        Ok((base, given))
    }
}

/// Whose packs are taken.
#[derive(Debug, Args)]
pub(super) struct TrustArgs {
    /// Take only packs with a signature of this public key (FILE.minisig beside FILE)
    #[arg(long, value_name = "FILE", conflicts_with = "keyring", help_heading = TRUST)]
    key: Option<PathBuf>,
    /// Take only packs with a signature of one of the keys (*.pub) in this directory
    #[arg(long, value_name = "DIR", help_heading = TRUST)]
    keyring: Option<PathBuf>,
    /// Take only packs with a signature; without --key and --keyring, of the keys in the directory
    /// that OVERMASK_KEYRING names, else in /etc/overmask/keys
    #[arg(long, help_heading = TRUST)]
    require_signature: bool,
}

impl TrustArgs {
    /// The keys of which one must have signed; none if unsigned packs are taken.
    fn keyring(&self) -> anyhow::Result<Option<Keyring>> {
        Ok(match (&self.key, &self.keyring) {
            (Some(key), _) => Some(Keyring::from_keys(vec![PublicKey::read(key)?])),
            (None, Some(dir)) => Some(Keyring::open(dir)?),
            (None, None) if self.require_signature => Some(Keyring::open(&overmask_cli::keyring_directory())?),
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
        all.extend(read_one(given, keyring.as_ref())?);
    }
    Ok(all)
}

/// Reads the packs of one file, with a signature of one of these keys if there are any to be asked for.
pub(super) fn read_one(given: &Path, keyring: Option<&Keyring>) -> anyhow::Result<Vec<Given>> {
    let (path, name) = split_name(given);
    // Read once: the bytes whose signature is checked are those that are used.
    let bytes = read_file(&path)?;
    let signed = keyring.map(|keys| keys.verify_file_bytes(&path, &bytes)).transpose()?;
    let packs = Packs::from_bytes(&path, &bytes, name.as_deref())?.into_vec();
    let given = packs.into_iter().map(|file| {
        let path = file.origin().unwrap_or(&path).display().to_string();
        Given { path, file, signed: signed.clone() }
    });
    Ok(given.collect())
}
