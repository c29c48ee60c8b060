//! That the program starts. For the sake of this test cargo builds the program before it runs the
//! workspace's tests, of which those in `tests/` run it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

#[test]
fn it_says_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_overmask")).arg("--version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, concat!("overmask ", env!("CARGO_PKG_VERSION"), "\n"));
}
