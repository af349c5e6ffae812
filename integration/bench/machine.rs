//! What the figures were measured on, and what processes hold in memory.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::{Outcome, sweep};

/// Enough to judge the figures by; no names.
#[derive(Serialize)]
pub struct Machine {
    pub cores: usize,
    pub memory_gib: u64,
    pub kernel: String,
    pub cgroups: &'static str,
    pub containerd: String,
    pub runc: String,
}

/// Memory of a peer's processes of one kind together, in KiB.
#[derive(Serialize)]
pub struct Memory {
    pub peer: &'static str,
    pub kind: &'static str,
    pub processes: usize,
    pub rss_kib: u64,
    pub pss_kib: u64,
}

pub fn describe(containerd: &Path) -> Outcome<Machine> {
    let kernel = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    let numbers = kernel
        .split(|c: char| c != '.' && !c.is_ascii_digit())
        .next()
        .unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    Ok(Machine {
        cores: std::thread::available_parallelism()?.get(),
        memory_gib: field(&meminfo, "MemTotal:")?.div_ceil(1 << 20),
        kernel: numbers.to_owned(),
        cgroups: cgroups(),
        containerd: version(Command::new(containerd).arg("--version"), 2)?,
        runc: version(Command::new("runc").arg("--version"), 2)?,
    })
}

fn cgroups() -> &'static str {
    let root = Path::new("/sys/fs/cgroup");
    match (root.join("cgroup.controllers").exists(), root.join("unified").exists()) {
        (true, _) => "v2",
        (false, true) => "v1 (hybrid)",
        (false, false) => "v1",
    }
}

/// The word of that number in the first line that the program prints.
fn version(command: &mut Command, word: usize) -> Outcome<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?.stdout;
    let text = String::from_utf8(output)?;
    let word = text
        .split_whitespace()
        .nth(word)
        .ok_or_else(|| format!("{program} --version says {text:?}"))?;
    Ok(word.to_owned())
}

/// The load average of the last minute.
pub fn load() -> Outcome<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// The daemon, the containerd and the shims of the peer in `directory`.
pub fn memory(peer: &'static str, directory: &Path) -> Outcome<Vec<Memory>> {
    let own = format!("{}/", directory.display());
    let mut found: Vec<Memory> = Vec::new();
    for (pid, line) in sweep::running().into_iter().filter(|(_, line)| line.contains(&own)) {
        let Some(kind) = kind(&line) else { continue };
        // A process that just ends has none.
        let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
            continue;
        };
        let (rss_kib, pss_kib) = (field(&rollup, "Rss:")?, field(&rollup, "Pss:")?);
        match found.iter_mut().find(|memory| memory.kind == kind) {
            Some(memory) => {
                memory.processes += 1;
                memory.rss_kib += rss_kib;
                memory.pss_kib += pss_kib;
            }
            None => found.push(Memory {
                peer,
                kind,
                processes: 1,
                rss_kib,
                pss_kib,
            }),
        }
    }
    Ok(found)
}

fn kind(command_line: &str) -> Option<&'static str> {
    let mut words = command_line.split(' ');
    let program = Path::new(words.next()?).file_name()?.to_str()?;
    match words.next()? {
        _ if program.starts_with("containerd-shim-") => Some("shims"),
        "serve" => Some("daemon"),
        "--config" => Some("containerd"),
        _ => None,
    }
}

/// The number after a name, as /proc writes its tables.
pub fn field(table: &str, name: &str) -> Outcome<u64> {
    let line = table
        .lines()
        .find(|line| line.starts_with(name))
        .ok_or_else(|| format!("{name} is missing"))?;
    let number = line
        .split_whitespace()
        .nth(1)
        .ok_or_else(|| format!("{name} has no value"))?;
    Ok(number.parse()?)
}
