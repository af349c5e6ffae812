//! The process that forks: one thread, one loop, a connection for each exec.
//!
//! It has the listener from the shim that started it, and a pipe whose end tells that this shim is gone: then it takes
//! no more and ends with its last exec. It reads no request, it only hands it to the child that it forks, so that a
//! broken one costs that child alone, and nothing of it stays here for the next child to inherit.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::child;
use super::leaf::{self, Home, Leaf};
use super::request::{Failure, MAX_DATAGRAM, Reply, Report};
use crate::sys::cgroup::Version;
use crate::sys::fork::{Side, fork_into};
use crate::sys::process::{self, Handle};
use crate::sys::{exec, fds, seqpacket};

/// The descriptors that a shim gives its helper.
pub const LISTENER: i32 = 3;
pub const LIFELINE: i32 = 4;

/// Execs at once; more are refused.
const MOST: usize = 512;
/// How often a group is looked at again whose processes are dying, at first and later.
const SOON: Duration = Duration::from_millis(5);
const LATER: Duration = Duration::from_secs(1);
/// How long a group is looked at often.
const OFTEN: Duration = Duration::from_secs(2);
/// Groups that wait to be removed; what is beyond is left to the removal of the container.
const MOST_RETIRED: usize = 4096;

/// An exec.
struct Exec {
    connection: OwnedFd,
    /// What the first child tells, until it has.
    report: Option<OwnedFd>,
    /// None: it shares the group of the container's first process.
    leaf: Option<Leaf>,
    /// The first child, while it is there.
    first: Option<u32>,
    /// The process that is to become the program, or has.
    program: Option<u32>,
    /// How that one has ended; told once it is known whether it ran.
    ended: Option<i32>,
    terminal: Option<OwnedFd>,
    killed: bool,
}

/// A group whose exec is over and that somebody is still in.
struct Retired {
    leaf: Leaf,
    since: Instant,
    killed: bool,
}

struct Helper {
    epoll: Epoll,
    signals: SignalFd,
    /// None: no more.
    listener: Option<OwnedFd>,
    lifeline: OwnedFd,
    /// Connections that have not sent their request, by number.
    waiting: BTreeMap<u64, OwnedFd>,
    execs: BTreeMap<u64, Exec>,
    retired: Vec<Retired>,
    next: u64,
    /// Where version 2 is mounted.
    unified: Option<PathBuf>,
    /// The soft limit of open files that programs get.
    files: u64,
    namespaces: CloneFlags,
    buffer: Vec<u8>,
}

/// What an event is about, packed into epoll's 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Listener,
    Lifeline,
    Signals,
    Connection(u64),
    Report(u64),
}

/// The helper's main: serves until its shim is gone and no exec is left.
///
/// `files` is the soft limit of open files that programs get; None: this process' own. `ignore_cancellation`: see
/// [`process::restore_spawned_signals`].
pub fn serve(files: Option<u64>, ignore_cancellation: bool) -> io::Result<()> {
    let (listener, lifeline) = (exec::inherited(LISTENER)?, exec::inherited(LIFELINE)?);
    process::not_dumpable()?;
    // It was executed by the number of a descriptor.
    nix::sys::prctl::set_name(c"berth-exec")?;
    process::restore_spawned_signals(ignore_cancellation)?;
    crate::sys::memory::be_frugal(1);
    let signals = SigSet::from_iter([Signal::SIGCHLD]);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let unified = match Version::detect()? {
        Version::V1 { unified, .. } => unified,
        Version::V2 { root } => Some(root),
    };
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, Source::Listener.event())?;
    epoll.add(&lifeline, Source::Lifeline.event())?;
    epoll.add(&signals, Source::Signals.event())?;
    let helper = Helper {
        epoll,
        signals,
        listener: Some(listener),
        lifeline,
        waiting: BTreeMap::new(),
        execs: BTreeMap::new(),
        retired: Vec::new(),
        next: 0,
        unified,
        files: files.unwrap_or(soft),
        namespaces: child::first::kinds(),
        buffer: vec![0; MAX_DATAGRAM + 1],
    };
    helper.run()
}

