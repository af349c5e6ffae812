//! The pump: one thread, one epoll over all FIFOs and control connections, one set of buffers.
//!
//! Its memory does not grow with what containers write. Streams with something to do take turns, each of a bounded
//! size, and between a few turns the control socket is served ([`control`]).

mod control;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signalfd::SignalFd;

use super::connection::Connection;
use super::container::{Container, Drain};
use super::protocol::{Drained, Reply};
use super::report;
use super::stream::Bench;

/// Turns between two looks at the control socket: a few milliseconds.
const TURNS: usize = 16;

/// How long a pump that is told to leave goes on writing what is there.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Pump {
    socket: PathBuf,
    listener: UnixListener,
    epoll: Epoll,
    bench: Bench,
    /// Numbers are never used again, so that a late event finds nothing rather than something else.
    containers: BTreeMap<u64, Container>,
    connections: BTreeMap<u64, Connection>,
    next_number: u64,
    /// Streams with something to do, and the one that had the last turn.
    ready: BTreeSet<StreamKey>,
    last: StreamKey,
    /// Containers with a deadline: to be drained, or to be tried again.
    timed: BTreeSet<u64>,
    signals: Option<SignalFd>,
    /// Told by a signal to leave as soon as no container writes any more.
    dismissed: bool,
    leaving: Option<Leaving>,
    /// Held for as long as we live: whoever has it owns the socket.
    _lock: File,
}

/// A container's number and the place of the stream in it.
type StreamKey = (u64, usize);

#[derive(Debug)]
struct Leaving {
    deadline: Instant,
    /// The connections to answer.
    waiters: Vec<u64>,
}

/// What an event of epoll is about, packed into its 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Stream(StreamKey),
    Connection(u64),
    Listener,
    Signals,
}

