//! The children of a process that many threads start helpers in and one thread reaps (waitid(2)).
//!
//! A thread that starts a helper waits for it here, not in the kernel: only [`Children::next_dead`] reaps, and it tells
//! the waiter. So the reaper is free to take whatever else ends, orphans that a child subreaper inherits among them,
//! and nobody's helper is lost to it: a child is registered under the lock that reaping takes.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;

use super::{process, spawn};

/// The helpers of this process. One per process: it reaps all children.
#[derive(Debug, Default)]
pub struct Children {
    helpers: Mutex<HashMap<u32, Arc<Slot>>>,
    /// The soft limit of open files of helpers, where it is another than ours.
    files: OnceLock<u64>,
}

/// A process that ended, is no helper, and was not buried yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dead {
    pub pid: u32,
    /// What it exited with, 0 to 255, or 128 and the signal that killed it.
    pub code: i32,
    /// When that was seen, in nanoseconds since the Unix epoch.
    pub at: i64,
}

/// A child that somebody here waits for. It goes on, and is reaped, when this is dropped.
#[derive(Debug)]
pub struct Helper {
    pid: u32,
    slot: Arc<Slot>,
}

/// The helper did not end in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not ended in time")]
pub struct TimedOut;

/// How often a family is looked at for members that were born meanwhile.
const ROUNDS: usize = 16;

/// Where the reaper leaves a helper's exit code. The pid is the helper's for as long as there is none.
#[derive(Debug, Default)]
struct Slot {
    code: Mutex<Option<i32>>,
    ended: Condvar,
}

impl Children {
    /// Has helpers start with another soft limit of open files than this process has. Once.
    pub fn limit_files(&self, soft: u64) {
        let _ = self.files.set(soft);
    }

    /// That limit, if there is one.
    pub fn files_limit(&self) -> Option<u64> {
        self.files.get().copied()
    }

    /// Starts a helper. For the fast way (vfork) `command` must name its program by a path with a slash, and have no
    /// `pre_exec`, and there must be no limit for helpers.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Helper> {
        if let Some(soft) = self.files_limit() {
            spawn::limit_files(command, soft)?;
        }
        self.register(|| Ok(command.spawn()?.id()))
    }

    /// Starts a helper by another way; `start` answers the child's pid. Its first few instructions have our limits.
    pub fn start(&self, start: impl FnOnce() -> io::Result<u32>) -> io::Result<Helper> {
        self.register(|| {
            let pid = start()?;
            if let Some(soft) = self.files_limit() {
                // Fails only if it could not be limited otherwise either.
                spawn::limit_files_of(pid, soft).ok();
            }
            Ok(pid)
        })
    }

    fn register(&self, start: impl FnOnce() -> io::Result<u32>) -> io::Result<Helper> {
        let mut helpers = self.helpers.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = start()?;
        let slot = Arc::new(Slot::default());
        helpers.insert(pid, Arc::clone(&slot));
        Ok(Helper { pid, slot })
    }

    /// A helper that the program before this one started in this process, and its exit code if it was reaped by then. To
    /// be called before the first [`Children::next_dead`].
    pub fn inherit(&self, pid: u32, code: Option<i32>) -> Helper {
        let slot = Arc::new(Slot {
            code: Mutex::new(code),
            ended: Condvar::new(),
        });
        if code.is_none() {
            let mut helpers = self.helpers.lock().unwrap_or_else(PoisonError::into_inner);
            helpers.insert(pid, Arc::clone(&slot));
        }
        Helper { pid, slot }
    }

    /// The next process that ended, other than helpers: those are reaped and their waiters told. It stays a zombie, and
    /// the next one to be found, until [`bury`]. To be called after each SIGCHLD until it answers `None`. Never waits
    /// for a child to end.
    pub fn next_dead(&self) -> io::Result<Option<Dead>> {
        let mut helpers = self.helpers.lock().unwrap_or_else(PoisonError::into_inner);
        // By their pids first: somebody else's zombie in front must not keep their waiters.
        helpers.retain(|pid, slot| !slot.reap(*pid));
        loop {
            let Some((pid, code)) = peek(libc::P_ALL, 0, libc::WNOWAIT)? else {
                return Ok(None);
            };
            match helpers.get(&pid) {
                None => return Ok(Some(Dead { pid, code, at: now() })),
                Some(slot) if slot.reap(pid) => drop(helpers.remove(&pid)),
                Some(_) => {}
            }
        }
    }
}

/// Reaps a process that [`Children::next_dead`] answered. From now on the pid may be another process.
pub fn bury(pid: u32) -> io::Result<()> {
    match peek(libc::P_PID, pid, 0)? {
        Some(_) => Ok(()),
        None => Err(Errno::ECHILD.into()),
    }
}

