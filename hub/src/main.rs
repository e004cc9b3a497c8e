//! `mooring`: the hub, its administration and the operator's client in one binary.

use std::process::ExitCode;

/// Gives the memory of a busy hour back; the system's allocator keeps most of it (the same hub after 10,000 devices had
/// joined and gone quiet: over a quarter less with this one, `make memory`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Without it freed memory is given back only in passing, and an idle hub passes nowhere. No harm if it is refused.
    let _ = tikv_jemalloc_ctl::background_thread::write(true);
    hub::commands::run()
}
