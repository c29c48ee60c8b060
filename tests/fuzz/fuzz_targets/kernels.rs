#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overkernels_fuzz::kernels(bytes));
