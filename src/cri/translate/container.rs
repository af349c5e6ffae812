//! Containers.

use std::path::PathBuf;

use super::probes::{Annotations, probes_and_hooks};
use crate::model::container::{ContainerConfig, ContainerState, Device, ImageRequest, Mount, Propagation};
use crate::model::sandbox::SandboxConfig;
use crate::model::{Refusal, Signal};
use crate::pod::ContainerView;
use crate::proto::runtime as pb;

/// Parses `config` of CreateContainer. A container that says nothing of namespaces has its sandbox's, and so it is with
/// its probes and hooks.
pub fn config(message: Option<&pb::ContainerConfig>, sandbox: &SandboxConfig) -> Result<ContainerConfig, Refusal> {
    let message = super::required("config", message)?;
    super::check_size("config", message)?;
    let metadata = super::required("metadata", message.metadata.as_ref())?;
    let image = super::required("image", message.image.as_ref())?;
    if !message.cdi_devices.is_empty() {
        return Err(Refusal::unsupported("CDI_devices", "a CDI device"));
    }
    let linux = message.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    check_words("command", &message.command)?;
    check_words("args", &message.args)?;
    let envs: Vec<_> = message.envs.iter().enumerate().map(env).collect::<Result<_, _>>()?;
    let annotations = Annotations {
        container: &message.annotations,
        sandbox: &sandbox.annotations,
        name: &metadata.name,
    };
    let (probes, hooks) = probes_and_hooks(&annotations, &envs)?;
    Ok(ContainerConfig {
        name: super::name("metadata.name", &metadata.name)?,
        attempt: metadata.attempt,
        image: image_request(image)?,
        command: message.command.clone(),
        args: message.args.clone(),
        working_dir: working_dir(&message.working_dir)?,
        envs,
        mounts: message.mounts.iter().enumerate().map(mount).collect::<Result<_, _>>()?,
        devices: message
            .devices
            .iter()
            .enumerate()
            .map(device)
            .collect::<Result<_, _>>()?,
        labels: super::sorted(&message.labels),
        annotations: super::sorted(&message.annotations),
        log_path: log_path(&message.log_path)?,
        stdin: message.stdin,
        stdin_once: message.stdin_once,
        tty: message.tty,
        resources: super::resources("linux.resources", &linux.resources.unwrap_or_default())?,
        security: super::security::security("linux.security_context", &security, &sandbox.namespaces)?,
        stop_signal: stop_signal(message.stop_signal)?,
        probes,
        hooks,
    })
}

/// No word of a command line can hold a zero byte: the kernel would take it for the word's end.
pub fn check_words(field: &str, words: &[String]) -> Result<(), Refusal> {
    let mut words = words.iter().enumerate();
    words.try_for_each(|(index, word)| super::no_nul(&format!("{field}[{index}]"), word))
}

fn image_request(image: &pb::ImageSpec) -> Result<ImageRequest, Refusal> {
    if image.image.is_empty() {
        return Err(Refusal::invalid("image.image", "empty"));
    }
    Ok(ImageRequest {
        image: image.image.clone(),
        user_specified_image: image.user_specified_image.clone(),
        annotations: super::sorted(&image.annotations),
        runtime_handler: image.runtime_handler.clone(),
    })
}

fn working_dir(text: &str) -> Result<String, Refusal> {
    super::no_nul("working_dir", text)?;
    Ok(text.to_owned())
}

/// The log must stay inside the sandbox's log directory.
fn log_path(text: &str) -> Result<String, Refusal> {
    super::no_nul("log_path", text)?;
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(Refusal::invalid(
            "log_path",
            format!("{text:?} leads out of the log directory"),
        ));
    }
    Ok(text.to_owned())
}

/// An OCI spec is JSON, which cannot hold bytes that are not UTF-8.
fn env((index, message): (usize, &pb::KeyValue)) -> Result<(String, String), Refusal> {
    let field = |part: &str| format!("envs[{index}].{part}");
    if message.key.is_empty() || message.key.contains(['=', '\0']) {
        return Err(Refusal::invalid(
            field("key"),
            format!("{:?} cannot be a variable's name", message.key),
        ));
    }
    let value = String::from_utf8(message.value.clone());
    let value =
        value.map_err(|_| Refusal::invalid(field("value"), "not UTF-8, which the OCI runtime cannot be given"))?;
    super::no_nul(&field("value"), &value)?;
    Ok((message.key.clone(), value))
}

