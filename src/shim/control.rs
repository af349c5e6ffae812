//! The private socket: how berth and the shim's own commands speak to a shim. Lines of JSON, a reply for each request;
//! descriptors ride with the line that speaks of them (SCM_RIGHTS).
//!
//! A connection is served by a small thread of its own. One that stays open tells whoever holds it when the shim ends,
//! and the shim that somebody has use for it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde::{Deserialize, Serialize};

use crate::sys::fds;
use crate::ttrpc;

/// The longest line: some thousand containers.
const MAX_LINE: usize = 4 << 20;
/// How long a shim may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to become another program, or to find that it cannot.
const UPGRADE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Is anybody there? It also keeps a shim that is about to leave for want of work.
    /// Whoever knows where containerd takes events says so.
    Hello {
        #[serde(default)]
        ttrpc: Option<PathBuf>,
    },
    /// All containers.
    Tasks,
    /// Gives an adopted container descriptors that somebody kept: a pidfd and, if it has one, its terminal.
    Hand { id: String },
    /// Asks for a pidfd of a container's first process and, if it has one, its terminal.
    Give { id: String },
    /// containerd has given this container up; it may be taken back by a Create.
    Disown { id: String },
    /// Removes the bundle of a container that containerd has given up without removing it, so that it can be taken back.
    Unbundle { id: String },
    /// Ends and removes a container that containerd does not know.
    Forget { id: String },
    /// Goes on as another program, which takes over everything.
    Upgrade { binary: PathBuf },
    /// Leaves when nothing is held any more, however many connections there are.
    Leave,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Hello(Hello),
    Tasks {
        tasks: Vec<Task>,
    },
    /// Followed by the descriptors, the pidfd first.
    Given,
    Done,
    Unknown,
    Failed {
        message: String,
    },
}

/// Who the shim is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: String,
    pub pid: u32,
    /// Its program, and device and inode of that file, which stay the same when it is moved or removed.
    pub binary: PathBuf,
    #[serde(default)]
    pub file: (u64, u64),
}

/// A container, as the shim has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub id: String,
    pub pid: u32,
    pub state: TaskState,
    /// Whether containerd knows it, as far as the shim can tell.
    pub claimed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    Created,
    Running,
    /// `known`: whether that is how it ended, and not 255 for what nobody can know any more.
    Exited {
        code: i32,
        at: i64,
        known: bool,
    },
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no shim answers at {}", socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    #[error("the shim does not have {what}")]
    Unknown { what: String },
    #[error("shim: {0}")]
    Failed(String),
}

impl Error {
    /// The shim died, or was not there.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

/// Both ends of a conversation: a connection and what was read beyond a line.
#[derive(Debug)]
pub struct Line {
    connection: UnixStream,
    read: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Line {
    pub fn over(connection: UnixStream) -> Self {
        Self {
            connection,
            read: Vec::new(),
            fds: Vec::new(),
        }
    }

    /// Waits until there is something to receive, and takes nothing.
    pub fn wait(&self) -> io::Result<()> {
        let mut poll = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
        loop {
            match nix::poll::poll(&mut poll, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                result => return Ok(result.map(drop)?),
            }
        }
    }

    /// Sends one message with descriptors.
    pub fn send(&mut self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut sent = fds::send(&self.connection, &line, fds)?;
        while sent < line.len() {
            sent += fds::send(&self.connection, &line[sent..], &[])?;
        }
        Ok(())
    }

    /// The next message and the descriptors that came with it. None: the other end has left.
    pub fn receive<M: for<'a> Deserialize<'a>>(&mut self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let message = serde_json::from_slice(&line)?;
                return Ok(Some((message, std::mem::take(&mut self.fds))));
            }
            if self.read.len() > MAX_LINE {
                return Err(io::Error::new(ErrorKind::InvalidData, "a line without an end"));
            }
            let (count, fds) = fds::receive(&self.connection, &mut buffer)?;
            if count == 0 {
                return Ok(None);
            }
            self.read.extend_from_slice(&buffer[..count]);
            self.fds.extend(fds);
        }
    }
}

/// Speaks to the shim at a socket. Blocking.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    line: Line,
}

