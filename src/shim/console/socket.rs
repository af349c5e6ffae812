//! The Unix socket on which a runtime hands over the master of a terminal that it made (`--console-socket`).

use std::fs;
use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::sys::fds;

/// A socket for one terminal. Dropping it removes it.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Makes a socket in a private directory, whose path must be short: a socket's has 107 bytes at most (unix(7)).
    pub fn new(directory: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("tty{count}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the master. A runtime that succeeded has sent it already.
    pub fn receive(self, patience: Duration) -> io::Result<OwnedFd> {
        let deadline = Instant::now() + patience;
        wait(self.listener.as_fd(), deadline)?;
        let (connection, _) = self.listener.accept()?;
        wait(connection.as_fd(), deadline)?;
        // What is said with it is the terminal's name, or nothing in particular.
        let (_, descriptors) = fds::receive(&connection, &mut [0; 4096])?;
        let mut descriptors = descriptors.into_iter();
        match (descriptors.next(), descriptors.next()) {
            (Some(master), None) if master.is_terminal() => Ok(master),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "the runtime sent no terminal")),
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn wait(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = left.as_millis().min(60_000) + u128::from(!left.is_zero());
        let mut poll = [PollFd::new(fd, PollFlags::POLLIN)];
        match nix::poll::poll(&mut poll, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if left.is_zero() => return Err(ErrorKind::TimedOut.into()),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_master_is_received_and_the_socket_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let socket = ConsoleSocket::new(dir.path()).unwrap();
        let path = socket.path().to_owned();
        let runtime = UnixStream::connect(&path).unwrap();
        let pty = nix::pty::openpty(None, None).unwrap();
        fds::send(&runtime, b"/dev/ptmx", &[pty.master.as_fd()]).unwrap();
        drop(runtime);
        assert!(socket.receive(Duration::from_secs(5)).unwrap().is_terminal());
        assert!(!path.exists());
    }

    #[test]
    fn nobody_nothing_and_something_else_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let late = ConsoleSocket::new(dir.path())
            .unwrap()
            .receive(Duration::from_millis(20));
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);

        let socket = ConsoleSocket::new(dir.path()).unwrap();
        drop(UnixStream::connect(socket.path()).unwrap());
        assert_eq!(
            socket.receive(Duration::from_secs(5)).unwrap_err().kind(),
            ErrorKind::InvalidData
        );

        let socket = ConsoleSocket::new(dir.path()).unwrap();
        let runtime = UnixStream::connect(socket.path()).unwrap();
        let (pipe, _write) = nix::unistd::pipe().unwrap();
        fds::send(&runtime, b"x", &[pipe.as_fd()]).unwrap();
        assert_eq!(
            socket.receive(Duration::from_secs(5)).unwrap_err().kind(),
            ErrorKind::InvalidData
        );

        assert!(ConsoleSocket::new(&dir.path().join("d".repeat(120))).is_err());
    }
}
