//! What the hub reads from strangers, fed with what no peer would send.
//!
//! One function per reader, in a file of its own: it takes any bytes and panics when the reader breaks a promise. They
//! are run twice. `run.sh` builds them with coverage counters and lets libFuzzer search; `api/tests/fuzz_smoke.rs`
//! includes the same files into an ordinary test, which replays `corpus/` and tries random changes for a few seconds.

pub mod artifact;
pub mod frames;
pub mod message;
pub mod recording;
pub mod upload_form;
