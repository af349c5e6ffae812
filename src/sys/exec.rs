//! Becoming another program (execve(2)) that goes on with what this one holds: its pid, its children, and the
//! descriptors that are handed over, by their numbers.
#![allow(unsafe_code)]

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Becomes the program at `path`, with the words `args` after its name, this process' environment and, besides the
/// standard three, the descriptors `fds` alone. All other threads end. Blocked signals stay blocked.
///
/// # Errors
/// The program cannot be executed: everything is as it was.
pub fn become_program(path: &Path, args: &[OsString], fds: &[OwnedFd]) -> io::Result<Infallible> {
    let program = CString::new(path.as_os_str().as_bytes())?;
    let words = args.iter().map(|word| CString::new(word.as_bytes()));
    let words = std::iter::once(Ok(program.clone()))
        .chain(words)
        .collect::<Result<Vec<_>, _>>()?;
    let variables = std::env::vars_os().map(|(name, value)| {
        let line = [name.as_bytes(), b"=", value.as_bytes()].concat();
        CString::new(line)
    });
    let variables = variables.collect::<Result<Vec<_>, _>>()?;
    let keep = |flags| {
        fds.iter()
            .try_for_each(|fd| fcntl(fd, FcntlArg::F_SETFD(flags)).map(drop))
    };
    let done = keep(FdFlag::empty()).and_then(|()| nix::unistd::execve(&program, &words, &variables));
    keep(FdFlag::FD_CLOEXEC).ok();
    Ok(done?)
}

/// Takes a descriptor that the program before us handed over. From now on it is close-on-exec.
///
/// # Errors
/// There is no such descriptor, or it was not handed over, or was taken before.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call reads no memory of ours, and answers EBADF for a number that is no descriptor.
    let flags = Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    if number < 3 || flags & libc::FD_CLOEXEC != 0 {
        let message = format!("descriptor {number} was not handed over");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    // SAFETY: as above; the number is an open descriptor.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open. Whatever this program opens is close-on-exec from its first moment, so this one is the
    // former program's, of which nothing else here knows; and as it is marked now, it is taken only once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn only_what_is_not_close_on_exec_is_taken_and_only_once() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(inherited(file.as_raw_fd()).is_err(), "our own");
        assert!(inherited(1).is_err() && inherited(-1).is_err() && inherited(1 << 20).is_err());
        let copy = nix::fcntl::fcntl(&file, FcntlArg::F_DUPFD(100)).unwrap();
        let taken = inherited(copy).unwrap();
        assert_eq!(taken.as_raw_fd(), copy);
        assert!(inherited(copy).is_err(), "twice");
    }

    #[test]
    fn a_program_that_is_none_changes_nothing() {
        let fd = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let fds = [fd];
        for path in ["/nonexistent", "/etc/passwd", "/"] {
            assert!(become_program(Path::new(path), &[], &fds).is_err());
            assert_eq!(fcntl(&fds[0], FcntlArg::F_GETFD).unwrap(), libc::FD_CLOEXEC);
        }
    }
}
