//! seccomp: which system calls a container may make.
//!
//! A profile is JSON, either as the OCI runtime spec has it or as Docker does, where rules may depend on
//! capabilities, architecture and kernel; here those conditions are decided and what is left is the former. berth's
//! own profile (`seccomp/default.json`, RuntimeDefault) is of the latter kind. Its list of calls is that of
//! containerd's default profile: calls that the kernel does not bind to a namespace or a capability are left out.
//!
//! The default profile filters the native architecture alone, and the kernel kills a process that calls through
//! another (a 32-bit program on x86-64): allowing three architectures takes the runtime 10 to 20 ms more at every
//! start of a container. A Localhost profile may name more.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder, LinuxSeccompFilterFlag,
    LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::{Host, security_field};
use crate::model::Refusal;
use crate::model::security::{Profile, Security};

const DEFAULT: &str = include_str!("seccomp/default.json");

/// The filter of a container whose bounding set is `capabilities`; `local` is the text of its Localhost profile.
pub(super) fn filter(
    security: &Security,
    local: Option<&str>,
    capabilities: &HashSet<Capability>,
    host: &Host,
) -> Result<Option<LinuxSeccomp>, Refusal> {
    let field = security_field("seccomp");
    let text = match &security.seccomp {
        // As the peers do: nothing confines a privileged container.
        _ if security.privileged => return Ok(None),
        Profile::Unconfined => return Ok(None),
        _ if !host.seccomp => return Err(Refusal::invalid(field, "this kernel has no seccomp")),
        Profile::RuntimeDefault => DEFAULT,
        Profile::Localhost(path) => local.ok_or_else(|| {
            Refusal::invalid(
                format!("{field}.localhost_ref"),
                format!("cannot read {}", path.display()),
            )
        })?,
    };
    let scene = Scene {
        capabilities,
        arch: std::env::consts::ARCH,
        kernel: host.kernel,
    };
    parse(text, &scene)
        .map(Some)
        .map_err(|reason| Refusal::invalid(format!("{field}.localhost_ref"), reason))
}

/// What the conditions of a profile ask about.
struct Scene<'a> {
    capabilities: &'a HashSet<Capability>,
    /// As Rust calls it.
    arch: &'a str,
    /// Major and minor version.
    kernel: (u32, u32),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<std::path::PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

/// Docker's: an architecture, and those whose programs run on it as well.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    /// Older profiles name one call here.
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    caps: Option<Vec<Capability>>,
    /// As Go calls them.
    arches: Option<Vec<String>>,
    /// `major.minor`
    min_kernel: Option<String>,
}

fn parse(text: &str, scene: &Scene<'_>) -> Result<LinuxSeccomp, String> {
    let document: Document =
        serde_json::from_str(text).map_err(|error| format!("is not a seccomp profile: {error}"))?;
    let mut syscalls = Vec::new();
    for rule in document.syscalls.into_iter().flatten() {
        if let Some(syscall) = rule.decide(scene)? {
            syscalls.push(syscall);
        }
    }
    let mut seccomp = LinuxSeccompBuilder::default()
        .default_action(document.default_action)
        .syscalls(syscalls)
        .build()
        .expect("every field has a default");
    seccomp
        .set_default_errno_ret(document.default_errno_ret)
        .set_architectures(architectures(document.architectures, document.arch_map, scene)?)
        .set_flags(document.flags)
        .set_listener_path(document.listener_path)
        .set_listener_metadata(document.listener_metadata);
    Ok(seccomp)
}

/// None leaves the native one.
fn architectures(
    list: Option<Vec<Arch>>,
    map: Option<Vec<ArchMap>>,
    scene: &Scene<'_>,
) -> Result<Option<Vec<Arch>>, String> {
    let list = list.filter(|list| !list.is_empty());
    match (list, map) {
        (Some(_), Some(map)) if !map.is_empty() => Err("has both architectures and archMap".to_owned()),
        (list @ Some(_), _) => Ok(list),
        (None, map) => {
            let native = native(scene.arch);
            let mut entries = map.into_iter().flatten();
            let entry = entries.find(|entry| Some(entry.architecture) == native);
            Ok(entry.map(|entry| [vec![entry.architecture], entry.sub_architectures.unwrap_or_default()].concat()))
        }
    }
}

