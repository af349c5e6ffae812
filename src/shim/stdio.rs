//! What a container's standard streams are, as Create and Exec name them.
//!
//! | name | what the container gets |
//! |---|---|
//! | empty | `/dev/null` |
//! | a path, `fifo://PATH` | the FIFO itself: this process does not stand between, and its death loses nothing. A file is appended to |
//! | `file://PATH` | that file, made if it is missing, appended to |
//! | `binary://PATH?key=value` | pipes to a logging program that is started now ([`logger`]) |
//!
//! The names of standard output decide for both outputs where it is a file or a program, as with the stock shim
//! (containerd, pkg/process/io.go). Nothing but `file://` makes what it names: a missing path is an error.
//!
//! A FIFO for output is opened for reading, too, so that no reader's death gives the container SIGPIPE. The one for
//! input is opened for reading alone, and a writer is kept here until CloseIO: then the container sees the end once its
//! last other writer has left.

mod logger;
mod uri;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};

pub use self::logger::Logger;
use self::uri::Uri;
use super::handover::{Bag, Fd};
use crate::sys::children::Children;

/// What a request says of a process's streams.
#[derive(Debug, Clone, Copy)]
pub struct Streams<'a> {
    /// The container, and containerd's namespace: a logging program is told.
    pub id: &'a str,
    pub namespace: &'a str,
    pub stdin: &'a str,
    pub stdout: &'a str,
    pub stderr: &'a str,
    /// Who owns the FIFOs and pipes (io_uid and io_gid of the runtime's options); 0 leaves them as they are. The
    /// runtime itself gives them to the process's user.
    pub uid: u32,
    pub gid: u32,
}

/// The ends of a process, ready for the runtime, and what stays here.
#[derive(Debug)]
pub struct Opened {
    pub ends: [OwnedFd; 3],
    pub kept: Kept,
}

/// What stays here of a process's streams.
#[derive(Debug, Default)]
pub struct Kept {
    stdin: Option<OwnedFd>,
    logger: Option<Logger>,
}

/// What was kept by the program before this one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handed {
    stdin: Option<Fd>,
    logger: Option<(u32, Option<i32>)>,
}

impl Handed {
    /// To be called before the first child is reaped.
    pub fn unpack(self, children: &Children) -> io::Result<Kept> {
        let logger = self.logger.map(|(pid, code)| Logger::inherit(children, pid, code));
        Ok(Kept {
            stdin: self.stdin.map(Fd::take).transpose()?,
            logger,
        })
    }
}

/// The far ends of a terminal, for [`super::console`]. None of them ever waits.
#[derive(Debug, Default)]
pub struct Terminal {
    pub stdin: Option<File>,
    pub stdout: Option<File>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unknown scheme {0:?} of a stream")]
    Scheme(String),
    #[error("cannot open {what} {path:?}")]
    Open {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot start the logging program {path:?}")]
    Logger { path: PathBuf, source: io::Error },
    #[error("the logging program {0:?} was not ready in time")]
    Unready(PathBuf),
}

/// Opens the streams of a process without a terminal. Starts a logging program where one is named, and waits, bounded,
/// until it is ready.
pub fn open(children: &Children, streams: &Streams<'_>) -> Result<Opened, Error> {
    let (stdin, writer) = input(streams)?;
    let mut kept = Kept {
        stdin: writer,
        logger: None,
    };
    let [stdout, stderr] = match Uri::parse(streams.stdout)? {
        Uri::File(path) => {
            let file = log_file(&path)?;
            let again = file.try_clone().map_err(opening("the log", &path))?;
            [file, again]
        }
        Uri::Binary(program) => {
            let (logger, pipes) = Logger::start(children, &program, streams)?;
            kept.logger = Some(logger);
            pipes
        }
        Uri::Path(path) => [output(&path, streams)?, second(streams)?],
        Uri::None => [null()?, second(streams)?],
    };
    let ends = [stdin, stdout.into(), stderr.into()];
    Ok(Opened { ends, kept })
}

/// Opens the far ends of a terminal; it has one output. `Kept` holds a logging program where one is named.
pub fn open_terminal(children: &Children, streams: &Streams<'_>) -> Result<(Terminal, Kept), Error> {
    // First, as a logging program is not to be started in vain.
    let stdin = match streams.stdin {
        "" => None,
        path => {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
            Some(options.open(path).map_err(opening("stdin", Path::new(path)))?)
        }
    };
    let mut kept = Kept::default();
    let stdout = match Uri::parse(streams.stdout)? {
        Uri::None => None,
        Uri::Path(path) => Some(output(&path, streams)?),
        Uri::File(path) => Some(log_file(&path)?),
        Uri::Binary(program) => {
            let (logger, [stdout, _]) = Logger::start(children, &program, streams)?;
            kept.logger = Some(logger);
            Some(stdout)
        }
    };
    let unblocked = |file: &File| block(file, false);
    let path = Path::new(streams.stdout);
    stdout
        .as_ref()
        .map_or(Ok(()), unblocked)
        .map_err(opening("stdout", path))?;
    Ok((Terminal { stdin, stdout }, kept))
}

impl Kept {
    /// For a process that another shim process started: takes hold of its standard input again.
    pub fn adopt(stdin: &str) -> Self {
        let writer = (!stdin.is_empty()).then(|| writer(Path::new(stdin)).ok()).flatten();
        Self {
            stdin: writer,
            logger: None,
        }
    }

