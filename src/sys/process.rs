//! Processes, by what /proc says of them (proc(5)).
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
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
    let all: Vec<(u32, u32)> = all()
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

/// The words of a process' command line; none of one that is gone.
pub fn command_line(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// All processes.
pub fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Sends SIGKILL. A process that is gone is fine.
pub fn kill(pid: u32) {
    signal::kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).ok();
}

/// Sends SIGTERM. A process that is gone is fine.
pub(super) fn terminate(pid: u32) {
    signal::kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).ok();
}

/// Stops a process (SIGSTOP), so that it forks no more. A process that is gone is fine.
pub fn pause(pid: u32) {
    signal::kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).ok();
}

/// Makes this process the parent of every orphan among its descendants (PR_SET_CHILD_SUBREAPER, prctl(2)).
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Keeps other processes, but those that may trace every process of the node, from looking into this one and its
/// children until they execute a program (PR_SET_DUMPABLE, ptrace(2)).
pub fn not_dumpable() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// The first of the two signals that the C library keeps for itself (SIGCANCEL; nptl(7)). posix_spawn(3) leaves both
/// ignored, whatever they were.
const CANCEL: libc::c_int = 32;
const SETXID: libc::c_int = 33;

/// Whether this process was started with the C library's first signal ignored, which programs that it starts inherit.
pub fn ignores_cancellation() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    ignored.is_some_and(|set| set & (1 << (CANCEL - 1)) != 0)
}

/// Puts right what posix_spawn(3) did to the C library's signals in this process.
pub fn restore_spawned_signals(ignore_cancellation: bool) -> io::Result<()> {
    /// `struct kernel_sigaction`, which is not the C library's.
    #[repr(C)]
    struct Action {
        handler: libc::sighandler_t,
        flags: libc::c_ulong,
        restorer: usize,
        mask: u64,
    }
    let cancel = if ignore_cancellation {
        libc::SIG_IGN
    } else {
        libc::SIG_DFL
    };
    for (signal, handler) in [(CANCEL, cancel), (SETXID, libc::SIG_DFL)] {
        let action = Action {
            handler,
            flags: 0,
            restorer: 0,
            mask: 0,
        };
        let none = std::ptr::null_mut::<Action>();
        // SAFETY: the kernel reads one action, whose mask has 8 bytes. The C library, whose wrapper refuses these two
        // signals, uses them for threads alone, of which there is one.
        let set = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const action,
                none,
                size_of::<u64>(),
            )
        };
        Errno::result(set)?;
    }
    Ok(())
}

/// Whether a process is a child of this one: started by it, or an orphan that it inherited.
pub fn is_child(pid: u32) -> bool {
    field(pid, 4).is_ok_and(|parent| parent == std::process::id().to_string())
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

    /// Sends a signal by its number (pidfd_send_signal(2)). Fails with ESRCH when the process has been reaped; to a
    /// zombie it does nothing.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let nothing = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: without a siginfo_t the call reads no memory of ours.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), number, nothing, 0) };
        Errno::result(sent)?;
        Ok(())
    }

    /// Whether the process has ended, reaped or not.
    pub fn has_ended(&self) -> io::Result<bool> {
        let mut poll = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        Ok(nix::poll::poll(&mut poll, PollTimeout::ZERO)? > 0)
    }

    /// What the process exited with, 0 to 255, or 128 and the signal that killed it; also when it is no child of ours.
    /// `None` while it runs, and when the kernel does not tell: kernels before 6.15 have forgotten it once somebody has
    /// reaped the process.
    pub fn exit_info(&self) -> io::Result<Option<i32>> {
        if !self.has_ended()? {
            return Ok(None);
        }
        let status = match self.unreaped_status() {
            None => self.reaped_status()?,
            status => status,
        };
        Ok(status.map(exit_code))
    }

    /// The wait status that the kernel keeps with the descriptor once the process was reaped: PIDFD_GET_INFO with
    /// PIDFD_INFO_EXIT, linux/pidfd.h, 6.15.
    fn reaped_status(&self) -> io::Result<Option<i32>> {
        let mut info = PidfdInfo {
            mask: PIDFD_INFO_EXIT,
            ..PidfdInfo::default()
        };
        // SAFETY: the request's number carries the size of the struct, which is what the kernel reads and writes.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        match Errno::result(answer) {
            Ok(_) => Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)),
            Err(Errno::ENOTTY | Errno::EINVAL | Errno::ESRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The wait status of a zombie: field 52 of its line (proc_pid_stat(5)).
    fn unreaped_status(&self) -> Option<i32> {
        let pid = self.pid()?;
        let status = field(pid, 52).ok()?.parse().ok()?;
        // While the descriptor still names that pid, the line was the process's own.
        (self.pid() == Some(pid)).then_some(status)
    }

    /// The process's pid, as long as it was not reaped.
    pub fn pid(&self) -> Option<u32> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let info = fs::read_to_string(path).ok()?;
        info.lines()
            .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
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

impl AsFd for Handle {
    /// Readable, in terms of poll(2), once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Handle {
    /// A pidfd that came from elsewhere.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Handle> for OwnedFd {
    fn from(handle: Handle) -> Self {
        handle.0
    }
}

/// The first version of `struct pidfd_info` (linux/pidfd.h), which later kernels still take.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid, then the real, effective, saved and file system user and group ids.
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;
const PIDFD_GET_INFO: libc::Ioctl = nix::request_code_readwrite!(0xff, 11, size_of::<PidfdInfo>());

/// What a wait status (wait(2)) comes to: 0 to 255, or 128 and the signal.
fn exit_code(status: i32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => 128 + signal,
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

    #[test]
    fn a_handle_tells_how_its_process_ended_reaped_or_not() {
        for (script, code) in [("exit 7", 7), ("kill -KILL $$", 137), ("true", 0)] {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let handle = Handle::open(child.id()).unwrap();
            handle.wait().unwrap();
            assert_eq!(handle.exit_info().unwrap(), Some(code), "{script}: a zombie");
            assert_eq!(handle.pid(), Some(child.id()));
            child.wait().unwrap();
            assert_eq!(handle.pid(), None);
            let reaped = handle.exit_info().unwrap();
            assert!(
                reaped == Some(code) || reaped.is_none() && !kernel_keeps_exits(),
                "{script}: {reaped:?}"
            );
            assert!(handle.signal(0).is_err());
        }
    }

    #[test]
    fn a_signal_reaches_the_process_that_the_handle_was_opened_for() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let handle = Handle::from(OwnedFd::from(Handle::open(child.id()).unwrap()));
        assert!(is_child(child.id()) && !is_child(1));
        assert_eq!(handle.exit_info().unwrap(), None, "it runs");
        handle.signal(libc::SIGTERM).unwrap();
        handle.wait().unwrap();
        assert_eq!(handle.exit_info().unwrap(), Some(128 + libc::SIGTERM));
        child.wait().unwrap();
    }

    /// PIDFD_INFO_EXIT came with 6.15.
    fn kernel_keeps_exits() -> bool {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        (numbers.next(), numbers.next()) >= (Some(6), Some(15))
    }
}
