//! A container: what was asked for, and the states it goes through.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Signal;
use super::probe::{Hooks, Probes};
use super::resources::Resources;
use super::security::Security;

/// CRI's `ContainerConfig` (and what CreateContainer adds), checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    pub name: String,
    pub attempt: u32,
    pub image: ImageRequest,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    pub working_dir: String,
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub labels: BTreeMap<String, String>,
    /// Returned bit for bit.
    pub annotations: BTreeMap<String, String>,
    /// Relative to the sandbox's log directory; empty: no log is kept.
    pub log_path: String,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: Resources,
    pub security: Security,
    /// None: the image's, or SIGTERM.
    pub stop_signal: Option<Signal>,
    pub probes: Probes,
    pub hooks: Hooks,
}

/// The image as the client named it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageRequest {
    pub image: String,
    pub user_specified_image: String,
    pub annotations: BTreeMap<String, String>,
    pub runtime_handler: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// A bind mount from the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    pub container_path: String,
    /// Symbolic links are followed; it must exist.
    pub host_path: PathBuf,
    pub readonly: bool,
    pub recursive_read_only: bool,
    pub selinux_relabel: bool,
    pub propagation: Propagation,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub container_path: String,
    /// A device node, or a directory whose device nodes are all meant.
    pub host_path: PathBuf,
    /// Some of `rwm`.
    pub permissions: String,
}

/// Who the container's process is, as found in its image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Ascending, without repeats.
    pub supplemental_groups: Vec<u32>,
}

/// Where a container is in its life. Times are nanoseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running { started_at: i64, pid: u32 },
    Exited(Exit),
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0 when the container never started.
    pub started_at: i64,
    pub finished_at: i64,
    pub code: i32,
    pub reason: Reason,
    pub message: String,
}

/// Why a container ended, in the words CRI clients know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Exit code 0.
    Completed,
    /// Any other exit code.
    Error,
    /// The kernel killed a process of it for memory (CRI: `OOMKilled` is mandatory for a cgroup OOM).
    OomKilled,
    /// The container could not be started.
    StartError,
    /// Nobody can know any more how it ended; the code is 255.
    Unknown,
    /// berth ended it: its liveness probe failed.
    LivenessProbeFailed,
    /// berth ended it: its startup probe failed.
    StartupProbeFailed,
    /// berth ended it: its postStart hook failed.
    FailedPostStartHook,
}

/// Why berth itself ends a container. Recorded before the first thing that is done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    pub reason: Reason,
    /// What the probe or the hook said.
    pub message: String,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
            Self::LivenessProbeFailed => "LivenessProbeFailed",
            Self::StartupProbeFailed => "StartupProbeFailed",
            Self::FailedPostStartHook => "FailedPostStartHook",
        }
    }
}

impl Exit {
    /// The code reported when the true one is lost.
    pub const UNKNOWN_CODE: i32 = 255;

    /// The end of a container whose process returned `code`.
    pub fn with_code(started_at: i64, finished_at: i64, code: i32, oom: bool) -> Self {
        let reason = match (oom, code) {
            (_, 0) => Reason::Completed,
            (true, _) => Reason::OomKilled,
            (false, _) => Reason::Error,
        };
        Self {
            // berth reads its clock when a start is answered; by then a short process may have ended.
            started_at: started_at.min(finished_at),
            finished_at,
            code,
            reason,
            message: String::new(),
        }
    }

    /// The same end with the cause that berth had for it. The code stays what it was, and so do two reasons: a kill
    /// for memory must be told as one (CRI), and of an unknown end nobody knows whether the cause had come about.
    pub fn because(self, ending: Option<&Ending>) -> Self {
        match (ending, self.reason) {
            (None, _) => self,
            (Some(ending), Reason::OomKilled | Reason::Unknown) => {
                let parts = [self.message.as_str(), ending.reason.as_str(), ending.message.as_str()];
                let said: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                let message = said.join(": ");
                Self { message, ..self }
            }
            (Some(ending), _) => Self {
                reason: ending.reason,
                message: ending.message.clone(),
                ..self
            },
        }
    }

    /// The end of a container whose code nobody can know any more.
    pub fn unknown(started_at: i64, finished_at: i64) -> Self {
        let message = "the container ended while nobody could see how".to_owned();
        Self {
            started_at,
            finished_at,
            code: Self::UNKNOWN_CODE,
            reason: Reason::Unknown,
            message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_container_ended_before_it_started() {
        let exit = Exit::with_code(7, 5, 0, false);
        assert_eq!((exit.started_at, exit.finished_at), (5, 5));
        let exit = Exit::with_code(3, 5, 0, false);
        assert_eq!((exit.started_at, exit.finished_at), (3, 5));
    }

    #[test]
    fn a_cause_is_told_with_the_true_code() {
        let ending = Ending {
            reason: Reason::LivenessProbeFailed,
            message: "HTTP probe failed with statuscode: 500".to_owned(),
        };
        for code in [0, 137] {
            let exit = Exit::with_code(1, 2, code, false).because(Some(&ending));
            assert_eq!((exit.code, exit.reason), (code, Reason::LivenessProbeFailed));
            assert_eq!(exit.message, ending.message);
        }
        let plain = Exit::with_code(1, 2, 3, false);
        assert_eq!(plain.clone().because(None), plain);
    }

    #[test]
    fn no_cause_hides_a_kill_for_memory_or_an_unknown_end() {
        let ending = Ending {
            reason: Reason::FailedPostStartHook,
            message: "it said no".to_owned(),
        };
        let oom = Exit::with_code(1, 2, 137, true).because(Some(&ending));
        assert_eq!(
            (oom.reason, &*oom.message),
            (Reason::OomKilled, "FailedPostStartHook: it said no")
        );
        let unknown = Exit::unknown(1, 2).because(Some(&ending));
        assert_eq!((unknown.reason, unknown.code), (Reason::Unknown, 255));
        assert!(
            unknown.message.ends_with("FailedPostStartHook: it said no"),
            "{}",
            unknown.message
        );
    }
}
