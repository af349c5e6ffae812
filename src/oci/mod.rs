//! The OCI runtime spec of a container, from what was asked for.
//!
//! Pure code: the caller resolves what lies on the node (host paths, devices, namespaces, the user in the image's
//! files, what the host can do) and hands it in as a [`Plan`]; [`container`] decides and either refuses, naming the
//! field, or returns the whole spec and [`Note`]s on what it could not give in full. Each part of a spec is a file.

mod annotations;
mod capabilities;
mod devices;
mod holder;
mod lsm;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod seccomp;
pub mod user;

use std::collections::HashMap;
use std::fmt;

use oci_spec::runtime::{Linux, Mount, Root};
pub use oci_spec::runtime::{LinuxResources, Process, Spec};

pub use devices::{DeviceKind, HostDevice};
pub use holder::{HolderPlan, PROGRAM as HOLDER_PROGRAM, holder};
pub use mounts::{HostMount, HostPropagation, PodFiles};
pub use namespaces::NamespacePaths;
pub use process::exec;
pub use resources::limits;

use crate::model::container::{ContainerConfig, User};
use crate::model::image::ImageConfig;
use crate::model::sandbox::SandboxConfig;
use crate::model::{Id, Refusal};

/// The version of the runtime spec that is written: what runc 1.1 knows.
const VERSION: &str = "1.0.2";

/// Where a container's root is, in its bundle: where containerd's shims mount it.
const ROOTFS: &str = "rootfs";

/// What the kubelet hides from a container that is not privileged; for requests that come without a kubelet.
pub const DEFAULT_MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What the kubelet makes read-only for a container that is not privileged; for requests that come without a kubelet.
pub const DEFAULT_READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Facts about the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Capabilities that berth can grant (its bounding set), as `CAP_…`.
    pub capabilities: Vec<String>,
    /// The lowest `oom_score_adj` that can be given: berth's own without CAP_SYS_RESOURCE, -1000 with it.
    pub oom_score_adj_floor: i64,
    /// Major and minor version.
    pub kernel: (u32, u32),
    /// Whether cgroup v2 is the host's hierarchy (not v1, not the hybrid).
    pub cgroup_v2: bool,
    /// Options of the mount at /sys/fs/cgroup.
    pub cgroup_mount_options: Vec<String>,
    /// Whether containers' cgroups have the hugetlb controller.
    pub hugetlb: bool,
    /// Whether the kernel filters system calls.
    pub seccomp: bool,
    pub apparmor: AppArmor,
}

impl Default for Host {
    /// A host that can do nothing.
    fn default() -> Self {
        Self {
            capabilities: Vec::new(),
            oom_score_adj_floor: -1000,
            kernel: (0, 0),
            cgroup_v2: false,
            cgroup_mount_options: Vec::new(),
            hugetlb: false,
            seccomp: false,
            apparmor: AppArmor::Off,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AppArmor {
    #[default]
    Off,
    On {
        /// The loaded profile that RuntimeDefault stands for.
        default: Option<String>,
    },
}

/// What a container's spec is built from.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    pub sandbox_id: &'a Id,
    pub sandbox: &'a SandboxConfig,
    pub container: &'a ContainerConfig,
    pub image: &'a ImageConfig,
    /// As [`user::resolve`] found it.
    pub user: &'a User,
    /// The name in the pod's UTS namespace: the value of `HOSTNAME`.
    pub hostname: &'a str,
    pub namespaces: &'a NamespacePaths,
    pub files: &'a PodFiles,
    /// `container.mounts`, one by one in order, with what is on the node.
    pub mounts: &'a [HostMount<'a>],
    /// `container.devices`, resolved; before them all of the node's for a privileged container.
    pub devices: &'a [HostDevice],
    /// The spec's `cgroupsPath`.
    pub cgroup: &'a str,
    /// The text of a Localhost profile.
    pub seccomp_profile: Option<&'a str>,
    pub host: &'a Host,
}

/// A spec, and what in it is less than was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    pub spec: Spec,
    pub notes: Vec<Note>,
}

/// Something that the host cannot give in full and that is no reason to refuse. The caller logs it once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Note {
    OomScoreAdjRaised { asked: i64, given: i64 },
    HugepageLimitsLeftOut,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OomScoreAdjRaised { asked, given } => {
                write!(
                    f,
                    "oom_score_adj is {given}, not {asked}: berth lacks CAP_SYS_RESOURCE to go lower"
                )
            }
            Self::HugepageLimitsLeftOut => {
                f.write_str("limits on huge pages are left out: this host has no hugetlb controller")
            }
        }
    }
}

/// The spec of the container that `plan` describes.
pub fn container(plan: &Plan<'_>) -> Result<Built, Refusal> {
    if plan.container.security.privileged && !plan.sandbox.privileged {
        return Err(Refusal::invalid(
            security_field("privileged"),
            "the sandbox is not privileged",
        ));
    }
    let mut notes = Vec::new();
    let process = process::process(plan, &mut notes)?;
    let mounts = mounts::mounts(plan)?;
    let mut linux = linux(plan, &process, &mut notes)?;
    linux.set_rootfs_propagation(mounts.rootfs_propagation.map(String::from));

    let mut root = Root::default();
    root.set_path(ROOTFS.into())
        .set_readonly(Some(plan.container.security.readonly_rootfs));
    let annotations = annotations::container(plan.sandbox_id, plan.sandbox, plan.container);
    Ok(Built {
        spec: spec(root, process, mounts.list, linux, annotations),
        notes,
    })
}

fn linux(plan: &Plan<'_>, process: &Process, notes: &mut Vec<Note>) -> Result<Linux, Refusal> {
    let security = &plan.container.security;
    let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().clone());
    let bounding = bounding.unwrap_or_default();
    let mut resources = limits(&plan.container.resources, plan.host, notes)?;
    resources.set_devices(Some(devices::rules(plan.devices, security.privileged)?));
    // As the peers do: exactly the request's lists, and none for a privileged container.
    let paths = |paths: &Vec<String>| (!security.privileged).then(|| paths.clone());
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces::namespaces(plan)?))
        .set_cgroups_path(Some(plan.cgroup.into()))
        .set_resources(Some(resources))
        .set_devices(Some(devices::nodes(plan.devices)))
        .set_seccomp(seccomp::filter(security, plan.seccomp_profile, &bounding, plan.host)?)
        .set_masked_paths(paths(&security.masked_paths))
        .set_readonly_paths(paths(&security.readonly_paths));
    Ok(linux)
}

/// A whole spec. It has no hostname: a container joins a UTS namespace that has one.
fn spec(root: Root, process: Process, mounts: Vec<Mount>, linux: Linux, annotations: HashMap<String, String>) -> Spec {
    let mut spec = Spec::default();
    spec.set_version(VERSION.to_owned())
        .set_hostname(None)
        .set_root(Some(root))
        .set_process(Some(process))
        .set_mounts(Some(mounts))
        .set_linux(Some(linux))
        .set_annotations(Some(annotations));
    spec
}

/// The full name of a field of a container's security context.
fn security_field(name: &str) -> String {
    format!("linux.security_context.{name}")
}

/// The full name of a field of a container's resources.
fn resource_field(name: &str) -> String {
    format!("linux.resources.{name}")
}

#[cfg(test)]
mod runc_tests;
#[cfg(test)]
mod tests;