impl Pump {
    /// Takes the control socket, also from a pump that died. Fails with `AddrInUse` while one lives.
    pub fn bind(socket: &Path) -> io::Result<Self> {
        let lock = File::create(beside(socket, "lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("a log pump has {} already", socket.display()),
            ),
            fs::TryLockError::Error(error) => error,
        })?;
        let listener = listen(socket)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, Source::Listener.event(EpollFlags::EPOLLIN))?;
        Ok(Self {
            socket: socket.to_owned(),
            listener,
            epoll,
            bench: Bench::new()?,
            containers: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_number: 0,
            ready: BTreeSet::new(),
            last: (0, 0),
            timed: BTreeSet::new(),
            signals: None,
            dismissed: false,
            leaving: None,
            _lock: lock,
        })
    }

    /// Any of these signals makes the pump leave once no container writes any more. They must be blocked.
    pub fn dismissed_by(mut self, signals: SignalFd) -> io::Result<Self> {
        self.epoll.add(&signals, Source::Signals.event(EpollFlags::EPOLLIN))?;
        self.signals = Some(signals);
        Ok(self)
    }

    /// Pumps until told to leave.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                self.on_event(Source::of(event.data()), event.events());
            }
            self.take_turns();
            self.keep_time();
            if self.is_done(count) {
                break;
            }
        }
        self.leave()
    }

    fn on_event(&mut self, source: Source, flags: EpollFlags) {
        match source {
            Source::Stream(key) => self.on_stream(key, flags),
            Source::Connection(number) => self.converse(number),
            Source::Listener => self.accept(),
            Source::Signals => self.on_signal(),
        }
    }

    fn on_stream(&mut self, key: StreamKey, flags: EpollFlags) {
        let Some(container) = self.containers.get_mut(&key.0) else {
            return;
        };
        if flags.contains(EpollFlags::EPOLLHUP) {
            container.streams[key.1].hang_up();
        }
        self.ready.insert(key);
    }

    fn on_signal(&mut self) {
        while let Some(signals) = &self.signals
            && let Ok(Some(_)) = signals.read_signal()
        {
            report("dismissed: leaving when no container writes any more");
            self.dismissed = true;
            self.containers.values().for_each(Container::rouse);
        }
    }

    // ---- moving bytes

    fn take_turns(&mut self) {
        let now = Instant::now();
        for _ in 0..TURNS {
            let Some(key) = self.next_ready() else { return };
            self.last = key;
            let Some(container) = self.containers.get_mut(&key.0) else {
                self.ready.remove(&key);
                continue;
            };
            if !container.turn(key.1, &mut self.bench, now) {
                self.ready.remove(&key);
            }
            if container.retry_at().is_some() {
                self.timed.insert(key.0);
            }
        }
    }

    /// The stream after the last one, round and round.
    fn next_ready(&self) -> Option<StreamKey> {
        let after = (Bound::Excluded(self.last), Bound::Unbounded);
        self.ready.range(after).next().or(self.ready.first()).copied()
    }

    fn make_ready(&mut self, number: u64) {
        let streams = self
            .containers
            .get(&number)
            .map_or(0, |container| container.streams.len());
        self.ready.extend((0..streams).map(|stream| (number, stream)));
    }

    // ---- time

    fn timeout(&self) -> EpollTimeout {
        if !self.ready.is_empty() || self.leaving.is_some() {
            return EpollTimeout::ZERO;
        }
        let timed = self.timed.iter().filter_map(|number| self.containers.get(number));
        let earliest = timed
            .flat_map(|container| {
                [
                    container.retry_at(),
                    container.drain.as_ref().map(|drain| drain.deadline),
                ]
            })
            .flatten()
            .min();
        earliest.map_or(EpollTimeout::NONE, |at| {
            // Rounded up: a millisecond late rather than awake for nothing.
            let wait = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
        })
    }

    /// Answers drains that are done or over, and tries stuck logs again.
    fn keep_time(&mut self) {
        let now = Instant::now();
        for number in self.timed.clone() {
            let Some(container) = self.containers.get_mut(&number) else {
                self.timed.remove(&number);
                continue;
            };
            let over = |drain: &Drain| container.ended() || now >= drain.deadline;
            if container.drain.as_ref().is_some_and(over) {
                self.forget(number);
            } else if container.retry_at().is_some_and(|at| now >= at) {
                container.retry();
                self.make_ready(number);
            } else if container.retry_at().is_none() && container.drain.is_none() {
                self.timed.remove(&number);
            }
        }
    }

    /// Closes a container, and answers all who wait for that.
    fn forget(&mut self, number: u64) -> Option<Drained> {
        let mut container = self.containers.remove(&number)?;
        self.timed.remove(&number);
        let waiters = container.drain.take().map_or(Vec::new(), |drain| drain.waiters);
        let drained = container.finish(&mut self.bench);
        for waiter in waiters {
            self.send(waiter, &Reply::Drained(drained.clone()));
        }
        Some(drained)
    }

    // ---- the end

    fn begin_to_leave(&mut self, waiters: Vec<u64>) {
        let deadline = Instant::now() + LEAVE_WITHIN;
        self.leaving = Some(Leaving { deadline, waiters });
    }

    /// Whether to leave now, after a round that had `events` events.
    fn is_done(&mut self, events: usize) -> bool {
        if self.dismissed && self.leaving.is_none() && self.containers.values().all(Container::ended) {
            self.begin_to_leave(Vec::new());
        }
        let quiet = events == 0 && self.ready.is_empty();
        self.leaving
            .as_ref()
            .is_some_and(|leaving| quiet || Instant::now() >= leaving.deadline)
    }

    fn leave(mut self) -> io::Result<()> {
        fs::remove_file(&self.socket)?;
        for waiter in self.leaving.take().map_or(Vec::new(), |leaving| leaving.waiters) {
            self.send(waiter, &Reply::Done);
        }
        report("left");
        Ok(())
    }
}

impl Source {
    fn event(self, flags: EpollFlags) -> EpollEvent {
        let data = match self {
            Self::Stream((number, place)) => number << 2 | place as u64,
            Self::Connection(number) => number << 2 | 2,
            Self::Listener => 3,
            Self::Signals => 1 << 2 | 3,
        };
        EpollEvent::new(flags, data)
    }

    fn of(data: u64) -> Self {
        match (data >> 2, data & 3) {
            (number, 0) => Self::Stream((number, 0)),
            (number, 1) => Self::Stream((number, 1)),
            (number, 2) => Self::Connection(number),
            (0, _) => Self::Listener,
            _ => Self::Signals,
        }
    }
}

/// Listens at `socket`, for root alone, and replaces what a dead pump left there in one step.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    let new = beside(socket, "new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    fs::rename(&new, socket)?;
    Ok(listener)
}

/// `pump.sock` becomes `pump.sock.KIND`.
fn beside(socket: &Path, kind: &str) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".");
    path.push(kind);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_comes_back_from_epoll_as_it_went_in() {
        let stream = |number, place| Source::Stream((number, place));
        let connection = Source::Connection;
        for source in [
            stream(1, 0),
            stream(1, 1),
            connection(1),
            connection(7),
            Source::Listener,
            Source::Signals,
        ] {
            assert_eq!(Source::of(source.event(EpollFlags::EPOLLIN).data()), source);
        }
    }

    #[test]
    fn a_dead_pumps_socket_is_taken_over_and_a_live_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("pump.sock");
        let first = Pump::bind(&socket).unwrap();
        assert_eq!(Pump::bind(&socket).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(socket.exists(), "as after a SIGKILL");
        Pump::bind(&socket).unwrap();
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
