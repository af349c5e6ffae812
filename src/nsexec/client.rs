//! The requesting end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::request::{self, Reply, Request};
use super::seccomp::Filter;
use super::{Groups, Program};
use crate::sys::{fds, seqpacket};

/// What is to be run, where.
#[derive(Clone, Copy)]
pub struct Exec<'a> {
    pub program: &'a Program,
    pub groups: &'a Groups,
    /// The directory [`Groups::home`], open.
    pub home: BorrowedFd<'a>,
    /// A pidfd of the container's first process.
    pub init: BorrowedFd<'a>,
    /// Stdin, stdout and stderr; unused with a terminal.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    pub filter: Option<&'a Filter>,
}

/// Why an exec did not come about, or was cut off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens; a shim is about to be there again, perhaps.
    #[error("no shim takes execs at the moment")]
    Unreachable(#[source] io::Error),
    #[error(transparent)]
    Failed(#[from] request::Failure),
    /// The helper was killed, and the command with it.
    #[error("the process that runs commands was killed, and the command with it")]
    Lost,
    #[error("cannot speak to the process that runs commands: {0}")]
    Io(#[source] io::Error),
}

/// An exec under way. When it is dropped, everything that belongs to the exec is killed.
#[derive(Debug)]
pub struct Connection(OwnedFd);

/// Has the helper behind `socket` run something. Does not wait: the answers come over the connection.
///
/// # Errors
/// `Unreachable` when nobody listens, or too many wait: nothing was done, and it can be tried again.
pub fn begin(socket: &Path, exec: &Exec<'_>) -> Result<Connection, Error> {
    let connection = seqpacket::dial(socket).map_err(Error::Unreachable)?;
    let request = Request {
        program: exec.program.clone(),
        groups: exec.groups.joined.clone(),
        freezer: exec.groups.freezer.clone(),
        filter_flags: exec.filter.map(|filter| filter.flags),
    };
    let mut fds = vec![exec.init, exec.home];
    fds.extend(exec.stdio.iter().flatten());
    fds.extend(exec.filter.map(|filter| filter.file.as_fd()));
    request::send(&connection, &request, &fds).map_err(Error::Io)?;
    Ok(Connection(connection))
}

/// The next reply over the socket of a connection, with its descriptors.
///
/// # Errors
/// Outside: `WouldBlock`, there is none yet. Inside: why there will be none.
pub fn receive(socket: impl AsFd) -> io::Result<Result<(Reply, Vec<OwnedFd>), Error>> {
    let mut buffer = [0; 4096];
    match fds::receive(socket, &mut buffer) {
        Ok((0, _)) => Ok(Err(Error::Lost)),
        Ok((count, fds)) => match serde_json::from_slice(&buffer[..count]) {
            Ok(Reply::Failed(failure)) => Ok(Err(failure.into())),
            Ok(reply) => Ok(Ok((reply, fds))),
            Err(error) => Ok(Err(Error::Io(error.into()))),
        },
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
        Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => Ok(Err(Error::Lost)),
        Err(error) => Ok(Err(Error::Io(error))),
    }
}

/// Kills everything that belongs to the exec of a connection. Its end is told as ever.
pub fn kill(socket: impl AsFd) {
    // An exec that has ended has no other end any more.
    fds::send(socket, b"kill", &[]).ok();
}

impl Connection {
    /// The next reply; waits for it. None: it did not come in time.
    pub fn wait(&self, patience: Duration) -> Option<Result<(Reply, Vec<OwnedFd>), Error>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Ok(answer) = receive(self) {
                return Some(answer);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            // A little longer, so that the time is over for certain.
            let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], left).ok();
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Connection> for OwnedFd {
    fn from(connection: Connection) -> Self {
        connection.0
    }
}

impl From<OwnedFd> for Connection {
    /// One that a program before this one began.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}
