//! `containerd-shim-berth-v1`: one small process that holds the containers of many pods.

pub mod console;
pub mod runtime;
pub mod stdio;

use std::process::ExitCode;

/// The main of the binary.
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
