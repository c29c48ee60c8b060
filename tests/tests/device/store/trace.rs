//! `strace`: a program is ended, or told of an error, at a system call; and what it wrote, call by call.

use std::fs;
use std::path::Path;
use std::process::Command;

use overmask_tests::ran;

use super::{tool, under};

/// The calls that write, rename, sync or remove. Some are not there on every processor.
const WRITING: &str = "?write,?writev,?pwrite64,?ftruncate,?fsync,?fdatasync,?rename,?renameat,?renameat2,\
                                  ?link,?linkat,?unlink,?unlinkat,?rmdir,?mkdir,?mkdirat,?flock,?fallocate";

/// What else a [disk](super::disk) is made of, or has no notion of.
const FILES: &str = "?openat,?open,?creat,?close,?lseek,?dup,?dup2,?dup3,?fcntl,?syncfs,?sync,?symlink,?symlinkat,\
                     ?copy_file_range,?sendfile";

/// A call of a command: its name, and the how manieth of this name it is, from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    name: String,
    number: usize,
}

impl Call {
    /// What lets something happen at this call: `signal=KILL`, `error=EIO`.
    pub(super) fn inject(&self, what: &str) -> String {
        format!("inject={}:{what}:when={}", self.name, self.number)
    }
}

/// A command in which something happens at a call.
pub(super) fn at_call(command: &Command, call: &Call, what: &str) -> Command {
    under([tool("strace", "strace"), "-f", "-qq", "-o", "/dev/null", "-e", &call.inject(what)], command)
}

/// The calls with which a command writes, in their order.
pub(super) fn calls(command: &Command, dir: &Path) -> Vec<Call> {
    let (log, trace) = (dir.join("calls"), format!("trace={WRITING}"));
    let options = ["-ff", "-qq", "-o", log.to_str().unwrap(), "-e", &trace];
    let got = ran(&mut under([tool("strace", "strace")].iter().chain(&options), command));
    assert_eq!(got.code, 0, "{got:?}");
    let mut calls: Vec<Call> = Vec::new();
    for name in first_thread(&log).lines().filter_map(|line| Some(line.split_once('(')?.0)) {
        let number = 1 + calls.iter().filter(|call| call.name == name).count();
        calls.push(Call { name: name.to_owned(), number });
    }
    assert!(!calls.is_empty());
    calls
}

/// The log of the thread that wrote the most, which is the first one: the others only compute.
pub(super) fn first_thread(log: &Path) -> String {
    let (dir, name) = (log.parent().unwrap(), log.file_name().unwrap().to_str().unwrap());
    let mut logs = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = path.file_name().unwrap().to_str().unwrap();
        if found.strip_prefix(name).is_some_and(|end| end.starts_with('.')) {
            logs.push(fs::read_to_string(&path).unwrap());
            fs::remove_file(&path).unwrap();
        }
    }
    logs.into_iter().max_by_key(|log| log.len()).unwrap()
}

/// A command whose calls are written to a log; `more` are other options.
pub(super) fn recorded(command: &Command, log: &Path, more: &[&str]) -> Command {
    // What something happens at must be among what is traced.
    let trace = format!("trace={WRITING},{FILES}");
    // Each thread has a log of its own; only the first one writes files.
    let log = log.to_str().unwrap();
    let options = ["-ff", "-qq", "-xx", "-s", "100000000", "-o", log, "-e", &trace];
    under([tool("strace", "strace")].iter().chain(&options).chain(more), command)
}
