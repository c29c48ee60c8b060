//! The one program that libFuzzer drives: which target it is, the environment variable `OVERMASK_FUZZ` says.
#![no_main]

use std::sync::LazyLock;

use overmask_fuzz::{TARGETS, Target};

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("OVERMASK_FUZZ").expect("OVERMASK_FUZZ names no target");
    TARGETS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("there is no target `{name}`")).1
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| CHOSEN(bytes));
