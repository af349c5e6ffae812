//! Device nodes, and which devices a container may touch.

use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use crate::model::Refusal;

/// A device of the node as the container shall have it. The caller has followed links and opened directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// The path in the container.
    pub path: PathBuf,
    pub kind: DeviceKind,
    pub major: i64,
    pub minor: i64,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Some of `rwm`: read, write, mknod.
    pub permissions: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    Character,
    Block,
}

/// Devices without which programs do not run: major and minor numbers of character devices (None: all minors), from
/// the kernel's list of allocated devices (Documentation/admin-guide/devices.txt).
const STANDARD: [(i64, Option<i64>); 9] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(1)), // console
    (5, Some(2)), // ptmx
    (136, None),  // pts/*
];

/// The device nodes to make; of two for one path the later counts.
pub(super) fn nodes(devices: &[HostDevice]) -> Vec<LinuxDevice> {
    let is_last = |index: usize| {
        devices[index + 1..]
            .iter()
            .all(|later| later.path != devices[index].path)
    };
    (0..devices.len())
        .filter(|index| is_last(*index))
        .map(|index| node(&devices[index]))
        .collect()
}

fn node(device: &HostDevice) -> LinuxDevice {
    LinuxDeviceBuilder::default()
        .path(&device.path)
        .typ(device.kind.code())
        .major(device.major)
        .minor(device.minor)
        .file_mode(device.mode & 0o7777)
        .uid(device.uid)
        .gid(device.gid)
        .build()
        .expect("every field has a default")
}

/// The rules of the device cgroup, later ones over earlier ones: all for a privileged container, else nothing but the
/// standard devices and `devices`.
pub(super) fn rules(devices: &[HostDevice], privileged: bool) -> Result<Vec<LinuxDeviceCgroup>, Refusal> {
    if privileged {
        return Ok(vec![rule(true, None, None, None, "rwm")]);
    }
    let standard = STANDARD
        .iter()
        .map(|(major, minor)| rule(true, Some(LinuxDeviceType::C), Some(*major), *minor, "rwm"));
    let mut rules: Vec<_> = [rule(false, None, None, None, "rwm")]
        .into_iter()
        .chain(standard)
        .collect();
    for device in devices {
        if device.permissions.is_empty() || !device.permissions.chars().all(|one| "rwm".contains(one)) {
            return Err(Refusal::invalid(
                "devices.permissions",
                format!(
                    "{:?} for {} is not made of r, w and m",
                    device.permissions,
                    device.path.display()
                ),
            ));
        }
        let kind = Some(device.kind.code());
        rules.push(rule(
            true,
            kind,
            Some(device.major),
            Some(device.minor),
            &device.permissions,
        ));
    }
    Ok(rules)
}

fn rule(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .access(access)
        .build()
        .expect("every field has a default");
    rule.set_typ(kind).set_major(major).set_minor(minor);
    rule
}

impl DeviceKind {
    fn code(self) -> LinuxDeviceType {
        match self {
            Self::Character => LinuxDeviceType::C,
            Self::Block => LinuxDeviceType::B,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str, minor: i64, permissions: &str) -> HostDevice {
        HostDevice {
            path: path.into(),
            kind: DeviceKind::Block,
            major: 7,
            minor,
            mode: 0o60660,
            uid: 0,
            gid: 6,
            permissions: permissions.into(),
        }
    }

    #[test]
    fn a_container_may_touch_the_standard_devices_and_its_own() {
        let rules = rules(&[device("/dev/loop0", 0, "rw")], false).unwrap();
        let texts: Vec<_> = rules.iter().map(|rule| format!("{} {rule}", rule.allow())).collect();
        assert_eq!(texts.len(), 11);
        assert_eq!(texts[0], "false a *:* rwm");
        assert_eq!(texts[1], "true c 1:3 rwm");
        assert_eq!(texts[9], "true c 136:* rwm");
        assert_eq!(texts[10], "true b 7:0 rw");
    }

    #[test]
    fn a_privileged_container_may_touch_all() {
        let rules = rules(&[device("/dev/loop0", 0, "r")], true).unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(format!("{} {}", rules[0].allow(), rules[0]), "true a *:* rwm");
    }

    #[test]
    fn unknown_permissions_are_refused() {
        for permissions in ["", "x", "rwx"] {
            let refusal = rules(&[device("/dev/a", 0, permissions)], false).unwrap_err();
            assert!(refusal.to_string().starts_with("devices.permissions: "), "{refusal}");
        }
    }

    #[test]
    fn of_two_devices_at_a_path_the_later_counts() {
        let nodes = nodes(&[
            device("/dev/a", 1, "r"),
            device("/dev/b", 2, "r"),
            device("/dev/a", 3, "r"),
        ]);
        let minors: Vec<_> = nodes.iter().map(LinuxDevice::minor).collect();
        assert_eq!(minors, [2, 3]);
        assert_eq!(nodes[0].file_mode(), Some(0o660));
    }
}
