//! One run of the runtime's binary: its command line, its log, its end.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::pipe2;
use serde::Deserialize;

use super::{Ends, Error, Make};
use crate::sys::children::Children;

/// The most of a log or of output that is read. Larger ones are a runtime gone mad.
const MOST: u64 = 256 * 1024;

/// The most characters of a runtime's own words that go into an error.
const WORDS: usize = 2048;

/// How long a killed runtime may take to be gone.
const DYING: Duration = Duration::from_secs(5);

/// A command that is being put together.
pub(super) struct Run {
    pub(super) verb: &'static str,
    binary: PathBuf,
    bundle: PathBuf,
    args: Vec<OsString>,
    input: Option<Stdio>,
    ends: Option<[Stdio; 3]>,
    log: Option<Temporary>,
}

/// A file of one run, removed with it.
pub(super) struct Temporary(PathBuf);

impl Run {
    pub(super) fn new(binary: PathBuf, verb: &'static str, bundle: &Path) -> Self {
        Self {
            verb,
            binary,
            bundle: bundle.to_owned(),
            args: Vec::new(),
            input: None,
            ends: None,
            log: None,
        }
    }

    pub(super) fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(super) fn args<A: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Has the runtime log to a file of this run's own, as runs of one container may overlap. Without a bundle it
    /// logs to its standard error.
    pub(super) fn log(&mut self) -> &mut Self {
        if self.bundle.is_dir() {
            let log = Temporary::new(&self.bundle, "runtime-log");
            self.args(["--log-format", "json", "--log"]).arg(log.path());
            self.log = Some(log);
        }
        self
    }

    /// A file for the runtime to read, for as long as what is answered lives.
    pub(super) fn file(&self, name: &str, content: &[u8]) -> Result<Temporary, Error> {
        let file = Temporary::new(&self.bundle, name);
        let write = || {
            let mut options = OpenOptions::new();
            let mut open = options.write(true).create_new(true).mode(0o600).open(file.path())?;
            open.write_all(content)
        };
        write().map_err(|source| self.io("cannot write its input", source))?;
        Ok(file)
    }

    /// What the runtime reads on standard input.
    pub(super) fn input(&mut self, content: &[u8]) -> Result<&mut Self, Error> {
        let write = || {
            let mut file = File::from(memfd_create(c"input", MFdFlags::MFD_CLOEXEC)?);
            file.write_all(content)?;
            file.rewind()?;
            io::Result::Ok(file)
        };
        let file = write().map_err(|source| self.io("cannot write its input", source))?;
        self.input = Some(file.into());
        Ok(self)
    }

    /// The ends of the process that is to be made, and where its pid is to be told.
    pub(super) fn ends(&mut self, make: &Make<'_>) -> Result<&mut Self, Error> {
        // One from a former attempt would be taken for this one's.
        let _ = fs::remove_file(make.pid_file);
        self.arg("--pid-file").arg(make.pid_file);
        match make.ends {
            Ends::Console(socket) => drop(self.arg("--console-socket").arg(socket)),
            Ends::Files(files) => {
                let dup = |fd: &OwnedFd| io::Result::Ok(Stdio::from(fd.try_clone()?));
                let all = || io::Result::Ok([dup(&files[0])?, dup(&files[1])?, dup(&files[2])?]);
                self.ends = Some(all().map_err(|source| self.io("cannot duplicate its ends", source))?);
            }
        }
        Ok(self)
    }

