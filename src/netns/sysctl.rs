//! Sysctls of a pod: which belong to its namespaces, and writing them.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::model::Refusal;
use crate::model::security::{IpcMode, Namespaces, NetworkMode};

/// Which namespaces are the pod's own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owned {
    pub net: bool,
    pub ipc: bool,
    pub uts: bool,
}

/// A sysctl that may be written in the pod's namespaces.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// In dots, as sysctl(8) prints it.
    pub name: String,
    pub value: String,
    path: PathBuf,
}

/// Refuses the first of `names` that is not a sysctl of a namespace which a pod with `namespaces` has of its own. A
/// pod on the node's network has the node's UTS namespace too, as in Kubernetes.
pub fn check_sysctls<'a>(names: impl IntoIterator<Item = &'a str>, namespaces: &Namespaces) -> Result<(), Refusal> {
    let owned = Owned {
        net: namespaces.network == NetworkMode::Pod,
        ipc: namespaces.ipc == IpcMode::Pod,
        uts: namespaces.network == NetworkMode::Pod,
    };
    names.into_iter().try_for_each(|name| check(name, owned).map(drop))
}

/// `sysctls`, checked, or the first refusal.
pub(super) fn parse(sysctls: &BTreeMap<String, String>, owned: Owned) -> Result<Vec<Setting>, Refusal> {
    let setting = |(name, value): (&String, &String)| {
        let parts = check(name, owned)?;
        let mut path = PathBuf::from("/proc/sys");
        path.extend(&parts);
        Ok(Setting {
            name: name.clone(),
            value: value.clone(),
            path,
        })
    };
    sysctls.iter().map(setting).collect()
}

impl Setting {
    /// Writes the value in the calling thread's namespaces: /proc/sys shows each thread its own.
    pub fn apply(&self) -> io::Result<()> {
        // Not created: a sysctl that is not there is an error of its own.
        let mut file = OpenOptions::new().write(true).open(&self.path)?;
        file.write_all(self.value.as_bytes())
    }
}

/// The rules of the OCI runtimes (runc's validator): the parts of the sysctl's path, if the pod may set it.
fn check(name: &str, owned: Owned) -> Result<Vec<String>, Refusal> {
    let refuse = |reason: &str| Err(Refusal::invalid(format!("sysctls[{name}]"), reason));
    let Some(parts) = split(name) else {
        return refuse("is not the name of a sysctl");
    };
    let names: Vec<&str> = parts.iter().map(String::as_str).collect();
    let namespace = match names.as_slice() {
        ["net", _, ..] if owned.net => return Ok(parts),
        ["net", _, ..] => "network",
        ["fs", "mqueue", _] if owned.ipc => return Ok(parts),
        ["fs", "mqueue", _] => "IPC",
        ["kernel", name] if of_ipc(name) && owned.ipc => return Ok(parts),
        ["kernel", name] if of_ipc(name) => "IPC",
        ["kernel", "hostname"] => return refuse("the pod's host name has a field of its own"),
        ["kernel", "domainname"] if owned.uts => return Ok(parts),
        ["kernel", "domainname"] => "UTS",
        _ => return refuse("belongs to the whole node, not to a namespace of the pod"),
    };
    refuse(&format!("needs a pod with its own {namespace} namespace"))
}

fn of_ipc(name: &str) -> bool {
    let names = [
        "msgmax",
        "msgmnb",
        "msgmni",
        "sem",
        "shmall",
        "shmmax",
        "shmmni",
        "shm_rmid_forced",
    ];
    names.contains(&name)
}

