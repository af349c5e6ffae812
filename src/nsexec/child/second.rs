//! The second child: stands in the container and becomes the program.
//!
//! In the order of `runc exec`, where the order shows. Everything here runs in memory that the first child will see.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::stat::{Mode, fstat, umask};
use nix::unistd::{Gid, Uid, chdir, setgroups, setresgid, setresuid, setsid};

use super::terminal;
use crate::nsexec::program::{Program, Sets};
use crate::nsexec::request::{Failure, Report};
use crate::nsexec::seccomp::INSTRUCTION;
use crate::sys::fds;

pub struct Second<'a> {
    pub program: &'a Program,
    /// None: a terminal of its own.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// With the flags that it is set with (seccomp(2)).
    pub filter: Option<(&'a [u8], u32)>,
    pub report: BorrowedFd<'a>,
}

impl Second<'_> {
    /// Comes back only if it fails. `pid` is ours on the node: told at once, so that whoever kills us knows whom.
    pub fn become_program(&self, pid: u32) -> Failure {
        let text = serde_json::to_vec(&Report::Begun { pid }).unwrap_or_default();
        if let Err(error) = fds::send(self.report, &text, &[]) {
            return Failure::of("cannot tell that the command begins")(error);
        }
        match self.try_become() {
            Ok(never) => match never {},
            Err(failure) => failure,
        }
    }

    fn try_become(&self) -> Result<std::convert::Infallible, Failure> {
        let program = self.program;
        setsid().map_err(Failure::of("cannot make a session"))?;
        if program.user_namespace {
            become_root()?;
        }
        if let Some(name) = &program.keyring {
            join_keyring(name)?;
        }
        self.take_stdio()?;
        // SAFETY: all descriptors beyond the standard ones are the first child's, which has copies of its own.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
        Errno::result(closed).map_err(Failure::of("cannot close descriptors"))?;
        signals_as_new();
        if program.no_new_privileges {
            prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(Failure::of("cannot give up new privileges"))?;
        }
        umask(Mode::from_bits_truncate(program.umask));
        // Without no_new_privs only who may do anything may be filtered, so it has to come first.
        if !program.no_new_privileges {
            self.filter()?;
        }
        self.become_user()?;
        let path = executable(program)?;
        let (words, variables) = (strings(&program.args)?, strings(&program.env)?);
        if program.no_new_privileges {
            self.filter()?;
        }
        let error = match nix::unistd::execve(&path, &words, &variables) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        Err(Failure::of(format!("exec {path:?}"))(error))
    }

    /// The standard descriptors, which are the program's user's, so that it may open them again by /dev/stderr.
    fn take_stdio(&self) -> Result<(), Failure> {
        let slave;
        let stdio = match (self.stdio, self.program.terminal) {
            (Some(stdio), _) => stdio.map(|fd| fd.as_raw_fd()),
            (None, Some(size)) => {
                slave = terminal::open_controlling(size, self.report)?;
                [slave.as_raw_fd(); 3]
            }
            (None, None) => return Err(Failure::new("the command has no standard descriptors")),
        };
        for (target, fd) in (0..).zip(stdio) {
            // SAFETY: duplicates one descriptor over another, which nobody owns here.
            let done = unsafe { libc::dup2(fd, target) };
            Errno::result(done).map_err(Failure::of("cannot set the standard descriptors"))?;
            give_away(target, self.program.uid, self.program.gid)?;
        }
        Ok(())
    }

    fn filter(&self) -> Result<(), Failure> {
        let Some((filter, flags)) = self.filter else {
            return Ok(());
        };
        let len =
            u16::try_from(filter.len() / INSTRUCTION).map_err(|_| Failure::new("the seccomp filter is too long"))?;
        let program = libc::sock_fprog {
            len,
            filter: filter.as_ptr().cast_mut().cast(),
        };
        // SAFETY: the kernel reads `len` instructions of 8 bytes, which are there, from any alignment.
        let set = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        };
        Errno::result(set).map_err(Failure::of("cannot set the seccomp filter"))?;
        Ok(())
    }

    /// User, groups, capabilities and directory.
    fn become_user(&self) -> Result<(), Failure> {
        let program = self.program;
        let sets = program.capabilities;
        drop_bounding(sets.bounding)?;
        prctl(libc::PR_SET_KEEPCAPS, 1).map_err(Failure::of("cannot keep capabilities"))?;
        // Root may enter what the user may not, and the other way round (NFS).
        let entered = chdir(program.cwd.as_str());
        let groups: Vec<_> = program.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        setgroups(&groups).map_err(Failure::of("cannot set the groups"))?;
        let (uid, gid) = (Uid::from_raw(program.uid), Gid::from_raw(program.gid));
        setresgid(gid, gid, gid).map_err(Failure::of("cannot set the group"))?;
        setresuid(uid, uid, uid).map_err(Failure::of("cannot set the user"))?;
        entered
            .or_else(|_| chdir(program.cwd.as_str()))
            .map_err(Failure::of(format!("cannot change to the directory {:?}", program.cwd)))?;
        stand_inside()?;
        prctl(libc::PR_SET_KEEPCAPS, 0).map_err(Failure::of("cannot drop capabilities"))?;
        set_capabilities(sets)
    }
}

