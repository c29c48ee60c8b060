//! `overmask-export sign`: detached signatures beside packs.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error};
use clap::Args;
use minisign::{ErrorKind, SecretKey, SecretKeyBox};
use overmask::fs::{hex, write_atomically};
use overmask::pack::Packs;
use overmask::text::{is_unprintable, printable};
use overmask::trust::minisign::{SecretKeyKind, decode};
use overmask::trust::{Keyring, PublicKey, signature_path};
use overmask_cli::{CodedError, ExitCode};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::keygen::{ask, password_of_file, read_small};
use super::{output, places};

/// Secret key files have about 250 bytes.
const MAX_KEY: u64 = 4096;

/// minisign's programs take trusted comments of up to 8192 bytes.
const MAX_COMMENT: usize = 8000;

/// Sign packs and pack sets: writes PACK.minisig beside each.
///
/// The signatures are minisign's: `minisign -V -p maker.pub -m trec.pack` checks one, as devices do.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export sign trec.pack --key maker.key",
    after_help = ExitCode::HELP
)]
pub(super) struct SignArgs {
    /// The packs; if one cannot be signed, none is.
    #[arg(value_name = "PACK", required = true)]
    packs: Vec<PathBuf>,
    /// The secret key, made by `overmask-export keygen` or `minisign -G`.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The file whose first line is the key's password; default: ask for it.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// A comment to sign along and show where the signature is checked; default: the file's
    /// name and sha256.
    #[arg(long, value_name = "TEXT", value_parser = comment)]
    comment: Option<String>,
    /// Print one JSON object for each pack.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &SignArgs) -> Result<(), Error> {
    let key = Key::open(&args.key, args.password_file.as_deref(), io::stdin().is_terminal())?;
    // Nothing is written before all packs are read, found usable, and signed.
    let mut signed = Vec::new();
    for path in &args.packs {
        let bytes = places::read_whole(path)?;
        // That it is a pack or a pack set which devices can use.
        Packs::from_bytes(path, &bytes, None)?;
        signed.push((path, key.sign(path, &bytes, args.comment.as_deref())?));
    }
    for (path, signed) in &signed {
        let beside = signature_path(path);
        write_atomically::<io::Error>(&beside, |file| file.write_all(signed.text.as_bytes())).with_context(|| {
            let message = format!("cannot write {}", beside.display());
            CodedError { message, code: ExitCode::DeviceOrStore }
        })?;
    }
    // All are written by now, even if nobody reads on.
    output::print(|out| {
        for (path, signed) in &signed {
            let beside = signature_path(path);
            if args.json {
                out.json(&json!({
                    "pack": path.display().to_string(),
                    "signature": beside.display().to_string(),
                    "key_id": key.id,
                    "sha256": signed.sha256,
                    "trusted_comment": signed.comment,
                }))?;
            } else {
                out.line(&format!("{}: signed with the key {}", beside.display(), key.id))?;
            }
        }
        Ok(())
    })
}

/// A trusted comment that every program reads back as it was written: one line without white
/// space around it.
fn comment(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > MAX_COMMENT {
        return Err(format!("has {} bytes; {MAX_COMMENT} are allowed", text.len()));
    }
    if text.contains(|c| c != '\t' && is_unprintable(c)) {
        return Err("must be one line without control characters and direction marks".to_owned());
    }
    Ok(text.to_owned())
}

/// A secret key that is ready to sign. Not `Debug`: it must never be printed.
struct Key {
    secret: SecretKey,
    public: minisign::PublicKey,
    id: String,
    /// Checks each signature as devices do.
    keyring: Keyring,
}

/// A signature that is not written yet.
struct Signed {
    text: String,
    sha256: String,
    comment: String,
}