/// The parts of a sysctl's path below /proc/sys. As in sysctl(8), the first `.` or `/` of a name says which of the
/// two separates; the other stands for a dot in an interface's name: `net.ipv4.conf.eth0/100.forwarding`.
fn split(name: &str) -> Option<Vec<String>> {
    let separator = name.chars().find(|c| matches!(c, '.' | '/'))?;
    let part = |part: &str| {
        if separator == '.' {
            part.replace('/', ".")
        } else {
            part.to_owned()
        }
    };
    let parts: Vec<String> = name.split(separator).map(part).collect();
    let plain = |part: &String| !matches!(part.as_str(), "" | "." | "..") && !part.contains(['/', '\0']);
    parts.iter().all(plain).then_some(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POD: Owned = Owned {
        net: true,
        ipc: true,
        uts: true,
    };
    const NODE: Owned = Owned {
        net: false,
        ipc: false,
        uts: false,
    };

    fn path(name: &str) -> String {
        let sysctls = BTreeMap::from([(name.to_owned(), String::new())]);
        parse(&sysctls, POD).unwrap()[0].path.display().to_string()
    }

    #[test]
    fn each_sysctl_needs_the_namespace_it_belongs_to() {
        let of = [
            ("net.ipv4.ip_forward", "network"),
            ("net.core.somaxconn", "network"),
            ("kernel.shmmax", "IPC"),
            ("kernel.shm_rmid_forced", "IPC"),
            ("kernel.msgmni", "IPC"),
            ("kernel.sem", "IPC"),
            ("kernel/sem", "IPC"),
            ("fs.mqueue.msg_max", "IPC"),
            ("kernel.domainname", "UTS"),
        ];
        for (name, namespace) in of {
            assert!(check(name, POD).is_ok(), "{name}");
            let refusal = check(name, NODE).unwrap_err().to_string();
            assert!(refusal.contains(name) && refusal.contains(namespace), "{refusal}");
        }
    }

    #[test]
    fn the_nodes_own_sysctls_are_refused() {
        for name in [
            "kernel.pid_max",
            "vm.overcommit_memory",
            "fs.file-max",
            "fs.mqueue",
            "net",
            "kernel.hostname",
            "kernel.shmmax.x",
            "kernel.shmmaxx",
            "networks.x",
            "kernel.msgmni2",
        ] {
            assert!(check(name, POD).is_err(), "{name}");
        }
    }

    #[test]
    fn dots_and_slashes_separate_as_in_sysctl_8() {
        assert_eq!(
            path("net.ipv4.conf.eth0.forwarding"),
            "/proc/sys/net/ipv4/conf/eth0/forwarding"
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/100.forwarding"),
            "/proc/sys/net/ipv4/conf/eth0.100/forwarding"
        );
        assert_eq!(
            path("net/ipv4/conf/eth0.100/forwarding"),
            "/proc/sys/net/ipv4/conf/eth0.100/forwarding"
        );
    }

    #[test]
    fn no_name_leads_out_of_its_directory() {
        for name in [
            "net/../kernel/core_pattern",
            "net.//.kernel.core_pattern",
            "net..x",
            "net/./x",
            ".net.x",
            "net.x.",
        ] {
            assert!(check(name, POD).is_err(), "{name}");
        }
    }

    #[test]
    fn a_pods_namespaces_decide() {
        let node = Namespaces {
            network: NetworkMode::Node,
            ..Namespaces::default()
        };
        assert!(check_sysctls(["net.core.somaxconn", "kernel.sem"], &Namespaces::default()).is_ok());
        assert!(check_sysctls(["kernel.sem", "net.core.somaxconn"], &node).is_err());
        assert!(check_sysctls(["kernel.domainname"], &node).is_err());
        assert!(check_sysctls(["kernel.sem"], &node).is_ok());
    }

    proptest! {
        #[test]
        fn an_accepted_name_stays_below_proc_sys(name in "(net|kernel|fs)?[./a-z]{0,20}") {
            if let Ok(parts) = check(&name, POD) {
                prop_assert!(parts.len() >= 2);
                prop_assert!(parts.iter().all(|part| !part.contains('/') && part != ".." && !part.is_empty()));
                prop_assert!(matches!(parts[0].as_str(), "net" | "kernel" | "fs"));
            }
        }
    }
}
