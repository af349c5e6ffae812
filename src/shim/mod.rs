//! `containerd-shim-berth-v1`: one small process that holds the containers of many pods.

pub mod cgroups;
pub mod events;
pub mod oom;
pub mod runtime;
pub mod stats;
pub mod stdio;

use std::process::ExitCode;

/// The main of the binary.
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
