//! Runs the OCI runtime: runc, crun, or what has their command line.
//!
//! Each verb is one run of the binary, blocks until it has ended, and has a deadline: a runtime that hangs is killed
//! with all that it started, and what it left behind is removed. Errors read as containerd's stock shim words them
//! (containerd, pkg/process/init.go), because people search for those words.
//!
//! `start` is an exception: a created container waits at a FIFO in the runtime's state directory, and to let it go
//! costs no process ([`Runtime::release`]). Nor does `delete` where nothing is left but that directory
//! ([`Runtime::forget`]).

mod invoke;
mod release;
mod remove;
#[cfg(test)]
mod tests;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::invoke::Run;
use crate::nsexec::{is_joinable, keyring};
use crate::sys::children::Children;

/// Where the stock shim keeps the runtime's state, a directory per containerd namespace.
const ROOT: &str = "/run/containerd/runc";

/// How long one run may take. Hooks run in it, so it is generous.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long the removal after a failure may take.
const CLEANUP: Duration = Duration::from_secs(10);

/// A runtime and how to call it. Goes into a container's record: what was created with it is deleted with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// A path, or a name to be found in `PATH`.
    binary: PathBuf,
    root: PathBuf,
    systemd_cgroup: bool,
    no_pivot_root: bool,
    no_new_keyring: bool,
    /// Where CRIU works on a restore; the runtime's own choice when empty.
    criu_work: PathBuf,
    patience: Duration,
}

/// What `containerd.runc.v1.Options` says of the runtime. Empty strings are defaults.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub binary: String,
    pub root: String,
    pub systemd_cgroup: bool,
    pub no_pivot_root: bool,
    pub no_new_keyring: bool,
    pub criu_work: String,
}

/// The ends of a process that the runtime starts.
#[derive(Debug)]
pub enum Ends<'a> {
    /// Standard input, output and error.
    Files(&'a [OwnedFd; 3]),
    /// A terminal, whose master the runtime sends to this Unix socket.
    Console(&'a Path),
}

/// A container or process to be made. All paths are absolute.
#[derive(Debug)]
pub struct Make<'a> {
    pub id: &'a str,
    pub bundle: &'a Path,
    pub ends: Ends<'a>,
    /// Where the runtime writes the pid.
    pub pid_file: &'a Path,
}

