//! A store on another machine, over the system's own `ssh`: with the user's configuration, agent and jump hosts. There,
//! only `overmask` is needed.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::child::Watched;
use super::wire::{self, Offer, Outcome, Report};
use crate::store::StoreError;

/// Where a store is, and how it is reached.
#[derive(Debug, Clone)]
pub struct Remote {
    /// `[user@]host`, as `ssh` takes it.
    pub destination: String,
    /// The store's directory there; without it, the program there decides.
    pub store: Option<String>,
    /// The program there.
    pub program: String,
    /// The program that connects; `ssh`, if nothing else is said.
    pub ssh: Vec<String>,
    /// Nobody is there to answer: `ssh` asks for nothing, and what is typed at the terminal does not reach it.
    pub unattended: bool,
    /// How long a flash may take.
    pub limit: Option<Duration>,
}

impl Remote {
    /// A store where `overmask` is in the path.
    pub fn new(destination: impl Into<String>) -> Self {
        let (program, ssh) = ("overmask".to_owned(), vec!["ssh".to_owned()]);
        Remote { destination: destination.into(), store: None, program, ssh, unattended: false, limit: None }
    }

    /// The command line that runs there, each word quoted for its shell.
    fn command_line(&self) -> String {
        let store = self.store.iter().flat_map(|store| ["--store", store]);
        let words = [self.program.as_str(), "store", "receive"].into_iter().chain(store);
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }

    /// Flashes there what is offered. `sent` is told of every piece of a file.
    ///
    /// # Errors
    /// When it cannot be reached, or as [`wire::send`].
    pub fn flash(&self, offer: &Offer, report: Report<'_>, sent: &mut dyn FnMut(u64)) -> Result<Outcome, StoreError> {
        let peer = &self.destination;
        let unreachable = |reason: String| StoreError::Reach { peer: peer.clone(), reason };
        // What begins like an option would be taken for one.
        if peer.is_empty() || peer.starts_with('-') {
            return Err(unreachable("it is no name of a machine; name one as in user@board".to_owned()));
        }
        let [ssh, options @ ..] = &self.ssh[..] else { return Err(unreachable("no program connects".to_owned())) };
        let mut command = Command::new(ssh);
        // Of an option that is given twice `ssh` takes the first: the user's own comes before ours.
        let quiet: &[&str] = if self.unattended { &["-o", "BatchMode=yes"] } else { &[] };
        command.args(options).args(quiet).args(["-T", "--", peer]).arg(self.command_line());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        if self.unattended {
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
        }
        let mut child =
            command.spawn().map_err(|error| unreachable(format!("`{ssh}` cannot be started: {error}; install it")))?;
        let (Some(mut to), Some(from), Some(mut errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(unreachable("it has no streams".to_owned()));
        };
        // Read beside: a full pipe would stop it.
        let errors = std::thread::spawn(move || {
            let mut said = Vec::new();
            let _ = errors.by_ref().take(1 << 16).read_to_end(&mut said);
            let _ = std::io::copy(&mut errors, &mut std::io::sink());
            String::from_utf8_lossy(&said).into_owned()
        });
        let child =
            Watched::new(child, self.unattended, self.limit.and_then(|limit| Instant::now().checked_add(limit)));
        let mut from = BufReader::new(from);
        let mut is_silent = false;
        let done = child.watch(|| {
            is_silent = from.fill_buf().map_or(true, <[u8]>::is_empty);
            wire::send(offer, peer, &mut from, &mut to, report, sent)
        });
        drop(to);
        if done.is_err() {
            // It may wait for what will not come.
            child.kill();
        }
        let status = child.wait();
        let said = errors.join().unwrap_or_default();
        match done {
            Err(StoreError::Transfer { .. }) if child.is_late() => {
                let seconds = self.limit.unwrap_or_default().as_secs_f64();
                Err(unreachable(format!("it was not done after {seconds:.0} s, the most that it was given")))
            }
            // Nothing was said by a store: what `ssh` or the shell there says tells why.
            Err(StoreError::Transfer { reason, .. }) => {
                let last: Vec<String> = said.lines().map(crate::text::printable).collect();
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                let why = if last.is_empty() { status } else { last.join("; ") };
                let hint = if is_silent { format!("; `{}` must run there", self.program) } else { String::new() };
                Err(unreachable(format!("{reason} ({why}){hint}")))
            }
            done => done,
        }
    }
}

/// A word as a POSIX shell takes it whole.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_other_side_whole() {
        let remote = Remote { store: Some("/a b/it's $(x)".into()), ..Remote::new("board") };
        let line = remote.command_line().replacen("overmask store receive", "printf '%s\\n'", 1);
        let ran = Command::new("sh").arg("-c").arg(line).output().unwrap();
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), "--store\n/a b/it's $(x)\n");
    }

    #[test]
    fn what_is_no_machine_is_not_tried() {
        let none = &mut |_: u64| ();
        for destination in ["", "-oProxyCommand=x"] {
            let error = Remote::new(destination).flash(&Offer::default(), &mut |_, _, _| (), none).unwrap_err();
            assert!(error.to_string().contains("no name of a machine"), "{error}");
        }
        // In user-mode emulation every program seems to start.
        if std::env::var_os("OVERMASK_EMULATOR").is_some() {
            return;
        }
        let remote = Remote { ssh: vec!["/no/such/ssh".into()], ..Remote::new("board") };
        let error = remote.flash(&Offer::default(), &mut |_, _, _| (), none).unwrap_err();
        assert!(error.to_string().contains("install it"), "{error}");
    }
}
