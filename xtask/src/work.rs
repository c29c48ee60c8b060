//! Where things are, and running programs.

use std::cell::RefCell;
use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::times::Times;

/// The places that everything happens in.
pub(crate) struct Work {
    /// The repository.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// What took how long.
    times: RefCell<Times>,
}

impl Work {
    pub(crate) fn new() -> Result<Self> {
        // Cargo says where it runs us; the place where we were built may be another clone.
        let here =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = here.parent().context("xtask lies in the repository")?.to_owned();
        // Cargo takes a relative path as relative to where it was called.
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => env::current_dir()?.join(dir),
            None => root.join("target"),
        };
        Ok(Self { root, target, times: RefCell::default() })
    }

    /// Does something and keeps how long it took, under a name.
    pub(crate) fn timed<T>(&self, what: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let done = work();
        self.times.borrow_mut().add(what, started.elapsed());
        done
    }

    /// How long everything took that was timed.
    pub(crate) fn times(&self) -> String {
        self.times.borrow().to_string()
    }

    /// Bases and data sets.
    pub(crate) fn assets(&self) -> PathBuf {
        self.target.join("assets")
    }

    /// One of the two programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let name = format!("{name}{}", env::consts::EXE_SUFFIX);
        self.target.join("release").join(name)
    }

    /// Cargo with the tests. In the release profile, in which the programs are built, so that each dependency is
    /// compiled once; without the benches, whose peers take as long to build as all else and have no tests.
    pub(crate) fn tests(&self) -> Run {
        self.cargo().args("test --release --workspace --exclude overmask-benches")
    }

    /// Cargo, with the target directory that we look into.
    pub(crate) fn cargo(&self) -> Run {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Run::new(cargo).directory(&self.root).env("CARGO_TARGET_DIR", &self.target)
    }
}

/// A program to run.
pub(crate) struct Run {
    command: Command,
    words: Vec<String>,
}

impl Run {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let words = vec![program.as_ref().to_string_lossy().into_owned()];
        Self { command: Command::new(program), words }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.words.push(arg.as_ref().to_string_lossy().into_owned());
        self.command.arg(arg);
        self
    }

    /// Words separated by spaces.
    pub(crate) fn args(self, words: &str) -> Self {
        words.split_whitespace().fold(self, Self::arg)
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn directory(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// The command line, for people.
    fn line(&self) -> String {
        self.words.join(" ")
    }

    /// Shows the command line and runs it; what it says is seen.
    pub(crate) fn show(mut self) -> Result<()> {
        eprintln!("$ {}", self.line());
        let status = self.command.status().with_context(|| format!("cannot run `{}`", self.line()))?;
        if !status.success() {
            bail!("`{}` failed ({status})", self.line());
        }
        Ok(())
    }

    /// Runs it and returns what it wrote to stdout; what it says on stderr is seen.
    pub(crate) fn output(self) -> Result<String> {
        self.output_of(b"")
    }

    /// The same with something to read on stdin.
    pub(crate) fn output_of(mut self, input: &[u8]) -> Result<String> {
        let line = self.line();
        let context = || format!("cannot run `{line}`");
        let mut child = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(context)?;
        let mut stdin = child.stdin.take().with_context(context)?;
        // Written by another thread: a program may answer before it has read everything.
        let output = thread::scope(|scope| {
            scope.spawn(move || {
                // Whoever reads no further has a reason, and the exit status says it.
                let _ = stdin.write_all(input);
            });
            child.wait_with_output()
        })
        .with_context(context)?;
        if !output.status.success() {
            bail!("`{line}` failed ({})", output.status);
        }
        String::from_utf8(output.stdout).with_context(|| format!("`{line}` wrote bytes, not text"))
    }

    /// Shows the command line and runs it; every line of stdout is shown and handed to `see`.
    /// Returns whether it ended well.
    pub(crate) fn stream(mut self, mut see: impl FnMut(&str)) -> Result<bool> {
        let line = self.line();
        eprintln!("$ {line}");
        let context = || format!("cannot run `{line}`");
        let mut child = self.command.stdout(Stdio::piped()).spawn().with_context(context)?;
        let out = child.stdout.take().with_context(context)?;
        for line in BufReader::new(out).split(b'\n') {
            // What a test prints need not be text.
            let line = String::from_utf8_lossy(&line.with_context(context)?).into_owned();
            println!("{line}");
            see(&line);
        }
        Ok(child.wait().with_context(context)?.success())
    }

    /// Whether it runs and ends well; what it says is not seen.
    pub(crate) fn works(mut self) -> bool {
        let status = self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|s| s.success())
    }
}
