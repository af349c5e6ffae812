//! A plan to change in tests, and one whole spec.

use super::*;
use crate::model::container::{Device, ImageRequest, Mount as MountRequest, Propagation};
use crate::model::names::annotation;
use crate::model::resources::Resources;
use crate::model::sandbox::SandboxName;
use crate::model::security::{Capabilities, Profile};

/// Everything a [`Plan`] borrows: a pod with its own namespaces and a container that runs `sh`.
pub struct Fixture {
    pub sandbox_id: Id,
    pub sandbox: SandboxConfig,
    pub container: ContainerConfig,
    pub image: ImageConfig,
    pub user: User,
    pub namespaces: NamespacePaths,
    pub files: PodFiles,
    pub devices: Vec<HostDevice>,
    pub cgroup: String,
    pub host: Host,
}

impl Default for Fixture {
    fn default() -> Self {
        let id = "0123456789abcdef".repeat(4);
        Self {
            sandbox_id: id.parse().unwrap(),
            sandbox: SandboxConfig::default(),
            container: ContainerConfig {
                command: vec!["sh".into()],
                ..ContainerConfig::default()
            },
            image: ImageConfig::default(),
            user: User::default(),
            namespaces: NamespacePaths {
                net: Some("/run/netns/n".into()),
                ipc: Some("/run/berth/ipc".into()),
                uts: Some("/run/berth/uts".into()),
                pid: None,
            },
            files: PodFiles {
                hosts: "/pod/hosts".into(),
                hostname: "/pod/hostname".into(),
                resolv_conf: "/pod/resolv.conf".into(),
                shm: "/pod/shm".into(),
            },
            devices: Vec::new(),
            cgroup: "/berth/pod/container".into(),
            host: Host::default(),
        }
    }
}

impl Fixture {
    /// The plan, without mounts.
    pub fn plan(&self) -> Plan<'_> {
        Plan {
            sandbox_id: &self.sandbox_id,
            sandbox: &self.sandbox,
            container: &self.container,
            image: &self.image,
            user: &self.user,
            hostname: "pod",
            namespaces: &self.namespaces,
            files: &self.files,
            mounts: &[],
            devices: &self.devices,
            cgroup: &self.cgroup,
            seccomp_profile: None,
            host: &self.host,
        }
    }
}

/// A container that uses most of what can be asked for.
fn full() -> Fixture {
    let mut fixture = Fixture::default();
    fixture.sandbox.name = SandboxName {
        name: "web".into(),
        namespace: "default".into(),
        uid: "u-1".into(),
        attempt: 0,
    };
    fixture.container = ContainerConfig {
        name: "main".into(),
        image: ImageRequest {
            image: "sha256:abc".into(),
            user_specified_image: "web:1".into(),
            ..ImageRequest::default()
        },
        args: vec!["--port".into(), "80".into()],
        envs: vec![("MODE".into(), "test".into())],
        mounts: vec![MountRequest {
            container_path: "/data".into(),
            host_path: "/srv/link".into(),
            readonly: true,
            propagation: Propagation::HostToContainer,
            ..MountRequest::default()
        }],
        devices: vec![Device {
            container_path: "/dev/fuse".into(),
            host_path: "/dev/fuse".into(),
            permissions: "rw".into(),
        }],
        resources: Resources {
            cpu_shares: 102,
            cpu_period: 100_000,
            cpu_quota: 50_000,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: -998,
            ..Resources::default()
        },
        ..ContainerConfig::default()
    };
    let security = &mut fixture.container.security;
    security.capabilities = Capabilities {
        add: vec!["CAP_NET_ADMIN".into()],
        drop: vec!["ALL".into()],
        add_ambient: vec![],
    };
    security.readonly_rootfs = true;
    security.no_new_privs = true;
    security.masked_paths = vec!["/proc/kcore".into()];
    security.readonly_paths = vec!["/proc/sys".into()];
    security.seccomp = Profile::Localhost("/profiles/local.json".into());
    fixture.image.entrypoint = vec!["/server".into()];
    fixture.image.cmd = vec!["--help".into()];
    fixture.image.working_dir = "/srv".into();
    fixture.user = User {
        uid: 1000,
        gid: 1000,
        supplemental_groups: vec![4, 1000],
    };
    fixture.devices = vec![HostDevice {
        path: "/dev/fuse".into(),
        kind: DeviceKind::Character,
        major: 10,
        minor: 229,
        mode: 0o20666,
        uid: 0,
        gid: 0,
        permissions: "rw".into(),
    }];
    fixture.host.capabilities = vec!["CAP_NET_ADMIN".into(), "CAP_CHOWN".into()];
    fixture.host.oom_score_adj_floor = 0;
    fixture.host.seccomp = true;
    fixture
}

#[test]
fn a_whole_spec_is_as_it_was() {
    let fixture = full();
    let mounts = [HostMount {
        request: &fixture.container.mounts[0],
        source: "/srv/real".as_ref(),
        propagates: HostPropagation::Shared,
    }];
    let mut plan = fixture.plan();
    plan.mounts = &mounts;
    plan.seccomp_profile =
        Some(r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "name": "mount", "action": "SCMP_ACT_ERRNO" }] }"#);
    let built = container(&plan).unwrap();

    let golden: serde_json::Value = serde_json::from_str(include_str!("golden.json")).unwrap();
    let mut json = serde_json::to_value(&built.spec).unwrap();
    let version = json["annotations"].as_object_mut().unwrap().remove(annotation::MADE_BY);
    assert_eq!(version, Some(env!("CARGO_PKG_VERSION").into()));
    assert_eq!(json, golden, "{}", serde_json::to_string_pretty(&json).unwrap());
    assert_eq!(built.notes, [Note::OomScoreAdjRaised { asked: -998, given: 0 }]);
}

#[test]
fn a_privileged_container_needs_a_privileged_sandbox() {
    let mut fixture = Fixture::default();
    fixture.container.security.privileged = true;
    fixture.container.security.masked_paths = vec!["/proc/kcore".into()];
    let refusal = container(&fixture.plan()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "linux.security_context.privileged: the sandbox is not privileged"
    );
    fixture.sandbox.privileged = true;
    let spec = container(&fixture.plan()).unwrap().spec;
    assert_eq!(spec.linux().as_ref().unwrap().masked_paths(), &None);
}

#[test]
fn a_holder_can_do_nothing() {
    let fixture = Fixture::default();
    let plan = HolderPlan {
        sandbox_id: &fixture.sandbox_id,
        sandbox: &fixture.sandbox,
        namespaces: &fixture.namespaces,
        cgroup: "/berth/pod/holder",
        rootfs: "/var/lib/berth/holder".as_ref(),
        host: &fixture.host,
    };
    let spec = holder(&plan).unwrap().spec;
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.args().as_ref().unwrap(), &[HOLDER_PROGRAM]);
    assert_eq!(process.no_new_privileges(), Some(true));
    assert_eq!(process.capabilities(), &Some(capabilities::none()));
    assert_eq!(process.oom_score_adj(), Some(-998));
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
}
