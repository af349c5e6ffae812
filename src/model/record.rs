//! What is kept in containerd about a sandbox or a container: one extension of its container record.
//!
//! A record is JSON with a version. A berth reads every version up to its own and refuses a newer one, so that going
//! back to an older berth never misreads a record.

use serde::{Deserialize, Serialize};

use super::Id;
use super::container::{ContainerConfig, ContainerState, Ending, User};
use super::sandbox::{Owner, SandboxConfig, SandboxState};

/// The version that this berth writes.
pub const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub version: u32,
    pub config: SandboxConfig,
    /// The runtime handler's name; empty: the default.
    pub handler: String,
    pub owner: Owner,
    /// Nanoseconds since the Unix epoch.
    pub created_at: i64,
    pub state: SandboxState,
    /// Of records that an earlier berth wrote: none of its own.
    #[serde(default)]
    pub shim: ShimUse,
}

/// Which shim process a pod belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimUse {
    /// The group of pods that share a process of berth's own; it writes the pod's logs.
    pub group: String,
    /// Whether that process holds the pod's containers too, or another shim does.
    pub own: bool,
}

impl Default for ShimUse {
    fn default() -> Self {
        let group = "0".to_owned();
        Self { group, own: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub version: u32,
    pub sandbox: Id,
    pub config: ContainerConfig,
    /// `sha256:…` of the image's config.
    pub image_id: String,
    /// `repository@digest` where there is one, else the image id.
    pub image_ref: String,
    pub user: User,
    /// The signal that asks it to end.
    pub stop_signal: super::Signal,
    /// Where its cgroup is, as written into the OCI spec.
    pub cgroup: String,
    /// Nanoseconds since the Unix epoch.
    pub created_at: i64,
    pub state: ContainerState,
    /// Why berth is ending it, or has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}