fn mount((index, message): (usize, &pb::Mount)) -> Result<Mount, Refusal> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    if message.image.as_ref().is_some_and(|image| !image.image.is_empty()) {
        return Err(Refusal::unsupported(field("image"), "an image volume"));
    }
    if !message.uid_mappings.is_empty() || !message.gid_mappings.is_empty() {
        return Err(Refusal::unsupported(field("uidMappings"), "an id-mapped mount"));
    }
    super::security::no_selinux(&field("selinux_relabel"), message.selinux_relabel)?;
    if !message.mount_options.is_empty() {
        return Err(Refusal::unsupported(field("mount_options"), "a mount option"));
    }
    for (name, path) in [
        ("container_path", &message.container_path),
        ("host_path", &message.host_path),
    ] {
        if path.is_empty() {
            return Err(Refusal::invalid(field(name), "empty"));
        }
        super::no_nul(&field(name), path)?;
    }
    if !message.host_path.starts_with('/') {
        return Err(Refusal::invalid(
            field("host_path"),
            format!("{:?} is not absolute", message.host_path),
        ));
    }
    let propagation = match pb::MountPropagation::try_from(message.propagation) {
        Ok(pb::MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(pb::MountPropagation::PropagationHostToContainer) => Propagation::HostToContainer,
        Ok(pb::MountPropagation::PropagationBidirectional) => Propagation::Bidirectional,
        Err(_) => {
            let reason = format!("no such propagation: {}", message.propagation);
            return Err(Refusal::invalid(field("propagation"), reason));
        }
    };
    Ok(Mount {
        container_path: message.container_path.clone(),
        host_path: PathBuf::from(&message.host_path),
        readonly: message.readonly,
        recursive_read_only: message.recursive_read_only,
        selinux_relabel: message.selinux_relabel,
        propagation,
    })
}

fn device((index, message): (usize, &pb::Device)) -> Result<Device, Refusal> {
    let field = |name: &str| format!("devices[{index}].{name}");
    let permissions = if message.permissions.is_empty() {
        "rwm"
    } else {
        &message.permissions
    };
    if permissions.chars().any(|letter| !"rwm".contains(letter)) {
        return Err(Refusal::invalid(
            field("permissions"),
            format!("{permissions:?} has letters other than r, w and m"),
        ));
    }
    if !message.host_path.starts_with('/') {
        return Err(Refusal::invalid(
            field("host_path"),
            format!("{:?} is not absolute", message.host_path),
        ));
    }
    let container_path = if message.container_path.is_empty() {
        &message.host_path
    } else {
        &message.container_path
    };
    super::no_nul(&field("container_path"), container_path)?;
    Ok(Device {
        container_path: container_path.clone(),
        host_path: PathBuf::from(&message.host_path),
        permissions: permissions.to_owned(),
    })
}

/// CRI numbers signals its own way; names are what both know (`SIGNAL_SIGRTMINPLUS3` is SIGRTMIN+3).
fn stop_signal(value: i32) -> Result<Option<Signal>, Refusal> {
    let refuse = || Refusal::invalid("stop_signal", format!("no such signal: {value}"));
    let signal = pb::Signal::try_from(value).map_err(|_| refuse())?;
    if signal == pb::Signal::RuntimeDefault {
        return Ok(None);
    }
    let name = signal
        .as_str_name()
        .trim_start_matches("SIGNAL_")
        .replace("PLUS", "+")
        .replace("MINUS", "-");
    name.parse().map(Some).map_err(|_| refuse())
}

fn stop_signal_message(signal: Signal) -> i32 {
    let all = (1..=65).filter_map(|number| Some((number, stop_signal(number).ok()??)));
    all.into_iter()
        .find(|(_, known)| *known == signal)
        .map_or(0, |(number, _)| number)
}

fn state(state: &ContainerState) -> pb::ContainerState {
    match state {
        ContainerState::Created => pb::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => pb::ContainerState::ContainerRunning,
        ContainerState::Exited(_) => pb::ContainerState::ContainerExited,
    }
}

