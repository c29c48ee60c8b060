//! The one program that libFuzzer drives: which target it is, the environment says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overmask_fuzz::chosen()(bytes));
