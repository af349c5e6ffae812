//! The terminal of a program: one of the container's own, whose other end goes to the requester.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};
use nix::sys::statfs::{FsType, fstatfs};

use crate::nsexec::program::Terminal;
use crate::nsexec::request::{Failure, Report};
use crate::sys::{fds, terminal};

const PTMX: &CStr = c"/dev/pts/ptmx";
/// linux/magic.h
const DEVPTS: FsType = FsType(0x1cd1);

/// Opens a terminal, sends its master out over `report`, and makes the slave our controlling terminal: that is stdin,
/// stdout and stderr to be.
pub fn open_controlling(size: Terminal, report: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let master = open(PTMX, flags, Mode::empty()).map_err(Failure::of("cannot open the container's /dev/pts/ptmx"))?;
    if !is_ptmx(&master) {
        return Err(Failure::new("the container's /dev/pts/ptmx makes no terminals"));
    }
    let locked: libc::c_int = 0;
    // SAFETY: the request reads one int.
    let unlocked = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) };
    Errno::result(unlocked).map_err(Failure::of("cannot unlock the terminal"))?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // By the master, so that no path of the container's is followed. SAFETY: the request takes flags by value.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let slave: RawFd = Errno::result(slave).map_err(Failure::of("cannot open the terminal"))?;
    // SAFETY: the kernel has just given it to us.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    if size.width > 0 || size.height > 0 {
        terminal::resize(&master, size.width, size.height).map_err(Failure::of("cannot set the terminal's size"))?;
    }
    let text = serde_json::to_vec(&Report::Terminal).unwrap_or_default();
    fds::send(report, &text, &[std::os::fd::AsFd::as_fd(&master)]).map_err(Failure::of("cannot send the terminal"))?;
    // SAFETY: the request takes a flag by value.
    let controls = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) };
    Errno::result(controls).map_err(Failure::of("cannot take the terminal"))?;
    Ok(slave)
}

/// Whether it is what it should be: character device 5, 2 of a devpts (pts(4)).
fn is_ptmx(file: &OwnedFd) -> bool {
    let of_devpts = fstatfs(file).is_ok_and(|system| system.filesystem_type() == DEVPTS);
    let is_device = fstat(file).is_ok_and(|file| {
        let kind = SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT;
        kind == SFlag::S_IFCHR && (major(file.st_rdev), minor(file.st_rdev)) == (5, 2)
    });
    of_devpts && is_device
}