/// The first user of the container's user namespace, until it is the program's.
fn become_root() -> Result<(), Failure> {
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))
        .and_then(|()| setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)))
        .map_err(Failure::of("cannot become root of the container's user namespace"))
}

/// A session keyring of the container's (keyrings(7)): no key of the node's.
fn join_keyring(name: &str) -> Result<(), Failure> {
    let name = CString::new(name).map_err(|_| Failure::new("a keyring's name with a zero byte"))?;
    // SAFETY: the kernel reads the name, which ends with a zero.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    match Errno::result(joined) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(error) => Err(Failure::of("cannot join the container's session keyring")(error)),
    }
}

/// Makes a standard descriptor the program's user's, but for devices like /dev/null, which are everybody's.
fn give_away(fd: libc::c_int, uid: u32, gid: u32) -> Result<(), Failure> {
    const NULL: libc::dev_t = libc::makedev(1, 3);
    // SAFETY: it is open, and borrowed for this call alone.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    let found = fstat(file).map_err(Failure::of("cannot look at a standard descriptor"))?;
    if found.st_uid == uid || found.st_rdev == NULL {
        return Ok(());
    }
    // SAFETY: the call takes numbers alone.
    match Errno::result(unsafe { libc::fchown(fd, uid, gid) }) {
        // The file is of a system that has other ideas of owners.
        Ok(_) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS) => Ok(()),
        Err(error) => Err(Failure::of("cannot give a standard descriptor to the user")(error)),
    }
}

/// No signal is blocked or ignored.
fn signals_as_new() {
    // SAFETY: an empty set is initialized before it is read; the rest are numbers.
    unsafe {
        let mut none = std::mem::MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> nix::Result<()> {
    // SAFETY: the options that are used here take numbers alone.
    Errno::result(unsafe {
        libc::prctl(
            option,
            value,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    })?;
    Ok(())
}

fn drop_bounding(keep: u64) -> Result<(), Failure> {
    for number in 0..64 {
        if keep & (1 << number) != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, number) {
            Ok(()) => {}
            // The kernel has no more of them.
            Err(Errno::EINVAL) => break,
            Err(error) => return Err(Failure::of("cannot drop a capability of the bounding set")(error)),
        }
    }
    Ok(())
}

fn set_capabilities(sets: Sets) -> Result<(), Failure> {
    crate::sys::caps::set(sets.effective, sets.permitted, sets.inheritable)
        .map_err(Failure::of("cannot set the capabilities"))?;
    let ambient = |operation: libc::c_int, number: libc::c_ulong| {
        // SAFETY: the operations take numbers alone.
        let done = unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                operation,
                number,
                0 as libc::c_ulong,
                0 as libc::c_ulong,
            )
        };
        Errno::result(done).map(drop)
    };
    ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0).map_err(Failure::of("cannot clear the ambient capabilities"))?;
    for number in (0..64).filter(|number| sets.ambient & (1 << number) != 0) {
        // Not in the inheritable set, say: runc leaves those out as well.
        ambient(libc::PR_CAP_AMBIENT_RAISE, number).ok();
    }
    Ok(())
}

/// A working directory outside of the container's root would be a way to the node (CVE-2024-21626).
fn stand_inside() -> Result<(), Failure> {
    let mut buffer = [0_u8; libc::PATH_MAX as usize];
    // The system call itself: the C library would look for another way up. SAFETY: the kernel writes into the buffer.
    let written = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    Errno::result(written).map_err(Failure::of("cannot find the working directory"))?;
    match buffer.first() {
        Some(b'/') => Ok(()),
        _ => Err(Failure::new("the working directory is outside of the container")),
    }
}

fn strings(texts: &[String]) -> Result<Vec<CString>, Failure> {
    let strings = texts.iter().map(|text| CString::new(text.as_bytes()));
    strings
        .collect::<Result<_, _>>()
        .map_err(|_| Failure::new("a word with a zero byte"))
}

/// The program's file: by its path, or in the directories of its own PATH.
fn executable(program: &Program) -> Result<CString, Failure> {
    let Some(name) = program.args.first().filter(|name| !name.is_empty()) else {
        return Err(Failure::new("the command is empty"));
    };
    let string = |path: &str| CString::new(path).map_err(|_| Failure::new("a word with a zero byte"));
    if name.contains('/') {
        let path = string(name)?;
        return match check(&path) {
            Ok(()) => Ok(path),
            Err(error) => Err(Failure::of(format!("exec: {name:?}: stat {name}"))(error)),
        };
    }
    let paths = program
        .env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="));
    for directory in paths
        .unwrap_or_default()
        .split(':')
        .filter(|directory| !directory.is_empty())
    {
        let path = string(&format!("{directory}/{name}"))?;
        if check(&path).is_ok() {
            return Ok(path);
        }
    }
    Err(Failure::new(format!(
        "exec: {name:?}: executable file not found in $PATH"
    )))
}

fn check(path: &CStr) -> io::Result<()> {
    let file = nix::sys::stat::stat(path)?;
    match file.st_mode & libc::S_IFMT {
        libc::S_IFDIR => Err(Errno::EISDIR.into()),
        _ => Ok(nix::unistd::eaccess(path, nix::unistd::AccessFlags::X_OK)?),
    }
}
