//! `containerd-shim-berth-v1`: one small process that holds the containers of many pods.

mod log_writer;

use std::process::ExitCode;

/// The main of the binary.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        // until the daemon keeps shims
        Some((command, rest)) if command == "log-writer" => log_writer::main(rest),
        _ => ExitCode::FAILURE,
    }
}
