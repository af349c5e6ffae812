//! What a container may do.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whose network namespace: the pod's or the node's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    #[default]
    Pod,
    Node,
}

/// Whose IPC namespace: the pod's or the node's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcMode {
    #[default]
    Pod,
    Node,
}

/// Whose PID namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// One for all containers of the pod, held by a process of berth's.
    Pod,
    /// Each container has its own.
    #[default]
    Container,
    Node,
    /// That of another container of the pod, named by a full id.
    Target(super::Id),
}

/// The namespaces of a sandbox or a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    pub network: NetworkMode,
    pub ipc: IpcMode,
    pub pid: PidMode,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    RuntimeDefault,
    #[default]
    Unconfined,
    /// seccomp: the absolute path of a JSON file on the node. AppArmor: the name of a loaded profile.
    Localhost(PathBuf),
}

/// Who the process runs as, before the image has been asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunAs {
    /// What the image's config says.
    #[default]
    Image,
    Uid(u32),
    /// A name that the image's /etc/passwd must know.
    Name(String),
}

/// Whether the groups that the image's /etc/group gives the user count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    #[default]
    Merge,
    Strict,
}

/// Capability names, upper case with the `CAP_` prefix, or [`Capabilities::ALL`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
    pub add_ambient: Vec<String>,
}

impl Capabilities {
    /// Stands for every capability in `add` and `drop`.
    pub const ALL: &'static str = "ALL";
}

/// The security context of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    pub namespaces: Namespaces,
    pub privileged: bool,
    pub capabilities: Capabilities,
    pub run_as: RunAs,
    pub run_as_group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    pub groups_policy: GroupsPolicy,
    pub readonly_rootfs: bool,
    pub no_new_privs: bool,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub seccomp: Profile,
    pub apparmor: Profile,
}
