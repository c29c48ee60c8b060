#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overmask_fuzz::kernels(bytes));