    /// Runs it, and waits for its end; what it wrote is answered unless its output is the container's.
    pub(super) fn finish(mut self, children: &Children, patience: Duration) -> Result<String, Error> {
        let mut command = self.command();
        let words = match self.ends.take() {
            Some([stdin, stdout, stderr]) => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
                None
            }
            None => Some(self.capture(&mut command)?),
        };
        let spawned = children.spawn(&mut command);
        drop(command);
        let helper = spawned.map_err(|source| Error::NotRun {
            verb: self.verb,
            binary: self.binary.display().to_string(),
            source,
        })?;
        let ended = helper.wait(patience);
        if ended.is_err() {
            helper.kill_family();
            let _ = helper.wait(DYING);
        }
        let words = words.map(read).unwrap_or_default();
        match ended {
            Ok(0) => Ok(words),
            Ok(code) => Err(self.failed(code, &words)),
            Err(_) => Err(Error::Hung {
                verb: self.verb,
                binary: self.binary.display().to_string(),
                patience,
            }),
        }
    }

    /// The command with an environment of its own: the runtime needs programs (criu, systemd's helpers) and, without
    /// root, its run-time directory; everything else is the container's affair.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(&self.args).env_clear();
        for name in ["PATH", "XDG_RUNTIME_DIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.current_dir(if self.bundle.is_dir() {
            &self.bundle
        } else {
            Path::new("/")
        });
        command
    }

    /// Gives the runtime a pipe for its words. One that fills it waits, and so hangs: nothing here is that long.
    fn capture(&mut self, command: &mut Command) -> Result<File, Error> {
        let open = || {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            let flags = OFlag::from_bits_retain(fcntl(&read, FcntlArg::F_GETFL)?);
            fcntl(&read, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
            io::Result::Ok((File::from(read), write.try_clone()?, write))
        };
        let (read, stdout, stderr) = open().map_err(|source| self.io("cannot make a pipe", source))?;
        let stdin = self.input.take().unwrap_or_else(Stdio::null);
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        Ok(read)
    }

    /// Why it exited with `code`: its last error in the log, or else its words.
    fn failed(&self, code: i32, words: &str) -> Error {
        let log = self.log.as_ref().and_then(|log| File::open(log.path()).ok());
        let log = log.map(read).unwrap_or_default();
        if let Some(reason) = last_error(&log).or_else(|| last_error(words)) {
            let verb = self.verb;
            return Error::Refused { verb, reason };
        }
        let status = match code {
            129.. => format!("signal {}", code - 128),
            code => format!("exit status {code}"),
        };
        // Not JSON: crun without a log, a library's complaint, a shell's.
        let words = [words, &log].map(str::trim).into_iter().find(|words| !words.is_empty());
        Error::Failed {
            verb: self.verb,
            binary: self.binary.display().to_string(),
            how: words.map_or(status.clone(), |words| format!("{status}: {}", clip(words))),
        }
    }

    fn io(&self, what: &'static str, source: io::Error) -> Error {
        let verb = self.verb;
        Error::Io { verb, what, source }
    }
}

impl Temporary {
    fn new(dir: &Path, name: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{name}.{}.{count}", std::process::id()));
        // Left by a process of our pid that was killed.
        let _ = fs::remove_file(&path);
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Whether a file may be executed by somebody.
pub(super) fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What is there, and not more than [`MOST`].
fn read(file: File) -> String {
    let mut bytes = Vec::new();
    // An empty pipe that a daemonized descendant holds open ends the reading, too.
    let _ = file.take(MOST).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The message of the last error in a log in JSON, a line each.
fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let lines = log
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let mut errors = lines.filter(|line| line.level == "error" || line.level == "fatal");
    let message = errors.next()?.msg;
    let message = message.trim();
    (!message.is_empty()).then(|| clip(message))
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(WORDS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_its_message() {
        let log = r#"{"level":"error","msg":"first","time":"t"}
not json
{"level":"error","msg":" runc create failed: no such thing\n","time":"t"}
{"level":"warning","msg":"later","time":"t"}"#;
        assert_eq!(last_error(log).as_deref(), Some("runc create failed: no such thing"));
        assert_eq!(last_error("garbage\n{}"), None);
        assert_eq!(last_error(""), None);
    }

    #[test]
    fn long_words_are_clipped_between_characters() {
        let long = "ü".repeat(WORDS + 1);
        assert_eq!(clip(&long).chars().count(), WORDS + 1);
        assert_eq!(clip("short"), "short");
    }
}
