//! The process that runs further commands ([`crate::nsexec`]): started when somebody connects to `exec.sock`, and again
//! after it has died.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, fcntl};

use super::place::Place;
use super::report;
use crate::sys::children::{self, Children};
use crate::sys::{process, sealed, seqpacket, spawn};

/// Its name, where processes are listed.
const NAME: &str = "containerd-shim-berth-v1";
/// The number of the program's descriptor must be none that the program is given.
const BEYOND: i32 = 64;

/// The socket, and the process behind it while there is one.
pub struct Execs {
    listener: OwnedFd,
    /// Our own program, in memory.
    program: Option<File>,
    running: Option<Running>,
}

struct Running {
    process: children::Helper,
    /// Closed when we are gone, or become another program.
    _lifeline: OwnedFd,
}

impl Execs {
    pub fn listen(place: &Place) -> io::Result<Self> {
        fs::remove_file(place.exec_socket()).or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        Ok(Self {
            listener: seqpacket::listen_at(&place.exec_socket())?,
            program: None,
            running: None,
        })
    }

    /// Starts the process, to which all connections go from now on.
    pub fn start(&mut self, children: &Children, place: &Place) -> io::Result<()> {
        if self.program.is_none() {
            let program = sealed::own_program(c"berth-exec")?;
            let high = fcntl(&program, FcntlArg::F_DUPFD_CLOEXEC(BEYOND))?;
            // SAFETY: the kernel has just given it to us.
            #[allow(unsafe_code)]
            let high = unsafe { OwnedFd::from_raw_fd(high) };
            self.program = Some(high.into());
        }
        let program = self.program.as_ref().expect("it was just made");
        let (lifeline, its) = io::pipe().map(|(read, write)| (OwnedFd::from(write), OwnedFd::from(read)))?;
        let mut args = vec!["-place".into(), place.directory().into()];
        if let Some(files) = children.files_limit() {
            args.extend(["-files".into(), files.to_string().into()]);
        }
        if process::ignores_cancellation() {
            args.push("-ignore-cancellation".into());
        }
        args.push("exec".into());
        let fds: [BorrowedFd<'_>; 2] = [self.listener.as_fd(), its.as_fd()];
        let path = PathBuf::from(format!("/proc/self/fd/{}", program.as_raw_fd()));
        let helper = children.start(|| {
            spawn::with_descriptors(&spawn::Program {
                path: &path,
                name: NAME.as_ref(),
                args: &args,
                env: &[],
                fds: &fds,
            })
        })?;
        self.running = Some(Running {
            process: helper,
            _lifeline: lifeline,
        });
        Ok(())
    }

    /// Whether somebody waits and there is no process.
    pub fn is_awaited(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut waiting = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        self.running.is_none() && poll(&mut waiting, PollTimeout::ZERO) == Ok(1)
    }

    /// Turns away who waits: nobody can serve them.
    pub fn turn_away(&self) {
        while seqpacket::accept(self.listener.as_fd()).is_ok() {}
    }

    /// The pid of a process that has died, once; connections are ours to see to again. What it ran is still there.
    pub fn dead(&mut self) -> Option<u32> {
        let died = self.running.take_if(|running| running.process.code().is_some())?;
        report("the process that runs commands is gone; the next command starts another");
        Some(died.process.pid())
    }
}

impl AsFd for Execs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
