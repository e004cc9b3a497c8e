//! libFuzzer's entry to [`fuzz::artifact`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::artifact::run(bytes));
