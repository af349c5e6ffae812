//! The pod around its containers.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::Check;
use crate::manifest::pod::{HostPathKind, Pod, PodName, RestartPolicy, Security, Source, Volume};
use crate::manifest::{names, wire};
use crate::model::Id;

/// Namespace, name and uid make the name of a directory, of at most 255 bytes.
const LONGEST_NAMES: usize = 255 - 2 - 36;

impl Check {
    /// The pod; what is wrong with it is in `wrong`. `now`: nanoseconds since the Unix epoch.
    pub fn pod(&mut self, pod: wire::Pod, now: i64) -> Pod {
        self.word(
            "apiVersion",
            Some(pod.api_version.as_deref().unwrap_or_default()),
            (),
            &[("v1", ())],
        );
        self.word(
            "kind",
            Some(pod.kind.as_deref().unwrap_or_default()),
            (),
            &[("Pod", ())],
        );
        let metadata = pod.metadata.unwrap_or_default();
        let name = self.pod_name(metadata.name, metadata.namespace);
        for (key, value) in metadata.labels.iter().flatten() {
            self.rule(
                &format!("metadata.labels.{key}"),
                names::qualified(key).or_else(|| names::label_value(value)),
            );
        }
        for key in metadata.annotations.iter().flatten().map(|(key, _)| key) {
            self.rule(
                &format!("metadata.annotations.{key}"),
                names::qualified(&key.to_lowercase()),
            );
        }
        let spec = pod.spec.unwrap_or_default();
        let security = spec.security_context.unwrap_or_default();
        let security = Security {
            run_as_user: self.id("spec.securityContext.runAsUser", security.run_as_user),
            run_as_group: self.id("spec.securityContext.runAsGroup", security.run_as_group),
            supplemental_groups: self.groups(security.supplemental_groups.unwrap_or_default()),
            ..Security::default()
        };
        let volumes = self.volumes(spec.volumes.unwrap_or_default());
        let mut seen = BTreeSet::new();
        let init = spec.init_containers.unwrap_or_default();
        self.no_probes_nor_hooks(&init);
        let init = self.containers("spec.initContainers", init, &security, &volumes, &mut seen);
        let containers = spec.containers.unwrap_or_default();
        if containers.is_empty() {
            self.refuse("spec.containers", "required");
        }
        let containers = self.containers("spec.containers", containers, &security, &volumes, &mut seen);
        let (host_pid, share_pid) = (
            spec.host_pid.unwrap_or(false),
            spec.share_process_namespace.unwrap_or(false),
        );
        if host_pid && share_pid {
            self.refuse("spec.shareProcessNamespace", "contradicts hostPID");
        }
        if let Some(hostname) = &spec.hostname {
            self.rule("spec.hostname", names::label(hostname));
        }
        // berth has no DNS server of a cluster to send pods to; like a kubelet without one it gives them the node's.
        let policies = [("ClusterFirst", ()), ("Default", ()), ("ClusterFirstWithHostNet", ())];
        self.word("spec.dnsPolicy", spec.dns_policy.as_deref(), (), &policies);
        let restart = self.word(
            "spec.restartPolicy",
            spec.restart_policy.as_deref(),
            RestartPolicy::Always,
            &[
                ("Always", RestartPolicy::Always),
                ("OnFailure", RestartPolicy::OnFailure),
                ("Never", RestartPolicy::Never),
            ],
        );
        Pod {
            hostname: spec.hostname.unwrap_or_else(|| hostname_of(&name.name)),
            name,
            uid: Id::random().uuid(),
            created_at: now,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            host_network: spec.host_network.unwrap_or(false),
            host_pid,
            host_ipc: spec.host_ipc.unwrap_or(false),
            share_pid,
            restart,
            grace_s: self.grace(spec.termination_grace_period_seconds),
            volumes,
            init,
            containers,
        }
    }

    fn pod_name(&mut self, name: Option<String>, namespace: Option<String>) -> PodName {
        let name = self.name("metadata.name", name, names::subdomain);
        let namespace = namespace
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or_else(|| "default".to_owned());
        self.rule("metadata.namespace", names::label(&namespace));
        if namespace.len() + name.len() > LONGEST_NAMES {
            self.refuse(
                "metadata.name",
                format!("is longer, with the namespace, than {LONGEST_NAMES} characters"),
            );
        }
        PodName { namespace, name }
    }

    fn grace(&mut self, seconds: Option<i64>) -> u32 {
        let seconds = seconds.unwrap_or(30);
        u32::try_from(seconds).unwrap_or_else(|_| {
            self.refuse(
                "spec.terminationGracePeriodSeconds",
                format!("{seconds} is not a number of seconds"),
            );
            30
        })
    }

    fn groups(&mut self, groups: Vec<i64>) -> Vec<u32> {
        let path = |i| format!("spec.securityContext.supplementalGroups[{i}]");
        groups
            .into_iter()
            .enumerate()
            .filter_map(|(i, group)| self.id(&path(i), Some(group)))
            .collect()
    }

    fn volumes(&mut self, volumes: Vec<wire::Volume>) -> Vec<Volume> {
        let mut seen = BTreeSet::new();
        let mut checked = Vec::new();
        for (i, volume) in volumes.into_iter().enumerate() {
            let path = format!("spec.volumes[{i}]");
            let name = self.name(&format!("{path}.name"), volume.name, names::label);
            self.unique(&format!("{path}.name"), &mut seen, name.clone());
            if volume.empty_dir.is_some() && volume.host_path.is_some() {
                self.refuse(&path, "has two sources");
            }
            // A volume without a source is an emptyDir to Kubernetes, too.
            let source = volume
                .host_path
                .map(|host| self.host_path(&format!("{path}.hostPath"), host));
            checked.push(Volume {
                name,
                source: source.unwrap_or(Source::EmptyDir),
            });
        }
        checked
    }

    fn host_path(&mut self, path: &str, host: wire::HostPath) -> Source {
        let (at, on_host) = (
            format!("{path}.path"),
            self.required(&format!("{path}.path"), host.path),
        );
        if on_host.split('/').any(|part| part == "..") {
            self.refuse(&at, "must not contain '..'");
        } else if !on_host.is_empty() && !on_host.starts_with('/') {
            self.refuse(&at, "must be absolute");
        }
        let kinds = [
            ("", HostPathKind::Unchecked),
            ("Directory", HostPathKind::Directory),
            ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
            ("File", HostPathKind::File),
            ("FileOrCreate", HostPathKind::FileOrCreate),
            ("Socket", HostPathKind::Socket),
            ("CharDevice", HostPathKind::CharDevice),
            ("BlockDevice", HostPathKind::BlockDevice),
        ];
        let kind = self.word(
            &format!("{path}.type"),
            host.kind.as_deref(),
            HostPathKind::Unchecked,
            &kinds,
        );
        Source::HostPath {
            path: PathBuf::from(on_host),
            kind,
        }
    }
}

/// A pod's name as a host name: cut where the kernel would not take more, and not ending in what no name ends in.
fn hostname_of(name: &str) -> String {
    name.get(..63).unwrap_or(name).trim_end_matches(['-', '.']).to_owned()
}
