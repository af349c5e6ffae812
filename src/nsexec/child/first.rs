//! The first child: reads the request and joins the container.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::{Given, second};
use crate::nsexec::leaf;
use crate::nsexec::program::{Limit, Program};
use crate::nsexec::request::{self, Failure, Request};
use crate::nsexec::seccomp::INSTRUCTION;
use crate::sys::process::Handle;
use crate::sys::{fds, fork};

/// The longest /etc/passwd that a home directory is looked up in.
const MAX_PASSWD: u64 = 1 << 20;
/// The longest filter: the kernel takes 4096 instructions (BPF_MAXINSNS).
const MAX_FILTER: u64 = 4096 * INSTRUCTION as u64;

/// `CLONE_NEWTIME` of sched.h.
const TIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// By their names in /proc/<pid>/ns.
const NAMESPACES: [(&str, CloneFlags); 8] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("time", TIME),
];

/// Joins, and gives the program's pid once it runs.
pub fn run(given: &Given<'_>, fds: Vec<OwnedFd>) -> Result<u32, Failure> {
    let mut kept: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    kept.extend([given.init.as_fd().as_raw_fd(), given.report.as_raw_fd()]);
    // Nothing is to be opened where the program's standard descriptors will be.
    kept.extend(0..3);
    kept.extend(given.leaf.map(|leaf| leaf.as_raw_fd()));
    // SAFETY: this process has just been forked and ends without dropping what it inherited.
    unsafe { fds::close_all_but(&kept) }.map_err(Failure::of("cannot close descriptors"))?;
    // A helper that was killed has nobody who would hear of the program.
    set_pdeathsig(Signal::SIGKILL).map_err(Failure::of("cannot ask for the helper's end"))?;
    let read = request::read(given.message, fds);
    let (request, mut fds) = read.map_err(Failure::of("cannot read the request"))?;
    let filter = filter(&request, &mut fds)?;
    let stdio = stdio(&request, fds)?;
    let Request {
        mut program,
        groups,
        freezer,
        filter_flags,
    } = request;
    label(&program)?;
    if let Some(score) = program.oom_score_adj {
        write(Path::new("/proc/self/oom_score_adj"), &score.to_string())
            .map_err(Failure::of("cannot set the OOM score"))?;
    }
    refuse_frozen(freezer.as_deref())?;
    for group in &groups {
        // Alone in its process a thread may move by `tasks`, which is spared the wait for others that `cgroup.procs`
        // means.
        write(&group.join("tasks"), "0").map_err(Failure::of("cannot join the container's control groups"))?;
    }
    if let Some(leaf) = given.leaf {
        leaf::write(leaf, c"tasks", b"0").map_err(Failure::of("cannot join the command's control group"))?;
    }
    join(given.init, given.namespaces, program.user_namespace)?;
    if !program
        .env
        .iter()
        .any(|variable| variable.strip_prefix("HOME=").is_some_and(|home| !home.is_empty()))
    {
        program.env.retain(|variable| !variable.starts_with("HOME="));
        program.env.push(format!("HOME={}", home(program.uid)));
    }
    set_limits(&program.limits, given.files)?;
    let mut failure = None;
    let second = second::Second {
        program: &program,
        stdio: stdio.as_ref().map(|stdio| stdio.each_ref().map(AsFd::as_fd)),
        filter: filter.as_deref().zip(filter_flags),
        report: given.report.as_fd(),
    };
    // SAFETY: this process has one thread, and the second one writes nothing but `failure` for us to find.
    let pid = unsafe { fork::spawn_sibling(&mut |pid| failure = Some(second.become_program(pid))) };
    let pid = pid.map_err(Failure::of("cannot fork into the container"))?;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(pid),
    }
}

fn filter(request: &Request, fds: &mut Vec<OwnedFd>) -> Result<Option<Vec<u8>>, Failure> {
    if request.filter_flags.is_none() {
        return Ok(None);
    }
    let file = fds
        .pop()
        .ok_or_else(|| Failure::new("the request has no seccomp filter"))?;
    let file = File::from(file);
    let size = file
        .metadata()
        .map_err(Failure::of("cannot read the seccomp filter"))?
        .len();
    let mut filter = vec![0; usize::try_from(size.min(MAX_FILTER)).unwrap_or_default()];
    // Without its offset: others read the same file.
    file.read_exact_at(&mut filter, 0)
        .map_err(Failure::of("cannot read the seccomp filter"))?;
    Ok(Some(filter))
}

