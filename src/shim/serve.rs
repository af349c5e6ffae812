//! The main loop: one thread that owns the connections, reaps the children, and waits for nobody.

mod upgrade;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub use self::upgrade::go_on;
use super::core::{Shim, Watch};
use super::helper::Execs;
use super::place::Place;
use super::{control, control_server, log_thread, report, task};
use crate::ttrpc::Requests;
use crate::{nsexec, sys};

/// How long a shim without work stays, so that the next task need not start one.
const LINGER: Duration = Duration::from_secs(3);
/// How long a successor waits for the lock of a shim that is about to be gone.
const SUCCEED: Duration = Duration::from_secs(5);
/// How long events may take to reach containerd when the shim leaves.
const FLUSH: Duration = Duration::from_secs(2);
/// What a connection may leave unread of its answers; one that does not read is closed.
const MAX_UNREAD: usize = 8 << 20;
/// Bytes read from a connection at once.
const PIECE: usize = 32 << 10;

/// What a shim process is told.
pub struct Orders {
    pub place: Place,
    pub namespace: String,
    /// containerd's ttrpc socket, where events go.
    pub ttrpc: Option<PathBuf>,
    /// The soft limit of open files for programs that the shim starts; None: its own.
    pub files: Option<u64>,
}

struct Connection {
    socket: UnixStream,
    requests: Requests,
    unsent: Vec<u8>,
}

struct Loop {
    shim: Arc<Shim>,
    epoll: Epoll,
    tasks: UnixListener,
    control: UnixListener,
    execs: Execs,
    signals: SignalFd,
    /// None only while another program takes over.
    logs: Option<log_thread::LogThread>,
    connections: BTreeMap<u64, Connection>,
    watches: BTreeMap<u64, Watch>,
    next: u64,
    idle_since: Option<Instant>,
    /// A descriptor to be given up when there are no others.
    spare: Option<File>,
    /// Held for as long as we live: whoever has it owns the place.
    lock: File,
}

/// What an event is about, packed into epoll's 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Tasks,
    Control,
    Execs,
    Signals,
    Outbox,
    Connection(u64),
    Watch(u64),
}

/// Serves until there is nothing left to do. Calls `ready` once connections are accepted.
///
/// # Errors
/// `AddrInUse` when another shim lives at the place.
pub fn serve(orders: Orders, ready: impl FnOnce()) -> io::Result<()> {
    let place = orders.place;
    place.make()?;
    let lock = lock(&place)?;
    let signals = block_signals()?;
    sys::process::become_subreaper()?;
    let shim = Shim::new(place.clone(), orders.namespace, orders.ttrpc, orders.files)?;
    let logs = log_thread::LogThread::start(&place)?;
    shim.adopt();
    let sockets = (listen(&place.task_socket())?, listen(&place.control_socket())?);
    let served = Loop::new(shim, sockets, signals, logs, lock)?;
    report(&format!(
        "berth {} serves {}",
        env!("CARGO_PKG_VERSION"),
        place.directory().display()
    ));
    ready();
    served.run()
}

/// Has the signals that matter told by a descriptor.
fn block_signals() -> io::Result<SignalFd> {
    let signals = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    Ok(signals)
}

