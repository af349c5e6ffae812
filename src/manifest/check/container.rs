//! A container, initial or not.

use std::collections::BTreeSet;

use super::Check;
use crate::manifest::pod::{Amounts, Container, Port, PullPolicy, Security, Volume, VolumeMount};
use crate::manifest::quantity::Quantity;
use crate::manifest::{names, wire};
use crate::model::expand::expand;
use crate::model::sandbox::Protocol;
use crate::model::security::Capabilities;

impl Check {
    pub(super) fn containers(
        &mut self,
        path: &str,
        containers: Vec<wire::Container>,
        of_pod: &Security,
        volumes: &[Volume],
        seen: &mut BTreeSet<String>,
    ) -> Vec<Container> {
        let mut checked = Vec::new();
        for (i, container) in containers.into_iter().enumerate() {
            let path = format!("{path}[{i}]");
            let container = self.container(&path, container, of_pod, volumes);
            self.unique(&format!("{path}.name"), seen, container.name.clone());
            checked.push(container);
        }
        checked
    }

    fn container(&mut self, path: &str, mut wire: wire::Container, of_pod: &Security, volumes: &[Volume]) -> Container {
        let probes = [
            wire.liveness_probe.take(),
            wire.readiness_probe.take(),
            wire.startup_probe.take(),
        ];
        let name = self.name(&format!("{path}.name"), wire.name, names::label);
        let image = self.required(&format!("{path}.image"), wire.image);
        if image.trim() != image {
            self.refuse(format!("{path}.image"), "must not begin or end with blanks");
        }
        let policies = [
            ("Always", PullPolicy::Always),
            ("IfNotPresent", PullPolicy::IfNotPresent),
            ("Never", PullPolicy::Never),
        ];
        let pull = wire.image_pull_policy.as_deref();
        let pull = self.word(
            &format!("{path}.imagePullPolicy"),
            pull,
            default_pull(&image),
            &policies,
        );
        let env = self.env(path, wire.env.unwrap_or_default());
        let value = |name: &str| {
            env.iter()
                .rev()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
        };
        let expanded = |texts: Option<Vec<String>>| -> Vec<String> {
            texts
                .unwrap_or_default()
                .iter()
                .map(|text| expand(text, value))
                .collect()
        };
        let (requests, limits) = self.resources(&format!("{path}.resources"), wire.resources.unwrap_or_default());
        let ports = self.ports(path, wire.ports.unwrap_or_default());
        let mut probes = self.probes(path, probes, &ports);
        probes.expand(value);
        Container {
            probes,
            hooks: self.hooks(path, wire.lifecycle, &ports),
            command: expanded(wire.command),
            args: expanded(wire.args),
            name,
            image,
            pull,
            working_dir: wire.working_dir.unwrap_or_default(),
            env,
            ports,
            mounts: self.mounts(path, wire.volume_mounts.unwrap_or_default(), volumes),
            requests,
            limits,
            security: self.security(path, wire.security_context.unwrap_or_default(), of_pod),
        }
    }

