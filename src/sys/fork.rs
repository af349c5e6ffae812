//! Forking by hand, for a process of one thread that is to stand in other namespaces (clone(2)).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Which of the two one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// With the child's pid.
    Parent(u32),
    Child,
}

/// `CLONE_INTO_CGROUP` of linux/sched.h.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks; the child begins in the control group (of version 2) that is open as `group`, if there is one.
///
/// # Safety
/// The process must have one thread: the child has the caller's alone, and whatever another one held stays locked.
pub unsafe fn fork_into(group: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    // SAFETY: all zeroes is a valid clone_args, which is plain data.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(group) = group {
        args.flags = INTO_CGROUP;
        args.cgroup = group.as_raw_fd() as u64;
    }
    // SAFETY: the kernel reads one clone_args; without CLONE_VM the child goes on with copies of all we have.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match Errno::result(pid)? {
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(u32::try_from(pid).map_err(io::Error::other)?)),
    }
}

/// How much stack [`spawn_sibling`] gives.
const STACK: usize = 256 << 10;

/// What a sibling does, and its pid as its sibling sees it, which the kernel writes before it runs.
struct Life<'a> {
    work: &'a mut dyn FnMut(u32),
    pid: libc::pid_t,
}

/// Starts a process that shares our memory while we wait (vfork(2)): until it executes a program or ends. It is a
/// child of our parent (CLONE_PARENT), and the first of ours in the PID namespace that setns(2) chose for children.
/// `work` is given its pid as we see it, which is also the answer. It returns only if it failed; the process ends then.
///
/// # Safety
/// The process must have one thread. `work` must leave all memory as it is fit for us to find.
pub unsafe fn spawn_sibling(work: &mut dyn FnMut(u32)) -> io::Result<u32> {
    extern "C" fn run(life: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is the pointer that is given below, and its owner waits for us.
        let life = unsafe { &mut *life.cast::<Life<'_>>() };
        (life.work)(life.pid.cast_unsigned());
        127
    }
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end;
    let mut life = Life { work, pid: 0 };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID | libc::SIGCHLD;
    let life = &raw mut life;
    // SAFETY: the stack, aligned for any use, and `life` live until the call returns, which is after the child is done
    // with them (CLONE_VFORK). The kernel writes the pid where it is told.
    let pid = unsafe { libc::clone(run, top.cast(), flags, life.cast(), &raw mut (*life).pid) };
    u32::try_from(Errno::result(pid)?).map_err(io::Error::other)
}

/// Ends this process at once: nothing is dropped and no buffer is written, for they are its parent's.
pub fn end(code: i32) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::_exit(code) }
}
