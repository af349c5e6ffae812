//! Processes, by what /proc says of them (proc(5)).
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{self, Signal};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// When a process was started, in clock ticks since boot. Together with the pid and the boot it names one process.
pub fn start_time(pid: u32) -> io::Result<u64> {
    // Field 22; the fields before the last ')' are the pid and the name, which may hold anything.
    field(pid, 22)?.parse().map_err(io::Error::other)
}

/// When a process was started, in nanoseconds since the Unix epoch, to a clock tick.
pub fn started_at(pid: u32) -> io::Result<i64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let boot = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok());
    let boot = boot.ok_or_else(|| io::Error::other("/proc/stat has no btime"))?;
    let ticks = i64::try_from(start_time(pid)?).map_err(io::Error::other)?;
    let hertz = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(boot * 1_000_000_000 + ticks * (1_000_000_000 / hertz))
}

/// Whether a process has ended but was not reaped.
pub fn is_zombie(pid: u32) -> bool {
    field(pid, 3).is_ok_and(|state| state == "Z")
}

/// All processes that descend from `pid`, nearest first.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let all: Vec<(u32, u32)> = pids()
        .filter_map(|pid| Some((pid, field(pid, 4).ok()?.parse().ok()?)))
        .collect();
    let mut next = 0;
    while next < family.len() {
        let parent = family[next];
        family.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family.split_off(1)
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Sends SIGKILL. A process that is gone is fine.
pub fn kill(pid: u32) {
    signal::kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).ok();
}

/// One process for certain, whatever becomes of its pid (pidfd_open(2)).
#[derive(Debug)]
pub struct Handle(OwnedFd);

impl Handle {
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: the call reads no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = RawFd::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
        // SAFETY: the kernel has just given it to us, close-on-exec, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Blocks until the process has ended.
    pub fn wait(&self) -> io::Result<()> {
        let mut poll = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            match nix::poll::poll(&mut poll, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                result => return result.map(|_| ()).map_err(io::Error::from),
            }
        }
    }
}

/// Asks a process to end with SIGTERM and, when it has not after `grace`, makes it. Blocks until it is gone.
pub fn end(pid: u32, grace: Duration) -> io::Result<()> {
    let started = match start_time(pid) {
        Ok(started) => started,
        Err(_) => return Ok(()),
    };
    let alive = || start_time(pid).is_ok_and(|now| now == started) && !is_zombie(pid);
    for (sign, patience) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, Duration::from_secs(10))] {
        match signal::kill(Pid::from_raw(pid.cast_signed()), sign) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
        let begin = Instant::now();
        while begin.elapsed() < patience {
            if !alive() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Err(io::Error::other(format!("process {pid} does not end")))
}

/// Field `number` (from 1) of /proc/PID/stat.
fn field(pid: u32, number: usize) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat
        .rsplit_once(')')
        .ok_or_else(|| io::Error::other("no process line"))?;
    let field = rest.split_whitespace().nth(number - 3).map(str::to_owned);
    field.ok_or_else(|| io::Error::other(format!("no field {number}")))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn our_own_start_is_in_the_past_and_near() {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let started = started_at(std::process::id()).unwrap();
        let age = i64::try_from(now.as_nanos()).unwrap() - started;
        assert!((-2_000_000_000..3_600_000_000_000).contains(&age), "{age}");
    }

    #[test]
    fn descendants_are_found_and_a_stubborn_process_is_ended() {
        let script = "trap '' TERM; sleep 600 & wait; wait; wait";
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let begin = Instant::now();
        while descendants(child.id()).is_empty() && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let family = descendants(child.id());
        assert_eq!(family.len(), 1);
        std::thread::sleep(Duration::from_millis(50));
        end(child.id(), Duration::from_millis(100)).unwrap();
        family.iter().copied().for_each(kill);
        child.wait().unwrap();
        end(child.id(), Duration::from_millis(10)).unwrap();
    }
}