    /// For another program that goes on with the process.
    pub fn pack(&self, bag: &mut Bag) -> io::Result<Handed> {
        Ok(Handed {
            stdin: bag.put_some(self.stdin.as_ref())?,
            logger: self.logger.as_ref().map(Logger::pack),
        })
    }

    /// CloseIO. Done already is fine.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Whether a logging program is to be waited for.
    pub fn has_logger(&self) -> bool {
        self.logger.is_some()
    }

    /// The process has ended and all its ends are closed: waits, bounded, for its logging program to write what it
    /// still has, and ends it.
    pub fn finish(self) {
        if let Some(logger) = self.logger {
            logger.finish();
        }
    }

    /// There is no process after all.
    pub fn abandon(self) {
        if let Some(logger) = self.logger {
            logger.abandon();
        }
    }
}

/// Standard input, and the writer that keeps it open.
fn input(streams: &Streams<'_>) -> Result<(OwnedFd, Option<OwnedFd>), Error> {
    if streams.stdin.is_empty() {
        return Ok((null()?.into(), None));
    }
    let path = Path::new(streams.stdin);
    let open = || {
        // Opened so, a FIFO does not wait for a writer; the reads are to wait.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        block(&file, true)?;
        let writer = match is_fifo(&file)? {
            true => Some(writer(path)?),
            false => None,
        };
        own(&file, streams)?;
        Ok((file.into(), writer))
    };
    open().map_err(opening("stdin", path))
}

/// A writer of a FIFO that has a reader.
fn writer(path: &Path) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    Ok(options.write(true).custom_flags(libc::O_NONBLOCK).open(path)?.into())
}

/// Standard error, which says where by itself only when it is a path.
fn second(streams: &Streams<'_>) -> Result<File, Error> {
    match Uri::parse(streams.stderr)? {
        Uri::Path(path) => output(&path, streams),
        Uri::File(path) => log_file(&path),
        Uri::None | Uri::Binary(_) => null(),
    }
}

/// A FIFO, or a file to be appended to.
fn output(path: &Path, streams: &Streams<'_>) -> Result<File, Error> {
    let open = || {
        let fifo = fs::metadata(path)?.file_type().is_fifo();
        let file = OpenOptions::new().read(fifo).write(fifo).append(!fifo).open(path)?;
        own(&file, streams)?;
        Ok(file)
    };
    open().map_err(opening("an output", path))
}

fn log_file(path: &Path) -> Result<File, Error> {
    let open = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        OpenOptions::new().append(true).create(true).mode(0o644).open(path)
    };
    open().map_err(opening("the log", path))
}

fn null() -> Result<File, Error> {
    let path = Path::new("/dev/null");
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map_err(opening("", path))
}

fn own(file: &File, streams: &Streams<'_>) -> io::Result<()> {
    let some = |id: u32| (id != 0).then_some(id);
    match (some(streams.uid), some(streams.gid)) {
        (None, None) => Ok(()),
        (uid, gid) => fchown(file, uid, gid),
    }
}

fn is_fifo(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.file_type().is_fifo())
}

