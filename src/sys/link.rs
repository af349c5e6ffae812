//! Network interfaces, as far as they need no netlink.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::AsRawFd;
use std::{io, mem};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Brings the loopback interface of the calling thread's network namespace up (netdevice(7)). The kernel gives it
/// its addresses then.
pub fn loopback_up() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all zeroes is a valid `ifreq`: an empty name and a union of plain integers.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = *from as libc::c_char;
    }
    // SAFETY: the kernel reads the name from, and writes the flags into, a whole `ifreq` that outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    Errno::result(result)?;
    // SAFETY: SIOCGIFFLAGS has filled `ifru_flags`.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: the kernel only reads the `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(result)?;
    Ok(())
}

/// The index of the interface `name` in the calling thread's network namespace.
pub fn index(name: &CStr) -> io::Result<u32> {
    // SAFETY: if_nametoindex(3) reads a string that ends in NUL and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}
