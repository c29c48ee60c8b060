//! `overmask-export keygen`: a key pair to sign packs with.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error};
use clap::Args;
use minisign::KeyPair;
use overmask::fs::read_at_most;
use overmask::text::printable;
use overmask::trust::PublicKey;
use overmask_cli::{CodedError, ExitCode};
use serde_json::json;

use super::output;

/// More than minisign's own programs take.
const MAX_PASSWORD: usize = 1024;

/// Make a key pair to sign packs with: NAME.key to keep secret, NAME.pub for the devices.
///
/// The files are minisign's, so minisign can use them too. Nothing is ever overwritten.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export keygen -o maker\n  \
                   overmask-export sign trec.pack --key maker.key",
    after_help = ExitCode::HELP
)]
pub(super) struct KeygenArgs {
    /// Where to write: the secret key is NAME.key, the public key NAME.pub.
    #[arg(short, long, value_name = "NAME")]
    output: PathBuf,
    /// Protect the secret key with the password in this file's first line; default: ask for one.
    #[arg(long, value_name = "FILE", conflicts_with = "no_password")]
    password_file: Option<PathBuf>,
    /// Do not protect the secret key with a password: for machines that sign on their own.
    #[arg(long)]
    no_password: bool,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
}

/// A key pair on the disk.
struct Made {
    key_id: String,
    secret: PathBuf,
    public: PathBuf,
}

pub(super) fn run(args: &KeygenArgs) -> Result<(), Error> {
    let made = make(args, io::stdin().is_terminal())?;
    if args.json {
        return output::json(&json!({
            "key_id": made.key_id,
            "secret_key": made.secret.display().to_string(),
            "public_key": made.public.display().to_string(),
            "password": !args.no_password,
        }));
    }
    output::line(&format!("key     {}", made.key_id))?;
    output::line(&format!("secret  {} (keep it to yourself, and a copy of it)", made.secret.display()))?;
    output::line(&format!("public  {} (for the keyring of each device)", made.public.display()))
}

/// Makes a key pair and writes it; `terminal` says whether somebody can be asked for a password.
fn make(args: &KeygenArgs, terminal: bool) -> Result<Made, Error> {
    let [secret, public] = [".key", ".pub"].map(|ending| {
        let mut name = OsString::from(&args.output);
        name.push(ending);
        PathBuf::from(name)
    });
    if args.output.file_name().is_none() || args.output.to_string_lossy().ends_with(std::path::MAIN_SEPARATOR) {
        let message = format!("-o {}: is no file name; name the key, for example `maker`", args.output.display());
        return Err(CodedError { message, code: ExitCode::Usage }.into());
    }
    // Before anybody thinks up a password; writing makes sure of it.
    for path in [&secret, &public] {
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
    }
    let pair = match password(args, terminal)? {
        Some(password) => {
            log::info!("encrypting the secret key");
            KeyPair::generate_encrypted_keypair(Some(password))
        }
        None => KeyPair::generate_unencrypted_keypair(),
    };
    let (public_text, secret_text) = pair
        .and_then(|pair| Ok((pair.pk.to_box()?, pair.sk.to_box(Some("overmask-export secret key"))?)))
        .context("cannot make a key pair")?;
    let public_text = public_text.into_string();
    let key_id = PublicKey::parse(&public_text)?.key_id().to_owned();
    write_new(&secret, secret_text.into_string().as_bytes(), true)?;
    if let Err(error) = write_new(&public, public_text.as_bytes(), false) {
        // Half a pair is of no use, and would be in the way of the next try.
        if let Err(left) = std::fs::remove_file(&secret) {
            log::warn!("cannot remove {} again: {left}", secret.display());
        }
        return Err(error);
    }
    Ok(Made { key_id, secret, public })
}

/// The password for the new key, or `None` if it shall have none.
fn password(args: &KeygenArgs, terminal: bool) -> Result<Option<String>, Error> {
    if args.no_password {
        return Ok(None);
    }
    let password = match &args.password_file {
        Some(path) => password_of_file(path)?,
        None if !terminal => {
            let message = "there is no terminal to ask for a password: name a file that holds one with \
                           --password-file, or make a key without one with --no-password";
            return Err(CodedError { message: message.to_owned(), code: ExitCode::Usage }.into());
        }
        None => {
            let password = ask("Password for the new key: ")?;
            if password != ask("The same password again: ")? {
                return Err(CodedError::input("the two passwords differ; nothing was written").into());
            }
            password
        }
    };
    if password.is_empty() {
        let message = "the password is empty; --no-password makes a key without one";
        return Err(CodedError::input(message).into());
    }
    Ok(Some(password))
}