/// A failed run. What it made was removed again as far as that was possible.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("OCI runtime {verb} failed: {reason}")]
    Refused { verb: &'static str, reason: String },
    #[error("OCI runtime {verb} failed: {binary} did not terminate successfully: {how}")]
    Failed {
        verb: &'static str,
        binary: String,
        how: String,
    },
    #[error("OCI runtime {verb} failed: {binary} did not end within {} s and was killed", patience.as_secs_f32())]
    Hung {
        verb: &'static str,
        binary: String,
        patience: Duration,
    },
    #[error("OCI runtime {verb} failed: cannot run {binary}")]
    NotRun {
        verb: &'static str,
        binary: String,
        source: std::io::Error,
    },
    #[error("OCI runtime {verb} failed: {binary} told no pid in {path:?}")]
    NoPid {
        verb: &'static str,
        binary: String,
        path: PathBuf,
    },
    #[error("OCI runtime {verb} failed: no bundle at {path:?}")]
    NoBundle { verb: &'static str, path: PathBuf },
    #[error("OCI runtime {verb} failed: {what}")]
    Io {
        verb: &'static str,
        what: &'static str,
        source: std::io::Error,
    },
}

impl Runtime {
    /// Whether its containers can be joined without it.
    pub fn is_joinable(&self) -> bool {
        is_joinable(&self.binary)
    }

    /// The session keyring that it gives a container, unless it was told not to.
    pub fn keyring(&self, id: &str) -> Option<String> {
        (!self.no_new_keyring).then(|| keyring(&self.binary, id))
    }

    /// `namespace` is containerd's.
    pub fn new(options: Options, namespace: &str) -> Self {
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        Self {
            binary: or(options.binary, "runc").into(),
            root: Path::new(&or(options.root, ROOT)).join(namespace),
            systemd_cgroup: options.systemd_cgroup,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            criu_work: options.criu_work.into(),
            patience: PATIENCE,
        }
    }

    /// The same with another limit for one run.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Makes a container from its bundle: its process, whose pid is answered, waits for its start.
    pub fn create(&self, children: &Children, make: &Make<'_>) -> Result<u32, Error> {
        let mut run = self.making("create", make)?;
        self.pivot_and_keyring(&mut run);
        self.make(children, run, make)
    }

    /// Makes a container from the checkpoint at `image`. It runs.
    pub fn restore(&self, children: &Children, make: &Make<'_>, image: &Path) -> Result<u32, Error> {
        let mut run = self.making("restore", make)?;
        run.args(["--detach", "--no-subreaper", "--image-path"]).arg(image);
        if !self.criu_work.as_os_str().is_empty() {
            run.arg("--work-path").arg(&self.criu_work);
        }
        if self.no_pivot_root {
            run.arg("--no-pivot");
        }
        self.make(children, run, make)
    }

    /// Starts another process in a running container; `process` is the OCI runtime specification's, as JSON. It runs,
    /// detached, and the pid is its own.
    pub fn exec(&self, children: &Children, make: &Make<'_>, process: &[u8]) -> Result<u32, Error> {
        let mut run = self.run("exec", make.bundle);
        let process = run.file("process", process)?;
        run.args(["--detach", "--process"]).arg(process.path());
        run.ends(make)?;
        run.arg(make.id);
        run.finish(children, self.patience)?;
        self.pid("exec", make.pid_file)
    }

    /// Starts a created container, by a run of the runtime.
    pub fn start(&self, children: &Children, id: &str, bundle: &Path) -> Result<(), Error> {
        self.simple(children, "start", id, bundle)
    }

    pub fn pause(&self, children: &Children, id: &str, bundle: &Path) -> Result<(), Error> {
        self.simple(children, "pause", id, bundle)
    }

    pub fn resume(&self, children: &Children, id: &str, bundle: &Path) -> Result<(), Error> {
        self.simple(children, "resume", id, bundle)
    }

    /// Sets the resources of a container; `resources` is the OCI specification's `LinuxResources`, as JSON.
    pub fn update(&self, children: &Children, id: &str, bundle: &Path, resources: &[u8]) -> Result<(), Error> {
        let mut run = self.run("update", bundle);
        run.input(resources)?.args(["--resources", "-", id]);
        run.finish(children, self.patience).map(drop)
    }

    /// Removes a container that has ended: its state, its cgroup. With `force` also one that runs. One that does not
    /// exist is fine. It runs in `directory`, which must stay meanwhile; one that is not there is fine.
    pub fn delete(&self, children: &Children, id: &str, directory: &Path, force: bool) -> Result<(), Error> {
        self.delete_within(children, id, directory, force, self.patience)
    }

    fn delete_within(
        &self,
        children: &Children,
        id: &str,
        directory: &Path,
        force: bool,
        patience: Duration,
    ) -> Result<(), Error> {
        let mut run = self.run("delete", directory);
        if force {
            run.arg("--force");
        }
        run.arg(id);
        match run.finish(children, patience) {
            Err(Error::Refused { .. } | Error::Failed { .. }) if !self.knows(id) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Whether this command line is a run of the runtime that makes the container `id`, or a process in it.
    pub fn makes(&self, words: &[String], id: &str) -> bool {
        let verb = |word: &String| ["create", "exec", "restore"].contains(&word.as_str());
        let root = |word: &String| Path::new(word) == self.root;
        words.last().is_some_and(|word| word == id) && words.iter().any(root) && words.iter().any(verb)
    }

    /// Whether the runtime has a state directory of that name. runc and crun alike keep one by the container's id.
    pub fn knows(&self, id: &str) -> bool {
        self.root.join(id).exists()
    }

    fn simple(&self, children: &Children, verb: &'static str, id: &str, bundle: &Path) -> Result<(), Error> {
        let mut run = self.run(verb, bundle);
        run.arg(id);
        run.finish(children, self.patience).map(drop)
    }

    /// A run that makes a container.
    fn making(&self, verb: &'static str, make: &Make<'_>) -> Result<Run, Error> {
        if !make.bundle.is_dir() {
            return Err(Error::NoBundle {
                verb,
                path: make.bundle.to_owned(),
            });
        }
        let mut run = self.run(verb, make.bundle);
        run.arg("--bundle").arg(make.bundle).ends(make)?;
        Ok(run)
    }

    fn pivot_and_keyring(&self, run: &mut Run) {
        if self.no_pivot_root {
            run.arg("--no-pivot");
        }
        if self.no_new_keyring {
            run.arg("--no-new-keyring");
        }
    }

    fn make(&self, children: &Children, mut run: Run, make: &Make<'_>) -> Result<u32, Error> {
        // Somebody else's container of this id is not ours to remove.
        let known = self.knows(make.id);
        let verb = run.verb;
        run.arg(make.id);
        let made = run.finish(children, self.patience);
        let result = made.and_then(|_| self.pid(verb, make.pid_file));
        if result.is_err() && !known && self.knows(make.id) {
            // The first error is the one to tell.
            let _ = self.delete_within(children, make.id, make.bundle, true, CLEANUP.min(self.patience));
        }
        result
    }

    /// The pid that the runtime wrote.
    fn pid(&self, verb: &'static str, path: &Path) -> Result<u32, Error> {
        let text = fs::read_to_string(path).unwrap_or_default();
        let pid = text.trim().parse().ok().filter(|pid| *pid > 1);
        pid.ok_or_else(|| Error::NoPid {
            verb,
            binary: self.name(),
            path: path.to_owned(),
        })
    }

    /// A run of the binary with what every verb has in common, in the bundle.
    fn run(&self, verb: &'static str, bundle: &Path) -> Run {
        let mut run = Run::new(self.resolve(), verb, bundle);
        run.arg("--root").arg(&self.root);
        if self.systemd_cgroup {
            run.arg("--systemd-cgroup");
        }
        run.log();
        run.arg(verb);
        run
    }

    /// The binary's path, or its name when `PATH` has no such program.
    fn resolve(&self) -> PathBuf {
        if self.binary.components().count() > 1 {
            return self.binary.clone();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let candidates = std::env::split_paths(&path).map(|dir| dir.join(&self.binary));
        let found = candidates.into_iter().find(|path| invoke::is_program(path));
        found.unwrap_or_else(|| self.binary.clone())
    }

    fn name(&self) -> String {
        self.binary.display().to_string()
    }
}

impl Error {
    /// The runtime said that there is no such container.
    pub fn is_unknown_container(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason.contains("does not exist"))
    }
}
