//! Sandboxes.

use crate::model::Refusal;
use crate::model::sandbox::{Dns, Owner, PortMapping, Protocol, SandboxConfig, SandboxName, SandboxState};
use crate::model::security::{IpcMode, Namespaces, NetworkMode, PidMode};
use crate::pod::SandboxView;
use crate::proto::runtime as pb;

/// Parses `config` of RunPodSandbox.
pub fn config(message: Option<&pb::PodSandboxConfig>) -> Result<SandboxConfig, Refusal> {
    let message = super::required("config", message)?;
    super::check_size("config", message)?;
    let metadata = super::required("metadata", message.metadata.as_ref())?;
    let linux = message.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    let options = security.namespace_options.as_ref();
    let field = "linux.security_context.namespace_options";
    let limits = |name: &str, limits: &Option<pb::LinuxContainerResources>| {
        limits
            .as_ref()
            .map(|limits| super::resources(&format!("linux.{name}"), limits))
            .transpose()
    };
    super::no_nul("hostname", &message.hostname)?;
    super::security::no_selinux(
        "linux.security_context.selinux_options",
        security.selinux_options.is_some(),
    )?;
    Ok(SandboxConfig {
        name: SandboxName {
            name: super::name("metadata.name", &metadata.name)?,
            namespace: super::name("metadata.namespace", &metadata.namespace)?,
            uid: super::name("metadata.uid", &metadata.uid)?,
            attempt: metadata.attempt,
        },
        hostname: message.hostname.clone(),
        log_directory: directory("log_directory", &message.log_directory)?,
        dns: message.dns_config.as_ref().map(dns).transpose()?.flatten(),
        port_mappings: port_mappings(&message.port_mappings)?,
        labels: super::sorted(&message.labels),
        annotations: super::sorted(&message.annotations),
        cgroup_parent: cgroup_parent("linux.cgroup_parent", &linux.cgroup_parent)?,
        namespaces: super::security::sandbox_namespaces(field, options)?,
        sysctls: super::sorted(&linux.sysctls),
        privileged: security.privileged,
        overhead: limits("overhead", &linux.overhead)?,
        resources: limits("resources", &linux.resources)?,
    })
}

fn directory(field: &str, text: &str) -> Result<Option<std::path::PathBuf>, Refusal> {
    super::no_nul(field, text)?;
    match text {
        "" => Ok(None),
        text if text.starts_with('/') => Ok(Some(text.into())),
        text => Err(Refusal::invalid(field, format!("{text:?} is not an absolute path"))),
    }
}

/// A path of cgroupfs. It must not lead out of where it says it is.
fn cgroup_parent(field: &str, text: &str) -> Result<Option<String>, Refusal> {
    super::no_nul(field, text)?;
    if text.split('/').any(|part| part == "..") {
        return Err(Refusal::invalid(field, format!("{text:?} contains \"..\"")));
    }
    let trimmed = text.trim_matches('/');
    Ok((!trimmed.is_empty()).then(|| format!("/{trimmed}")))
}

/// None when the message says nothing: the node's resolv.conf then.
fn dns(message: &pb::DnsConfig) -> Result<Option<Dns>, Refusal> {
    let check = |name: &str, words: &[String]| {
        let bad = words
            .iter()
            .position(|word| word.is_empty() || word.contains(char::is_whitespace));
        match bad {
            Some(index) => Err(Refusal::invalid(
                format!("dns_config.{name}[{index}]"),
                "empty or with a space",
            )),
            None => Ok(words.to_vec()),
        }
    };
    let servers = check("servers", &message.servers)?;
    let searches = check("searches", &message.searches)?;
    let options = check("options", &message.options)?;
    let empty = servers.is_empty() && searches.is_empty() && options.is_empty();
    Ok((!empty).then_some(Dns {
        servers,
        searches,
        options,
    }))
}

