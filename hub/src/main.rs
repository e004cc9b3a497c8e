//! `mooring`: the hub, its administration and the operator's client in one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    hub::commands::run()
}
