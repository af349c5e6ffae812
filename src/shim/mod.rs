//! `containerd-shim-berth-v1`: one small process that holds the containers of many pods.

pub mod cgroups;
pub mod events;
pub mod oom;
pub mod stats;

use std::process::ExitCode;

/// The main of the binary.
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