impl Helper {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it exited with, if it was reaped.
    pub fn code(&self) -> Option<i32> {
        *self.slot.code.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the helper has ended and was reaped: what it exited with, 0 to 255, or 128 and a signal.
    pub fn wait(&self, patience: Duration) -> Result<i32, TimedOut> {
        let deadline = Instant::now() + patience;
        let mut code = self.slot.code.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(code) = *code {
                return Ok(code);
            }
            let left = deadline.checked_duration_since(Instant::now()).ok_or(TimedOut)?;
            let woken = self.slot.ended.wait_timeout(code, left);
            code = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends SIGKILL. A helper that has ended is fine.
    pub fn kill(&self) {
        self.alive(process::kill);
    }

    /// Sends SIGTERM. A helper that has ended is fine.
    pub fn terminate(&self) {
        self.alive(process::terminate);
    }

    /// Does something with the pid while it is the helper's.
    fn alive(&self, work: impl FnOnce(u32)) {
        let code = self.slot.code.lock().unwrap_or_else(PoisonError::into_inner);
        if code.is_none() {
            work(self.pid);
        }
    }

    /// Kills the helper and all that descends from it. They are stopped first, so that none forks away meanwhile.
    pub fn kill_family(&self) {
        self.alive(process::pause);
        let mut family = Vec::new();
        for _ in 0..ROUNDS {
            // Without the lock, as it takes a while. What is found counts only if the pid is still the helper's after.
            let mut fresh = process::descendants(self.pid);
            fresh.retain(|pid| !family.contains(pid));
            if fresh.is_empty() {
                break;
            }
            self.alive(|_| fresh.iter().copied().for_each(process::pause));
            family.extend(fresh);
        }
        self.alive(|pid| family.into_iter().chain([pid]).for_each(process::kill));
    }
}

impl Slot {
    /// Reaps the helper if it has ended, and says whether it is over.
    fn reap(&self, pid: u32) -> bool {
        let mut code = self.code.lock().unwrap_or_else(PoisonError::into_inner);
        match peek(libc::P_PID, pid, 0) {
            Ok(None) => return false,
            Ok(Some((_, exit))) => *code = Some(exit),
            // Somebody else reaped it: nobody can know.
            Err(_) => *code = Some(255),
        }
        self.ended.notify_all();
        true
    }
}

/// A child that has ended, its pid and exit code; reaped unless `flags` say WNOWAIT. `None` when none of those asked
/// for has ended, or there are none at all.
fn peek(kind: libc::idtype_t, pid: u32, flags: libc::c_int) -> io::Result<Option<(u32, i32)>> {
    loop {
        // SAFETY: all zeroes is a valid siginfo_t, which is plain data.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: waitid writes one siginfo_t, to ours.
        let answer = unsafe { libc::waitid(kind, pid, &raw mut info, libc::WEXITED | libc::WNOHANG | flags) };
        match Errno::result(answer) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(Errno::ECHILD) if kind == libc::P_ALL => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // SAFETY: waitid fills the fields of SIGCHLD, or leaves the zeroes when there is nobody.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        let code = match info.si_code {
            libc::CLD_EXITED => status & 0xff,
            _ => 128 + status,
        };
        return Ok(u32::try_from(pid).ok().filter(|pid| *pid != 0).map(|pid| (pid, code)));
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::thread;

    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    /// Reaps until `work` is done. Children of other tests are left alone.
    fn with_reaper<T>(work: impl FnOnce(&Children) -> T) -> T {
        let children = Children::default();
        let done = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    children.next_dead().unwrap();
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&children)));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    #[test]
    fn helpers_of_many_threads_get_their_own_codes() {
        with_reaper(|children| {
            thread::scope(|scope| {
                for code in 0..20 {
                    scope.spawn(move || {
                        let helper = children.spawn(&mut sh(&format!("exit {code}"))).unwrap();
                        assert_eq!(helper.wait(Duration::from_secs(20)), Ok(code));
                        assert_eq!(helper.wait(Duration::ZERO), Ok(code), "asked twice");
                    });
                }
            });
        });
    }

    #[test]
    fn a_helper_that_hangs_is_killed_with_its_family_and_its_signal_is_told() {
        with_reaper(|children| {
            let helper = children.spawn(&mut sh("sleep 600 & wait")).unwrap();
            let begin = Instant::now();
            while process::descendants(helper.pid()).is_empty() && begin.elapsed() < Duration::from_secs(5) {
                thread::sleep(Duration::from_millis(2));
            }
            let family = process::descendants(helper.pid());
            assert_eq!(helper.wait(Duration::from_millis(10)), Err(TimedOut));
            helper.kill_family();
            assert_eq!(helper.wait(Duration::from_secs(20)), Ok(137));
            assert_eq!(family.len(), 1);
            let gone = |pid: &u32| process::start_time(*pid).is_err() || process::is_zombie(*pid);
            while !family.iter().all(gone) {
                assert!(begin.elapsed() < Duration::from_secs(20));
                thread::sleep(Duration::from_millis(2));
            }
            helper.kill();
        });
    }

    #[test]
    fn a_missing_program_is_an_error_and_no_helper() {
        let children = Children::default();
        let error = children.spawn(&mut Command::new("/nonexistent/runtime")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(children.helpers.lock().unwrap().is_empty());
    }
}