fn port_mappings(messages: &[pb::PortMapping]) -> Result<Vec<PortMapping>, Refusal> {
    let parse = |(index, message): (usize, &pb::PortMapping)| {
        let field = |name: &str| format!("port_mappings[{index}].{name}");
        let port = |name: &str, value: i32| {
            u16::try_from(value).map_err(|_| Refusal::invalid(field(name), format!("{value} is not a port")))
        };
        let protocol = match pb::Protocol::try_from(message.protocol) {
            Ok(pb::Protocol::Tcp) => Protocol::Tcp,
            Ok(pb::Protocol::Udp) => Protocol::Udp,
            Ok(pb::Protocol::Sctp) => Protocol::Sctp,
            Err(_) => {
                return Err(Refusal::invalid(
                    field("protocol"),
                    format!("no such protocol: {}", message.protocol),
                ));
            }
        };
        let host_ip = match message.host_ip.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| Refusal::invalid(field("host_ip"), format!("{text:?} is no address")))?,
            ),
        };
        let (container_port, host_port) = (
            port("container_port", message.container_port)?,
            port("host_port", message.host_port)?,
        );
        Ok(PortMapping {
            protocol,
            container_port,
            host_port,
            host_ip,
        })
    };
    messages.iter().enumerate().map(parse).collect()
}

fn state(state: &SandboxState) -> pb::PodSandboxState {
    match state {
        SandboxState::Ready(_) => pb::PodSandboxState::SandboxReady,
        SandboxState::Creating | SandboxState::Stopping(_) | SandboxState::Stopped => {
            pb::PodSandboxState::SandboxNotready
        }
    }
}

fn metadata(name: &SandboxName) -> pb::PodSandboxMetadata {
    let SandboxName {
        name,
        namespace,
        uid,
        attempt,
    } = name.clone();
    pb::PodSandboxMetadata {
        name,
        uid,
        namespace,
        attempt,
    }
}

/// One row of ListPodSandbox.
pub fn row(view: &SandboxView) -> pb::PodSandbox {
    let record = &view.record;
    pb::PodSandbox {
        id: view.id.to_string(),
        metadata: Some(metadata(&record.config.name)),
        state: state(&record.state).into(),
        created_at: record.created_at,
        labels: super::unsorted(&record.config.labels),
        annotations: super::unsorted(&record.config.annotations),
        runtime_handler: record.handler.clone(),
    }
}

/// Whether CRI may see it, and `filter` asks for it.
pub fn matches(view: &SandboxView, filter: Option<&pb::PodSandboxFilter>) -> bool {
    let Some(filter) = filter else {
        return view.record.owner == Owner::Cri;
    };
    let state_matches = filter
        .state
        .is_none_or(|wanted| wanted.state == i32::from(state(&view.record.state)));
    let labels = &view.record.config.labels;
    view.record.owner == Owner::Cri
        && view.id.as_str().starts_with(&filter.id)
        && state_matches
        && filter
            .label_selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
}

pub fn status(view: &SandboxView) -> pb::PodSandboxStatus {
    let record = &view.record;
    let network = match &record.state {
        SandboxState::Ready(ready) => ready.ips.split_first(),
        _ => None,
    };
    let network = network.map(|(primary, additional)| pb::PodSandboxNetworkStatus {
        ip: primary.to_string(),
        additional_ips: additional.iter().map(|ip| pb::PodIp { ip: ip.to_string() }).collect(),
    });
    let options = namespace_option(&record.config.namespaces);
    pb::PodSandboxStatus {
        id: view.id.to_string(),
        metadata: Some(metadata(&record.config.name)),
        state: state(&record.state).into(),
        created_at: record.created_at,
        network: Some(network.unwrap_or_default()),
        linux: Some(pb::LinuxPodSandboxStatus {
            namespaces: Some(pb::Namespace { options: Some(options) }),
        }),
        labels: super::unsorted(&record.config.labels),
        annotations: super::unsorted(&record.config.annotations),
        runtime_handler: record.handler.clone(),
    }
}

fn namespace_option(namespaces: &Namespaces) -> pb::NamespaceOption {
    let (pid, target_id) = match &namespaces.pid {
        PidMode::Pod => (pb::NamespaceMode::Pod, String::new()),
        PidMode::Container => (pb::NamespaceMode::Container, String::new()),
        PidMode::Node => (pb::NamespaceMode::Node, String::new()),
        PidMode::Target(id) => (pb::NamespaceMode::Target, id.to_string()),
    };
    let of = |node: bool| {
        if node {
            pb::NamespaceMode::Node
        } else {
            pb::NamespaceMode::Pod
        }
    };
    pb::NamespaceOption {
        network: of(namespaces.network == NetworkMode::Node).into(),
        pid: pid.into(),
        ipc: of(namespaces.ipc == IpcMode::Node).into(),
        target_id,
        userns_options: None,
    }
}
