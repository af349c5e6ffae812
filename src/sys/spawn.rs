//! Processes that are to outlive us, and processes that are given descriptors.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};

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

/// Gives the process that `command` starts another soft limit of open files (RLIMIT_NOFILE, setrlimit(2)) than ours, for
/// programs that would not know what to do with thousands.
pub fn limit_files(command: &mut Command, soft: u64) -> io::Result<&mut Command> {
    let (_, rlim_max) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = libc::rlimit {
        rlim_cur: soft.min(rlim_max),
        rlim_max,
    };
    // SAFETY: between fork and exec only setrlimit(2) is called, which is async-signal-safe and reads the closure's copy.
    let command = unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    };
    Ok(command)
}

/// The same for a process that runs already (prlimit(2)).
pub fn limit_files_of(pid: u32, soft: u64) -> io::Result<()> {
    let (_, rlim_max) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = libc::rlimit {
        rlim_cur: soft.min(rlim_max),
        rlim_max,
    };
    let none = std::ptr::null_mut();
    // SAFETY: the call reads one rlimit, ours, and writes none.
    let answer = unsafe { libc::prlimit(pid.cast_signed(), libc::RLIMIT_NOFILE, &raw const limit, none) };
    Ok(Errno::result(answer).map(drop)?)
}

/// A program to be given descriptors beyond the standard three, which are `/dev/null`.
#[derive(Debug)]
pub struct Program<'a> {
    pub path: &'a Path,
    /// What it is called, its first word.
    pub name: &'a OsStr,
    pub args: &'a [OsString],
    /// Lines of `NAME=value`: the whole environment.
    pub env: &'a [OsString],
    /// They become 3, 4 and so on.
    pub fds: &'a [BorrowedFd<'a>],
}

/// Starts a program and answers its pid (posix_spawn(3)). It blocks no signals, whatever we do. All other descriptors
/// should be close-on-exec.
pub fn with_descriptors(program: &Program<'_>) -> io::Result<u32> {
    let path = string(program.path.as_os_str())?;
    let strings = |texts: &[OsString]| texts.iter().map(|text| string(text)).collect::<io::Result<Vec<_>>>();
    let (name, args, env) = (string(program.name)?, strings(program.args)?, strings(program.env)?);
    let pointers = |strings: &[CString]| {
        let all = strings.iter().map(|text| text.as_ptr().cast_mut());
        all.chain([std::ptr::null_mut()]).collect::<Vec<_>>()
    };
    let argv = [&[name.as_ptr().cast_mut()], &pointers(&args)[..]].concat();
    let envp = pointers(&env);
    let above = high(program.fds)?;
    let mut actions = Actions::new()?;
    for fd in 0..3 {
        actions.open_null(fd)?;
    }
    for (target, fd) in (3..).zip(&above) {
        actions.dup(fd.as_raw_fd(), target)?;
    }
    let attributes = Attributes::signals_as_new()?;
    let (actions, attributes) = (&raw const actions.0, &raw const attributes.0);
    let (argv, envp) = (argv.as_ptr(), envp.as_ptr());
    let mut pid = 0;
    // SAFETY: the strings, the arrays of pointers to them, which end with null, the actions and the attributes outlive
    // the call.
    let error = unsafe { libc::posix_spawn(&raw mut pid, path.as_ptr(), actions, attributes, argv, envp) };
    check(error)?;
    u32::try_from(pid).map_err(io::Error::other)
}

fn string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

/// Copies of descriptors that stand above all numbers that will be given away, and are close-on-exec.
fn high(fds: &[BorrowedFd<'_>]) -> io::Result<Vec<OwnedFd>> {
    let least = 3 + libc::c_int::try_from(fds.len()).map_err(io::Error::other)?;
    let copy = |fd: &BorrowedFd<'_>| {
        let fd = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(least))?;
        // SAFETY: the kernel has just given it to us, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    fds.iter().map(copy).collect()
}

