//! Removes what a peer left, whatever state it is in. Best effort: it runs after failures too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills every process whose command line names `directory`: shims, a containerd that outlives berth.
pub fn processes(directory: &Path) {
    for (pid, line) in running() {
        if line.contains(&format!("{}/", directory.display())) {
            signal(pid, Signal::SIGKILL);
        }
    }
}

/// The running processes and their command lines, without our own.
pub fn running() -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let others = pids.filter(|&pid| pid != std::process::id());
    let line = |pid: u32| Some((pid, fs::read(format!("/proc/{pid}/cmdline")).ok()?));
    others
        .filter_map(line)
        .map(|(pid, line)| (pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        .collect()
}

/// Unmounts everything below `directory`, the last mounted first.
pub fn mounts(directory: &Path) {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    for point in points
        .filter(|point| Path::new(point).starts_with(directory))
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
    {
        umount2(point, MntFlags::MNT_DETACH).ok();
    }
}

/// Removes a network link, if it is there.
pub fn link(name: &str) {
    quietly(Command::new("ip").args(["link", "delete", name]));
}

/// Removes an nftables table of the family `ip`, if it is there.
pub fn nft_table(name: &str) {
    quietly(Command::new("nft").args(["delete", "table", "ip", name]));
}

fn quietly(command: &mut Command) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .ok();
}

/// Kills what is in the cgroups of that name and removes them, in every hierarchy.
pub fn cgroups(name: &str) {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(
        fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    for cgroup in roots
        .iter()
        .map(|root| root.join(name.trim_start_matches('/')))
        .filter(|path| path.is_dir())
    {
        remove_cgroup(&cgroup);
    }
}

fn remove_cgroup(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    members
        .lines()
        .filter_map(|pid| pid.parse().ok())
        .for_each(|pid| signal(pid, Signal::SIGKILL));
    // A killed process leaves its cgroup a moment later.
    for _ in 0..50 {
        if fs::remove_dir(cgroup).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).ok();
}
