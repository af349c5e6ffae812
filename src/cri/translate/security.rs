//! Namespaces, users, capabilities and profiles.

use crate::model::Refusal;
use crate::model::security::{
    Capabilities, GroupsPolicy, IpcMode, Namespaces, NetworkMode, PidMode, Profile, RunAs, Security,
};
use crate::proto::runtime as pb;

/// The namespaces of a sandbox. A missing message means the modes numbered 0: everything the pod's.
pub fn sandbox_namespaces(field: &str, options: Option<&pb::NamespaceOption>) -> Result<Namespaces, Refusal> {
    let namespaces = namespaces(field, options)?;
    match namespaces.pid {
        PidMode::Target(_) => Err(Refusal::invalid(format!("{field}.pid"), "TARGET is for containers")),
        _ => Ok(namespaces),
    }
}

/// The namespaces of a container.
pub fn namespaces(field: &str, options: Option<&pb::NamespaceOption>) -> Result<Namespaces, Refusal> {
    let default = pb::NamespaceOption::default();
    let options = options.unwrap_or(&default);
    let mode = |name: &str, value: i32| {
        let field = format!("{field}.{name}");
        pb::NamespaceMode::try_from(value).map_err(|_| Refusal::invalid(field, format!("no such mode: {value}")))
    };
    let shared = |name: &str, value: i32| match mode(name, value)? {
        pb::NamespaceMode::Pod => Ok(false),
        pb::NamespaceMode::Node => Ok(true),
        other => {
            let reason = format!("{} is not for this namespace; POD or NODE are", other.as_str_name());
            Err(Refusal::invalid(format!("{field}.{name}"), reason))
        }
    };
    if let Some(user) = &options.userns_options {
        match mode("userns_options.mode", user.mode)? {
            pb::NamespaceMode::Node => {}
            pb::NamespaceMode::Pod => {
                return Err(Refusal::unsupported(
                    format!("{field}.userns_options"),
                    "a user namespace",
                ));
            }
            other => {
                let reason = format!("{} is not for user namespaces", other.as_str_name());
                return Err(Refusal::invalid(format!("{field}.userns_options.mode"), reason));
            }
        }
    }
    let pid = match mode("pid", options.pid)? {
        pb::NamespaceMode::Pod => PidMode::Pod,
        pb::NamespaceMode::Container => PidMode::Container,
        pb::NamespaceMode::Node => PidMode::Node,
        pb::NamespaceMode::Target => {
            let target = options.target_id.parse();
            PidMode::Target(target.map_err(|error| Refusal::invalid(format!("{field}.target_id"), format!("{error}")))?)
        }
    };
    Ok(Namespaces {
        network: if shared("network", options.network)? {
            NetworkMode::Node
        } else {
            NetworkMode::Pod
        },
        ipc: if shared("ipc", options.ipc)? {
            IpcMode::Node
        } else {
            IpcMode::Pod
        },
        pid,
    })
}

/// The security context of a container in a sandbox with the namespaces `sandbox`.
pub fn security(
    field: &str,
    message: &pb::LinuxContainerSecurityContext,
    sandbox: &Namespaces,
) -> Result<Security, Refusal> {
    no_selinux(&format!("{field}.selinux_options"), message.selinux_options.is_some())?;
    let run_as = match (&message.run_as_user, message.run_as_username.as_str()) {
        (Some(_), name) if !name.is_empty() => {
            return Err(Refusal::invalid(
                format!("{field}.run_as_username"),
                "given beside run_as_user",
            ));
        }
        (Some(uid), _) => RunAs::Uid(id(&format!("{field}.run_as_user"), uid.value)?),
        (None, "") => RunAs::Image,
        (None, name) => RunAs::Name(super::name(&format!("{field}.run_as_username"), name)?),
    };
    let group = message.run_as_group.as_ref();
    let run_as_group = group
        .map(|group| id(&format!("{field}.run_as_group"), group.value))
        .transpose()?;
    if run_as_group.is_some() && run_as == RunAs::Image {
        let reason = "given without run_as_user or run_as_username";
        return Err(Refusal::invalid(format!("{field}.run_as_group"), reason));
    }
    let groups = message.supplemental_groups.iter().enumerate();
    let groups = groups.map(|(index, group)| id(&format!("{field}.supplemental_groups[{index}]"), *group));
    Ok(Security {
        namespaces: match &message.namespace_options {
            None => sandbox.clone(),
            options => namespaces(&format!("{field}.namespace_options"), options.as_ref())?,
        },
        privileged: message.privileged,
        capabilities: capabilities(&format!("{field}.capabilities"), message.capabilities.as_ref())?,
        run_as,
        run_as_group,
        supplemental_groups: groups.collect::<Result<_, _>>()?,
        groups_policy: groups_policy(field, message.supplemental_groups_policy)?,
        readonly_rootfs: message.readonly_rootfs,
        no_new_privs: message.no_new_privs,
        masked_paths: message.masked_paths.clone(),
        readonly_paths: message.readonly_paths.clone(),
        seccomp: seccomp(field, message)?,
        apparmor: apparmor(field, message)?,
    })
}

