//! Whether a program can take over, found out while the old one can still go on.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::VERSION;
use crate::sys::children::Children;

/// How long a program may take to say what it is.
const ANSWER: Duration = Duration::from_secs(5);
/// As much of its answer is read.
const MOST: u64 = 4096;

/// Runs `binary -v`, and says why it cannot take over if it cannot.
pub fn check(children: &Children, binary: &Path) -> Result<(), String> {
    if !binary.is_absolute() {
        return Err(format!("{} is no absolute path", binary.display()));
    }
    let said = ask(children, binary).map_err(|reason| format!("{} {reason}", binary.display()))?;
    match knows(&said) {
        true => Ok(()),
        false => Err(format!(
            "{} does not take over from version {VERSION} of this shim's handover",
            binary.display()
        )),
    }
}

fn ask(children: &Children, binary: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot be run: {error}");
    let file = memfd_create(c"answer", MFdFlags::MFD_CLOEXEC).map_err(|error| failed(error.into()))?;
    let mut answer = File::from(file);
    let mut command = Command::new(binary);
    command.arg("-v").env_clear().current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(answer.try_clone().map_err(failed)?)
        .stderr(Stdio::null());
    let helper = children.spawn(&mut command).map_err(failed)?;
    let Ok(code) = helper.wait(ANSWER) else {
        helper.kill_family();
        return Err("does not say what it is".to_owned());
    };
    if code != 0 {
        return Err(format!("exits with {code} when asked for its version"));
    }
    let mut said = String::new();
    let read = answer
        .rewind()
        .and_then(|()| answer.take(MOST).read_to_string(&mut said));
    read.map_err(failed)?;
    Ok(said)
}

/// Whether our version is among those that a program's answer to `-v` tells.
fn knows(said: &str) -> bool {
    let line = said.lines().find_map(|line| line.trim().strip_prefix("Handover:"));
    let mut versions = line.unwrap_or_default().split_whitespace();
    versions.any(|version| version.parse() == Ok(VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_tells_which_versions_it_takes_over_from() {
        assert!(knows("containerd-shim-berth-v1:\n  Version: 1.2.3\n  Handover: 1\n"));
        assert!(knows("Handover: 3 2 1"));
        for said in ["", "Version: 1", "Handover:", "Handover: 2 11", "Handover: all"] {
            assert!(!knows(said), "{said}");
        }
    }
}
