//! What can go wrong with a pod.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Id, Refusal};
use crate::{containerd, image, netns, network, nsexec};

/// Sandbox or container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sandbox,
    Container,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sandbox => "sandbox",
            Self::Container => "container",
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{kind} {id:?} not found")]
    NotFound { kind: Kind, id: String },
    #[error("{kind} id {prefix:?} is ambiguous: {count} ids start with it")]
    Ambiguous { kind: Kind, prefix: String, count: usize },
    #[error("{kind} {name} exists already as {id}")]
    NameTaken { kind: Kind, name: String, id: Id },
    #[error("image {image:?} is not present")]
    NoImage { image: String },
    /// The thing is there, but not in a state in which this can be done to it.
    #[error("{kind} {id:?} is {state}; {wanted}")]
    WrongState {
        kind: Kind,
        id: Id,
        state: &'static str,
        wanted: &'static str,
    },
    #[error("the command did not end within {} s and was killed", .0.as_secs_f64())]
    ExecTimeout(Duration),
    /// A probe as a command could not be made; nothing is known about the container.
    #[error("cannot probe: {0}")]
    Probe(String),
    /// A hook of the container's, which was part of what was asked for, did not succeed.
    #[error("the {hook} hook failed: {message}")]
    Hook { hook: &'static str, message: String },
    #[error("container {id:?} did not end within {} s of SIGKILL", after.as_secs())]
    WillNotDie { id: Id, after: Duration },
    #[error("cannot start container {id:?}: {source}")]
    Start { id: Id, source: containerd::Error },
    #[error("cannot run the command: {source}")]
    Exec { source: containerd::Error },
    #[error("cannot run the command")]
    Command(#[from] nsexec::Error),
    #[error("{what} {}: {source}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the log of container {id:?}: {message}")]
    Log { id: Id, message: String },
    #[error("no shim answers at {} within {} s; berth's log says why", place.display(), after.as_secs())]
    NoShim { place: PathBuf, after: Duration },
    #[error("cannot start the shim {}: {reason}", binary.display())]
    ShimStart { binary: PathBuf, reason: String },
    #[error(transparent)]
    Shim(crate::shim::control::Error),
    #[error("cgroup {path}: {source}")]
    Cgroup { path: String, source: io::Error },
    #[error(transparent)]
    Namespaces(#[from] netns::Error),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    /// Several cleanups failed; each is told.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<Error>),
    /// An operation that others joined failed for all of them.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// A defect of berth's: the operation's task panicked.
    #[error("berth failed inside: {0}")]
    Panicked(String),
}

impl Error {
    /// For `map_err`: what was done to which file when an I/O error came.
    pub(super) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    /// Nothing, the one error, or all of them.
    pub(super) fn from_all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }
}