impl Helper {
    fn run(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        while self.listener.is_some() || !self.execs.is_empty() || !self.retired.is_empty() {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                match Source::of(event.data()) {
                    Source::Listener => self.accept(),
                    Source::Lifeline => self.take_no_more(),
                    Source::Signals => {}
                    Source::Connection(number) => self.hear(number),
                    Source::Report(number) => self.read_report(number),
                }
            }
            self.reap();
            self.retire_again();
        }
        Ok(())
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            let Ok(connection) = seqpacket::accept(listener.as_fd()) else {
                return;
            };
            self.next += 1;
            if self.execs.len() + self.waiting.len() >= MOST {
                let failure = Failure::new(format!("{MOST} commands are being run already"));
                send(&connection, &Reply::Failed(failure), &[]);
                continue;
            }
            if self
                .epoll
                .add(&connection, Source::Connection(self.next).event())
                .is_ok()
            {
                self.waiting.insert(self.next, connection);
                // Its request is there mostly.
                self.hear(self.next);
            }
        }
    }

    /// The shim is gone: the next one has a listener and a helper of its own.
    fn take_no_more(&mut self) {
        self.epoll.delete(&self.lifeline).ok();
        // Who came in time is served.
        self.accept();
        if let Some(listener) = self.listener.take() {
            self.epoll.delete(&listener).ok();
        }
        for connection in std::mem::take(&mut self.waiting).into_values() {
            self.epoll.delete(connection).ok();
        }
    }

    fn hear(&mut self, number: u64) {
        let connection = match (self.waiting.get(&number), self.execs.get(&number)) {
            (Some(connection), _) => connection,
            (_, Some(exec)) => &exec.connection,
            (None, None) => return,
        };
        match fds::receive(connection, &mut self.buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok((count, fds)) if count > 0 => match self.waiting.remove(&number) {
                Some(connection) => self.begin(number, connection, count, fds),
                None => self.kill(number),
            },
            // Nobody wants to know any more.
            _ => match self.waiting.remove(&number) {
                Some(connection) => drop(self.epoll.delete(connection)),
                None => self.hang_up(number),
            },
        }
    }

    /// Forks for the request in the buffer.
    fn begin(&mut self, number: u64, connection: OwnedFd, count: usize, fds: Vec<OwnedFd>) {
        let begun = self.try_begin(number, count, fds);
        wipe(&mut self.buffer[..count]);
        let (report, leaf, first) = match begun {
            Ok(begun) => begun,
            Err(failure) => {
                send(&connection, &Reply::Failed(failure), &[]);
                self.epoll.delete(connection).ok();
                return;
            }
        };
        let report = self
            .epoll
            .add(&report, Source::Report(number).event())
            .ok()
            .map(|()| report);
        let exec = Exec {
            connection,
            report,
            leaf,
            first: Some(first),
            program: None,
            ended: None,
            terminal: None,
            killed: false,
        };
        let deaf = exec.report.is_none();
        self.execs.insert(number, exec);
        if deaf {
            self.fail(number, Failure::new("cannot watch the command"));
        }
    }

    fn try_begin(
        &self,
        number: u64,
        count: usize,
        mut fds: Vec<OwnedFd>,
    ) -> Result<(OwnedFd, Option<Leaf>, u32), Failure> {
        if fds.len() < 2 {
            return Err(Failure::new("the request has no descriptors"));
        }
        let parent = fds.remove(1);
        let init = Handle::from(fds.remove(0));
        let home = self.home(parent, &init, number)?;
        let (ours, report) = seqpacket::pair().map_err(Failure::of("cannot make a socket"))?;
        let group = match &home {
            Home::Leaf(leaf) => leaf.is_unified().then(|| leaf.directory()),
            Home::Shared(group) => Some(group.as_fd()),
        };
        // SAFETY: this process has one thread.
        #[allow(unsafe_code)]
        let forked = unsafe { fork_into(group) };
        match (forked, home) {
            (Ok(Side::Child), home) => {
                let leaf = match &home {
                    Home::Leaf(leaf) if !leaf.is_unified() => Some(leaf.directory()),
                    _ => None,
                };
                let given = child::Given {
                    message: &self.buffer[..count],
                    init: &init,
                    leaf,
                    report: &report,
                    files: self.files,
                    namespaces: self.namespaces,
                };
                child::main(&given, fds)
            }
            (Ok(Side::Parent(pid)), Home::Leaf(leaf)) => Ok((ours, Some(leaf), pid)),
            (Ok(Side::Parent(pid)), Home::Shared(_)) => Ok((ours, None, pid)),
            (Err(error), home) => {
                if let Home::Leaf(leaf) = home {
                    leaf.remove();
                }
                Err(Failure::of("cannot fork into the container's control group")(error))
            }
        }
    }

    /// Where an exec is to be: a group of its own, unless the container has given out its controllers.
    fn home(&self, parent: OwnedFd, init: &Handle, number: u64) -> Result<Home, Failure> {
        if leaf::is_frozen(&parent) {
            return Err(Failure::new("the container is paused"));
        }
        if leaf::gives_controllers(&parent) {
            return Ok(Home::Shared(self.group_of(init)?));
        }
        let name = format!("{}{}-{number}", leaf::PREFIX, std::process::id());
        let leaf = Leaf::make(parent, &name).map_err(Failure::of("cannot make a control group for the command"))?;
        Ok(Home::Leaf(leaf))
    }

    /// The group of version 2 of a container's first process.
    fn group_of(&self, init: &Handle) -> Result<OwnedFd, Failure> {
        let ended = || Failure::new("the container has ended");
        let pid = init.pid().ok_or_else(ended)?;
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|_| ended())?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let root = self.unified.as_ref();
        let (Some(path), Some(root), Ok(false)) = (path, root, init.has_ended()) else {
            return Err(ended());
        };
        let group = File::open(root.join(path)).map_err(Failure::of("cannot open the container's control group"))?;
        Ok(group.into())
    }

    // ---- what comes of it

    fn read_report(&mut self, number: u64) {
        loop {
            let Some(exec) = self.execs.get_mut(&number) else {
                return;
            };
            let Some(report) = &exec.report else { return };
            let mut buffer = [0; 4096];
            let (count, fds) = match fds::receive(report, &mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => (0, Vec::new()),
            };
            match serde_json::from_slice(&buffer[..count]) {
                Ok(Report::Begun { pid }) => exec.program = Some(pid),
                Ok(Report::Terminal) => exec.terminal = fds.into_iter().next(),
                Ok(Report::Started { pid }) => return self.started(number, pid),
                Ok(Report::Failed(failure)) => return self.fail(number, failure),
                Err(_) => return self.fail(number, Failure::new("the command was killed before it ran")),
            }
        }
    }

    fn started(&mut self, number: u64, pid: u32) {
        let Some(exec) = self.execs.get_mut(&number) else {
            return;
        };
        if let Some(report) = exec.report.take() {
            self.epoll.delete(report).ok();
        }
        // One that has been reaped has no handle any more; its end is about to be told.
        let handle = match exec.ended {
            None => Handle::open(pid).ok(),
            Some(_) => None,
        };
        let terminal = exec.terminal.take();
        let given: Vec<_> = handle
            .iter()
            .map(AsFd::as_fd)
            .chain(terminal.iter().map(AsFd::as_fd))
            .collect();
        send(&exec.connection, &Reply::Started { pid }, &given);
        match (exec.ended, exec.killed) {
            (Some(code), _) => self.ended(number, code),
            (None, true) => self.kill(number),
            (None, false) => {}
        }
    }

    fn fail(&mut self, number: u64, failure: Failure) {
        let Some(exec) = self.forget(number) else { return };
        send(&exec.connection, &Reply::Failed(failure), &[]);
        // Nothing of it is to live on, should it be about to run after all.
        exec.kill();
        self.retire(exec.leaf, true);
    }

    fn ended(&mut self, number: u64, code: i32) {
        let Some(exec) = self.forget(number) else { return };
        self.retire(exec.leaf, exec.killed);
        send(&exec.connection, &Reply::Exited { code }, &[]);
    }

    /// Takes an exec off the list. Its descriptors are taken out of epoll by hand: a child that has just been forked
    /// may have copies of them for a while, and what is closed only here would go on being announced.
    fn forget(&mut self, number: u64) -> Option<Exec> {
        let exec = self.execs.remove(&number)?;
        self.epoll.delete(&exec.connection).ok();
        if let Some(report) = &exec.report {
            self.epoll.delete(report).ok();
        }
        Some(exec)
    }

    /// Kills an exec whose end is still to be told.
    fn kill(&mut self, number: u64) {
        if let Some(exec) = self.execs.get_mut(&number) {
            exec.killed = true;
            exec.kill();
        }
    }

    /// Kills an exec that nobody asks for any more.
    fn hang_up(&mut self, number: u64) {
        self.kill(number);
        if let Some(exec) = self.execs.get_mut(&number) {
            // It stays until its program is reaped, but is not heard any more.
            self.epoll.delete(&exec.connection).ok();
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => break,
            };
            self.buried(pid.as_raw().cast_unsigned(), code);
        }
    }

    fn buried(&mut self, pid: u32, code: i32) {
        // What a child has told before it ended is there by now.
        let reporting = self.execs.iter().filter(|(_, exec)| exec.report.is_some());
        for number in reporting.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.read_report(number);
        }
        let found = self
            .execs
            .iter_mut()
            .find(|(_, exec)| exec.program == Some(pid) || exec.first == Some(pid));
        let Some((number, exec)) = found else { return };
        let number = *number;
        if exec.first == Some(pid) {
            exec.first = None;
            return;
        }
        // From now on the pid may be somebody else's.
        exec.program = None;
        exec.ended = Some(code);
        if exec.report.is_none() {
            self.ended(number, code);
        }
    }

    // ---- groups

    fn retire(&mut self, leaf: Option<Leaf>, killed: bool) {
        let Some(leaf) = leaf else { return };
        let gone = if killed { leaf.remove() } else { leaf.dissolve() };
        if !gone && self.retired.len() < MOST_RETIRED {
            let since = Instant::now();
            self.retired.push(Retired { leaf, since, killed });
        }
    }

    fn retire_again(&mut self) {
        self.retired.retain(|retired| {
            if retired.killed {
                retired.leaf.kill();
            }
            !match retired.killed {
                true => retired.leaf.remove(),
                false => retired.leaf.dissolve(),
            }
        });
    }

    fn timeout(&self) -> EpollTimeout {
        let wait = self
            .retired
            .iter()
            .map(|retired| match retired.since.elapsed() < OFTEN {
                true => SOON,
                false => LATER,
            });
        match wait.min() {
            Some(wait) => EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO),
            None => EpollTimeout::NONE,
        }
    }
}