impl Key {
    /// Reads a secret key; `terminal` says whether somebody can be asked for its password.
    fn open(path: &Path, password_file: Option<&Path>, terminal: bool) -> Result<Key, Error> {
        let damaged = |reason: &str| CodedError {
            message: format!("{} is no minisign secret key: {reason}", path.display()),
            code: ExitCode::CorruptFile,
        };
        let bytes = read_small(path, MAX_KEY)?.ok_or_else(|| damaged("the file is too large"))?;
        let text = String::from_utf8(bytes).map_err(|_| damaged("the file is no text"))?;
        let line = text.lines().nth(1).unwrap_or_default();
        let secret = match SecretKeyKind::of_line(line) {
            Some(SecretKeyKind::Plain) => {
                if password_file.is_some() {
                    log::warn!("{} has no password: --password-file is not used", path.display());
                }
                match without_checksum(line) {
                    Some(secret) => secret,
                    None => {
                        SecretKeyBox::from(text).into_unencrypted_secret_key().map_err(|e| damaged(&e.to_string()))?
                    }
                }
            }
            Some(SecretKeyKind::Encrypted) => {
                let password = password(path, password_file, terminal)?;
                log::info!("decrypting {}", path.display());
                SecretKeyBox::from(text).into_secret_key(Some(password)).map_err(|e| match e.kind() {
                    ErrorKind::Verify => CodedError {
                        message: format!("wrong password for the key {}, or the file is damaged", path.display()),
                        code: ExitCode::Signature,
                    },
                    _ => damaged(&e.to_string()),
                })?
            }
            None => return Err(damaged("line 2 is something else; name the .key file, not the .pub").into()),
        };
        warn_if_public(path);
        let public = minisign::PublicKey::from_secret_key(&secret).map_err(|e| damaged(&e.to_string()))?;
        let trusted = PublicKey::parse(&public.to_base64())?;
        let id = trusted.key_id().to_owned();
        Ok(Key { secret, public, id, keyring: Keyring::from_keys(vec![trusted]) })
    }

    /// Signs the bytes of a file. Nothing in the text comes from a clock or tells of this machine.
    fn sign(&self, path: &Path, bytes: &[u8], comment: Option<&str>) -> Result<Signed, Error> {
        let sha256 = hex(&Sha256::digest(bytes));
        let comment = comment.map_or_else(|| format!("file:{}\tsha256:{sha256}", name(path)), str::to_owned);
        let untrusted = Some("signature of overmask-export");
        let text = minisign::sign(Some(&self.public), &self.secret, bytes, Some(&comment), untrusted)
            .with_context(|| format!("cannot sign {}", path.display()))?
            .into_string();
        let checked = self.keyring.verify(bytes, &text);
        checked
            .with_context(|| format!("the new signature of {} is not good; the key may be damaged", path.display()))?;
        Ok(Signed { text, sha256, comment })
    }
}

/// The key of a line that has zeros for the checksum, as minisign 0.11 writes keys that have no
/// password; `None` for any other. A damaged one is found when its first signature is checked.
fn without_checksum(line: &str) -> Option<SecretKey> {
    // 32 bytes of checksum after 126 others: the 169th digit is the first of it.
    let (key, checksum) = line.trim_end().split_at_checked(168)?;
    if checksum.len() != 44 || checksum.trim_end_matches('=').bytes().any(|digit| digit != b'A') {
        return None;
    }
    let mut bytes = decode(key)?;
    bytes.extend([0; 32]);
    SecretKey::from_bytes(&bytes).ok()
}

/// The password of an encrypted key.
fn password(key: &Path, file: Option<&Path>, terminal: bool) -> Result<String, Error> {
    match file {
        Some(file) => password_of_file(file),
        None if terminal => ask(&format!("Password of {}: ", key.display())),
        None => {
            let message = format!(
                "there is no terminal to ask for the password of {}: name a file that holds it with --password-file",
                key.display()
            );
            Err(CodedError { message, code: ExitCode::Usage }.into())
        }
    }
}

/// Warns of a secret key that others on this machine can read.
#[cfg(unix)]
fn warn_if_public(path: &Path) {
    use std::os::unix::fs::PermissionsExt;

    if std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0) {
        log::warn!("others can read or change the secret key: chmod 600 {}", path.display());
    }
}

#[cfg(not(unix))]
fn warn_if_public(_: &Path) {}

