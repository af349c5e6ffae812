//! What is run, from OCI's words: a container's specification and that of a further process in it.
//!
//! The rules are `runc exec`'s: what the process does not say is the container's.

use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::{
    Capabilities, LinuxCapabilities, LinuxNamespaceType, PosixRlimit, PosixRlimitType, Process, Spec,
};
use serde::{Deserialize, Serialize};

use super::seccomp;
use crate::sys::caps;

/// Why a program cannot be run this way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} needs the OCI runtime")]
pub struct Unsuited(pub String);

/// Whether an OCI runtime makes containers that are processes of this kernel, in namespaces that can be joined: runc,
/// crun and youki do; of others (gVisor's runsc) it is not known.
pub fn is_joinable(runtime: &Path) -> bool {
    let name = runtime.file_name().unwrap_or_default().to_string_lossy();
    ["runc", "crun", "youki"].iter().any(|known| name.starts_with(known))
}

/// The session keyring that an OCI runtime gives the container `id`: crun calls it by the id, others do as runc.
pub fn keyring(runtime: &Path, id: &str) -> String {
    let name = runtime.file_name().unwrap_or_default().to_string_lossy();
    match name.starts_with("crun") {
        true => id.to_owned(),
        false => format!("_ses.{id}"),
    }
}

/// What all programs in a container have in common.
#[derive(Debug, Clone)]
pub struct Setting {
    process: Process,
    /// The session keyring's name; None: the node's stays.
    keyring: Option<String>,
    /// Whether the container has a user namespace that is not the node's.
    user_namespace: bool,
    pub filter: Option<Arc<seccomp::Filter>>,
}

/// A program to be run. What may be secret in it never leaves the process that runs it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Program {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
    pub capabilities: Sets,
    pub no_new_privileges: bool,
    pub limits: Vec<Limit>,
    pub oom_score_adj: Option<i32>,
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
    pub keyring: Option<String>,
    /// Whether its user namespace is to be joined.
    pub user_namespace: bool,
    pub terminal: Option<Terminal>,
}

/// The five sets of capabilities(7), a bit for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// A limit by its number (setrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// A terminal's size in characters; 0: as the kernel has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    pub width: u16,
    pub height: u16,
}

impl Setting {
    /// Of a container with the specification `spec`, and the session keyring that its OCI runtime gave it, as they do
    /// unless they are told not to.
    pub fn of(spec: &Spec, keyring: Option<String>) -> Result<Self, Unsuited> {
        let unsuited = |what: &str| Err(Unsuited(what.to_owned()));
        let Some(process) = spec.process() else {
            return unsuited("a container without a process");
        };
        let linux = spec.linux().as_ref();
        if linux.is_some_and(|linux| linux.personality().is_some()) {
            return unsuited("an execution domain (personality)");
        }
        if linux.is_some_and(|linux| linux.intel_rdt().is_some()) {
            return unsuited("a class of service (intelRdt)");
        }
        check(process)?;
        let filter = linux.and_then(|linux| linux.seccomp().as_ref());
        Ok(Self {
            process: process.clone(),
            keyring,
            user_namespace: linux
                .and_then(|linux| linux.namespaces().as_ref())
                .is_some_and(|namespaces| {
                    namespaces
                        .iter()
                        .any(|namespace| namespace.typ() == LinuxNamespaceType::User)
                }),
            filter: filter.map(seccomp::shared).transpose()?,
        })
    }

    /// The container's own process, of which execs are variations.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The further process `process`.
    pub fn program(&self, process: &Process) -> Result<Program, Unsuited> {
        check(process)?;
        let own = &self.process;
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let limits = |process: &Process| process.rlimits().clone().filter(|limits| !limits.is_empty());
        let capabilities = process.capabilities().as_ref().or(own.capabilities().as_ref());
        let size = process.console_size();
        let side = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
        let limits = limits(process).or_else(|| limits(own)).unwrap_or_default();
        Ok(Program {
            args: process.args().clone().unwrap_or_default(),
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().display().to_string(),
            uid: process.user().uid(),
            gid: process.user().gid(),
            groups: process.user().additional_gids().clone().unwrap_or_default(),
            umask: own.user().umask().unwrap_or(0o022),
            capabilities: capabilities.map(sets).unwrap_or_default(),
            no_new_privileges: process.no_new_privileges().or(own.no_new_privileges()).unwrap_or(false),
            limits: limits.iter().map(limit).collect::<Result<_, _>>()?,
            oom_score_adj: own.oom_score_adj(),
            apparmor: given(process.apparmor_profile()).or_else(|| given(own.apparmor_profile())),
            selinux: given(process.selinux_label()).or_else(|| given(own.selinux_label())),
            keyring: self.keyring.clone(),
            user_namespace: self.user_namespace,
            terminal: process.terminal().unwrap_or(false).then(|| Terminal {
                width: size.map_or(0, |size| side(size.width())),
                height: size.map_or(0, |size| side(size.height())),
            }),
        })
    }
}

