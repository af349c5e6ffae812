//! The pump: one thread, one epoll over all FIFOs and control connections, one set of buffers.
//!
//! It is a thread of a process that does other things, and keeps away from them: it takes no signals, holds only the
//! capabilities that it needs ([`KEPT`]), and is told to leave by a [`Handle`]. A write that blocks, to a slow or dead
//! disk, blocks this thread alone.
//!
//! Its memory does not grow with what containers write. Streams with something to do take turns, each of a bounded
//! size, and between a few turns the control socket is served ([`control`]).

mod control;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;

use super::connection::Connection;
use super::container::{Container, Drain};
use super::journal::{Entry, Journal};
use super::opens::Opens;
use super::protocol::{Drained, Open, Reply};
use super::report;
use super::stream::Bench;
use crate::sys::caps;

/// Turns between two looks at the control socket: a few milliseconds.
const TURNS: usize = 16;

/// How long a pump that is told to leave goes on writing what is there.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// The capabilities that the thread keeps.
///
/// `CAP_DAC_OVERRIDE`, as log directories may belong to others, and the OCI runtime gives the FIFOs to the
/// container's user, who may also change their modes: a pump has to open them all the same. `CAP_SYS_RESOURCE`, as
/// without it the FIFOs of all of root together hold 64 MiB (`pipe-user-pages-soft`, pipe(7)), and 256 KiB each no
/// longer. Files that it makes are root's and stay so, hence no `CAP_CHOWN` nor `CAP_FOWNER`.
pub const KEPT: [&str; 2] = ["CAP_DAC_OVERRIDE", "CAP_SYS_RESOURCE"];

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
    opens: Opens,
    /// What the pump before had open, until [`Pump::run`] goes on with it.
    inherited: Vec<Open>,
    /// The turn that the pump before did not finish, until its container is open.
    unfinished: Option<Entry>,
    handle: Handle,
    /// Held until the containers of the pump before are open.
    held: Vec<OwnedFd>,
    /// Told to leave: until when it writes what is there.
    leaving: Option<Instant>,
    /// Held for as long as we live: whoever has it owns the socket.
    _lock: File,
}

/// What the rest of the process has of the pump.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    leave: EventFd,
    open: AtomicUsize,
}

impl Handle {
    /// Tells the pump to write what is there and to return from [`Pump::run`], which takes it at most a second on a disk
    /// that works. What is open then, and what is left in the FIFOs, is the next pump's.
    pub fn leave(&self) {
        // Fails only when it was told 2^64 times.
        let _ = self.0.leave.write(1);
    }

    /// How many containers have their logs open: ended ones too, until they are drained or closed.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }
}

/// A container's number and the place of the stream in it.
type StreamKey = (u64, usize);

/// What an event of epoll is about, packed into its 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Stream(StreamKey),
    Connection(u64),
    Listener,
    Leave,
}

impl Pump {
    /// Takes the control socket, also from a pump that died, and reads in `state` what that one had open. Fails with
    /// `AddrInUse` while one lives.
    pub fn bind(socket: &Path, state: &Path) -> io::Result<Self> {
        let lock = lock(socket)?;
        let opens = Opens::at(state)?;
        let inherited = opens.all()?;
        let (journal, unfinished) = Journal::open(&state.join("turn"))?;
        let handle = Handle(Arc::new(Shared {
            leave: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            open: inherited.len().into(),
        }));
        let listener = listen(socket)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, Source::Listener.event(EpollFlags::EPOLLIN))?;
        epoll.add(
            &handle.0.leave,
            Source::Leave.event(EpollFlags::EPOLLIN | EpollFlags::EPOLLET),
        )?;
        Ok(Self {
            socket: socket.to_owned(),
            listener,
            epoll,
            bench: Bench::new(journal)?,
            containers: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_number: 0,
            ready: BTreeSet::new(),
            last: (0, 0),
            timed: BTreeSet::new(),
            opens,
            inherited,
            unfinished,
            handle,
            held: Vec::new(),
            leaving: None,
            _lock: lock,
        })
    }

    /// For the rest of the process.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Holds descriptors of FIFOs until the pump has opened those that the pump before had open: nobody else may have
    /// them open any more, and what is in them would be lost.
    pub fn hold(&mut self, fifos: Vec<OwnedFd>) {
        self.held = fifos;
    }

    /// Pumps until told to leave. To be the whole of a thread: it gives up the thread's capabilities and signals.
    pub fn run(mut self) -> io::Result<()> {
        SigSet::all().thread_block()?;
        if let Err(error) = caps::keep_on_this_thread(&KEPT) {
            report(&format!("cannot drop capabilities: {error}"));
        }
        self.inherit();
        self.held = Vec::new();
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
            self.handle.0.open.store(self.containers.len(), Ordering::Release);
            if self.is_done(count) {
                fs::remove_file(&self.socket)?;
                report("left");
                return Ok(());
            }
        }
    }

    fn on_event(&mut self, source: Source, flags: EpollFlags) {
        match source {
            Source::Stream(key) => self.on_stream(key, flags),
            Source::Connection(number) => self.converse(number),
            Source::Listener => self.accept(),
            Source::Leave => self.leaving = Some(Instant::now() + LEAVE_WITHIN),
        }
    }

    fn on_stream(&mut self, key: StreamKey, flags: EpollFlags) {
        if let Some(container) = self.containers.get_mut(&key.0) {
            container.streams[key.1].hang_up(flags.contains(EpollFlags::EPOLLHUP));
            self.ready.insert(key);
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
        let id = container.open.id.clone();
        let drained = container.finish(&mut self.bench);
        if let Err(error) = self.opens.forget(&id) {
            report(&format!("container {id}: the next pump will open it again: {error}"));
        }
        for waiter in waiters {
            self.send(waiter, &Reply::Drained(drained.clone()));
        }
        Some(drained)
    }

    /// Whether to leave now, after a round that had `events` events.
    fn is_done(&self, events: usize) -> bool {
        let quiet = events == 0 && self.ready.is_empty();
        self.leaving.is_some_and(|deadline| quiet || Instant::now() >= deadline)
    }
}

impl Source {
    fn event(self, flags: EpollFlags) -> EpollEvent {
        let data = match self {
            Self::Stream((number, place)) => number << 2 | place as u64,
            Self::Connection(number) => number << 2 | 2,
            Self::Listener => 3,
            Self::Leave => 1 << 2 | 3,
        };
        EpollEvent::new(flags, data)
    }

    fn of(data: u64) -> Self {
        match (data >> 2, data & 3) {
            (number, 0) => Self::Stream((number, 0)),
            (number, 1) => Self::Stream((number, 1)),
            (number, 2) => Self::Connection(number),
            (0, _) => Self::Listener,
            _ => Self::Leave,
        }
    }
}

/// Fails with `AddrInUse` while another pump has the socket.
fn lock(socket: &Path) -> io::Result<File> {
    let lock = File::create(beside(socket, "lock"))?;
    lock.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("a log writer has {} already", socket.display()),
        ),
        fs::TryLockError::Error(error) => error,
    })?;
    Ok(lock)
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
            Source::Leave,
        ] {
            assert_eq!(Source::of(source.event(EpollFlags::EPOLLIN).data()), source);
        }
    }

    #[test]
    fn a_dead_pumps_socket_is_taken_over_and_a_live_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("pump.sock");
        let bind = || Pump::bind(&socket, &dir.path().join("state"));
        let first = bind().unwrap();
        assert_eq!(bind().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(socket.exists(), "as after a SIGKILL");
        bind().unwrap();
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