/// A file's name, fit for a line of text.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    printable(&name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use minisign::KeyPair;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: SignArgs,
    }

    fn args(line: &[&str]) -> Result<SignArgs, clap::Error> {
        Ok(Cli::try_parse_from(["sign"].iter().chain(line))?.args)
    }

    /// A key pair whose secret key is in a file, with a password or without.
    fn key_file(path: &Path, password: Option<&str>) -> KeyPair {
        let pair = match password {
            Some(password) => KeyPair::generate_encrypted_keypair(Some(password.to_owned())),
            None => KeyPair::generate_unencrypted_keypair(),
        };
        let pair = pair.unwrap();
        fs::write(path, pair.sk.to_box(None).unwrap().to_bytes()).unwrap();
        pair
    }

    #[test]
    fn what_is_signed_is_verified_and_the_comment_tells_of_the_file_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let pair = key_file(&path, None);
        let key = Key::open(&path, None, false).unwrap();
        let pack = dir.path().join("trec.pack");
        let signed = key.sign(&pack, b"bytes", None).unwrap();
        let digest = hex(&Sha256::digest(b"bytes"));
        assert_eq!(signed.comment, format!("file:trec.pack\tsha256:{digest}"));
        assert_eq!(signed.text.lines().next(), Some("untrusted comment: signature of overmask-export"));
        assert_eq!(signed.text.lines().nth(2).unwrap(), format!("trusted comment: {}", signed.comment));
        let keyring = Keyring::from_keys(vec![PublicKey::parse(&pair.pk.to_base64()).unwrap()]);
        assert_eq!(keyring.verify(b"bytes", &signed.text).unwrap().key_id, key.id);
        assert!(keyring.verify(b"other", &signed.text).is_err());
        let signed = key.sign(&pack, b"bytes", Some("revision 7")).unwrap();
        assert_eq!(keyring.verify(b"bytes", &signed.text).unwrap().trusted_comment, "revision 7");
    }

    #[test]
    fn the_password_must_be_right() {
        let dir = tempfile::tempdir().unwrap();
        let [path, password] = ["a.key", "password"].map(|name| dir.path().join(name));
        key_file(&path, Some("right"));
        fs::write(&password, "right\n").unwrap();
        Key::open(&path, Some(&password), false).unwrap().sign(Path::new("a"), b"bytes", None).unwrap();
        fs::write(&password, "wrong\n").unwrap();
        let error = Key::open(&path, Some(&password), false).err().unwrap();
        assert!(error.to_string().starts_with("wrong password"), "{error}");
        assert_eq!(ExitCode::of(&error), ExitCode::Signature);
        let error = Key::open(&path, None, false).err().unwrap();
        assert!(error.to_string().contains("--password-file"), "{error}");
        assert_eq!(ExitCode::of(&error), ExitCode::Usage);
    }

    #[test]
    fn what_is_no_secret_key_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let pair = key_file(&path, None);
        let text = fs::read_to_string(&path).unwrap();
        // One digit of the key, past the algorithms and before its end.
        let at = text.len() - 60;
        let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
        let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        let public = pair.pk.to_box().unwrap().into_string();
        for text in [&changed, &public, &text[..100], "", "RWQAAEIy", "x\nRWQAAEIy", "x\nRWQAAEIy!", &"x".repeat(5000)]
        {
            fs::write(&path, text).unwrap();
            let error = Key::open(&path, None, false).err().unwrap();
            assert_eq!(ExitCode::of(&error), ExitCode::CorruptFile, "{text}: {error}");
        }
        assert_eq!(ExitCode::of(&Key::open(dir.path(), None, false).err().unwrap()), ExitCode::InputData);
    }

    /// As the C program of minisign 0.11 writes them with `-G -W`.
    #[test]
    fn a_key_without_checksum_signs_unless_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let pair = key_file(&path, None);
        let text = fs::read_to_string(&path).unwrap();
        let line = format!("{}{}=", &text.lines().nth(1).unwrap()[..168], "A".repeat(43));
        fs::write(&path, format!("untrusted comment: x\n{line}\n")).unwrap();
        let signed = Key::open(&path, None, false).unwrap().sign(Path::new("a"), b"bytes", None).unwrap();
        let keyring = Keyring::from_keys(vec![PublicKey::parse(&pair.pk.to_base64()).unwrap()]);
        keyring.verify(b"bytes", &signed.text).unwrap();
        // A digit of the seed, then one of the public half.
        for at in [90, 150] {
            let other = if line.as_bytes()[at] == b'A' { "B" } else { "A" };
            fs::write(&path, format!("x\n{}{other}{}\n", &line[..at], &line[at + 1..])).unwrap();
            assert!(Key::open(&path, None, false).unwrap().sign(Path::new("a"), b"bytes", None).is_err());
        }
    }

    #[test]
    fn what_is_no_pack_is_not_signed() {
        let dir = tempfile::tempdir().unwrap();
        let [key, bad] = ["a.key", "bad.pack"].map(|name| dir.path().join(name));
        key_file(&key, None);
        fs::write(&bad, "bad").unwrap();
        let args = args(&[bad.to_str().unwrap(), "--key", key.to_str().unwrap()]).unwrap();
        assert_eq!(ExitCode::of(&run(&args).unwrap_err()), ExitCode::CorruptFile);
        assert!(!signature_path(&bad).exists());
    }

    #[test]
    fn comments_are_one_line() {
        let parsed = |text| args(&["a.pack", "--key", "k", "--comment", text]).map(|args| args.comment);
        assert_eq!(parsed(" revision 7\tof trec ").unwrap().as_deref(), Some("revision 7\tof trec"));
        let long = "x".repeat(8001);
        for text in ["", "  ", "a\nb", "a\u{1b}[2J", "a\u{9b}2J", "a\u{202e}b", &long] {
            assert!(parsed(text).is_err(), "{text:?}");
        }
        assert!(args(&["--key", "k"]).is_err());
        assert!(args(&["a.pack"]).is_err());
    }
}