fn stdio(request: &Request, fds: Vec<OwnedFd>) -> Result<Option<[OwnedFd; 3]>, Failure> {
    match (&request.program.terminal, <[OwnedFd; 3]>::try_from(fds)) {
        (None, Ok(stdio)) => Ok(Some(stdio)),
        (Some(_), Err(none)) if none.is_empty() => Ok(None),
        _ => Err(Failure::new("the request has other descriptors than it says")),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// What the security modules are to make of the program when it is executed. By the node's /proc: the container's
/// might be anything. What is set is inherited.
fn label(program: &Program) -> Result<(), Failure> {
    if let Some(profile) = &program.apparmor {
        let own = Path::new("/proc/self/attr/apparmor/exec");
        let path = if own.exists() {
            own
        } else {
            Path::new("/proc/self/attr/exec")
        };
        write(path, &format!("exec {profile}")).map_err(Failure::of("cannot set the AppArmor profile"))?;
    }
    if let Some(label) = &program.selinux {
        let set = |name: &str| write(&Path::new("/proc/self/attr").join(name), label);
        set("keycreate")
            .and_then(|()| set("exec"))
            .map_err(Failure::of("cannot set the SELinux label"))?;
    }
    Ok(())
}

/// Who joins a frozen group is frozen, too.
fn refuse_frozen(freezer: Option<&Path>) -> Result<(), Failure> {
    let state = freezer.map(|freezer| fs::read_to_string(freezer.join("freezer.state")));
    match state {
        Some(Ok(state)) if state.trim() != "THAWED" => Err(Failure::new("the container is paused")),
        _ => Ok(()),
    }
}

/// The kinds of namespaces that this kernel has. Of those that were built out (CONFIG_TIME_NS) there is no file.
pub fn kinds() -> CloneFlags {
    let there = NAMESPACES
        .iter()
        .filter(|(name, _)| Path::new("/proc/self/ns").join(name).exists());
    there.fold(CloneFlags::empty(), |kinds, (_, flag)| kinds | *flag)
}

/// Joins the namespaces of the container's first process, also those that are the node's, which changes nothing. But
/// nobody can join the user namespace that he is in.
fn join(init: &Handle, kinds: CloneFlags, user: bool) -> Result<(), Failure> {
    let user = match user {
        true => kinds & CloneFlags::CLONE_NEWUSER,
        false => CloneFlags::empty(),
    };
    let others = kinds - CloneFlags::CLONE_NEWUSER;
    let joined = match setns(init, others | user) {
        // Namespaces that are not the user namespace's own have to be joined with the node's power.
        Err(Errno::EPERM) if !user.is_empty() => setns(init, others).and_then(|()| setns(init, user)),
        joined => joined,
    };
    joined.map_err(|error| match error {
        Errno::ESRCH => Failure::new("the container has ended"),
        error => Failure::of("cannot join the container's namespaces")(error),
    })
}

/// The home directory of a user, by the container's /etc/passwd (passwd(5)), of which nothing is believed.
fn home(uid: u32) -> String {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open("/etc/passwd");
    let mut text = Vec::new();
    if let Ok(file) = opened
        && file.metadata().is_ok_and(|file| file.is_file())
    {
        file.take(MAX_PASSWD).read_to_end(&mut text).ok();
    }
    home_in(&String::from_utf8_lossy(&text), uid).unwrap_or_else(|| "/".to_owned())
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let found = fields.next()?.parse() == Ok(uid);
        let home = fields.nth(2)?;
        found.then(|| home.to_owned())
    })
}

fn set_limits(limits: &[Limit], files: u64) -> Result<(), Failure> {
    // The helper's own is higher than what it was started with.
    let (_, hard) = get_limit(libc::RLIMIT_NOFILE);
    set_limit(libc::RLIMIT_NOFILE, files, hard).ok();
    for limit in limits {
        set_limit(limit.resource, limit.soft, limit.hard).map_err(Failure::of("cannot set a resource limit"))?;
    }
    Ok(())
}

fn get_limit(resource: libc::__rlimit_resource_t) -> (u64, u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the call writes one rlimit, ours.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    (limit.rlim_cur, limit.rlim_max)
}

fn set_limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the call reads one rlimit, ours.
    Errno::result(unsafe { libc::setrlimit(resource, &raw const limit) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_that_of_the_first_line_with_the_uid() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\na:b:c\nuser:x:7:7::/home/user:\nother:x:7:7::/other:\n";
        assert_eq!(home_in(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd, 7).as_deref(), Some("/home/user"));
        assert_eq!(home_in(passwd, 8), None);
    }
}
