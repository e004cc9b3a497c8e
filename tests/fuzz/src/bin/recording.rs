//! libFuzzer's entry to [`fuzz::recording`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::recording::run(bytes));
