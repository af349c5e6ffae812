//! The words on the socket: one message each way is one datagram, JSON, with descriptors.
//!
//! A request's descriptors are a handle of the container's first process (a pidfd), the directory of the group in
//! which the exec gets one of its own, then stdin, stdout and stderr unless it gets a terminal, and then its seccomp
//! filter if it has one. The first byte says where the JSON is ([`HERE`], [`THERE`]). Any later message kills.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::Program;
use crate::sys::{fds, sealed};

/// The JSON follows.
pub const HERE: u8 = b'h';
/// The JSON is in the file that is the last descriptor.
pub const THERE: u8 = b't';

/// What fits a datagram for certain, with a socket's usual buffer.
pub const MAX_DATAGRAM: usize = 64 << 10;

/// What a child of the helper reads.
#[derive(Clone, Serialize, Deserialize)]
pub struct Request {
    pub program: Program,
    /// Control groups of version 1 to join.
    pub groups: Vec<PathBuf>,
    /// The one of them that may be frozen.
    pub freezer: Option<PathBuf>,
    /// What its seccomp filter is set with (seccomp(2)); None: it has none.
    pub filter_flags: Option<u32>,
}

/// A container's control groups, as execs join them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// Directories of version 1.
    pub joined: Vec<PathBuf>,
    pub freezer: Option<PathBuf>,
    /// Below it each exec has a group of its own: in the hierarchy of version 2 where there is one.
    pub home: PathBuf,
}

/// What a requester is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It runs. With a handle of it (a pidfd) and, if it has one, its terminal.
    Started { pid: u32 },
    /// It does not, and nothing is left of it. The last reply.
    Failed(Failure),
    /// It has ended: what it exited with, 0 to 255, or 128 and the signal. The last reply.
    Exited { code: i32 },
}

/// Why a program could not be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}{}", errno.map(in_words).unwrap_or_default())]
pub struct Failure {
    pub what: String,
    pub errno: Option<i32>,
}

/// As the programs of this field, which are in Go, say it: people search for that.
fn in_words(errno: i32) -> String {
    let words = Errno::from_raw(errno).desc();
    format!(": {}", words.to_lowercase())
}

impl Failure {
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            errno: None,
        }
    }

    /// For `map_err`: the system refused `what`.
    pub fn of<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| {
            let error = error.into();
            match error.raw_os_error() {
                Some(errno) => Self {
                    what: what.into(),
                    errno: Some(errno),
                },
                None => Self::new(format!("{}: {error}", what.into())),
            }
        }
    }
}

/// A child of the helper tells it how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// There is a process that is to become the program.
    Begun {
        pid: u32,
    },
    /// With the terminal's master.
    Terminal,
    Started {
        pid: u32,
    },
    Failed(Failure),
}

/// Sends a request with its descriptors; a long one by a file.
pub fn send(socket: impl AsFd, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut text = vec![HERE];
    serde_json::to_writer(&mut text, request)?;
    if text.len() <= MAX_DATAGRAM {
        return fds::send(socket, &text, fds).map(drop);
    }
    let file = sealed::bytes(c"request", &text[1..])?;
    let fds = [fds, &[file.as_fd()]].concat();
    fds::send(socket, &[THERE], &fds).map(drop)
}

/// The request in a message, and the descriptors that are its own.
pub fn read(message: &[u8], mut fds: Vec<OwnedFd>) -> io::Result<(Request, Vec<OwnedFd>)> {
    match message.split_first() {
        Some((&HERE, text)) => Ok((serde_json::from_slice(text)?, fds)),
        Some((&THERE, _)) => {
            let file = fds.pop().ok_or_else(|| io::Error::other("no file came with it"))?;
            let request = serde_json::from_reader(io::BufReader::new(File::from(file)))?;
            Ok((request, fds))
        }
        _ => Err(io::Error::other("no request")),
    }
}
