//! The namespaces of a container: its own, the pod's, another container's, or the node's (left out of the spec).
//!
//! Network, IPC and UTS are the pod's affair; a container may ask for the node's only if the pod has it. The PID
//! namespace is the container's choice among what the pod offers.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType};

use super::{Host, Plan, security_field};
use crate::model::Refusal;
use crate::model::security::{IpcMode, NetworkMode, PidMode};

/// Where the namespaces are that a container joins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespacePaths {
    /// The pod's; None: the node's.
    pub net: Option<PathBuf>,
    /// The pod's; None: the node's.
    pub ipc: Option<PathBuf>,
    /// The pod's; None: the node's.
    pub uts: Option<PathBuf>,
    /// That of the pod's holder (mode POD) or of the target container (mode TARGET); else not used.
    pub pid: Option<PathBuf>,
}

/// The namespaces of the container that `plan` describes.
pub(super) fn namespaces(plan: &Plan<'_>) -> Result<Vec<LinuxNamespace>, Refusal> {
    let pod = &plan.sandbox.namespaces;
    let own = &plan.container.security.namespaces;
    let paths = plan.namespaces;
    // 0 in CRI means POD and is what a client sends that says nothing, so it takes what the pod has.
    if own.network == NetworkMode::Node && pod.network != NetworkMode::Node {
        return Err(contradiction("network", "NODE in a pod with a network of its own"));
    }
    if own.ipc == IpcMode::Node && pod.ipc != IpcMode::Node {
        return Err(contradiction("ipc", "NODE in a pod with an IPC namespace of its own"));
    }
    let has_net = pod.network == NetworkMode::Pod;
    let shared = [
        of_pod(LinuxNamespaceType::Network, has_net, &paths.net, "network")?,
        of_pod(LinuxNamespaceType::Ipc, pod.ipc == IpcMode::Pod, &paths.ipc, "ipc")?,
        of_pod(LinuxNamespaceType::Uts, has_net, &paths.uts, "network")?,
        pid(&own.pid, &pod.pid, &paths.pid)?,
        cgroup(plan.container.security.privileged, plan.host),
    ];
    let mount = namespace(LinuxNamespaceType::Mount, None);
    Ok(shared.into_iter().flatten().chain([mount]).collect())
}

/// One of the pod's namespaces. That a pod has its own and yet there is no path to it never means the node's.
fn of_pod(
    kind: LinuxNamespaceType,
    expected: bool,
    path: &Option<PathBuf>,
    option: &str,
) -> Result<Option<LinuxNamespace>, Refusal> {
    match path {
        None if expected => Err(contradiction(option, &format!("the pod's {kind} namespace is gone"))),
        None => Ok(None),
        Some(path) => Ok(Some(namespace(kind, Some(path.clone())))),
    }
}

fn pid(own: &PidMode, pod: &PidMode, path: &Option<PathBuf>) -> Result<Option<LinuxNamespace>, Refusal> {
    let join = |reason| {
        let path = path.clone().ok_or_else(|| contradiction("pid", reason))?;
        Ok(Some(namespace(LinuxNamespaceType::Pid, Some(path))))
    };
    match (own, pod) {
        (PidMode::Container, _) => Ok(Some(namespace(LinuxNamespaceType::Pid, None))),
        (PidMode::Target(_), _) => join("the target container is not running"),
        (PidMode::Pod, PidMode::Pod) => join("the holder of the pod's PID namespace is gone"),
        // The pod shares a PID namespace: the node's.
        (PidMode::Node | PidMode::Pod, PidMode::Node) => Ok(None),
        (PidMode::Pod, PidMode::Container | PidMode::Target(_)) => {
            Err(contradiction("pid", "POD in a pod that shares no PID namespace"))
        }
        (PidMode::Node, _) => Err(contradiction("pid", "NODE in a pod that does not use the node's")),
    }
}

/// On cgroup v2 a container sees its own cgroup as the root, on v1 no runtime does that; privileged ones see all.
fn cgroup(privileged: bool, host: &Host) -> Option<LinuxNamespace> {
    (host.cgroup_v2 && !privileged).then(|| namespace(LinuxNamespaceType::Cgroup, None))
}

/// A new namespace, or the one at `path`.
pub(super) fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let new = LinuxNamespaceBuilder::default().typ(kind);
    match path {
        Some(path) => new.path(path).build(),
        None => new.build(),
    }
    .expect("every field has a default")
}

