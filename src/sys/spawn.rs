//! Processes that are to outlive us.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the process that `command` starts independent of this one: in a session of its own, at `/`, and with no
/// descriptor but its three standard ones (also none that we were given without our knowledge).
pub fn detach(command: &mut Command) -> &mut Command {
    command.current_dir("/");
    // SAFETY: between fork and exec only system calls are made, which are async-signal-safe and touch no memory of
    // ours. Descriptors are marked for closing, not closed, so the one that the standard library reports a failed
    // exec through (marked already) stays whole.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            // By its number: C libraries older than glibc 2.34 have no wrapper. An error means a kernel older than
            // 5.11, and the process then keeps what was not marked: not worth failing for.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_detached_process_leads_its_session_and_has_only_the_standard_descriptors() {
        let leaked = std::fs::File::open("/dev/null").unwrap();
        nix::fcntl::fcntl(&leaked, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let script = "cut -d' ' -f6 /proc/$$/stat; echo $$; pwd; ls /proc/$$/fd";
        let output = detach(Command::new("/bin/sh").args(["-c", script])).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], lines[1], "the session is its own");
        assert_eq!(lines[2], "/");
        assert!(!lines[3..].contains(&leaked.as_raw_fd().to_string().as_str()), "{text}");
    }
}