impl Client {
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        let connect = || {
            let connection = ttrpc::client::dial(socket)?;
            connection.set_read_timeout(Some(PATIENCE))?;
            connection.set_write_timeout(Some(PATIENCE))?;
            Ok(connection)
        };
        let connection = connect().map_err(|source| Error::Unreachable {
            socket: socket.to_owned(),
            source,
        })?;
        Ok(Self {
            socket: socket.to_owned(),
            line: Line::over(connection),
        })
    }

    /// Who the shim is.
    pub fn hello(&mut self) -> Result<Hello, Error> {
        self.greet(None)
    }

    /// The same, and says where containerd takes events.
    pub fn greet(&mut self, ttrpc: Option<PathBuf>) -> Result<Hello, Error> {
        match self.ask(&Request::Hello { ttrpc }, &[])? {
            (Reply::Hello(hello), _) => Ok(hello),
            (other, _) => Err(surprise(&other)),
        }
    }

    pub fn tasks(&mut self) -> Result<Vec<Task>, Error> {
        match self.ask(&Request::Tasks, &[])? {
            (Reply::Tasks { tasks }, _) => Ok(tasks),
            (other, _) => Err(surprise(&other)),
        }
    }

    /// Hands over what was kept of a container: a pidfd, then perhaps a terminal.
    pub fn hand(&mut self, id: &str, kept: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.done(&Request::Hand { id: id.to_owned() }, kept)
    }

    /// A pidfd of the container's first process, and its terminal if it has one.
    pub fn give(&mut self, id: &str) -> Result<(OwnedFd, Option<OwnedFd>), Error> {
        let (reply, fds) = self.ask(&Request::Give { id: id.to_owned() }, &[])?;
        let mut fds = fds.into_iter();
        match (reply, fds.next()) {
            (Reply::Given, Some(pidfd)) => Ok((pidfd, fds.next())),
            (other, _) => Err(surprise(&other)),
        }
    }

    pub fn disown(&mut self, id: &str) -> Result<(), Error> {
        self.done(&Request::Disown { id: id.to_owned() }, &[])
    }

    pub fn unbundle(&mut self, id: &str) -> Result<(), Error> {
        self.done(&Request::Unbundle { id: id.to_owned() }, &[])
    }

    pub fn forget(&mut self, id: &str) -> Result<(), Error> {
        self.done(&Request::Forget { id: id.to_owned() }, &[])
    }

    /// Has the shim go on as the program `binary`, an absolute path; that one answers, over this connection. An error
    /// that it tells means that it goes on as it was.
    pub fn upgrade(&mut self, binary: &Path) -> Result<(), Error> {
        let binary = binary.to_owned();
        self.line.connection.set_read_timeout(Some(UPGRADE)).ok();
        let upgraded = self.done(&Request::Upgrade { binary }, &[]);
        self.line.connection.set_read_timeout(Some(PATIENCE)).ok();
        upgraded
    }

    pub fn leave(&mut self) -> Result<(), Error> {
        self.done(&Request::Leave, &[])
    }

    /// Blocks until the shim ends.
    pub fn until_end(mut self) {
        self.line.connection.set_read_timeout(None).ok();
        while let Ok(Some(_)) = self.line.receive::<Reply>() {}
    }

    /// The connection, which ends when the shim does.
    pub fn into_connection(self) -> UnixStream {
        self.line.connection
    }

    fn done(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        match self.ask(request, fds)? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(surprise(&other)),
        }
    }

    fn ask(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let exchanged = self.line.send(request, fds).and_then(|()| self.line.receive());
        let unreachable = |source| Error::Unreachable {
            socket: self.socket.clone(),
            source,
        };
        match exchanged.map_err(unreachable)? {
            None => Err(unreachable(ErrorKind::UnexpectedEof.into())),
            Some((Reply::Unknown, _)) => Err(Error::Unknown {
                what: format!("{request:?}"),
            }),
            Some((Reply::Failed { message }, _)) => Err(Error::Failed(message)),
            Some(answer) => Ok(answer),
        }
    }
}

fn surprise(reply: &Reply) -> Error {
    Error::Failed(format!("it answered what was not asked for: {reply:?}"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn messages_and_their_descriptors_arrive_together_and_in_order() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (Line::over(one), Line::over(other));
        let file = std::fs::File::open("/dev/null").unwrap();
        one.send(&Request::Tasks, &[]).unwrap();
        one.send(&Request::Hand { id: "a".into() }, &[file.as_fd(), file.as_fd()])
            .unwrap();
        let mut got = Vec::new();
        for _ in 0..2 {
            let (request, fds) = other.receive::<Request>().unwrap().unwrap();
            got.push((request, fds.len()));
        }
        let all: usize = got.iter().map(|(_, fds)| fds).sum();
        assert_eq!((got[0].0.clone(), all), (Request::Tasks, 2));
        drop(one);
        assert!(other.receive::<Request>().unwrap().is_none());
    }

    #[test]
    fn garbage_is_an_error_and_endless_lines_are_cut() {
        let (one, other) = UnixStream::pair().unwrap();
        let mut other = Line::over(other);
        io::Write::write_all(&mut &one, b"nonsense\n").unwrap();
        assert!(other.receive::<Request>().is_err());
        let writer = std::thread::spawn(move || while io::Write::write_all(&mut &one, &[b'x'; 65536]).is_ok() {});
        assert_eq!(other.receive::<Request>().unwrap_err().kind(), ErrorKind::InvalidData);
        drop(other);
        writer.join().unwrap();
    }
}
