//! A pod sandbox: what was asked for, and the states it goes through.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::resources::Resources;
use super::security::Namespaces;

/// What makes a sandbox unique: no two live ones share all four.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SandboxName {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub attempt: u32,
}

/// CRI's `PodSandboxConfig`, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxConfig {
    pub name: SandboxName,
    /// Empty: the pod's name (for a pod with its own UTS namespace).
    pub hostname: String,
    /// Where the logs of the pod's containers go; None: nowhere.
    pub log_directory: Option<PathBuf>,
    /// None: the node's resolv.conf.
    pub dns: Option<Dns>,
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    /// Returned bit for bit.
    pub annotations: BTreeMap<String, String>,
    /// In cgroupfs syntax. It belongs to the caller: never created, tuned or removed.
    pub cgroup_parent: Option<String>,
    pub namespaces: Namespaces,
    pub sysctls: BTreeMap<String, String>,
    pub privileged: bool,
    pub overhead: Option<Resources>,
    pub resources: Option<Resources>,
}

/// What goes into the pod's resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    /// 0: the port is not published on the node.
    pub host_port: u16,
    pub host_ip: Option<IpAddr>,
}

/// Who made a sandbox. A kubelet kills pods it does not know, so CRI lists only its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    Cri,
    /// `berth run`
    Manifest,
}

/// One namespace that berth pinned: the bind mount, and what proves that it is still that namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
}

/// The pinned namespaces of a pod. None: the pod uses the node's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// The kernel's boot id: pins do not outlive a boot.
    pub boot_id: String,
    pub net: Option<Pin>,
    pub ipc: Option<Pin>,
    pub uts: Option<Pin>,
}

/// Where a sandbox is in its life. Times are nanoseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    /// Recorded, being made. Recovery undoes it.
    Creating,
    /// The namespaces stand and the network is up.
    Ready(Ready),
    /// Its resources are being released, or could not all be. Recovery goes on with it.
    Stopping(Ready),
    /// Nothing of it is left but its record.
    Stopped,
}

/// What a ready sandbox holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub pins: Pins,
    /// Primary address first; empty for a pod on the node's network.
    pub ips: Vec<IpAddr>,
    /// The pid of the holder of a shared PID namespace. Its task has the sandbox's id.
    pub holder: Option<u32>,
}
