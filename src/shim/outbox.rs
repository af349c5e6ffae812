//! Answers on their way from jobs to the main loop, which owns the connections.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::lock;
use crate::ttrpc::{self, Status};

/// An answer and whom it is for.
pub struct Answer {
    pub connection: u64,
    pub frame: Vec<u8>,
}

/// The queue, and a descriptor that is readable while there is something in it.
pub struct Outbox {
    answers: Mutex<Vec<Answer>>,
    bell: EventFd,
}

impl Outbox {
    pub fn new() -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            answers: Mutex::default(),
            bell,
        })
    }

    /// Answers the request `stream` of `connection`, which may be gone.
    pub fn answer(&self, connection: u64, stream: u32, answer: Result<Vec<u8>, Status>) {
        let frame = ttrpc::answer(stream, answer);
        lock(&self.answers).push(Answer { connection, frame });
        self.ring();
    }

    /// Wakes the main loop.
    pub fn ring(&self) {
        // A counter that is full rings already.
        self.bell.write(1).ok();
    }

    pub fn take(&self) -> Vec<Answer> {
        self.bell.read().ok();
        std::mem::take(&mut lock(&self.answers))
    }
}

impl AsFd for Outbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
