//! Pseudoterminals, by their master (pty(7), ioctl_tty(2)).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// Sets the window's size in characters. The processes in the foreground get SIGWINCH if it is another.
pub fn resize(terminal: impl AsFd, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request reads one winsize, which lives until it returns.
    let answer = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(answer)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_sees_the_size_and_a_pipe_has_none() {
        let pty = nix::pty::openpty(None, None).unwrap();
        resize(&pty.master, 97, 31).unwrap();
        let stty = std::process::Command::new("stty")
            .arg("size")
            .stdin(pty.slave)
            .output()
            .unwrap();
        assert_eq!(stty.stdout, b"31 97\n");
        let (pipe, _write) = nix::unistd::pipe().unwrap();
        assert!(resize(&pipe, 1, 1).is_err());
    }
}
