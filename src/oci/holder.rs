//! The holder of a shared PID namespace: a container with one program that can do nothing but be there.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxResources, Process, Root};

use super::mounts::mount;
use super::namespaces::{NamespacePaths, namespace};
use super::{Built, Host, annotations, capabilities, devices, process, spec};
use crate::model::container::User;
use crate::model::sandbox::SandboxConfig;
use crate::model::{Id, Refusal};

/// Where the holder's program is in its root.
pub const PROGRAM: &str = "/holder";

/// Neither root nor a user of any image: no process of the pod that lacks CAP_SYS_PTRACE can trace it.
const NOBODY: u32 = 65535;

/// The last to be killed for memory, as the kubelet has it for a pod's own process.
const OOM_SCORE_ADJ: i64 = -998;

/// What a holder's spec is built from.
#[derive(Debug, Clone, Copy)]
pub struct HolderPlan<'a> {
    pub sandbox_id: &'a Id,
    pub sandbox: &'a SandboxConfig,
    /// The pod's; `pid` is not used, since the holder makes it.
    pub namespaces: &'a NamespacePaths,
    pub cgroup: &'a str,
    /// A directory on the node that holds the program. It is readable and executable for everybody, and has empty
    /// directories `proc` and `dev`.
    pub rootfs: &'a Path,
    pub host: &'a Host,
}

/// The spec of the process that holds the PID namespace of a pod.
pub fn holder(plan: &HolderPlan<'_>) -> Result<Built, Refusal> {
    let mut notes = Vec::new();
    let oom_score_adj = process::oom_score_adj(OOM_SCORE_ADJ, plan.host, &mut notes)?;
    let nobody = User {
        uid: NOBODY,
        gid: NOBODY,
        supplemental_groups: vec![NOBODY],
    };
    let mut process = Process::default();
    process
        .set_user(process::user(&nobody))
        .set_args(Some(vec![PROGRAM.to_owned()]))
        .set_env(Some(Vec::new()))
        .set_cwd("/".into())
        .set_capabilities(Some(capabilities::none()))
        .set_rlimits(None)
        .set_no_new_privileges(Some(true))
        .set_apparmor_profile(None)
        .set_oom_score_adj(Some(oom_score_adj));

    let mut root = Root::default();
    root.set_path(plan.rootfs.to_owned()).set_readonly(Some(true));

    let closed = ["nosuid", "noexec", "nodev", "ro"];
    let mounts = vec![
        mount("/proc", "proc", "proc", &closed),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "noexec", "mode=755", "size=64k"]),
    ];
    let annotations = annotations::holder(plan.sandbox_id, plan.sandbox);
    Ok(Built {
        spec: spec(root, process, mounts, linux(plan)?, annotations),
        notes,
    })
}

fn linux(plan: &HolderPlan<'_>) -> Result<Linux, Refusal> {
    let pod = plan.namespaces;
    let join = |kind, path: &Option<PathBuf>| path.clone().map(|path| namespace(kind, Some(path)));
    let joined = [
        join(LinuxNamespaceType::Network, &pod.net),
        join(LinuxNamespaceType::Ipc, &pod.ipc),
        join(LinuxNamespaceType::Uts, &pod.uts),
    ];
    let own = [LinuxNamespaceType::Pid, LinuxNamespaceType::Mount].map(|kind| namespace(kind, None));
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(devices::rules(&[], false)?));
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(joined.into_iter().flatten().chain(own).collect()))
        .set_cgroups_path(Some(plan.cgroup.into()))
        .set_resources(Some(resources))
        .set_masked_paths(None)
        .set_readonly_paths(None);
    Ok(linux)
}