impl Exec {
    fn kill(&self) {
        // Without a group of its own what left the family is not known.
        let family = match (&self.leaf, self.program) {
            (None, Some(program)) => process::descendants(program),
            _ => Vec::new(),
        };
        // None of the two has been reaped, so both pids are theirs.
        let own = self.first.into_iter().chain(self.program);
        own.chain(family).for_each(process::kill);
        if let Some(leaf) = &self.leaf {
            leaf.kill();
        }
    }
}

impl Source {
    fn event(self) -> EpollEvent {
        let data = match self {
            Self::Listener => 0,
            Self::Lifeline => 1,
            Self::Signals => 2,
            Self::Connection(number) => number << 2 | 3,
            Self::Report(number) => number << 2 | 2,
        };
        EpollEvent::new(EpollFlags::EPOLLIN, data)
    }

    fn of(data: u64) -> Self {
        match (data, data & 3) {
            (0, _) => Self::Listener,
            (1, _) => Self::Lifeline,
            (2, _) => Self::Signals,
            (data, 3) => Self::Connection(data >> 2),
            (data, _) => Self::Report(data >> 2),
        }
    }
}

/// A requester that does not read, or is gone, hears nothing.
fn send(connection: &OwnedFd, reply: &Reply, fds: &[BorrowedFd<'_>]) {
    if let Ok(text) = serde_json::to_vec(reply) {
        fds::send(connection, &text, fds).ok();
    }
}

/// Leaves nothing of a request in our memory, which later children inherit.
fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(&bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        for source in [
            Source::Listener,
            Source::Lifeline,
            Source::Signals,
            Source::Connection(1),
            Source::Report(1),
            Source::Connection(7),
            Source::Report(u64::from(u32::MAX)),
        ] {
            assert_eq!(Source::of(source.event().data()), source);
        }
    }
}
