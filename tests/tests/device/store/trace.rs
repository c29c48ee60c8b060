//! `strace`: a program is ended, or told of an error, at a system call; and what it wrote, call by call.

use std::fs;
use std::path::Path;
use std::process::Command;

use overmask_tests::ran;

use super::{tool, under};

/// The calls that write, rename, sync or remove. Some are not there on every processor.
pub(super) const WRITING: &str = "?write,?writev,?pwrite64,?ftruncate,?fsync,?fdatasync,?rename,?renameat,?renameat2,\
                                  ?link,?linkat,?unlink,?unlinkat,?rmdir,?mkdir,?mkdirat,?flock,?fallocate";

/// The calls that a [disk](super::power) is made of.
const FILES: &str = "?write,?writev,?pwrite64,?ftruncate,?fsync,?fdatasync,?rename,?renameat,?renameat2,?link,?linkat,\
                     ?unlink,?unlinkat,?rmdir,?mkdir,?mkdirat,?fallocate,?openat,?open,?creat,?close,?lseek,?dup,?dup2,\
                     ?dup3,?syncfs,?sync,?symlink,?symlinkat,?copy_file_range,?sendfile,?fcntl";

/// A command in which something happens at the call with this number, from 1: `signal=KILL`, `error=EIO`.
pub(super) fn at_call(command: &Command, number: usize, what: &str) -> Command {
    let inject = format!("inject={WRITING}:{what}:when={number}");
    under([tool("strace", "strace"), "-f", "-qq", "-o", "/dev/null", "-e", &inject], command)
}

/// How many such calls a command makes.
pub(super) fn calls(command: &Command, dir: &Path) -> usize {
    let (log, trace) = (dir.join("calls"), format!("trace={WRITING}"));
    let options = ["-ff", "-qq", "-o", log.to_str().unwrap(), "-e", &trace];
    let got = ran(&mut under([tool("strace", "strace")].iter().chain(&options), command));
    assert_eq!(got.code, 0, "{got:?}");
    let lines = first_thread(&log).lines().filter(|line| line.contains('(')).count();
    assert!(lines > 0);
    lines
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
    let trace = format!("trace={FILES}");
    // Each thread has a log of its own; only the first one writes files.
    let log = log.to_str().unwrap();
    let options = ["-ff", "-qq", "-xx", "-s", "100000000", "-o", log, "-e", &trace];
    under([tool("strace", "strace")].iter().chain(&options).chain(more), command)
}