impl Rule {
    /// The rule without its conditions, if they hold.
    fn decide(self, scene: &Scene<'_>) -> Result<Option<LinuxSyscall>, String> {
        let names = match (self.name, self.names.filter(|names| !names.is_empty())) {
            (Some(name), None) if !name.is_empty() => vec![name],
            (None, Some(names)) => names,
            _ => return Err("has a rule that does not name its calls once".to_owned()),
        };
        let applies = self.includes.unwrap_or_default().includes(scene)?;
        if !applies || self.excludes.unwrap_or_default().excludes(scene)? {
            return Ok(None);
        }
        let mut syscall = LinuxSyscallBuilder::default()
            .names(names)
            .action(self.action)
            .build()
            .expect("every field has a default");
        syscall
            .set_errno_ret(self.errno_ret)
            .set_args(self.args.filter(|args| !args.is_empty()));
        Ok(Some(syscall))
    }
}

impl Condition {
    /// All capabilities, one of the architectures, at least the kernel.
    fn includes(&self, scene: &Scene<'_>) -> Result<bool, String> {
        let has = |one| scene.capabilities.contains(one);
        Ok(
            self.caps.iter().flatten().all(has)
                && self.names_arch(scene).unwrap_or(true)
                && self.kernel(scene, true)?,
        )
    }

    /// Any of them.
    fn excludes(&self, scene: &Scene<'_>) -> Result<bool, String> {
        let has = |one| scene.capabilities.contains(one);
        Ok(self.caps.iter().flatten().any(has)
            || self.names_arch(scene).unwrap_or(false)
            || self.kernel(scene, false)?)
    }

    fn names_arch(&self, scene: &Scene<'_>) -> Option<bool> {
        let arches = self.arches.as_ref().filter(|arches| !arches.is_empty())?;
        Some(arches.iter().any(|name| name == go_name(scene.arch)))
    }

    fn kernel(&self, scene: &Scene<'_>, absent: bool) -> Result<bool, String> {
        let Some(text) = &self.min_kernel else {
            return Ok(absent);
        };
        let version = text.split_once('.').and_then(|(major, minor)| {
            let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
            Some((major, minor))
        });
        let least = version.ok_or_else(|| format!("has a minKernel {text:?} that is not MAJOR.MINOR"))?;
        Ok(scene.kernel >= least)
    }
}

