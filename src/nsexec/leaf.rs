//! The control group of one exec, below its container's: whoever is in it belongs to the exec, whatever it forked,
//! whichever session it went to.
//!
//! In the hierarchy of version 2 where there is one, also on a hybrid host; else in one of version 1.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::sys::process;

/// How the names of such groups begin.
pub const PREFIX: &str = "berth-exec-";

/// How many times what an exec leaves behind is moved up: it may fork meanwhile.
const ROUNDS: usize = 8;

/// A group that was made, and is to be removed.
#[derive(Debug)]
pub struct Leaf {
    parent: OwnedFd,
    name: CString,
    directory: OwnedFd,
    unified: bool,
}

/// Where an exec is to be.
#[derive(Debug)]
pub enum Home {
    Leaf(Leaf),
    /// In the group of the container's first process itself, which has given out its controllers to groups below.
    Shared(OwnedFd),
}

impl Leaf {
    /// Makes the group `name` below `parent`.
    pub fn make(parent: OwnedFd, name: &str) -> io::Result<Self> {
        mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
        Self::open(parent, name)
    }

    /// The group `name` below `parent`, which is there.
    pub fn open(parent: OwnedFd, name: &str) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self {
            directory: openat(&parent, name, flags, Mode::empty())?,
            unified: fstatfs(&parent)?.filesystem_type() == CGROUP2_SUPER_MAGIC,
            name: CString::new(name)?,
            parent,
        })
    }

    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Whether a process can be forked into it; else it has to join by itself.
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// Kills everybody in it. To be repeated until [`Leaf::remove`] succeeds where the kernel does not kill a whole
    /// group at once (before Linux 5.14, or version 1).
    pub fn kill(&self) {
        if self.unified && write(&self.directory, c"cgroup.kill", b"1").is_ok() {
            return;
        }
        self.pids().unwrap_or_default().into_iter().for_each(process::kill);
    }

    /// Removes the group. False: somebody is in it, dying perhaps.
    pub fn remove(&self) -> bool {
        let removed = unlinkat(&self.parent, &*self.name, UnlinkatFlags::RemoveDir);
        !matches!(removed, Err(Errno::EBUSY))
    }

    /// Removes the group and lets what the exec left behind go on in the container's.
    pub fn dissolve(&self) -> bool {
        for _ in 0..ROUNDS {
            if self.remove() {
                return true;
            }
            for pid in self.pids().unwrap_or_default() {
                // One that has ended meanwhile is fine.
                write(&self.parent, c"cgroup.procs", pid.to_string().as_bytes()).ok();
            }
        }
        false
    }

    fn pids(&self) -> io::Result<Vec<u32>> {
        let text = read(&self.directory, c"cgroup.procs")?;
        Ok(text
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid > 0)
            .collect())
    }
}

/// A file of a group.
pub fn read(group: impl AsFd, name: &std::ffi::CStr) -> io::Result<String> {
    let file = openat(group, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(file).read_to_string(&mut text)?;
    Ok(text)
}

pub fn write(group: impl AsFd, name: &std::ffi::CStr, bytes: &[u8]) -> io::Result<()> {
    let file = openat(group, name, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    File::from(file).write_all(bytes)
}

/// Whether a group of version 2 gives its controllers to groups below, so that no process may be added to it.
pub fn gives_controllers(group: impl AsFd) -> bool {
    read(group, c"cgroup.subtree_control").is_ok_and(|text| !text.trim().is_empty())
}

/// Whether the processes of a group of version 2 are frozen.
pub fn is_frozen(group: impl AsFd) -> bool {
    read(group, c"cgroup.events").is_ok_and(|text| text.lines().any(|line| line == "frozen 1"))
}