fn contradiction(option: &str, reason: &str) -> Refusal {
    Refusal::invalid(security_field(&format!("namespace_options.{option}")), reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::security::Namespaces;
    use crate::oci::tests::Fixture;

    fn paths() -> NamespacePaths {
        NamespacePaths {
            net: Some("/net".into()),
            ipc: Some("/ipc".into()),
            uts: Some("/uts".into()),
            pid: Some("/pid".into()),
        }
    }

    /// The namespaces as `type=path`, in the order of the spec.
    fn built(pod: Namespaces, own: Namespaces, paths: NamespacePaths) -> Result<String, String> {
        let mut fixture = Fixture::default();
        fixture.sandbox.namespaces = pod;
        fixture.container.security.namespaces = own;
        fixture.namespaces = paths;
        let list = namespaces(&fixture.plan()).map_err(|refusal| refusal.to_string())?;
        let text = |one: &LinuxNamespace| match one.path() {
            Some(path) => format!("{}={}", one.typ(), path.display()),
            None => one.typ().to_string(),
        };
        Ok(list.iter().map(text).collect::<Vec<_>>().join(" "))
    }

    fn with_pid(pid: PidMode) -> Namespaces {
        Namespaces {
            pid,
            ..Namespaces::default()
        }
    }

    #[test]
    fn a_container_joins_its_pod() {
        let list = built(Namespaces::default(), Namespaces::default(), paths()).unwrap();
        assert_eq!(list, "net=/net ipc=/ipc uts=/uts pid mnt");
    }

    #[test]
    fn a_container_of_a_pod_on_the_node_joins_nothing() {
        let node = Namespaces {
            network: NetworkMode::Node,
            ipc: IpcMode::Node,
            pid: PidMode::Node,
        };
        let silent = with_pid(PidMode::Pod);
        for own in [node.clone(), silent] {
            assert_eq!(built(node.clone(), own, NamespacePaths::default()).unwrap(), "mnt");
        }
    }

    #[test]
    fn the_pid_namespace_is_chosen_among_what_the_pod_offers() {
        let target = || PidMode::Target(crate::model::Id::random());
        let cases = [
            (PidMode::Pod, PidMode::Pod, Ok("pid=/pid")),
            (PidMode::Pod, PidMode::Container, Ok("pid")),
            (
                PidMode::Pod,
                PidMode::Node,
                Err("NODE in a pod that does not use the node's"),
            ),
            (PidMode::Container, PidMode::Container, Ok("pid")),
            (
                PidMode::Container,
                PidMode::Pod,
                Err("POD in a pod that shares no PID namespace"),
            ),
            (
                PidMode::Container,
                PidMode::Node,
                Err("NODE in a pod that does not use the node's"),
            ),
            (PidMode::Container, target(), Ok("pid=/pid")),
            (PidMode::Node, PidMode::Container, Ok("pid")),
        ];
        for (pod, own, expected) in cases {
            let got = built(with_pid(pod.clone()), with_pid(own.clone()), paths());
            let expected = expected
                .map(|pid| format!("net=/net ipc=/ipc uts=/uts {pid} mnt"))
                .map_err(|reason| format!("linux.security_context.namespace_options.pid: {reason}"));
            assert_eq!(got, expected, "pod {pod:?} container {own:?}");
        }
    }

    #[test]
    fn asking_for_the_nodes_in_a_pod_with_its_own_is_refused() {
        let net = Namespaces {
            network: NetworkMode::Node,
            ..Namespaces::default()
        };
        let ipc = Namespaces {
            ipc: IpcMode::Node,
            ..Namespaces::default()
        };
        for (own, option) in [(net, "network"), (ipc, "ipc")] {
            let refusal = built(Namespaces::default(), own, paths()).unwrap_err();
            assert!(
                refusal.contains(&format!("namespace_options.{option}: NODE")),
                "{refusal}"
            );
        }
    }

    #[test]
    fn a_lost_namespace_never_becomes_the_nodes() {
        for lose in [
            |paths: &mut NamespacePaths| paths.net = None,
            |paths: &mut NamespacePaths| paths.ipc = None,
            |paths: &mut NamespacePaths| paths.uts = None,
        ] {
            let mut paths = paths();
            lose(&mut paths);
            let refusal = built(Namespaces::default(), Namespaces::default(), paths).unwrap_err();
            assert!(refusal.ends_with("namespace is gone"), "{refusal}");
        }
    }
}