/// What Go calls the architecture that Rust calls `arch`.
fn go_name(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// What libseccomp calls it.
fn native(arch: &str) -> Option<Arch> {
    match arch {
        "x86_64" => Some(Arch::ScmpArchX86_64),
        "aarch64" => Some(Arch::ScmpArchAarch64),
        "x86" => Some(Arch::ScmpArchX86),
        "arm" => Some(Arch::ScmpArchArm),
        "powerpc64" => Some(Arch::ScmpArchPpc64le),
        "riscv64" => Some(Arch::ScmpArchRiscv64),
        "s390x" => Some(Arch::ScmpArchS390x),
        "loongarch64" => Some(Arch::ScmpArchLoongarch64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(capabilities: &[Capability], test: impl FnOnce(&Scene<'_>) -> T) -> T {
        let capabilities = capabilities.iter().copied().collect();
        test(&Scene {
            capabilities: &capabilities,
            arch: "x86_64",
            kernel: (6, 1),
        })
    }

    /// What the profile does at a call, whatever its arguments, if it names it.
    fn action(profile: &LinuxSeccomp, name: &str) -> Option<LinuxSeccompAction> {
        let rules = profile.syscalls().as_ref().unwrap();
        let names = |rule: &&LinuxSyscall| rule.names().iter().any(|one| one == name);
        rules.iter().find(names).map(LinuxSyscall::action)
    }

    #[test]
    fn the_default_profile_refuses_what_reaches_beyond_a_container() {
        let profile = with(&[], |scene| parse(DEFAULT, scene).unwrap());
        assert_eq!(profile.default_action(), LinuxSeccompAction::ScmpActErrno);
        assert_eq!(profile.architectures(), &None);
        for name in [
            "mount",
            "bpf",
            "setns",
            "unshare",
            "reboot",
            "kexec_load",
            "keyctl",
            "add_key",
            "userfaultfd",
            "io_uring_setup",
            "init_module",
            "sethostname",
            "open_by_handle_at",
            "syslog",
            "chroot",
        ] {
            assert_eq!(action(&profile, name), None, "{name}");
        }
        for name in ["read", "execve", "arch_prctl", "clone", "ptrace", "socket", "prctl"] {
            assert_eq!(action(&profile, name), Some(LinuxSeccompAction::ScmpActAllow), "{name}");
        }
    }

    #[test]
    fn clone3_is_unknown_so_that_programs_fall_back_to_clone_whose_flags_are_seen() {
        let profile = with(&[], |scene| parse(DEFAULT, scene).unwrap());
        let rules = profile.syscalls().as_ref().unwrap();
        let rule = |name: &str| rules.iter().find(|rule| rule.names() == &[name.to_owned()]).unwrap();
        assert_eq!(rule("clone3").action(), LinuxSeccompAction::ScmpActErrno);
        assert_eq!(rule("clone3").errno_ret(), Some(38));
        let flags = rule("clone").args().as_ref().unwrap()[0];
        let expected = libc::CLONE_NEWNS
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWCGROUP;
        assert_eq!((flags.index(), flags.value()), (0, u64::try_from(expected).unwrap()));
    }

    #[test]
    fn the_default_profile_follows_the_capabilities() {
        let cases = [
            (Capability::SysAdmin, "mount"),
            (Capability::SysAdmin, "clone3"),
            (Capability::SysChroot, "chroot"),
            (Capability::Bpf, "bpf"),
            (Capability::Perfmon, "perf_event_open"),
            (Capability::SysBoot, "reboot"),
            (Capability::Syslog, "syslog"),
            (Capability::DacReadSearch, "open_by_handle_at"),
        ];
        for (capability, name) in cases {
            let profile = with(&[capability], |scene| parse(DEFAULT, scene).unwrap());
            assert_eq!(action(&profile, name), Some(LinuxSeccompAction::ScmpActAllow), "{name}");
        }
    }

    #[test]
    fn a_profile_of_either_format_is_read() {
        let oci = r#"{ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{ "names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }] }"#;
        let docker = r#"{ "defaultAction": "SCMP_ACT_ERRNO", "archMap": [
                { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"] },
                { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] }],
            "syscalls": [
                { "name": "sethostname", "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {} },
                { "names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "6.2" } },
                { "names": ["b"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["arm64"] } },
                { "names": ["c"], "action": "SCMP_ACT_ALLOW", "excludes": { "arches": ["amd64"] } },
                { "names": ["d"], "action": "SCMP_ACT_ALLOW", "excludes": { "caps": ["CAP_CHOWN"] } }] }"#;
        for text in [oci, docker] {
            let profile = with(&[Capability::Chown], |scene| parse(text, scene).unwrap());
            assert_eq!(
                profile.architectures(),
                &Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86])
            );
            assert_eq!(profile.syscalls().as_ref().unwrap().len(), 1);
            assert!(action(&profile, "sethostname").is_some());
        }
    }

    #[test]
    fn a_broken_profile_is_refused() {
        for text in [
            "",
            "{}",
            r#"{ "defaultAction": "SCMP_ACT_MAYBE" }"#,
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "action": "SCMP_ACT_ERRNO" }] }"#,
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                { "names": ["a"], "action": "SCMP_ACT_ERRNO", "includes": { "minKernel": "six" } }] }"#,
        ] {
            assert!(with(&[], |scene| parse(text, scene)).is_err(), "{text}");
        }
    }

    #[test]
    fn only_an_unprivileged_container_that_asks_is_filtered() {
        let filtered = |seccomp: Profile, privileged, kernel_has| {
            let security = Security {
                seccomp,
                privileged,
                ..Security::default()
            };
            let host = Host {
                seccomp: kernel_has,
                ..Host::default()
            };
            filter(&security, None, &HashSet::new(), &host).map(|filter| filter.is_some())
        };
        assert_eq!(filtered(Profile::Unconfined, false, false), Ok(false));
        assert_eq!(filtered(Profile::RuntimeDefault, false, true), Ok(true));
        assert_eq!(filtered(Profile::RuntimeDefault, true, true), Ok(false));
        assert!(filtered(Profile::RuntimeDefault, false, false).is_err());
        assert!(filtered(Profile::Localhost("/missing".into()), false, true).is_err());
    }
}
