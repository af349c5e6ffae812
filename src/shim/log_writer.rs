//! `containerd-shim-berth-v1 log-writer --socket PATH --state DIR`: a process that is nothing but a log pump.
// until the daemon keeps shims

use std::io;
use std::path::Path;
use std::process::ExitCode;

use crate::logs::{Pump, allow_many_descriptors};

/// Pumps until killed.
pub fn main(arguments: &[String]) -> ExitCode {
    let [socket_flag, socket, state_flag, state] = arguments else {
        return ExitCode::FAILURE;
    };
    if (socket_flag.as_str(), state_flag.as_str()) != ("--socket", "--state") {
        return ExitCode::FAILURE;
    }
    match serve(Path::new(socket), Path::new(state)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd-shim-berth-v1: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(socket: &Path, state: &Path) -> io::Result<()> {
    allow_many_descriptors()?;
    Pump::bind(socket, state)?.run()
}
