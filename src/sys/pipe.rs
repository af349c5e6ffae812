//! Pipes and FIFOs: look at what is in one without taking it, and how much fits.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::fcntl::{FcntlArg, fcntl};

/// Duplicates up to `len` bytes of the pipe `from` into the pipe `into`, and takes nothing out of `from` (tee(2)).
/// Never waits: `WouldBlock` when `from` is empty but has a writer, or when `into` is full. `Ok(0)` when `from` is
/// empty and has no writer.
pub fn tee(from: BorrowedFd<'_>, into: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    // SAFETY: tee(2) takes no pointers, and both descriptors are open for as long as they are borrowed.
    let copied = unsafe { libc::tee(from.as_raw_fd(), into.as_raw_fd(), len, libc::SPLICE_F_NONBLOCK) };
    usize::try_from(copied).map_err(|_| io::Error::last_os_error())
}

/// How many bytes the pipe holds at most: its slots, a page each. Small writes may leave a slot partly empty.
pub fn capacity(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(size(fcntl(pipe, FcntlArg::F_GETPIPE_SZ)?))
}

/// Makes the pipe hold `bytes` (rounded up to a power of two of pages) and says what it holds now. Fails with
/// EBUSY when more is in it already, and with EPERM over the limits of pipe(7).
pub fn set_capacity(pipe: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
    let bytes = libc::c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(size(fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes))?))
}

fn size(answer: libc::c_int) -> usize {
    usize::try_from(answer).expect("fcntl(2) answers a size")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn tee_leaves_what_it_copied_and_tells_an_idle_writer_from_none() {
        let (from, from_write) = nix::unistd::pipe().unwrap();
        let (into, into_write) = nix::unistd::pipe().unwrap();
        let empty = tee(from.as_fd(), into_write.as_fd(), 100).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);

        nix::unistd::write(&from_write, b"hello").unwrap();
        let mut buffer = [0; 16];
        for _ in 0..2 {
            assert_eq!(tee(from.as_fd(), into_write.as_fd(), 100).unwrap(), 5);
            assert_eq!(nix::unistd::read(&into, &mut buffer).unwrap(), 5);
            assert_eq!(&buffer[..5], b"hello");
        }
        assert_eq!(nix::unistd::read(&from, &mut buffer).unwrap(), 5);
        drop(from_write);
        assert_eq!(tee(from.as_fd(), into_write.as_fd(), 100).unwrap(), 0);
    }

    #[test]
    fn the_capacity_is_what_was_set() {
        let (pipe, _write) = nix::unistd::pipe().unwrap();
        assert_eq!(set_capacity(pipe.as_fd(), 128 * 1024).unwrap(), 128 * 1024);
        assert_eq!(capacity(pipe.as_fd()).unwrap(), 128 * 1024);
    }
}
