//! Lets a created container go without running the runtime again.
//!
//! After `create` the container's process waits at `exec.fifo` in its state directory. That is an internal of each
//! runtime, so it is done only for those known by what `--version` says:
//!
//! * **runc** (libcontainer/standard_init_linux.go): the process opens the FIFO for writing, which waits for a reader,
//!   and writes a byte. Whoever starts it reads the byte and removes the FIFO.
//! * **crun** (src/libcrun/status.c): the process waits for a byte to read. Whoever starts it writes one and removes
//!   the FIFO.
//!
//! Both take the FIFO's presence for "created". Neither this nor the processes run `poststart` hooks: a container that
//! has any needs the runtime's `start`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::invoke::Run;
use super::{Error, Runtime};
use crate::sys::children::Children;
use crate::sys::process::Handle;
use crate::sys::spawn;

/// How long `--version` may take.
/// How long a FIFO is held after our death: its process is about to write into it.
const HOLD: Duration = Duration::from_secs(2);
const VERSION: Duration = Duration::from_secs(10);

/// A runtime whose FIFO is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    Runc,
    Crun,
}

/// A binary as it was when it was asked: its path, device, inode, size, and when it was changed.
type Identity = (PathBuf, u64, u64, u64, i64);

/// What was learnt of binaries. There are one or two.
static KNOWN: Mutex<Vec<(Identity, Option<Flavour>)>> = Mutex::new(Vec::new());

impl Runtime {
    /// Starts a created container whose process is `init`. `false` when that takes the runtime's own `start`: the
    /// runtime is another than runc and crun, or the container is not one that waits.
    pub fn release(&self, children: &Children, id: &str, init: &Handle) -> Result<bool, Error> {
        let Some(flavour) = self.flavour(children) else {
            return Ok(false);
        };
        let path = self.root.join(id).join("exec.fifo");
        let released = match flavour {
            Flavour::Runc => take_byte(children, &path, init, self.patience),
            Flavour::Crun => give_byte(&path),
        };
        let verb = "start";
        match released {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Error::Hung {
                verb,
                binary: "the container's init".to_owned(),
                patience: self.patience,
            }),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::Refused {
                verb,
                reason: "container process is already dead".to_owned(),
            }),
            Err(source) => Err(Error::Io {
                verb,
                what: "cannot let the container's process go",
                source,
            }),
        }
    }

    /// Whether the process `init` of a created container still waits for its start. The FIFO alone does not say so: a
    /// start that was cut off may have left it.
    pub fn is_waiting(&self, id: &str, init: u32) -> bool {
        let name = fs::read_to_string(format!("/proc/{init}/comm")).unwrap_or_default();
        // What runc calls its process until that becomes the container's (nsexec.c); crun's keeps its program's name.
        let is_runtimes = name.starts_with("runc:[") || name.trim_end() == "crun";
        is_runtimes && self.root.join(id).join("exec.fifo").exists()
    }

    pub(super) fn flavour(&self, children: &Children) -> Option<Flavour> {
        let identity = identity(self.resolve())?;
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, flavour)) = known.iter().find(|(known, _)| *known == identity) {
            return *flavour;
        }
        drop(known);
        let mut run = Run::new(identity.0.clone(), "version", Path::new("/"));
        run.arg("--version");
        // A failure may pass, and is not remembered.
        let words = run.finish(children, VERSION.min(self.patience)).ok()?;
        let flavour = read_version(&words);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(known, _)| known.0 != identity.0);
        known.push((identity, flavour));
        flavour
    }
}

fn identity(path: PathBuf) -> Option<Identity> {
    let meta = fs::metadata(&path).ok()?;
    Some((
        path,
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.ctime_nsec() ^ meta.ctime(),
    ))
}

/// `runc version 1.1.5`, `crun version 1.21`.
fn read_version(words: &str) -> Option<Flavour> {
    let mut first = words.lines().next()?.split_whitespace();
    match (first.next()?, first.next()?) {
        ("runc", "version") => Some(Flavour::Runc),
        ("crun", "version") => Some(Flavour::Crun),
        _ => None,
    }
}

