//! A logging program (containerd's `binary://`): it reads the container's standard output and error at its
//! descriptors 3 and 4, and says by closing 5 (or writing to it) that it is ready.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::uri::{OWN, Program};
use super::{Error, Streams, own};
use crate::sys::children::{Children, Helper};
use crate::sys::spawn;

/// How long a program may take to be ready.
const READY_MS: u16 = 10_000;

/// How long a program may take after the end of its input, and after SIGTERM.
const FINISH: Duration = Duration::from_secs(2);
const TERMINATE: Duration = Duration::from_secs(10);

/// A logging program that runs.
#[derive(Debug)]
pub struct Logger {
    helper: Helper,
}

impl Logger {
    /// Starts it, and answers the ends to write to: standard output and error. Nobody else here holds them, so that
    /// the program sees the end when the container's processes are gone.
    pub(super) fn start(
        children: &Children,
        program: &Program,
        streams: &Streams<'_>,
    ) -> Result<(Self, [File; 2]), Error> {
        let failed = |source| Error::Logger {
            path: program.path.clone(),
            source,
        };
        let (stdout, out) = pipe(streams).map_err(failed)?;
        let (stderr, err) = pipe(streams).map_err(failed)?;
        let (mut ready, tell) = io::pipe().map_err(failed)?;
        let env = [streams.id, streams.namespace];
        let env = OWN
            .iter()
            .zip(env)
            .map(|(name, value)| OsString::from(format!("{name}={value}")));
        let start = spawn::Program {
            path: &program.path,
            name: program.path.as_os_str(),
            args: &program.args,
            env: &env.chain(program.env.iter().cloned()).collect::<Vec<_>>(),
            fds: &[stdout.as_fd(), stderr.as_fd(), tell.as_fd()],
        };
        let helper = children.start(|| spawn::with_descriptors(&start)).map_err(failed)?;
        drop((stdout, stderr, tell));
        let logger = Self { helper };
        let mut poll = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
        if !matches!(nix::poll::poll(&mut poll, PollTimeout::from(READY_MS)), Ok(1)) {
            logger.abandon();
            return Err(Error::Unready(PathBuf::from(&program.path)));
        }
        // A byte or the end: both are yes.
        let _ = ready.read(&mut [0]);
        Ok((logger, [out, err]))
    }

    /// Its pid, and its exit code if it has ended: what [`Logger::inherit`] needs.
    pub(super) fn pack(&self) -> (u32, Option<i32>) {
        (self.helper.pid(), self.helper.code())
    }

    /// One that the program before this one started.
    pub(super) fn inherit(children: &Children, pid: u32, code: Option<i32>) -> Self {
        Self {
            helper: children.inherit(pid, code),
        }
    }

    /// Its input has ended: waits for it, then asks it to end, then makes it.
    pub(super) fn finish(&self) {
        if self.helper.wait(FINISH).is_ok() {
            return;
        }
        self.helper.terminate();
        if self.helper.wait(TERMINATE).is_err() {
            self.helper.kill();
        }
    }

    /// There is nothing to log.
    pub(super) fn abandon(&self) {
        self.helper.kill();
    }
}

fn pipe(streams: &Streams<'_>) -> io::Result<(File, File)> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let write = File::from(write);
    own(&write, streams)?;
    Ok((read.into(), write))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;

    /// A logging program that is a shell script, given what a container writes, and reaped.
    fn log(script: &str, write: impl FnOnce([File; 2])) -> Result<(), Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logger");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let children = Children::default();
        let done = AtomicBool::new(false);
        let streams = Streams {
            id: "container",
            namespace: "tests",
            stdin: "",
            stdout: "",
            stderr: "",
            uid: 0,
            gid: 0,
        };
        let program = Program {
            path,
            args: vec![dir.path().join("log").into()],
            env: vec!["LEVEL=debug".into()],
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    children.next_dead().unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let result = Logger::start(&children, &program, &streams).map(|(logger, pipes)| {
                write(pipes);
                logger.finish();
            });
            done.store(true, Ordering::Relaxed);
            let text = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            if result.is_ok() {
                assert_eq!(text, "container tests debug\nto stdout\nto stderr\n");
            }
            result
        })
    }

    #[test]
    fn a_logging_program_gets_both_outputs_and_is_waited_for() {
        let script =
            r#"exec > $1; echo $CONTAINER_ID $CONTAINER_NAMESPACE $LEVEL; exec 5>&-; cat <&3; sleep 0.2; cat <&4"#;
        log(script, |[mut out, mut err]| {
            out.write_all(b"to stdout\n").unwrap();
            err.write_all(b"to stderr\n").unwrap();
        })
        .unwrap();
    }

    #[test]
    fn a_logging_program_that_does_not_start_is_told() {
        let begin = Instant::now();
        let missing = Program {
            path: "/nonexistent/logger".into(),
            ..Program::default()
        };
        let streams = Streams {
            id: "",
            namespace: "",
            stdin: "",
            stdout: "",
            stderr: "",
            uid: 0,
            gid: 0,
        };
        let error = Logger::start(&Children::default(), &missing, &streams).unwrap_err();
        assert!(error.to_string().starts_with("cannot start the logging program"));
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}
