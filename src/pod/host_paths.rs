//! What a container takes from the node's file system, looked up before anything is made.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::error::Error;
use crate::model::Refusal;
use crate::model::container::{ContainerConfig, Device, Mount};
use crate::model::security::{Profile, Security};
use crate::oci::{DeviceKind, HostDevice, HostPropagation};
use crate::sys;

/// What a privileged container does not take over from the node's /dev.
const OWN_IN_DEV: [&str; 5] = ["pts", "shm", "mqueue", "console", "fd"];

/// A seccomp profile larger than this is no profile.
const MAX_PROFILE: u64 = 4 << 20;

/// Where each mount of the config really comes from, and how that propagates. CRI wants symbolic links followed, and
/// a missing host path is an error.
pub(super) fn sources(config: &ContainerConfig) -> Result<Vec<(PathBuf, HostPropagation)>, Error> {
    let source = |(index, mount): (usize, &Mount)| {
        let found = fs::canonicalize(&mount.host_path);
        let found = found.and_then(|path| Ok((sys::mount::of(&path)?, path)));
        let (line, path) = found.map_err(|error| {
            let reason = format!("{}: {error}", mount.host_path.display());
            Refusal::invalid(format!("mounts[{index}].host_path"), reason)
        })?;
        Ok((path, propagation(&line)))
    };
    config.mounts.iter().enumerate().map(source).collect()
}

fn propagation(line: &sys::mount::MountLine) -> HostPropagation {
    let has = |kind: &str| line.propagation.iter().any(|field| field.starts_with(kind));
    match (has("shared:"), has("master:")) {
        (true, _) => HostPropagation::Shared,
        (false, true) => HostPropagation::Slave,
        (false, false) => HostPropagation::Private,
    }
}

/// The device nodes behind the devices asked for, after all of the node's for a privileged container. A directory
/// stands for all nodes below it.
pub(super) fn devices(config: &ContainerConfig) -> Result<Vec<HostDevice>, Error> {
    let mut found = Vec::new();
    if config.security.privileged {
        let all = Device {
            container_path: "/dev".into(),
            host_path: "/dev".into(),
            permissions: "rwm".into(),
        };
        collect(&all, &all.host_path, &all.container_path, &mut found)
            .map_err(|reason| Error::file("cannot list", "/dev")(std::io::Error::other(reason)))?;
    }
    for (index, device) in config.devices.iter().enumerate() {
        collect(device, &device.host_path, &device.container_path, &mut found).map_err(|reason| {
            let reason = format!("{}: {reason}", device.host_path.display());
            Refusal::invalid(format!("devices[{index}].host_path"), reason)
        })?;
    }
    Ok(found)
}

fn collect(device: &Device, host: &Path, container: &str, found: &mut Vec<HostDevice>) -> Result<(), String> {
    let metadata = fs::metadata(host).map_err(|error| error.to_string())?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(host).map_err(|error| error.to_string())?.flatten() {
            let inside = format!("{container}/{}", entry.file_name().to_string_lossy());
            // Other files may stand between device nodes (/dev has many), and a container has terminals, shared
            // memory and message queues of its own.
            if host == Path::new("/dev") && OWN_IN_DEV.contains(&&*entry.file_name().to_string_lossy()) {
                continue;
            }
            let is_device = entry
                .file_type()
                .is_ok_and(|kind| kind.is_char_device() || kind.is_block_device());
            if is_device || entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                collect(device, &entry.path(), &inside, found)?;
            }
        }
        return Ok(());
    }
    if !kind.is_char_device() && !kind.is_block_device() {
        return Err("not a device".to_owned());
    }
    found.push(HostDevice {
        path: container.into(),
        kind: if kind.is_block_device() {
            DeviceKind::Block
        } else {
            DeviceKind::Character
        },
        major: i64::try_from(nix::sys::stat::major(metadata.rdev())).unwrap_or_default(),
        minor: i64::try_from(nix::sys::stat::minor(metadata.rdev())).unwrap_or_default(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        permissions: device.permissions.clone(),
    });
    Ok(())
}

/// The text of a Localhost seccomp profile.
pub(super) fn seccomp(security: &Security) -> Result<Option<String>, Error> {
    let Profile::Localhost(path) = &security.seccomp else {
        return Ok(None);
    };
    if security.privileged {
        return Ok(None);
    }
    let field = "linux.security_context.seccomp.localhost_ref";
    let refuse = |reason: String| Refusal::invalid(field, format!("{}: {reason}", path.display()));
    let size = fs::metadata(path).map_err(|error| refuse(error.to_string()))?.len();
    if size > MAX_PROFILE {
        return Err(refuse(format!("{size} bytes are too many for a profile")).into());
    }
    Ok(Some(
        fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?,
    ))
}