/// Takes the place's lock. A shim that leaves removes the file, so the one that we have must still be there.
fn lock(place: &Place) -> io::Result<File> {
    use std::os::unix::fs::MetadataExt;
    let deadline = Instant::now() + SUCCEED;
    loop {
        place.make()?;
        let lock = match File::create(place.lock()) {
            // The one that leaves took the place with it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened?,
        };
        match lock.try_lock() {
            Ok(()) => match fs::metadata(place.lock()) {
                Ok(there) if there.ino() == lock.metadata()?.ino() => return Ok(lock),
                _ => continue,
            },
            Err(fs::TryLockError::Error(error)) => return Err(error),
            // Either it serves, or it is about to be gone.
            Err(fs::TryLockError::WouldBlock) if Instant::now() > deadline || answers(place) => {
                let message = format!("another shim lives at {}", place.directory().display());
                return Err(io::Error::new(ErrorKind::AddrInUse, message));
            }
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn answers(place: &Place) -> bool {
    let hello = control::Client::connect(&place.control_socket()).and_then(|mut shim| shim.hello());
    hello.is_ok()
}

/// Listens at a path that nobody else listens at, since we hold the lock.
fn listen(path: &Path) -> io::Result<UnixListener> {
    fs::remove_file(path).or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A connection that is there. One for which there is no descriptor is closed: otherwise it would be announced for ever.
fn accept(listener: &UnixListener, spare: &mut Option<File>) -> Option<UnixStream> {
    match listener.accept() {
        Ok((socket, _)) => Some(socket),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            *spare = None;
            if listener.accept().is_ok() {
                report(&format!("closed a connection: {error}"));
            }
            *spare = self::spare();
            None
        }
        Err(_) => None,
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

impl Loop {
    /// Nobody is served yet.
    fn new(
        shim: Arc<Shim>,
        (tasks, control): (UnixListener, UnixListener),
        signals: SignalFd,
        logs: log_thread::LogThread,
        lock: File,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&tasks, Source::Tasks.event())?;
        epoll.add(&control, Source::Control.event())?;
        let execs = Execs::listen(&shim.place)?;
        epoll.add(&execs, Source::Execs.event())?;
        epoll.add(&signals, Source::Signals.event())?;
        epoll.add(&shim.outbox, Source::Outbox.event())?;
        Ok(Self {
            shim,
            epoll,
            tasks,
            control,
            execs,
            signals,
            logs: Some(logs),
            connections: BTreeMap::new(),
            watches: BTreeMap::new(),
            next: 0,
            idle_since: None,
            spare: spare(),
            lock,
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        // What ended before we listened for it.
        self.shim.reap();
        loop {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                self.on_event(Source::of(event.data()), event.events());
            }
            self.take_watches();
            self.deliver();
            self.shim.jobs.nudge();
            self.shim.tidying.nudge();
            self.upgrade()?;
            if self.may_leave() {
                return self.leave();
            }
        }
    }

    fn on_event(&mut self, source: Source, flags: EpollFlags) {
        match source {
            Source::Tasks => self.accept_tasks(),
            Source::Control => self.accept_control(),
            Source::Execs => self.start_execs(),
            Source::Signals => self.on_signal(),
            // Looked at after all events.
            Source::Outbox => {}
            Source::Connection(number) => self.converse(number, flags),
            Source::Watch(number) => self.on_watch(number),
        }
    }

    fn on_signal(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                self.shim.leaving.store(true, Ordering::Relaxed);
            }
        }
        self.shim.reap();
        if let Some(pid) = self.execs.dead() {
            self.shim.tidying.run(move || nsexec::sweep(pid));
            if let Err(error) = self.epoll.add(&self.execs, Source::Execs.event()) {
                report(&format!("cannot take commands any more: {error}"));
            }
        }
    }

    /// Somebody has a command to run, and there is no process for that.
    pub(super) fn start_execs(&mut self) {
        match self.execs.start(&self.shim.children, &self.shim.place) {
            Ok(()) => drop(self.epoll.delete(&self.execs)),
            Err(error) => {
                report(&format!("cannot start the process that runs commands: {error}"));
                self.execs.turn_away();
            }
        }
    }

    // ---- connections

    fn accept_tasks(&mut self) {
        while let Some(socket) = accept(&self.tasks, &mut self.spare) {
            let number = self.number();
            let added = socket
                .set_nonblocking(true)
                .and_then(|()| Ok(self.epoll.add(&socket, Source::Connection(number).event())?));
            if added.is_ok() {
                let connection = Connection {
                    socket,
                    requests: Requests::default(),
                    unsent: Vec::new(),
                };
                self.connections.insert(number, connection);
            }
        }
    }

    fn accept_control(&mut self) {
        while let Some(socket) = accept(&self.control, &mut self.spare) {
            self.idle_since = None;
            control_server::converse(&self.shim, socket);
        }
    }

    fn converse(&mut self, number: u64, flags: EpollFlags) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        if flags.contains(EpollFlags::EPOLLOUT) && connection.flush().is_err() {
            return self.hang_up(number);
        }
        match connection.read() {
            Ok(open) => {
                let mut calls = Vec::new();
                while let Some(call) = connection.requests.take() {
                    calls.push(call);
                }
                for call in calls {
                    match call {
                        Ok(call) => task::take(&self.shim, number, call),
                        Err(refused) => self.shim.outbox.answer(number, refused.stream, Err(refused.status)),
                    }
                }
                // Its last requests are carried out; nobody is there for the answers.
                if !open {
                    self.hang_up(number);
                }
            }
            Err(_) => self.hang_up(number),
        }
    }

    fn hang_up(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(&number) {
            self.epoll.delete(&connection.socket).ok();
            self.shim.forget_waiters(number);
        }
    }

    fn deliver(&mut self) {
        for answer in self.shim.outbox.take() {
            let Some(connection) = self.connections.get_mut(&answer.connection) else {
                continue;
            };
            connection.unsent.extend(answer.frame);
            let sent = connection.flush();
            let mut wanted = connection.wanted(answer.connection);
            let watched = self.epoll.modify(connection.socket.as_fd(), &mut wanted);
            if sent.is_err() || watched.is_err() || connection.unsent.len() > MAX_UNREAD {
                self.hang_up(answer.connection);
            }
        }
    }

    // ---- what else is watched

    fn take_watches(&mut self) {
        for watch in self.shim.take_watches() {
            let number = self.number();
            match self.epoll.add(watch.as_fd(), Source::Watch(number).event()) {
                Ok(()) => drop(self.watches.insert(number, watch)),
                Err(error) => report(&format!("cannot watch a container: {error}")),
            }
        }
    }

    fn on_watch(&mut self, number: u64) {
        let Some(watch) = self.watches.get_mut(&number) else {
            return;
        };
        if self.shim.on_watch(watch) {
            return;
        }
        if let Some(watch) = self.watches.remove(&number) {
            self.epoll.delete(watch.as_fd()).ok();
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // ---- leaving

    fn timeout(&self) -> EpollTimeout {
        let in_ms =
            |wait: Duration| EpollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(EpollTimeout::ZERO);
        if let Some(since) = self.idle_since {
            return in_ms(LINGER.saturating_sub(since.elapsed()));
        }
        // A thread that could not be had is tried for again; a log that is closed wakes nobody here.
        let waiting = self.shim.jobs.waiting() + self.shim.tidying.waiting() > 0;
        match (waiting, self.shim.has_containers()) {
            (true, _) => in_ms(Duration::from_millis(100)),
            (false, false) => in_ms(Duration::from_millis(500)),
            (false, true) => EpollTimeout::NONE,
        }
    }

    /// Whether nothing is held, and nobody wants anything, for long enough.
    fn may_leave(&mut self) -> bool {
        let shim = &self.shim;
        let told = shim.leaving.load(Ordering::Relaxed);
        let busy = shim.has_containers()
            || !shim.jobs.is_idle()
            || !shim.tidying.is_idle()
            || self.logs.as_ref().is_some_and(|logs| !logs.is_idle())
            || (!told && !shim.conversations.is_empty());
        if busy {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        told || since.elapsed() >= LINGER
    }

    fn leave(self) -> io::Result<()> {
        if let Some(logs) = self.logs {
            logs.leave();
        }
        self.shim.events.flush(Instant::now() + FLUSH);
        self.shim.place.clear();
        report("nothing left to hold; leaving");
        Ok(())
    }
}

impl Connection {
    /// Reads a piece of what is there; the others have their turn before the next one. False: the other end has left.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; PIECE];
        match self.socket.read(&mut buffer) {
            Ok(count) => {
                self.requests.push(&buffer[..count]);
                Ok(count > 0)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// What epoll is to tell of it.
    fn wanted(&self, number: u64) -> EpollEvent {
        let plain = Source::Connection(number).event();
        match self.unsent.is_empty() {
            true => plain,
            false => EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT, plain.data()),
        }
    }

    /// Writes what the other end takes.
    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent = Vec::new();
        Ok(())
    }
}

impl Source {
    fn event(self) -> EpollEvent {
        let data = match self {
            Self::Tasks => 0,
            Self::Control => 1,
            Self::Signals => 2,
            Self::Outbox => 3,
            Self::Connection(number) => number << 3 | 4,
            Self::Watch(number) => number << 3 | 5,
            Self::Execs => 6,
        };
        EpollEvent::new(EpollFlags::EPOLLIN, data)
    }

    fn of(data: u64) -> Self {
        match data & 7 {
            0 => Self::Tasks,
            1 => Self::Control,
            2 => Self::Signals,
            3 => Self::Outbox,
            4 => Self::Connection(data >> 3),
            6 => Self::Execs,
            _ => Self::Watch(data >> 3),
        }
    }
}