/// Labels mean nothing where SELinux is off; where it is on, ignoring them would be a hole.
pub fn no_selinux(field: &str, asked: bool) -> Result<(), Refusal> {
    if asked && std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(Refusal::unsupported(field, "SELinux"));
    }
    Ok(())
}

/// A user or group id, as the kernel can hold it (-1 is "no id" there).
fn id(field: &str, value: i64) -> Result<u32, Refusal> {
    let refuse = |_| Refusal::invalid(field, format!("{value} is not an id between 0 and {}", u32::MAX - 1));
    u32::try_from(value).map_err(refuse)
}

fn groups_policy(field: &str, value: i32) -> Result<GroupsPolicy, Refusal> {
    match pb::SupplementalGroupsPolicy::try_from(value) {
        Ok(pb::SupplementalGroupsPolicy::Merge) => Ok(GroupsPolicy::Merge),
        Ok(pb::SupplementalGroupsPolicy::Strict) => Ok(GroupsPolicy::Strict),
        Err(_) => Err(Refusal::invalid(
            format!("{field}.supplemental_groups_policy"),
            format!("no such policy: {value}"),
        )),
    }
}

fn capabilities(field: &str, message: Option<&pb::Capability>) -> Result<Capabilities, Refusal> {
    let Some(message) = message else {
        return Ok(Capabilities::default());
    };
    let names = |name: &str, names: &[String]| {
        let canonical =
            |(index, text): (usize, &String)| canonical_capability(&format!("{field}.{name}[{index}]"), text);
        names.iter().enumerate().map(canonical).collect::<Result<Vec<_>, _>>()
    };
    Ok(Capabilities {
        add: names("add_capabilities", &message.add_capabilities)?,
        drop: names("drop_capabilities", &message.drop_capabilities)?,
        add_ambient: names("add_ambient_capabilities", &message.add_ambient_capabilities)?,
    })
}

/// Upper case with the prefix, as capabilities(7) writes them. Whether the kernel knows it is looked at later.
fn canonical_capability(field: &str, text: &str) -> Result<String, Refusal> {
    let upper = super::name(field, text)?.to_ascii_uppercase();
    Ok(if upper == Capabilities::ALL || upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    })
}

/// The newer message wins over the deprecated string; neither means unconfined.
fn seccomp(field: &str, message: &pb::LinuxContainerSecurityContext) -> Result<Profile, Refusal> {
    if let Some(profile) = &message.seccomp {
        return profile_of(&format!("{field}.seccomp"), profile);
    }
    #[allow(deprecated)]
    let text = message.seccomp_profile_path.as_str();
    match text {
        "" | "unconfined" => Ok(Profile::Unconfined),
        "runtime/default" | "docker/default" => Ok(Profile::RuntimeDefault),
        text => match text.strip_prefix("localhost/") {
            Some(path) if path.starts_with('/') => Ok(Profile::Localhost(path.into())),
            _ => {
                let reason = format!("{text:?} is no profile (runtime/default, unconfined or localhost/ABSOLUTE_PATH)");
                Err(Refusal::invalid(format!("{field}.seccomp_profile_path"), reason))
            }
        },
    }
}

fn apparmor(field: &str, message: &pb::LinuxContainerSecurityContext) -> Result<Profile, Refusal> {
    if let Some(profile) = &message.apparmor {
        return profile_of(&format!("{field}.apparmor"), profile);
    }
    #[allow(deprecated)]
    let text = message.apparmor_profile.as_str();
    match text {
        "" | "unconfined" => Ok(Profile::Unconfined),
        "runtime/default" => Ok(Profile::RuntimeDefault),
        text => match text.strip_prefix("localhost/") {
            Some(name) if !name.is_empty() => Ok(Profile::Localhost(name.into())),
            _ => {
                let reason = format!("{text:?} is no profile (runtime/default, unconfined or localhost/NAME)");
                Err(Refusal::invalid(format!("{field}.apparmor_profile"), reason))
            }
        },
    }
}

fn profile_of(field: &str, profile: &pb::SecurityProfile) -> Result<Profile, Refusal> {
    use pb::security_profile::ProfileType;
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(Profile::RuntimeDefault),
        Ok(ProfileType::Unconfined) => Ok(Profile::Unconfined),
        Ok(ProfileType::Localhost) if profile.localhost_ref.is_empty() => {
            Err(Refusal::invalid(format!("{field}.localhost_ref"), "empty"))
        }
        Ok(ProfileType::Localhost) => Ok(Profile::Localhost(profile.localhost_ref.clone().into())),
        Err(_) => Err(Refusal::invalid(
            format!("{field}.profile_type"),
            format!("no such type: {}", profile.profile_type),
        )),
    }
}
