//! Descriptors that go over: copies, so that the program that hands over keeps what it has should nothing come of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use crate::sys::exec;

/// A descriptor in what is handed over: its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fd(RawFd);

/// The descriptors that go over.
#[derive(Debug, Default)]
pub struct Bag(Vec<OwnedFd>);

impl Fd {
    /// The descriptor `number`, of which somebody says that it was handed over.
    pub fn new(number: RawFd) -> Self {
        Self(number)
    }

    /// Takes it, in the next program. Once.
    pub fn take(self) -> io::Result<OwnedFd> {
        exec::inherited(self.0)
    }

    pub fn number(self) -> RawFd {
        self.0
    }
}

impl Bag {
    /// Puts a copy in.
    pub fn put(&mut self, fd: impl AsFd) -> io::Result<Fd> {
        let copy = fd.as_fd().try_clone_to_owned()?;
        let number = Fd(copy.as_raw_fd());
        self.0.push(copy);
        Ok(number)
    }

    pub fn put_some(&mut self, fd: Option<impl AsFd>) -> io::Result<Option<Fd>> {
        fd.map(|fd| self.put(fd)).transpose()
    }

    pub fn fds(&self) -> &[OwnedFd] {
        &self.0
    }
}
