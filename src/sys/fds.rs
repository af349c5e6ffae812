//! Descriptors that travel over a Unix socket (SCM_RIGHTS, unix(7)).
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The most descriptors in one message here. The kernel's own limit is 253.
pub const MOST: usize = 16;

/// Sends `bytes`, which must not be empty, with `fds`. Answers how many bytes went: the descriptors went with them.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let parts = [IoSlice::new(bytes)];
    loop {
        match sendmsg::<()>(
            socket.as_fd().as_raw_fd(),
            &parts,
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Receives into `buffer`: how many bytes, and the descriptors that came with them, close-on-exec. No bytes mean the
/// end. Fails when more descriptors came than [`MOST`].
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MOST]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = loop {
        match recvmsg::<()>(
            socket.as_fd().as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Err(Errno::EINTR) => {}
            result => break result?,
        }
    };
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just installed them for us, and nobody else knows them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::other(format!("more than {MOST} descriptors in a message")));
    }
    Ok((message.bytes, fds))
}

/// Closes all descriptors of this process but `kept` (close_range(2)).
///
/// # Safety
/// Nothing that owns another one may be used or dropped any more: this is for a process that has just been forked.
pub unsafe fn close_all_but(kept: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<_> = kept.iter().map(|fd| fd.cast_unsigned()).collect();
    kept.sort_unstable();
    let mut first = 0;
    for fd in kept.into_iter().chain([u32::MAX]) {
        if let Some(last) = fd.checked_sub(1).filter(|last| *last >= first) {
            // SAFETY: see above.
            Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_arrive_with_their_bytes_and_close_on_exec() {
        let (one, other) = UnixStream::pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        assert_eq!(send(&one, b"pty", &[write.as_fd()]).unwrap(), 3);
        assert_eq!(send(&one, b"!", &[]).unwrap(), 1);
        drop(write);
        let mut buffer = [0; 64];
        let (len, fds) = receive(&other, &mut buffer).unwrap();
        assert!(buffer[..len].starts_with(b"pty"));
        assert_eq!(fds.len(), 1);
        let flags = nix::fcntl::fcntl(&fds[0], nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, libc::FD_CLOEXEC);
        nix::unistd::write(&fds[0], b"through").unwrap();
        assert_eq!(nix::unistd::read(&read, &mut buffer).unwrap(), 7);
        drop(one);
        let end = loop {
            let (len, fds) = receive(&other, &mut buffer).unwrap();
            assert!(fds.is_empty());
            if len == 0 {
                break len;
            }
        };
        assert_eq!(end, 0);
    }

    #[test]
    fn too_many_descriptors_are_an_error_and_none_leaks() {
        let (one, other) = UnixStream::pair().unwrap();
        let (_read, write) = nix::unistd::pipe().unwrap();
        send(&one, b"x", &[write.as_fd(); MOST + 20]).unwrap();
        assert!(receive(&other, &mut [0; 8]).is_err());
    }
}
