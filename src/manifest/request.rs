//! What the core is asked for on behalf of a pod: the requests that a kubelet would make for the same manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::pod::{Container, Pod, Quality, Source, VolumeMount};
use crate::model::container::{ContainerConfig, ImageRequest, Mount};
use crate::model::resources::Resources;
use crate::model::sandbox::{Dns, PortMapping, SandboxConfig, SandboxName};
use crate::model::security::{IpcMode, Namespaces, NetworkMode, PidMode, RunAs, Security};
use crate::oci;

/// A container's back-off: how many seconds to wait after its end before it is started once more. It rides with the
/// container, so that it outlives berth.
pub const DELAY: &str = "berth.dev/restart-delay";

const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Seconds that a container gets which berth ends for its probes or hooks.
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";

/// The pod's sandbox. `dns`: None for the node's.
pub fn sandbox(pod: &Pod, dns: Option<Dns>, log_directory: &Path) -> SandboxConfig {
    let mut labels = pod.labels.clone();
    labels.extend(identity(pod));
    let ports = pod.containers.iter().flat_map(|container| &container.ports);
    SandboxConfig {
        name: SandboxName {
            name: pod.name.name.clone(),
            namespace: pod.name.namespace.clone(),
            uid: pod.uid.clone(),
            attempt: 0,
        },
        // The node's own name is not a pod's to set.
        hostname: if pod.host_network {
            String::new()
        } else {
            pod.hostname.clone()
        },
        log_directory: Some(log_directory.to_owned()),
        dns,
        port_mappings: ports
            .map(|port| PortMapping {
                protocol: port.protocol,
                container_port: port.number,
                host_port: 0,
                host_ip: None,
            })
            .collect(),
        labels,
        annotations: pod.annotations.clone(),
        namespaces: namespaces(pod),
        privileged: pod.all_containers().any(|container| container.security.privileged),
        ..SandboxConfig::default()
    }
}

/// One of the pod's containers, for the `attempt`th time (from 0). `volumes`: the directory of the pod's emptyDirs;
/// `memory`: the node's, in bytes; `delay_s`: see [`DELAY`].
pub fn container(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    delay_s: u64,
    volumes: &Path,
    memory: i64,
) -> ContainerConfig {
    let mut labels = identity(pod);
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    let annotations = [
        (RESTART_COUNT, attempt.to_string()),
        (GRACE, pod.grace_s.to_string()),
        (DELAY, delay_s.to_string()),
    ];
    ContainerConfig {
        name: container.name.clone(),
        attempt,
        image: ImageRequest {
            image: container.image.clone(),
            user_specified_image: container.image.clone(),
            ..ImageRequest::default()
        },
        command: container.command.clone(),
        args: container.args.clone(),
        working_dir: container.working_dir.clone(),
        envs: container.env.clone(),
        mounts: container.mounts.iter().map(|mount| bind(pod, mount, volumes)).collect(),
        labels,
        annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
        log_path: format!("{}/{attempt}.log", container.name),
        resources: resources(pod, container, memory),
        security: security(pod, container),
        probes: container.probes.clone(),
        hooks: container.hooks.clone(),
        ..ContainerConfig::default()
    }
}

fn identity(pod: &Pod) -> BTreeMap<String, String> {
    let labels = [
        (POD_NAME, &pod.name.name),
        (POD_NAMESPACE, &pod.name.namespace),
        (POD_UID, &pod.uid),
    ];
    labels.map(|(key, value)| (key.to_owned(), value.clone())).into()
}

fn namespaces(pod: &Pod) -> Namespaces {
    Namespaces {
        network: if pod.host_network {
            NetworkMode::Node
        } else {
            NetworkMode::Pod
        },
        ipc: if pod.host_ipc { IpcMode::Node } else { IpcMode::Pod },
        pid: match (pod.host_pid, pod.share_pid) {
            (true, _) => PidMode::Node,
            (false, true) => PidMode::Pod,
            (false, false) => PidMode::Container,
        },
    }
}