/// Asks on the terminal, without showing what is typed.
pub(super) fn ask(prompt: &str) -> Result<String, Error> {
    let password = rpassword::prompt_password(printable(prompt)).context("cannot read a password from the terminal")?;
    fit(password, "the password")
}

/// The first line of a file.
pub(super) fn password_of_file(path: &Path) -> Result<String, Error> {
    let wrong = |reason: &str| CodedError::input(format!("--password-file {}: {reason}", path.display()));
    let bytes = read_small(path, 64 * 1024)?.ok_or_else(|| wrong("is too large"))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("is no UTF-8 text"))?;
    fit(text.lines().next().unwrap_or_default().to_owned(), &format!("the first line of {}", path.display()))
}

/// A password that minisign's programs take too.
fn fit(password: String, place: &str) -> Result<String, Error> {
    if password.len() > MAX_PASSWORD {
        let message = format!("{place} has {} bytes; a password may have {MAX_PASSWORD}", password.len());
        return Err(CodedError::input(message).into());
    }
    Ok(password)
}

/// The bytes of a file that may have so many, or `None` if it has more.
pub(super) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    read_at_most(path, limit).with_context(|| CodedError::input(format!("cannot read {}", path.display())))
}

/// Writes a file that must not be there yet.
fn write_new(path: &Path, bytes: &[u8], private: bool) -> Result<(), Error> {
    match overmask::fs::write_new(path, bytes, private) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(exists(path)),
        Err(e) => {
            let message = format!("cannot write {}", path.display());
            Err(Error::new(e).context(CodedError { message, code: ExitCode::DeviceOrStore }))
        }
    }
}

fn exists(path: &Path) -> Error {
    CodedError::input(format!("{} exists, and keys are never overwritten; take another name", path.display())).into()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: KeygenArgs,
    }

    fn args(output: &Path, more: &[&str]) -> Result<KeygenArgs, clap::Error> {
        let start = ["keygen".into(), "-o".into(), OsString::from(output)];
        Ok(Cli::try_parse_from(start.into_iter().chain(more.iter().map(OsString::from)))?.args)
    }

    #[test]
    fn a_pair_belongs_together_and_the_secret_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(&args(&dir.path().join("a.b"), &["--no-password"]).unwrap(), false).unwrap();
        assert_eq!(made.secret, dir.path().join("a.b.key"));
        assert_eq!(made.public, dir.path().join("a.b.pub"));
        assert_eq!(PublicKey::read(&made.public).unwrap().key_id(), made.key_id);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&made.secret).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_written_beside_it() {
        for ending in ["key", "pub"] {
            let dir = tempfile::tempdir().unwrap();
            let there = dir.path().join("a").with_extension(ending);
            std::fs::write(&there, "precious").unwrap();
            let error = make(&args(&dir.path().join("a"), &["--no-password"]).unwrap(), false).err().unwrap();
            assert!(error.to_string().contains("never overwritten"), "{error}");
            assert_eq!(ExitCode::of(&error), ExitCode::InputData);
            // Nor when it appears after the first look.
            let error = write_new(&there, b"new", true).unwrap_err();
            assert!(error.to_string().contains("never overwritten"), "{error}");
            assert_eq!(std::fs::read(&there).unwrap(), b"precious");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn without_a_terminal_the_options_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = make(&args(&dir.path().join("a"), &[]).unwrap(), false).err().unwrap();
        assert_eq!(ExitCode::of(&error), ExitCode::Usage);
        let message = error.to_string();
        assert!(message.contains("--password-file") && message.contains("--no-password"), "{message}");
        assert!(args(Path::new("a"), &["--no-password", "--password-file", "b"]).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        for text in ["secret", "secret\n", "secret\r\nmore\n"] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(password_of_file(&file).unwrap(), "secret");
        }
        let option = file.to_str().unwrap().to_owned();
        for bytes in [&b""[..], b"\n", &[0xff], &[b'a'; 1025], &[b'a'; 70_000]] {
            std::fs::write(&file, bytes).unwrap();
            let args = args(&dir.path().join("a"), &["--password-file", &option]).unwrap();
            assert_eq!(ExitCode::of(&password(&args, true).unwrap_err()), ExitCode::InputData);
        }
        let error = password_of_file(&dir.path().join("absent")).unwrap_err();
        assert_eq!(ExitCode::of(&error), ExitCode::InputData);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = make(&args(&dir.path().join("no/a"), &["--no-password"]).unwrap(), false).err().unwrap();
        assert_eq!(ExitCode::of(&error), ExitCode::DeviceOrStore);
    }
}