    /// Each value may refer to those before it.
    fn env(&mut self, path: &str, env: Vec<wire::Env>) -> Vec<(String, String)> {
        let mut checked: Vec<(String, String)> = Vec::new();
        for (i, variable) in env.into_iter().enumerate() {
            let name = self.name(&format!("{path}.env[{i}].name"), variable.name, names::variable);
            let value = expand(&variable.value.unwrap_or_default(), |name| {
                checked
                    .iter()
                    .rev()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value.clone())
            });
            checked.push((name, value));
        }
        checked
    }

    fn ports(&mut self, path: &str, ports: Vec<wire::Port>) -> Vec<Port> {
        let (mut names, mut checked) = (BTreeSet::new(), Vec::new());
        for (i, port) in ports.into_iter().enumerate() {
            let path = format!("{path}.ports[{i}]");
            if let Some(name) = &port.name {
                self.rule(&format!("{path}.name"), names::port(name));
                self.unique(&format!("{path}.name"), &mut names, name.clone());
            }
            let number = port.container_port.unwrap_or_default();
            let number = u16::try_from(number)
                .ok()
                .filter(|number| *number > 0)
                .unwrap_or_else(|| {
                    self.refuse(
                        format!("{path}.containerPort"),
                        format!("{number} is not between 1 and 65535"),
                    );
                    1
                });
            let protocols = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
            let protocol = self.word(
                &format!("{path}.protocol"),
                port.protocol.as_deref(),
                Protocol::Tcp,
                &protocols,
            );
            checked.push(Port {
                name: port.name,
                number,
                protocol,
            });
        }
        checked
    }

    fn mounts(&mut self, path: &str, mounts: Vec<wire::Mount>, volumes: &[Volume]) -> Vec<VolumeMount> {
        let (mut paths, mut checked) = (BTreeSet::new(), Vec::new());
        for (i, mount) in mounts.into_iter().enumerate() {
            let path = format!("{path}.volumeMounts[{i}]");
            let volume = self.required(&format!("{path}.name"), mount.name);
            if !volume.is_empty() && !volumes.iter().any(|known| known.name == volume) {
                self.refuse(format!("{path}.name"), format!("the pod has no volume {volume:?}"));
            }
            let at = format!("{path}.mountPath");
            let target = self.required(&at, mount.mount_path);
            // Kubernetes takes a relative path and leaves it to the runtime, which cannot mean anything by it.
            if !target.is_empty() && !target.starts_with('/') {
                self.refuse(&at, "must be absolute");
            } else if target.contains(':') || target.split('/').any(|part| part == "..") {
                self.refuse(&at, "must not contain ':' nor '..'");
            }
            self.unique(&at, &mut paths, target.trim_end_matches('/').to_owned());
            checked.push(VolumeMount {
                volume,
                path: target,
                read_only: mount.read_only.unwrap_or(false),
            });
        }
        checked
    }

    /// Requests and limits; a request that is not given is the limit's.
    fn resources(&mut self, path: &str, resources: wire::Resources) -> (Amounts, Amounts) {
        let (requests, limits) = (
            resources.requests.unwrap_or_default(),
            resources.limits.unwrap_or_default(),
        );
        for (name, request, limit) in [
            ("cpu", requests.cpu, limits.cpu),
            ("memory", requests.memory, limits.memory),
        ] {
            if request.zip(limit).is_some_and(|(request, limit)| request > limit) {
                self.refuse(format!("{path}.requests.{name}"), "is more than the limit");
            }
        }
        let amounts = |amounts: wire::Amounts| Amounts {
            cpu_milli: amounts.cpu.map(Quantity::milli),
            memory: amounts.memory.map(Quantity::units),
        };
        let effective = wire::Amounts {
            cpu: requests.cpu.or(limits.cpu),
            memory: requests.memory.or(limits.memory),
        };
        (amounts(effective), amounts(limits))
    }

    fn security(&mut self, path: &str, wire: wire::Security, of_pod: &Security) -> Security {
        let path = format!("{path}.securityContext");
        let capabilities = wire.capabilities.unwrap_or_default();
        let add = self.capabilities(
            &format!("{path}.capabilities.add"),
            capabilities.add.unwrap_or_default(),
        );
        let drop = self.capabilities(
            &format!("{path}.capabilities.drop"),
            capabilities.drop.unwrap_or_default(),
        );
        let (privileged, no_new_privs) = (
            wire.privileged.unwrap_or(false),
            wire.allow_privilege_escalation == Some(false),
        );
        if no_new_privs && privileged {
            self.refuse(
                format!("{path}.allowPrivilegeEscalation"),
                "false contradicts privileged",
            );
        } else if no_new_privs && add.iter().any(|name| name == "CAP_SYS_ADMIN") {
            self.refuse(
                format!("{path}.allowPrivilegeEscalation"),
                "false contradicts the capability SYS_ADMIN",
            );
        }
        Security {
            add,
            drop,
            run_as_user: self
                .id(&format!("{path}.runAsUser"), wire.run_as_user)
                .or(of_pod.run_as_user),
            run_as_group: self
                .id(&format!("{path}.runAsGroup"), wire.run_as_group)
                .or(of_pod.run_as_group),
            supplemental_groups: of_pod.supplemental_groups.clone(),
            privileged,
            read_only_root: wire.read_only_root_filesystem.unwrap_or(false),
            no_new_privs,
        }
    }

    fn capabilities(&mut self, path: &str, names: Vec<String>) -> Vec<String> {
        let mut checked = Vec::new();
        for (i, name) in names.into_iter().enumerate() {
            let upper = name.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if bare == Capabilities::ALL {
                checked.push(bare.to_owned());
            } else if CAPABILITIES.contains(&bare) {
                checked.push(format!("CAP_{bare}"));
            } else {
                self.refuse(format!("{path}[{i}]"), format!("no such capability: {name:?}"));
            }
        }
        checked
    }
}

/// Linux's, by capabilities(7).
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Kubernetes asks the registry each time for what may change: `:latest`, or no tag and no digest.
fn default_pull(image: &str) -> PullPolicy {
    let (name, digest) = image
        .split_once('@')
        .map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match (last.split_once(':'), digest) {
        (Some((_, "latest")), _) | (None, None) => PullPolicy::Always,
        _ => PullPolicy::IfNotPresent,
    }
}
