//! libFuzzer's entry to [`fuzz::upload_form`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::upload_form::run(bytes));
