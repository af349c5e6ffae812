//! The ends of a process: files, or a terminal whose other end is copied here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::console::ConsoleSocket;
use super::core::Shim;
use super::failed;
use super::record::{Io, Record};
use super::runtime;
use super::stdio::{self, Kept, Streams, Terminal};
use crate::ttrpc::Status;

/// How long a runtime that has succeeded may take to have sent the terminal.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the OCI runtime is given for a process, and what stays here.
pub struct Ends {
    sort: Sort,
    kept: Kept,
}

enum Sort {
    Files([OwnedFd; 3]),
    Terminal(ConsoleSocket, Terminal),
}

impl Ends {
    /// Opens what the request named.
    pub fn open(shim: &Shim, record: &Record, io: &Io) -> Result<Self, Status> {
        let streams = streams(record, io);
        if !io.terminal {
            let opened = stdio::open(&shim.children, &streams).map_err(failed("open the process' streams"))?;
            return Ok(Self {
                sort: Sort::Files(opened.ends),
                kept: opened.kept,
            });
        }
        let opened = stdio::open_terminal(&shim.children, &streams);
        let (terminal, kept) = opened.map_err(failed("open the terminal's streams"))?;
        let socket = ConsoleSocket::new(shim.place.directory()).map_err(failed("make a console socket"))?;
        Ok(Self {
            sort: Sort::Terminal(socket, terminal),
            kept,
        })
    }

    pub fn for_runtime(&self) -> runtime::Ends<'_> {
        match &self.sort {
            Sort::Files(files) => runtime::Ends::Files(files),
            Sort::Terminal(socket, _) => runtime::Ends::Console(socket.path()),
        }
    }

    /// For a process that is started without the OCI runtime. None: it makes itself a terminal.
    pub fn files(&self) -> Option<[BorrowedFd<'_>; 3]> {
        match &self.sort {
            Sort::Files(files) => Some(files.each_ref().map(AsFd::as_fd)),
            Sort::Terminal(..) => None,
        }
    }

    /// After the OCI runtime has made the process: takes its terminal, and gives what is to be kept while it runs.
    pub fn settle(self, shim: &Shim, id: &str, exec_id: &str) -> Result<Kept, Status> {
        self.settle_by(shim, id, exec_id, |socket| socket.receive(PATIENCE))
    }

    /// The same for a process whose terminal came another way.
    pub fn settle_with(self, shim: &Shim, id: &str, exec_id: &str, master: Option<OwnedFd>) -> Result<Kept, Status> {
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "none was sent");
        self.settle_by(shim, id, exec_id, |_| master.ok_or_else(missing))
    }

    fn settle_by(
        self,
        shim: &Shim,
        id: &str,
        exec_id: &str,
        master: impl FnOnce(ConsoleSocket) -> io::Result<OwnedFd>,
    ) -> Result<Kept, Status> {
        if let Sort::Terminal(socket, ends) = self.sort {
            let master = master(socket).map_err(failed("receive the terminal"))?;
            let attached = shim.consoles.attach(&key(id, exec_id), master, ends);
            attached.map_err(failed("serve the terminal"))?;
        }
        Ok(self.kept)
    }
}

impl Shim {
    /// Serves the terminal of a process that another shim started.
    pub fn adopt_terminal(&self, record: &Record, master: OwnedFd) -> io::Result<()> {
        let opened = stdio::open_terminal(&self.children, &streams(record, &record.io));
        let (ends, _) = opened.map_err(io::Error::other)?;
        self.consoles.attach(&key(&record.id, ""), master, ends)
    }
}

fn streams<'a>(record: &'a Record, io: &'a Io) -> Streams<'a> {
    Streams {
        id: &record.id,
        namespace: &record.namespace,
        stdin: &io.stdin,
        stdout: &io.stdout,
        stderr: &io.stderr,
        uid: record.io_owner.0,
        gid: record.io_owner.1,
    }
}

/// The name of a process' terminal. No id has a blank in it.
pub fn key(id: &str, exec_id: &str) -> String {
    format!("{id} {exec_id}")
}