fn bind(pod: &Pod, mount: &VolumeMount, volumes: &Path) -> Mount {
    let volume = pod.volumes.iter().find(|volume| volume.name == mount.volume);
    let host_path = match volume.map(|volume| &volume.source) {
        Some(Source::HostPath { path, .. }) => path.clone(),
        Some(Source::EmptyDir) | None => volumes.join(&mount.volume),
    };
    Mount {
        container_path: mount.path.clone(),
        host_path,
        readonly: mount.read_only,
        ..Mount::default()
    }
}

fn security(pod: &Pod, container: &Container) -> Security {
    let wanted = &container.security;
    let hidden = |paths: &[&str]| -> Vec<String> {
        let paths = if wanted.privileged { &[] } else { paths };
        paths.iter().map(|path| (*path).to_owned()).collect()
    };
    let mut security = Security {
        namespaces: namespaces(pod),
        privileged: wanted.privileged,
        run_as: wanted.run_as_user.map_or(RunAs::Image, RunAs::Uid),
        run_as_group: wanted.run_as_group,
        supplemental_groups: wanted.supplemental_groups.clone(),
        readonly_rootfs: wanted.read_only_root,
        no_new_privs: wanted.no_new_privs,
        masked_paths: hidden(&oci::DEFAULT_MASKED_PATHS),
        readonly_paths: hidden(&oci::DEFAULT_READONLY_PATHS),
        ..Security::default()
    };
    security.capabilities.add.clone_from(&wanted.add);
    security.capabilities.drop.clone_from(&wanted.drop);
    security
}

/// As the kubelet computes them (`MilliCPUToShares`, `MilliCPUToQuota`).
fn resources(pod: &Pod, container: &Container, memory: i64) -> Resources {
    const PERIOD_US: i64 = 100_000;
    let mut resources = Resources {
        cpu_shares: (container.requests.cpu_milli.unwrap_or(0).saturating_mul(1024) / 1000).clamp(2, 262_144),
        memory_limit_in_bytes: container.limits.memory.unwrap_or(0),
        oom_score_adj: oom_score_adj(pod.quality(), container, memory),
        ..Resources::default()
    };
    if let Some(limit) = container.limits.cpu_milli.filter(|limit| *limit > 0) {
        resources.cpu_period = PERIOD_US;
        resources.cpu_quota = (limit.saturating_mul(PERIOD_US) / 1000).max(1000);
    }
    resources
}

/// The more of the node's memory a container asked for, the later it is killed when memory runs out; between the
/// guaranteed ones and those without any request (the kubelet's `GetContainerOOMScoreAdjust`).
fn oom_score_adj(quality: Quality, container: &Container, memory: i64) -> i64 {
    match quality {
        Quality::Guaranteed => -997,
        Quality::BestEffort => 1000,
        Quality::Burstable => {
            let request = container.requests.memory.unwrap_or(0);
            let share = i128::from(request) * 1000 / i128::from(memory.max(1));
            1000 - i64::try_from(share).unwrap_or(1000).clamp(1, 997)
        }
    }
}

