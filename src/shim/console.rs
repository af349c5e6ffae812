//! Terminals: the socket on which the runtime hands over a terminal's master, and the copying between masters and
//! FIFOs.
//!
//! ```text
//!  container ─ slave ═ master ──▶ stdout: FIFO, file, or a logging program's pipe
//!                          ▲
//!                          └───── stdin: FIFO
//! ```
//!
//! One thread with one epoll copies for all terminals; it starts with the first. Of a terminal that nobody reads
//! nothing is taken out of its master, so that its container waits, as it would at any terminal. At most a chunk of
//! each direction is in this process's memory, and only when it did not fit where it belongs.
//!
//! A terminal's slave may be closed by all for a while: the master then tells EIO, and is read again when somebody has
//! opened the slave. Only [`Consoles::finished`] ends the copying, after all that the master still held was copied:
//! then the output is closed and its readers see the end.

mod copy;
mod handed;
mod socket;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use self::copy::{Copier, Outcome};
pub use self::handed::{Handed, Paused};
pub use self::socket::ConsoleSocket;
use super::stdio::Terminal;
use crate::sys::terminal;

/// The most bytes that are moved at once: what a pipe takes whole (PIPE_BUF, pipe(7)).
const CHUNK: usize = 4096;

/// How long a finished terminal whose slave somebody still holds may be silent before it is closed.
const LINGER: Duration = Duration::from_millis(300);

/// How soon a terminal that waits for room is looked at again, should the kernel not tell.
const AGAIN: Duration = Duration::from_secs(1);

const STACK: usize = 64 * 1024;

/// The number of the event that wakes the thread.
const WAKE: u64 = 0;

/// The terminals of this process. A clone is the same.
#[derive(Debug, Clone)]
pub struct Consoles(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A terminal is no longer copied.
    closed: Condvar,
    epoll: Epoll,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    last: u64,
    numbers: HashMap<String, u64>,
    /// By numbers that are never used again, so that a late event finds nothing.
    terminals: HashMap<u64, Copier>,
    /// Those with something to do.
    ready: BTreeSet<u64>,
    /// When to look at those that wait, event or not.
    timed: HashMap<u64, Instant>,
}

impl Consoles {
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_value_and_flags(0, flags)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Self(Arc::new(Shared {
            state: Mutex::default(),
            closed: Condvar::new(),
            epoll,
            wake,
        })))
    }

    /// Copies between a terminal's master and its far ends from now on. `key` names it; one of that name is replaced.
    pub fn attach(&self, key: &str, master: OwnedFd, ends: Terminal) -> io::Result<()> {
        self.copy(key, Copier::new(master, ends)?)
    }

    fn copy(&self, key: &str, copier: Copier) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.running {
            let shared = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("console".to_owned()).stack_size(STACK);
            thread.spawn(move || shared.run())?;
            state.running = true;
        }
        state.last += 1;
        let number = state.last;
        copier.register(&self.0.epoll, number)?;
        state.terminals.insert(number, copier);
        state.ready.insert(number);
        if let Some(former) = state.numbers.insert(key.to_owned(), number) {
            state.terminals.remove(&former);
        }
        self.0.wake();
        Ok(())
    }

    /// Sets the window's size, in characters. `false` when there is no such terminal.
    pub fn resize(&self, key: &str, width: u16, height: u16) -> io::Result<bool> {
        self.0.lock().find(key).map_or(Ok(false), |terminal| {
            terminal::resize(terminal.master(), width, height).map(|()| true)
        })
    }

    /// CloseIO: what is in the input now still goes to the terminal, and then no more. A terminal has no end of input
    /// but what is typed into it, so its processes see none.
    pub fn close_stdin(&self, key: &str) {
        self.change(key, Copier::close_stdin);
    }

    /// Another descriptor of the master.
    pub fn master(&self, key: &str) -> io::Result<Option<OwnedFd>> {
        let master = self
            .0
            .lock()
            .find(key)
            .map(|terminal| terminal.master().try_clone_to_owned());
        master.transpose()
    }

    /// The terminal's process has ended: copies what is left, and closes it. Returns at once.
    pub fn finished(&self, key: &str) {
        self.change(key, |terminal| terminal.finish(Instant::now() + LINGER));
    }

    /// Waits until a finished terminal is closed. `false` when it is not in time, as when nobody reads its output.
    pub fn wait_closed(&self, key: &str, patience: Duration) -> bool {
        let state = self.0.lock();
        let open = |state: &mut State| state.numbers.contains_key(key);
        let waited = self.0.closed.wait_timeout_while(state, patience, open);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Closes a terminal at once, whatever is left. One that is closed already is fine.
    pub fn detach(&self, key: &str) {
        let mut state = self.0.lock();
        if let Some(number) = state.numbers.remove(key) {
            state.terminals.remove(&number);
        }
        drop(state);
        self.0.closed.notify_all();
    }

    fn change(&self, key: &str, change: impl FnOnce(&mut Copier)) {
        let mut state = self.0.lock();
        if let Some(number) = state.numbers.get(key).copied() {
            state.terminals.get_mut(&number).map(change);
            state.ready.insert(number);
            self.0.wake();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Full means that it is awake.
        let _ = self.wake.write(1);
    }

    /// The thread.
    fn run(&self) {
        let mut buffer = [0; CHUNK];
        let mut timeout = EpollTimeout::NONE;
        loop {
            let mut events = [EpollEvent::empty(); 32];
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                // Only a descriptor that is none would do that, and ours are.
                Err(_) => return,
            };
            let mut state = self.lock();
            for event in &events[..count] {
                match event.data() {
                    WAKE => drop(self.wake.read()),
                    number => drop(state.ready.insert(number)),
                }
            }
            timeout = self.round(state, &mut buffer);
        }
    }

    /// A bounded turn of each terminal with something to do. Says how long may be waited for the next event.
    fn round(&self, mut state: MutexGuard<'_, State>, buffer: &mut [u8; CHUNK]) -> EpollTimeout {
        let now = Instant::now();
        let due = state
            .timed
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(number, _)| *number);
        let due: Vec<u64> = due.collect();
        let ready = std::mem::take(&mut state.ready);
        let mut closed = false;
        for number in ready.into_iter().chain(due) {
            state.timed.remove(&number);
            let Some(terminal) = state.terminals.get_mut(&number) else {
                continue;
            };
            match terminal.turn(buffer, now) {
                Outcome::Idle => {}
                Outcome::More => drop(state.ready.insert(number)),
                Outcome::Blocked => drop(state.timed.insert(number, now + AGAIN)),
                Outcome::Until(at) => drop(state.timed.insert(number, at)),
                Outcome::Closed => {
                    state.terminals.remove(&number);
                    state.numbers.retain(|_, other| *other != number);
                    closed = true;
                }
            }
        }
        if closed {
            self.closed.notify_all();
        }
        state.timeout(now)
    }
}

impl State {
    fn find(&self, key: &str) -> Option<&Copier> {
        self.terminals.get(self.numbers.get(key)?)
    }

    /// How long may be waited for an event.
    fn timeout(&self, now: Instant) -> EpollTimeout {
        if !self.ready.is_empty() {
            return EpollTimeout::ZERO;
        }
        let soonest = self.timed.values().min().map(|at| at.saturating_duration_since(now));
        soonest.map_or(EpollTimeout::NONE, |left| {
            // Rounded up: not to come back too early.
            EpollTimeout::try_from(left.as_millis().min(60_000) + 1).unwrap_or(EpollTimeout::MAX)
        })
    }
}

#[cfg(test)]
mod tests;
