//! A Pod as it is wanted: checked, with Kubernetes' defaults filled in. It is kept on disk in this form.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::probe::{Hooks, Probes};
use crate::model::sandbox::Protocol;

/// What users call a pod: no two live ones of a berth share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub name: PodName,
    /// Given by berth, a new one each time a manifest is run.
    pub uid: String,
    /// Nanoseconds since the Unix epoch.
    pub created_at: i64,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub hostname: String,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// One PID namespace for all containers.
    pub share_pid: bool,
    pub restart: RestartPolicy,
    /// Seconds between the signal that asks a container to end and the one that makes it.
    pub grace_s: u32,
    pub volumes: Vec<Volume>,
    /// Run one by one; each must succeed before the next.
    pub init: Vec<Container>,
    /// At least one.
    pub containers: Vec<Container>,
}

impl Pod {
    /// Init containers first. No two share a name.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init.iter().chain(&self.containers)
    }

    pub fn container(&self, name: &str) -> Option<&Container> {
        self.all_containers().find(|container| container.name == name)
    }

    pub fn quality(&self) -> Quality {
        let given = |amounts: &Amounts| [amounts.cpu_milli, amounts.memory].map(|amount| amount.filter(|n| *n > 0));
        let (mut any, mut all) = (false, true);
        for container in self.all_containers() {
            let (requests, limits) = (given(&container.requests), given(&container.limits));
            any |= requests.iter().chain(&limits).any(Option::is_some);
            all &= limits.iter().all(Option::is_some) && requests == limits;
        }
        match (any, all) {
            (false, _) => Quality::BestEffort,
            (true, true) => Quality::Guaranteed,
            (true, false) => Quality::Burstable,
        }
    }
}

/// Kubernetes' classes of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Quality {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::OnFailure => "OnFailure",
            Self::Never => "Never",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub name: String,
    pub image: String,
    pub pull: PullPolicy,
    /// Expanded; empty: the image's.
    pub command: Vec<String>,
    /// Expanded; empty: the image's.
    pub args: Vec<String>,
    pub working_dir: String,
    /// Expanded.
    pub env: Vec<(String, String)>,
    pub ports: Vec<Port>,
    pub mounts: Vec<VolumeMount>,
    pub requests: Amounts,
    pub limits: Amounts,
    pub security: Security,
    /// The commands of those that run one are expanded.
    #[serde(default)]
    pub probes: Probes,
    #[serde(default)]
    pub hooks: Hooks,
}

/// When the registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub name: Option<String>,
    pub number: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Names one of the pod's volumes.
    pub volume: String,
    pub path: String,
    pub read_only: bool,
}

/// None: not given. A zero is kept as one: it makes a container's class of service differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Thousandths of a core.
    pub cpu_milli: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
}

/// The pod's security context has been merged in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// With the `CAP_` prefix, or `ALL`.
    pub add: Vec<String>,
    pub drop: Vec<String>,
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    pub privileged: bool,
    pub read_only_root: bool,
    pub no_new_privs: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub name: String,
    pub source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A directory that lives as long as the pod.
    EmptyDir,
    HostPath {
        path: PathBuf,
        kind: HostPathKind,
    },
}

/// What must be found at a hostPath.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPathKind {
    Unchecked,
    Directory,
    DirectoryOrCreate,
    File,
    FileOrCreate,
    Socket,
    CharDevice,
    BlockDevice,
}