/// What a newer runtime may do to a process and this does not.
fn check(process: &Process) -> Result<(), Unsuited> {
    if process.scheduler().is_some() {
        return Err(Unsuited("a scheduling policy".to_owned()));
    }
    if process.io_priority().is_some() {
        return Err(Unsuited("an I/O priority".to_owned()));
    }
    Ok(())
}

fn sets(capabilities: &LinuxCapabilities) -> Sets {
    // Those that are not known here are not granted, as no kernel that berth runs on has them.
    let bits = |set: &Option<Capabilities>| {
        let names = set.iter().flatten().map(|capability| format!("CAP_{capability}"));
        names
            .filter_map(|name| caps::bit(&name))
            .fold(0, |bits, bit| bits | bit)
    };
    Sets {
        bounding: bits(capabilities.bounding()),
        effective: bits(capabilities.effective()),
        permitted: bits(capabilities.permitted()),
        inheritable: bits(capabilities.inheritable()),
        ambient: bits(capabilities.ambient()),
    }
}

fn limit(limit: &PosixRlimit) -> Result<Limit, Unsuited> {
    let resource = match limit.typ() {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    Ok(Limit {
        resource,
        soft: limit.soft(),
        hard: limit.hard(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: &str = r#"{"ociVersion": "1.0.2", "root": {"path": "/"}, "process": {
        "args": ["serve"], "env": ["A=1"], "cwd": "/srv", "noNewPrivileges": true, "oomScoreAdj": 500,
        "apparmorProfile": "own", "user": {"uid": 7, "gid": 8, "additionalGids": [9], "umask": 63},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"]}}}"#;

    fn setting() -> Setting {
        Setting::of(&serde_json::from_str(CONTAINER).unwrap(), Some("_ses.id".to_owned())).unwrap()
    }

    fn program(process: &str) -> Result<Program, Unsuited> {
        setting().program(&serde_json::from_str(process).unwrap())
    }

    #[test]
    fn what_a_process_does_not_say_is_the_containers() {
        let program = program(r#"{"args": ["ls"], "cwd": "/", "user": {"uid": 0, "gid": 0}}"#).unwrap();
        assert_eq!(
            (&*program.args, &*program.cwd, program.uid),
            (&["ls".to_owned()][..], "/", 0)
        );
        assert_eq!(
            (program.umask, program.oom_score_adj, program.no_new_privileges),
            (0o77, Some(500), true)
        );
        assert_eq!((program.apparmor.as_deref(), program.selinux), (Some("own"), None));
        assert_eq!(
            (program.capabilities.bounding, program.capabilities.effective),
            (1 | 1 << 5, 1)
        );
        let limit = Limit {
            resource: libc::RLIMIT_NOFILE,
            soft: 10,
            hard: 20,
        };
        assert_eq!(program.limits, [limit]);
        assert_eq!(program.keyring.as_deref(), Some("_ses.id"));
        // A variable of the container's is not one of another process'.
        assert!(program.env.is_empty() && program.groups.is_empty() && program.terminal.is_none());
    }

    #[test]
    fn what_a_process_says_is_its_own() {
        let program = program(
            r#"{"args": ["sh"], "cwd": "/", "user": {"uid": 1, "gid": 2}, "noNewPrivileges": false, "apparmorProfile": "other",
                "capabilities": {"ambient": ["CAP_SYS_ADMIN"]}, "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
                "terminal": true, "consoleSize": {"width": 80, "height": 99999}}"#,
        )
        .unwrap();
        assert!(!program.no_new_privileges);
        assert_eq!(program.apparmor.as_deref(), Some("other"));
        assert_eq!(
            (program.capabilities.bounding, program.capabilities.ambient),
            (0, 1 << 21)
        );
        assert_eq!(program.limits[0].resource, libc::RLIMIT_CORE);
        let size = Terminal {
            width: 80,
            height: u16::MAX,
        };
        assert_eq!(program.terminal, Some(size));
    }

    #[test]
    fn what_only_the_runtime_can_do_is_said() {
        let unsuited = program(
            r#"{"args": ["a"], "cwd": "/", "user": {}, "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 1}}"#,
        );
        assert!(unsuited.is_err_and(|reason| reason.to_string().contains("needs the OCI runtime")));
        let agent = r#"{"ociVersion": "1.0.2", "root": {"path": "/"}, "process": {"args": ["a"], "cwd": "/", "user": {}},
            "linux": {"seccomp": {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/run/agent"}}}"#;
        assert!(Setting::of(&serde_json::from_str(agent).unwrap(), None).is_err());
        for (runtime, joinable) in [
            ("runc", true),
            ("/usr/sbin/runc", true),
            ("/opt/crun-1.21", true),
            ("runsc", false),
            ("", false),
        ] {
            assert_eq!(is_joinable(Path::new(runtime)), joinable, "{runtime}");
        }
        assert_eq!(keyring(Path::new("/usr/sbin/runc"), "x"), "_ses.x");
        assert_eq!(keyring(Path::new("crun"), "x"), "x");
    }
}
