//! The one program that libFuzzer drives: which target it is, the environment variable `OVERMASK_FUZZ` says.
#![no_main]

use std::panic::{set_hook, take_hook};
use std::sync::LazyLock;

use overmask_fuzz::{TARGETS, Target};
use peak_alloc::PeakAlloc;

/// The most memory that an input may take, in bytes: a thousand times the longest one. What libFuzzer limits is the
/// process, which its own needs fill.
const MOST: usize = 32 << 20;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    // libFuzzer's own hook ends the process at every panic, those that are caught included.
    let usual = take_hook();
    set_hook(Box::new(move |info| {
        if overmask::fence::here().is_none() {
            usual(info);
        }
    }));
    let name = std::env::var("OVERMASK_FUZZ").expect("OVERMASK_FUZZ names no target");
    TARGETS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("there is no target `{name}`")).1
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let target = *CHOSEN;
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    target(bytes);
    let took = MEMORY.peak_usage().saturating_sub(before);
    assert!(took <= MOST, "{took} bytes of memory for an input of {}", bytes.len());
});