/// Whether reads and writes are to wait.
fn block(file: impl AsFd, wait: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(file.as_fd(), FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, !wait);
    fcntl(file.as_fd(), FcntlArg::F_SETFL(flags))?;
    Ok(())
}

fn opening<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |source| Error::Open {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use nix::sys::stat::Mode;

    use super::*;

    fn streams<'a>(stdin: &'a str, stdout: &'a str, stderr: &'a str) -> Streams<'a> {
        Streams {
            id: "container",
            namespace: "tests",
            stdin,
            stdout,
            stderr,
            uid: 0,
            gid: 0,
        }
    }

    fn fifo(dir: &Path, name: &str) -> String {
        let path = dir.join(name);
        nix::unistd::mkfifo(&path, Mode::from_bits_retain(0o700)).unwrap();
        path.into_os_string().into_string().unwrap()
    }

    fn waits(fd: &OwnedFd) -> bool {
        !OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK)
    }

    #[test]
    fn streams_without_names_are_null() {
        let opened = open(&Children::default(), &streams("", "", "")).unwrap();
        for end in &opened.ends {
            let path = fs::read_link(format!("/proc/self/fd/{}", end.as_raw_fd())).unwrap();
            assert_eq!(path, Path::new("/dev/null"));
        }
        assert!(opened.kept.stdin.is_none() && opened.kept.logger.is_none());
    }

    #[test]
    fn fifos_are_given_as_they_are_and_nobody_waits_for_their_other_ends() {
        let dir = tempfile::tempdir().unwrap();
        let [stdin, stdout, stderr] = ["in", "out", "err"].map(|name| fifo(dir.path(), name));
        let streams = Streams {
            uid: 12,
            gid: 34,
            ..streams(&stdin, &stdout, &stderr)
        };
        let mut opened = open(&Children::default(), &streams).unwrap();
        assert!(opened.ends.iter().all(waits), "the container's ends wait");
        let meta = fs::metadata(&stdout).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12, 34));

        let [input, output, _] = opened.ends;
        let mut output = File::from(output);
        output.write_all(b"nobody reads yet").unwrap();
        let mut reader = File::open(&stdout).unwrap();
        let mut text = [0; 16];
        reader.read_exact(&mut text).unwrap();
        drop(reader);
        output.write_all(b"and no SIGPIPE").unwrap();

        fs::write(&stdin, b"hello").unwrap();
        block(&input, false).unwrap();
        let mut input = File::from(input);
        assert_eq!(input.read(&mut text).unwrap(), 5);
        let open = input.read(&mut text).unwrap_err();
        assert_eq!(open.kind(), io::ErrorKind::WouldBlock, "the writer left, ours did not");
        opened.kept.close_stdin();
        assert_eq!(input.read(&mut text).unwrap(), 0);
        let kept = Kept::adopt(&stdin);
        assert!(kept.stdin.is_some() && input.read(&mut text).is_err());
    }

    #[test]
    fn a_file_is_made_with_its_directory_and_takes_both_outputs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a dir/log");
        let uri = format!("file://{}/a%20dir/log", dir.path().display());
        for text in ["one\n", "two\n"] {
            let opened = open(&Children::default(), &streams("", &uri, &uri)).unwrap();
            let [_, stdout, stderr] = opened.ends;
            File::from(stdout).write_all(text.as_bytes()).unwrap();
            File::from(stderr).write_all(b"error\n").unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\nerror\ntwo\nerror\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        let plain = path.to_str().unwrap();
        let opened = open(&Children::default(), &streams("", plain, "")).unwrap();
        File::from(opened.ends.into_iter().nth(1).unwrap())
            .write_all(b"three\n")
            .unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("error\nthree\n"));
    }

    #[test]
    fn what_is_missing_or_unknown_is_an_error_and_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing").into_os_string().into_string().unwrap();
        let children = Children::default();
        let error = open(&children, &streams("", &missing, "")).unwrap_err();
        assert!(matches!(error, Error::Open { what: "an output", .. }));
        assert!(open(&children, &streams(&missing, "", "")).is_err());
        assert!(open_terminal(&children, &streams(&missing, "", "")).is_err());
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
        let error = open(&children, &streams("", "ftp://host/log", "")).unwrap_err();
        assert_eq!(error.to_string(), "unknown scheme \"ftp\" of a stream");
    }
}
