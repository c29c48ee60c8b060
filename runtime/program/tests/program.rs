//! That the program starts, and tells of the machine, in every form that it is built in. For the sake of this test cargo builds the program before it runs the
//! workspace's tests, of which those in `tests/` run it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

#[test]
fn it_says_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_overmask")).arg("--version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, concat!("overmask ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn it_tells_what_machine_this_is() {
    let doctor = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_overmask")).arg("doctor").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said, _) = doctor(&[]);
    assert_eq!(code, Some(0), "{said}");
    let checks: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    for check in ["board", "system", "processor", "cores", "clock", "memory", "pages", "temporary", "engines", "keys"] {
        assert!(checks.contains(&check), "{check} is missing: {said}");
    }
    assert_eq!(checks.contains(&"kernels"), cfg!(feature = "native"));
    assert_eq!(checks.contains(&"onnxruntime"), cfg!(feature = "ort"));
    // What is wrong comes besides, not instead.
    let (code, with_error, complaint) = doctor(&["--base", "/nowhere", "--json"]);
    assert_eq!((code, with_error.lines().count()), (Some(3), said.lines().count() + 1), "{with_error}");
    assert!(with_error.lines().all(|line| line.starts_with("{\"schema\":1,\"check\":")), "{with_error}");
    assert!(complaint.contains("errors were found"), "{complaint}");
}