/// The emptyDirs that a pod needs.
pub fn empty_dirs<'a>(pod: &'a Pod, volumes: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    pod.volumes
        .iter()
        .filter(|volume| volume.source == Source::EmptyDir)
        .map(|volume| volumes.join(&volume.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse;
    use crate::model::security::Profile;

    const GIB: i64 = 1 << 30;

    fn pod(container: &str, spec: &str) -> Pod {
        let head = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: ns, labels: {a: b}}\nspec:\n";
        parse(
            &format!("{head}{spec}  containers:\n  - name: c\n    image: i\n{container}"),
            0,
        )
        .unwrap()
    }

    fn config(pod: &Pod) -> ContainerConfig {
        container(pod, &pod.containers[0], 3, 20, Path::new("/volumes"), 4 * GIB)
    }

    #[test]
    fn the_sandbox_is_the_kubelets() {
        let pod = pod("    ports: [{containerPort: 80}]\n", "");
        let sandbox = sandbox(&pod, None, Path::new("/logs/x"));
        assert_eq!(
            (
                sandbox.name.name.as_str(),
                sandbox.name.namespace.as_str(),
                sandbox.name.attempt
            ),
            ("p", "ns", 0)
        );
        assert_eq!(sandbox.labels["a"], "b");
        assert_eq!(sandbox.labels["io.kubernetes.pod.uid"], pod.uid);
        assert_eq!(sandbox.log_directory.as_deref(), Some(Path::new("/logs/x")));
        assert_eq!(
            (sandbox.hostname.as_str(), sandbox.port_mappings[0].container_port),
            ("p", 80)
        );
        assert_eq!(sandbox.namespaces, Namespaces::default());
        assert!(!sandbox.privileged);
    }

    #[test]
    fn the_nodes_namespaces_are_used_where_asked() {
        let pod = pod("", "  hostNetwork: true\n  hostIPC: true\n  hostPID: true\n");
        let expected = Namespaces {
            network: NetworkMode::Node,
            ipc: IpcMode::Node,
            pid: PidMode::Node,
        };
        assert_eq!(sandbox(&pod, None, Path::new("/")).namespaces, expected);
        assert_eq!(sandbox(&pod, None, Path::new("/")).hostname, "");
        assert_eq!(config(&pod).security.namespaces, expected);
    }

    #[test]
    fn a_container_is_the_kubelets() {
        let mounts = "    volumeMounts: [{name: e, mountPath: /e}, {name: h, mountPath: /h, readOnly: true}]\n";
        let pod = pod(mounts, "  volumes: [{name: e}, {name: h, hostPath: {path: /srv}}]\n");
        let config = config(&pod);
        assert_eq!((config.log_path.as_str(), config.attempt), ("c/3.log", 3));
        assert_eq!(config.annotations[DELAY], "20");
        assert_eq!(config.annotations["io.kubernetes.container.restartCount"], "3");
        assert_eq!(config.annotations["io.kubernetes.pod.terminationGracePeriod"], "30");
        assert_eq!(config.labels["io.kubernetes.container.name"], "c");
        let mounts: Vec<_> = config
            .mounts
            .iter()
            .map(|m| (m.host_path.to_str().unwrap(), m.readonly))
            .collect();
        assert_eq!(mounts, [("/volumes/e", false), ("/srv", true)]);
        assert_eq!(config.security.seccomp, Profile::Unconfined);
        assert_eq!(config.security.masked_paths.len(), oci::DEFAULT_MASKED_PATHS.len());
        assert_eq!(
            empty_dirs(&pod, Path::new("/v")).collect::<Vec<_>>(),
            [Path::new("/v/e")]
        );
    }

    #[test]
    fn nothing_is_hidden_from_a_privileged_container() {
        let config = config(&pod("    securityContext: {privileged: true}\n", ""));
        assert!(config.security.privileged && config.security.masked_paths.is_empty());
        assert!(config.security.readonly_paths.is_empty());
    }

    #[test]
    fn resources_are_the_kubelets() {
        for (text, shares, quota, limit, oom) in [
            ("{}", 2, 0, 0, 1000),
            ("{limits: {cpu: 500m, memory: 1Gi}}", 512, 50_000, GIB, -997),
            ("{limits: {cpu: 1m}}", 2, 1000, 0, 999),
            ("{requests: {cpu: 2, memory: 1Gi}}", 2048, 0, 0, 750),
            ("{requests: {memory: 100Gi}}", 2, 0, 0, 3),
            ("{requests: {memory: 1}}", 2, 0, 0, 999),
            ("{requests: {cpu: 0}, limits: {memory: 0}}", 2, 0, 0, 1000),
        ] {
            let resources = config(&pod(&format!("    resources: {text}\n"), "")).resources;
            let seen = (
                resources.cpu_shares,
                resources.cpu_quota,
                resources.memory_limit_in_bytes,
                resources.oom_score_adj,
            );
            assert_eq!(seen, (shares, quota, limit, oom), "{text}");
        }
    }

    #[test]
    fn one_container_without_limits_makes_the_pod_burstable() {
        let limits = "    resources: {limits: {cpu: 1, memory: 1Gi}}\n";
        let pod = pod(limits, "  initContainers: [{name: i, image: i}]\n");
        assert_eq!(pod.quality(), Quality::Burstable);
    }
}
