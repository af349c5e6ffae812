//! One terminal's two directions.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::CHUNK;
use crate::shim::stdio::Terminal;

/// Chunks of each direction in one turn, so that a busy terminal does not keep the others waiting.
const TURNS: usize = 16;

#[derive(Debug)]
pub(super) struct Copier {
    pub(super) master: File,
    pub(super) stdin: Option<File>,
    pub(super) stdout: Option<File>,
    /// Taken from the master, and the output did not take it.
    pub(super) output: Vec<u8>,
    /// Taken from the input, and the master did not take it.
    pub(super) input: Vec<u8>,
    pub(super) stdin_closing: bool,
    /// The process has ended; when its terminal is closed at the latest if it is silent.
    pub(super) finished: Option<Instant>,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing to do until the kernel tells.
    Idle,
    /// There may be more at once.
    More,
    /// Something waits for room.
    Blocked,
    /// Nothing to do until then.
    Until(Instant),
    /// The end of a finished terminal.
    Closed,
}

/// What moving in one direction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Some,
    /// The source has nothing now.
    Empty,
    /// The source's other side is closed.
    HungUp,
    /// The target takes nothing now.
    Blocked,
}

impl Copier {
    pub(super) fn new(master: OwnedFd, ends: Terminal) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&master, FcntlArg::F_GETFL)?);
        fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self {
            master: master.into(),
            stdin: ends.stdin,
            stdout: ends.stdout,
            output: Vec::new(),
            input: Vec::new(),
            stdin_closing: false,
            finished: None,
        })
    }

    /// Has every change told once (EPOLLET): what cannot be moved on must not wake the thread again and again.
    pub(super) fn register(&self, epoll: &Epoll, number: u64) -> io::Result<()> {
        let add = |fd: BorrowedFd<'_>, what| match epoll.add(fd, EpollEvent::new(what | EpollFlags::EPOLLET, number)) {
            // A file, which is always ready.
            Err(nix::errno::Errno::EPERM) => Ok(()),
            result => result,
        };
        add(self.master(), EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT)?;
        if let Some(stdin) = &self.stdin {
            add(stdin.as_fd(), EpollFlags::EPOLLIN)?;
        }
        if let Some(stdout) = &self.stdout {
            add(stdout.as_fd(), EpollFlags::EPOLLOUT)?;
        }
        Ok(())
    }

    pub(super) fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    pub(super) fn close_stdin(&mut self) {
        self.stdin_closing = true;
    }

    pub(super) fn finish(&mut self, linger: Instant) {
        self.finished.get_or_insert(linger);
    }

    /// Moves what can be moved now, in both directions, and not too much of it.
    pub(super) fn turn(&mut self, buffer: &mut [u8; CHUNK], now: Instant) -> Outcome {
        let input = match self.finished {
            Some(_) => Moved::Empty,
            None => repeat(|| self.move_input(buffer)),
        };
        let output = repeat(|| self.move_output(buffer));
        match (output, self.finished) {
            (Moved::HungUp, Some(_)) => return Outcome::Closed,
            (Moved::Empty, Some(until)) if until <= now => return Outcome::Closed,
            (Moved::Empty, Some(until)) => return Outcome::Until(until),
            _ => {}
        }
        match [input, output] {
            either if either.contains(&Moved::Some) => Outcome::More,
            either if either.contains(&Moved::Blocked) => Outcome::Blocked,
            _ => Outcome::Idle,
        }
    }

    fn move_output(&mut self, buffer: &mut [u8; CHUNK]) -> Moved {
        if let Some(stdout) = &mut self.stdout {
            if !self.output.is_empty() {
                match give(stdout, &mut self.output) {
                    Ok(true) => {}
                    Ok(false) => return Moved::Blocked,
                    // Nobody will ever read it, as when a logging program died: the container goes on unheard.
                    Err(_) => self.lose_output(),
                }
            } else if !has_room(stdout) {
                // Not even taken from the master: there it is the container's to wait for, and survives us.
                return Moved::Blocked;
            }
        }
        match self.master.read(buffer) {
            // 0 is not told by a terminal; EIO is.
            Ok(0) => Moved::HungUp,
            Ok(count) => {
                self.deliver(&buffer[..count]);
                Moved::Some
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Moved::Empty,
            Err(error) if error.kind() == ErrorKind::Interrupted => Moved::Some,
            Err(_) => Moved::HungUp,
        }
    }

    /// Writes to the output, and keeps what it does not take.
    fn deliver(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
        let given = self.stdout.as_mut().map(|stdout| give(stdout, &mut self.output));
        match given {
            None => self.output.clear(),
            Some(Ok(_)) => {}
            Some(Err(_)) => self.lose_output(),
        }
    }

    fn lose_output(&mut self) {
        self.stdout = None;
        self.output = Vec::new();
    }

    fn move_input(&mut self, buffer: &mut [u8; CHUNK]) -> Moved {
        if !self.input.is_empty() {
            match give(&mut self.master, &mut self.input) {
                Ok(true) => {}
                Ok(false) => return Moved::Blocked,
                // No process holds the slave: nobody will read it.
                Err(_) => self.input = Vec::new(),
            }
        }
        let Some(stdin) = &mut self.stdin else {
            return Moved::Empty;
        };
        match stdin.read(buffer) {
            Ok(count) if count > 0 => {
                self.input.extend_from_slice(&buffer[..count]);
                match give(&mut self.master, &mut self.input) {
                    Ok(true) => Moved::Some,
                    Ok(false) => Moved::Blocked,
                    Err(_) => {
                        self.input = Vec::new();
                        Moved::Some
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Moved::Some,
            Err(error) if error.kind() == ErrorKind::WouldBlock && !self.stdin_closing => Moved::Empty,
            // The end of a file, a broken input, or the end that was asked for.
            _ => {
                self.stdin = None;
                Moved::Empty
            }
        }
    }
}

/// Moves until there is nothing to move, or enough was.
fn repeat(mut step: impl FnMut() -> Moved) -> Moved {
    (0..TURNS)
        .map(|_| step())
        .find(|moved| *moved != Moved::Some)
        .unwrap_or(Moved::Some)
}

/// Writes what is pending; `true` when all of it went.
fn give(into: &mut File, pending: &mut Vec<u8>) -> io::Result<bool> {
    while !pending.is_empty() {
        match into.write(pending) {
            Ok(count) => drop(pending.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // An idle terminal keeps no memory.
    pending.shrink_to_fit();
    Ok(true)
}

/// Whether a chunk can be written. A broken pipe counts: the write tells.
fn has_room(target: &File) -> bool {
    let mut poll = [PollFd::new(target.as_fd(), PollFlags::POLLOUT)];
    !matches!(nix::poll::poll(&mut poll, PollTimeout::ZERO), Ok(0))
}