fn image_spec(image: &ImageRequest) -> pb::ImageSpec {
    pb::ImageSpec {
        image: image.image.clone(),
        annotations: super::unsorted(&image.annotations),
        user_specified_image: image.user_specified_image.clone(),
        runtime_handler: image.runtime_handler.clone(),
        image_ref: String::new(),
    }
}

/// One row of ListContainers.
pub fn row(view: &ContainerView) -> pb::Container {
    let (record, config) = (&view.record, &view.record.config);
    pb::Container {
        id: view.id.to_string(),
        pod_sandbox_id: record.sandbox.to_string(),
        metadata: Some(pb::ContainerMetadata {
            name: config.name.clone(),
            attempt: config.attempt,
        }),
        image: Some(image_spec(&config.image)),
        image_ref: record.image_ref.clone(),
        state: state(&record.state).into(),
        created_at: record.created_at,
        labels: super::unsorted(&config.labels),
        annotations: super::unsorted(&config.annotations),
        image_id: record.image_id.clone(),
    }
}

/// Whether `filter` asks for it.
pub fn matches(view: &ContainerView, filter: Option<&pb::ContainerFilter>) -> bool {
    let Some(filter) = filter else { return true };
    let state_matches = filter
        .state
        .is_none_or(|wanted| wanted.state == i32::from(state(&view.record.state)));
    let labels = &view.record.config.labels;
    view.id.as_str().starts_with(&filter.id)
        && view.record.sandbox.as_str().starts_with(&filter.pod_sandbox_id)
        && state_matches
        && filter
            .label_selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
}

pub fn status(view: &ContainerView) -> pb::ContainerStatus {
    let (record, config) = (&view.record, &view.record.config);
    let mut status = pb::ContainerStatus {
        id: view.id.to_string(),
        metadata: Some(pb::ContainerMetadata {
            name: config.name.clone(),
            attempt: config.attempt,
        }),
        state: state(&record.state).into(),
        created_at: record.created_at,
        image: Some(image_spec(&config.image)),
        image_ref: record.image_ref.clone(),
        labels: super::unsorted(&config.labels),
        annotations: super::unsorted(&config.annotations),
        mounts: config.mounts.iter().map(mount_message).collect(),
        log_path: view
            .log_path
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        resources: Some(pb::ContainerResources {
            linux: Some(super::resources_message(&config.resources)),
            windows: None,
        }),
        image_id: record.image_id.clone(),
        user: Some(pb::ContainerUser {
            linux: Some(pb::LinuxContainerUser {
                uid: record.user.uid.into(),
                gid: record.user.gid.into(),
                supplemental_groups: record
                    .user
                    .supplemental_groups
                    .iter()
                    .map(|gid| i64::from(*gid))
                    .collect(),
            }),
        }),
        stop_signal: stop_signal_message(record.stop_signal),
        ..pb::ContainerStatus::default()
    };
    match &record.state {
        ContainerState::Created => {}
        ContainerState::Running { started_at, .. } => status.started_at = *started_at,
        ContainerState::Exited(exit) => {
            (status.started_at, status.finished_at, status.exit_code) = (exit.started_at, exit.finished_at, exit.code);
            exit.reason.as_str().clone_into(&mut status.reason);
            status.message.clone_from(&exit.message);
        }
    }
    status
}

fn mount_message(mount: &Mount) -> pb::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => pb::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => pb::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => pb::MountPropagation::PropagationBidirectional,
    };
    pb::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.display().to_string(),
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation.into(),
        recursive_read_only: mount.recursive_read_only,
        ..pb::Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_cri_has_its_number_here_and_back() {
        for number in 1..=65 {
            let signal = stop_signal(number).unwrap().unwrap();
            assert_eq!(stop_signal(stop_signal_message(signal)).unwrap(), Some(signal));
        }
        assert_eq!(stop_signal(0).unwrap(), None);
        assert_eq!(stop_signal(23).unwrap(), Some(Signal::TERM));
        assert_eq!(stop_signal(65).unwrap().unwrap().number(), 64);
        assert!(stop_signal(66).is_err());
    }

    #[test]
    fn a_log_path_cannot_leave_its_directory() {
        for bad in ["/etc/passwd", "../x", "a/../../x", "a\0b"] {
            assert!(log_path(bad).is_err(), "{bad:?}");
        }
        assert_eq!(log_path("web/0.log").unwrap(), "web/0.log");
    }
}
