//! What the kernel knows about a TCP connection.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The states in which close(2) waits for SO_LINGER's time (the kernel's `sk_stream_closing`): FIN-WAIT-1, LAST-ACK
/// and CLOSING.
const CLOSING: [u8; 3] = [4, 9, 11];

/// Whether the peer has still to acknowledge the end of this connection (tcp(7), TCP_INFO).
pub fn is_closing(socket: BorrowedFd<'_>) -> io::Result<bool> {
    // The state is the first byte of struct tcp_info; the kernel writes as much as there is room for.
    let mut info = [0_u8; 8];
    let mut length: libc::socklen_t = 8;
    // SAFETY: the pointers are to locals of the lengths told, which live for the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(CLOSING.contains(&info[0]))
}