/// runc's way. Held open for both reading and writing, the FIFO blocks nobody: not us while the process is not there
/// yet, and it does not end while the process is between opening and writing. A helper holds it, too: should we be
/// killed just then, the process would meet a FIFO that nobody reads, and give up.
fn take_byte(children: &Children, path: &Path, init: &Handle, patience: Duration) -> io::Result<()> {
    if !path.exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let holder = children.start(|| spawn::holder(path, HOLD))?;
    let taken = open(path, true).and_then(|fifo| wait_and_take(fifo, path, init, Instant::now() + patience));
    holder.kill();
    taken
}

fn wait_and_take(mut fifo: File, path: &Path, init: &Handle, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut polled = [
            PollFd::new(fifo.as_fd(), PollFlags::POLLIN),
            PollFd::new(init.as_fd(), PollFlags::POLLIN),
        ];
        let patience = PollTimeout::try_from(left.as_millis().min(60_000)).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut polled, patience) {
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(0) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) => continue,
            Ok(_) => {}
        }
        return match fifo.read(&mut [0; 8]) {
            Ok(_) => fs::remove_file(path),
            // It was the process that was ready: dead, and no word of its start.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::BrokenPipe.into()),
            Err(error) => Err(error),
        };
    }
}

/// crun's way.
fn give_byte(path: &Path) -> io::Result<()> {
    // ENXIO: nobody reads.
    let dead = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENXIO) => io::ErrorKind::BrokenPipe.into(),
        _ => error,
    };
    open(path, false).map_err(dead)?.write_all(&[0])?;
    fs::remove_file(path)
}

fn open(path: &Path, read: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let fifo = options.read(read).write(true).custom_flags(flags).open(path)?;
    if !fifo.metadata()?.file_type().is_fifo() {
        return Err(io::Error::other("exec.fifo is no FIFO"));
    }
    Ok(fifo)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_runc_and_crun_are_known_by_their_versions() {
        let runc = "runc version 1.1.5+ds1\ncommit: 1.1.5\nspec: 1.0.2-dev\n";
        assert_eq!(read_version(runc), Some(Flavour::Runc));
        let crun = "crun version 1.21\ncommit: 10269840aa07fb7e6b7e1acff6198692d8ff5c88\n";
        assert_eq!(read_version(crun), Some(Flavour::Crun));
        for other in ["youki version 0.5", "runsc version release-2024", "runc", "", "\n\n"] {
            assert_eq!(read_version(other), None, "{other}");
        }
    }

    /// crun does not start everywhere, so a shell stands for its process.
    #[test]
    fn a_process_that_waits_as_cruns_does_is_let_go_and_a_dead_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exec.fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let dead = give_byte(&path).unwrap_err();
        assert_eq!(dead.kind(), io::ErrorKind::BrokenPipe);
        let script = r#"exec 3<>"$0"; echo; head -c 1 <&3 | wc -c"#;
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(&path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut [0]).unwrap();
        give_byte(&path).unwrap();
        let mut count = String::new();
        output.read_to_string(&mut count).unwrap();
        assert_eq!(count.trim(), "1");
        assert!(child.wait().unwrap().success() && !path.exists());
    }

    #[test]
    fn a_process_that_died_before_it_came_to_its_fifo_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exec.fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let init = Handle::open(child.id()).unwrap();
        let children = Children::default();
        let late = take_byte(&children, &path, &init, Duration::from_millis(30)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        child.kill().unwrap();
        let begin = Instant::now();
        let dead = take_byte(&children, &path, &init, Duration::from_secs(20)).unwrap_err();
        assert_eq!(dead.kind(), io::ErrorKind::BrokenPipe);
        assert!(begin.elapsed() < Duration::from_secs(5));
        child.wait().unwrap();
    }
}
