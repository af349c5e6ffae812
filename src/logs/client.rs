//! The daemon's side of the control socket. Blocking; one connection a request, so any thread may use it at any time.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{self, Drained, Open, Pong, Reply, Request, Status};
use crate::model::Id;

/// How long the pump may take to answer, apart from the time that a drain was given.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Speaks to the pump at a socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// Why a request to the pump failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No pump listens, or it died: another comes with the next shim.
    #[error("the log writer at {} does not answer", socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    /// Not open in the pump: never was, was closed, or the pump was started anew since.
    #[error("the log writer does not have container {id}")]
    Unknown { id: Id },
    #[error("log writer: {message}")]
    Failed { message: String },
    /// The pump is of another version, or no pump at all.
    #[error("the log writer at {} answered what was not asked for: {answer:?}", socket.display())]
    Unreadable { socket: PathBuf, answer: String },
}

impl Error {
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

impl Client {
    /// Does not connect yet.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Has the container's FIFOs read from now on. Does nothing when they are already, with the same paths.
    pub fn open(&self, open: &Open) -> Result<(), Error> {
        self.done(&Request::Open(open.clone()))
    }

    /// Opens the container's log file anew. After an error the old file is still written, and no new one was made.
    pub fn reopen(&self, id: &Id) -> Result<(), Error> {
        self.done(&Request::Reopen { id: id.clone() })
    }

    /// Waits until all that the container wrote is in its log, at most for `timeout`; the pump has then forgotten it.
    /// Only for a container that nobody is about to start: a FIFO without a writer is at its end.
    pub fn drain(&self, id: &Id, timeout: Duration) -> Result<Drained, Error> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.drained(
            &Request::Drain {
                id: id.clone(),
                timeout_ms,
            },
            timeout,
        )
    }

    /// Writes what is there, ended or not, and makes the pump forget the container.
    pub fn close(&self, id: &Id) -> Result<Drained, Error> {
        self.drained(&Request::Close { id: id.clone() }, Duration::ZERO)
    }

    /// All open containers.
    pub fn list(&self) -> Result<Vec<Status>, Error> {
        match self.ask(&Request::List, Duration::ZERO)? {
            Reply::Containers { containers } => Ok(containers),
            other => Err(self.unreadable(format!("{other:?}"))),
        }
    }

    /// The pump's version and process.
    pub fn ping(&self) -> Result<Pong, Error> {
        match self.ask(&Request::Ping, Duration::ZERO)? {
            Reply::Pong(pong) => Ok(pong),
            other => Err(self.unreadable(format!("{other:?}"))),
        }
    }

    fn done(&self, request: &Request) -> Result<(), Error> {
        match self.ask(request, Duration::ZERO)? {
            Reply::Done => Ok(()),
            other => Err(self.unreadable(format!("{other:?}"))),
        }
    }

    fn drained(&self, request: &Request, patience: Duration) -> Result<Drained, Error> {
        match self.ask(request, patience)? {
            Reply::Drained(drained) => Ok(drained),
            other => Err(self.unreadable(format!("{other:?}"))),
        }
    }

    fn ask(&self, request: &Request, patience: Duration) -> Result<Reply, Error> {
        let answer = self.exchange(request, patience).map_err(|source| Error::Unreachable {
            socket: self.socket.clone(),
            source,
        })?;
        match serde_json::from_str(&answer) {
            Ok(Reply::Unknown { id }) => Err(Error::Unknown { id }),
            Ok(Reply::Failed { message }) => Err(Error::Failed { message }),
            Ok(reply) => Ok(reply),
            Err(_) => Err(self.unreadable(answer)),
        }
    }

    fn exchange(&self, request: &Request, patience: Duration) -> io::Result<String> {
        let mut connection = UnixStream::connect(&self.socket)?;
        connection.set_read_timeout(Some(patience.saturating_add(ANSWER_WITHIN)))?;
        connection.set_write_timeout(Some(ANSWER_WITHIN))?;
        connection.write_all(&protocol::encode(request)?)?;
        let mut answer = String::new();
        BufReader::new(connection).read_line(&mut answer)?;
        if answer.ends_with('\n') {
            Ok(answer)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn unreadable(&self, answer: String) -> Error {
        Error::Unreadable {
            socket: self.socket.clone(),
            answer,
        }
    }
}