/// Starts a process that opens the FIFO at `path` for reading and writing, and holds it, and nothing else of ours, until
/// it is killed or `patience` is over: should we be killed meanwhile, nobody finds it closed. Answers its pid.
pub fn holder(path: &Path, patience: Duration) -> io::Result<u32> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let timeout = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the child makes only system calls, which are async-signal-safe, touches no memory but its own copies of
    // `path` and of its stack, and ends without returning.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => unsafe {
            libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
            let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOFOLLOW;
            if libc::open(path.as_ptr(), flags) >= 0 {
                libc::poll(std::ptr::null_mut(), 0, timeout);
            }
            libc::_exit(0)
        },
        pid => Ok(pid.cast_unsigned()),
    }
}

/// What posix_spawn(3) does with descriptors in the child.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: it initializes what it is given, and that is read only if it succeeded.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: see above.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn open_null(&mut self, fd: libc::c_int) -> io::Result<()> {
        // SAFETY: the actions are initialized, and the path is copied.
        check(unsafe {
            libc::posix_spawn_file_actions_addopen(&raw mut self.0, fd, c"/dev/null".as_ptr(), libc::O_RDWR, 0)
        })
    }

    fn dup(&mut self, from: libc::c_int, into: libc::c_int) -> io::Result<()> {
        // SAFETY: the actions are initialized.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, into) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: the actions are initialized, and nobody uses them any more.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// How posix_spawn(3) sets up the child otherwise.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// No signal is blocked, and SIGPIPE, which Rust's runtime ignores, kills.
    fn signals_as_new() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: it initializes what it is given, and that is read only if it succeeded.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: see above.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        let pipe = SigSet::from(Signal::SIGPIPE);
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: the attributes and both sets are initialized, and the sets are copied.
        unsafe {
            check(libc::posix_spawnattr_setsigmask(
                &raw mut attributes.0,
                SigSet::empty().as_ref(),
            ))?;
            check(libc::posix_spawnattr_setsigdefault(
                &raw mut attributes.0,
                pipe.as_ref(),
            ))?;
            check(libc::posix_spawnattr_setflags(&raw mut attributes.0, flags))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: the attributes are initialized, and nobody uses them any more.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// posix_spawn(3) and its kin answer the error.
fn check(error: libc::c_int) -> io::Result<()> {
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
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

    #[test]
    fn a_program_gets_the_soft_limit_that_it_is_given() {
        let (own, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ulimit -Sn"]);
        let output = limit_files(&mut command, 77).unwrap().output().unwrap();
        assert_eq!(output.stdout, b"77\n");
        let mut child = Command::new("/bin/sh")
            .args(["-c", "read line; ulimit -Sn"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        limit_files_of(child.id(), 78).unwrap();
        drop(child.stdin.take());
        assert_eq!(child.wait_with_output().unwrap().stdout, b"78\n");
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, own);
    }

    #[test]
    fn descriptors_are_given_at_their_places_and_the_environment_is_as_asked() {
        use std::io::Read;
        use std::os::fd::AsFd;

        let (input, mut write) = std::io::pipe().unwrap();
        let (mut read, output) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut write, b"through").unwrap();
        drop(write);
        let script =
            "cat <&3 >&4; env >&4; grep -E 'SigBlk|SigIgn' /proc/self/status >&4; readlink /proc/self/fd/0 >&4";
        let program = Program {
            path: Path::new("/bin/sh"),
            name: "sh".as_ref(),
            args: &["-c".into(), script.into()],
            env: &["NAME=value".into()],
            fds: &[input.as_fd(), output.as_fd()],
        };
        let pid = with_descriptors(&program).unwrap();
        drop((input, output));
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("through") && text.contains("NAME=value\n"), "{text}");
        let set = |name| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        assert_eq!(u64::from_str_radix(set("SigBlk:"), 16), Ok(0));
        let pipe = 1 << (libc::SIGPIPE - 1);
        assert_eq!(u64::from_str_radix(set("SigIgn:"), 16).unwrap() & pipe, 0);
        assert!(text.ends_with("/dev/null\n") && !text.contains("HOME="), "{text}");
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid.cast_signed()), None).unwrap();

        let missing = Program {
            path: Path::new("/nonexistent"),
            name: "none".as_ref(),
            args: &[],
            env: &[],
            fds: &[],
        };
        assert_eq!(with_descriptors(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
