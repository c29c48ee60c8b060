//! Tests that run once more, by themselves, in a process whose limits are others.

use std::process::Command;

/// Runs the test that calls this once more in a process of its own, after a line of the shell. There this returns
/// true at once; here it does so never, but fails where the test did.
///
/// `OVERMASK_EMULATOR` is the command that runs test programs of another processor.
pub(crate) fn is_inside(shell: &str) -> bool {
    const INSIDE: &str = "OVERMASK_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let emulator = std::env::var("OVERMASK_EMULATOR").unwrap_or_default();
    let thread = std::thread::current();
    let mut again = Command::new("bash");
    again.args(["-c", &format!("{shell} && exec {emulator} \"$0\" --exact \"$1\"")]);
    again.arg(std::env::current_exe().unwrap()).arg(thread.name().unwrap()).env(INSIDE, "1");
    let ran = again.output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert!(String::from_utf8_lossy(&ran.stdout).contains("1 passed"), "{ran:?}");
    false
}
