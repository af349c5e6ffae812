//! A TCP connection that is closed without anybody waiting for it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::sys::connection::is_closing;

/// A connection; dropped, it is closed.
///
/// With SO_LINGER, close(2) waits until the peer has acknowledged the end, which a peer whose packets are lost does not,
/// and the wait would be a thread's of the runtime. So the end is sent first, and if it is not acknowledged at once, as
/// it is within a node, the option goes and the kernel does the rest by itself.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// The first bytes that came, by which an answer without TLS is known.
    first: [u8; 5],
    read: usize,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Small requests; an error costs a delay at most.
        let _ = stream.set_nodelay(true);
        let (first, read) = ([0; 5], 0);
        Self { stream, first, read }
    }

    /// Whether the peer speaks HTTP without TLS.
    pub(super) fn is_plain_http(&self) -> bool {
        self.first == *b"HTTP/"
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Errors: it is closed already, by the peer, and close waits for nothing.
        let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Both);
        if is_closing(self.stream.as_fd()).unwrap_or_default() {
            let off = libc::linger {
                l_onoff: 0,
                l_linger: 0,
            };
            let _ = setsockopt(&self.stream, sockopt::Linger, &off);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if self.read < self.first.len() {
            let read = self.read;
            let count = (buffer.filled().len() - before).min(self.first.len() - read);
            self.first[read..read + count].copy_from_slice(&buffer.filled()[before..before + count]);
            self.read += count;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
