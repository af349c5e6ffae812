//! The proof: runc takes the specs that are built here, and the kernel shows what they asked for.
//!
//! Needs root, runc, and busybox linked statically (Debian's busybox-static).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::tests::Fixture;
use super::*;
use crate::model::container::Mount as MountRequest;
use crate::model::security::{Capabilities, IpcMode, NetworkMode, PidMode, Profile};

/// A bundle with a root of busybox alone, and the cgroup of what runs in it. Dropping it removes both.
struct Bundle {
    dir: tempfile::TempDir,
    name: String,
}

impl Bundle {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let bundle = Self {
            dir: tempfile::tempdir().unwrap(),
            name: format!("berth-test-{}-{count}", std::process::id()),
        };
        // Its programs may run as anybody.
        fs::set_permissions(bundle.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(bundle.rootfs().join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", bundle.rootfs().join("bin/busybox")).expect("busybox-static is installed");
        for name in [
            "sh", "cat", "id", "grep", "touch", "unshare", "hostname", "env", "sleep",
        ] {
            std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin").join(name)).unwrap();
        }
        for file in ["hosts", "hostname", "resolv.conf"] {
            fs::write(bundle.path(file), format!("the pod's {file}\n")).unwrap();
        }
        fs::create_dir(bundle.path("shm")).unwrap();
        bundle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn rootfs(&self) -> PathBuf {
        self.path(ROOTFS)
    }

    fn cgroup(&self) -> String {
        format!("/{}/container", self.name)
    }

    /// A pod on the node's network and IPC, so that the test has no namespaces to make, and a container in it that
    /// runs `script`.
    fn fixture(&self, script: &str) -> Fixture {
        let mut fixture = Fixture {
            namespaces: NamespacePaths::default(),
            files: PodFiles {
                hosts: self.path("hosts"),
                hostname: self.path("hostname"),
                resolv_conf: self.path("resolv.conf"),
                shm: self.path("shm"),
            },
            cgroup: self.cgroup(),
            host: this_host(),
            ..Fixture::default()
        };
        fixture.sandbox.namespaces.network = NetworkMode::Node;
        fixture.sandbox.namespaces.ipc = IpcMode::Node;
        fixture.container.command = ["sh", "-c", script].map(String::from).to_vec();
        fixture
    }

    /// What the container's process writes.
    fn run(&self, plan: &Plan<'_>) -> String {
        self.write(&container(plan).unwrap().spec);
        let mut runc = self.runc(&["run", "--bundle"]);
        let output = runc
            .arg(self.dir.path())
            .arg(&self.name)
            .output()
            .expect("runc is installed");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "runc: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a process that stays, with nobody at its ends.
    fn start(&self, spec: &Spec) {
        self.write(spec);
        let mut runc = self.runc(&["run", "--detach", "--bundle"]);
        runc.arg(self.dir.path()).arg(&self.name);
        let status = runc
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.expect("runc is installed").success());
    }

    /// The process that [`Bundle::start`] started.
    fn pid(&self) -> u32 {
        let output = self.runc(&["state", &self.name]).output().unwrap();
        let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(state["status"], "running");
        state["pid"].as_u64().and_then(|pid| pid.try_into().ok()).unwrap()
    }

    fn write(&self, spec: &Spec) {
        fs::write(self.path("config.json"), serde_json::to_vec(spec).unwrap()).unwrap();
    }

    fn runc(&self, args: &[&str]) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.path("state")).args(args);
        command
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.runc(&["delete", "--force", &self.name]).output();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let pod = hierarchy.path().join(&self.name);
            let _ = fs::remove_dir(pod.join("container"));
            let _ = fs::remove_dir(pod);
        }
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.name));
    }
}

/// The capabilities of this process by their numbers, and whether it may lower a score.
fn this_host() -> Host {
    let bounding = capability_set(&fs::read_to_string("/proc/self/status").unwrap(), "CapBnd");
    let capabilities = NAMES
        .iter()
        .enumerate()
        .filter(|(number, _)| bounding & (1 << number) != 0)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect();
    let own: i64 = fs::read_to_string("/proc/self/oom_score_adj")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    Host {
        capabilities,
        oom_score_adj_floor: own,
        kernel: (5, 10),
        cgroup_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        seccomp: true,
        ..Host::default()
    }
}

/// The kernel's capabilities by number (linux/capability.h).
#[rustfmt::skip]
const NAMES: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
];

fn capability_set(status: &str, name: &str) -> u64 {
    u64::from_str_radix(field(status, name), 16).unwrap()
}

/// A field of /proc/PID/status.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let prefix = format!("{name}:");
    let line = status.lines().find_map(|line| line.strip_prefix(&prefix));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

/// The set of the capabilities called `names`.
fn bits(names: &[&str]) -> u64 {
    let known = |name: &str| {
        NAMES
            .iter()
            .position(|one| *one == name)
            .expect("a capability of the kernel")
    };
    names.iter().map(|name| 1 << known(name)).sum()
}

#[test]
fn the_kernel_shows_exactly_the_capabilities_asked_for() {
    let default = bits(&[
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SYS_CHROOT",
        "MKNOD",
        "AUDIT_WRITE",
        "SETFCAP",
    ]);
    let own = capability_set(&fs::read_to_string("/proc/self/status").unwrap(), "CapBnd");
    let net_admin = bits(&["NET_ADMIN"]);
    let case = |add: &[&'static str], drop: &[&'static str], ambient: &[&'static str], expected, expected_ambient| {
        (
            add.to_vec(),
            drop.to_vec(),
            ambient.to_vec(),
            expected,
            expected_ambient,
        )
    };
    let cases = [
        case(&[], &[], &[], default, 0),
        case(&["NET_ADMIN"], &["ALL"], &[], net_admin, 0),
        case(&["ALL"], &[], &[], own, 0),
        case(&["ALL"], &["SYS_ADMIN"], &[], own & !bits(&["SYS_ADMIN"]), 0),
        case(&[], &["ALL"], &["NET_ADMIN"], net_admin, net_admin),
    ];
    for (add, drop, ambient, expected, expected_ambient) in cases {
        let bundle = Bundle::new();
        let mut fixture = bundle.fixture("cat /proc/self/status");
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        fixture.container.security.capabilities = Capabilities {
            add: owned(&add),
            drop: owned(&drop),
            add_ambient: owned(&ambient),
        };
        let status = bundle.run(&fixture.plan());
        for (set, expected) in [
            ("CapBnd", expected),
            ("CapPrm", expected),
            ("CapEff", expected),
            ("CapInh", expected_ambient),
            ("CapAmb", expected_ambient),
        ] {
            let got = capability_set(&status, set);
            assert_eq!(
                got, expected,
                "{set} is {got:x}, not {expected:x}: {add:?} {drop:?} {ambient:?}"
            );
        }
    }
}

#[test]
fn an_ambient_capability_reaches_a_user_who_is_not_root() {
    let bundle = Bundle::new();
    let mut fixture = bundle.fixture("cat /proc/self/status");
    fixture.user.uid = 1000;
    fixture.container.security.capabilities.drop = vec!["ALL".into()];
    fixture.container.security.capabilities.add_ambient = vec!["CAP_NET_ADMIN".into()];
    let status = bundle.run(&fixture.plan());
    assert_eq!(capability_set(&status, "CapEff"), bits(&["NET_ADMIN"]));
}

#[test]
fn a_container_is_confined_as_its_security_context_says() {
    let bundle = Bundle::new();
    let mut fixture = bundle.fixture(
        "cat /proc/self/status; cat /etc/secret; touch /x 2>&1; touch /proc/sys/kernel/panic 2>&1;
         touch /tmp/x && echo tmp is writable; unshare -m true 2>&1; id; echo score $(cat /proc/self/oom_score_adj)",
    );
    fs::write(bundle.rootfs().join("etc/secret"), "the secret\n").unwrap();
    let tmp = MountRequest {
        container_path: "/tmp".into(),
        host_path: bundle.path("shm"),
        ..MountRequest::default()
    };
    fs::set_permissions(&tmp.host_path, fs::Permissions::from_mode(0o1777)).unwrap();
    let mounts = [HostMount {
        request: &tmp,
        source: &tmp.host_path,
        propagates: HostPropagation::Private,
    }];
    fixture.user = User {
        uid: 1000,
        gid: 2000,
        supplemental_groups: vec![2000, 3000],
    };
    fixture.container.resources.oom_score_adj = 500;
    let security = &mut fixture.container.security;
    security.no_new_privs = true;
    security.readonly_rootfs = true;
    security.seccomp = Profile::RuntimeDefault;
    security.masked_paths = vec!["/etc/secret".into()];
    security.readonly_paths = vec!["/proc/sys".into()];
    let mut plan = fixture.plan();
    plan.mounts = &mounts;

    let output = bundle.run(&plan);
    assert_eq!(field(&output, "NoNewPrivs"), "1");
    assert_eq!(field(&output, "Seccomp"), "2");
    assert_eq!(field(&output, "Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(field(&output, "Gid"), "2000\t2000\t2000\t2000");
    assert_eq!(field(&output, "Groups"), "2000 3000");
    assert!(!output.contains("the secret"), "{output}");
    for line in [
        "touch: /x: Read-only file system",
        "touch: /proc/sys/kernel/panic: Read-only file system",
        "tmp is writable",
        "unshare: unshare(0x20000): Operation not permitted",
        "score 500",
    ] {
        assert!(output.contains(line), "{line:?} is not in {output}");
    }
}

#[test]
fn a_container_sees_its_pods_files_its_environment_and_its_own_processes() {
    let bundle = Bundle::new();
    let mut fixture =
        bundle.fixture("cat /etc/hosts /etc/hostname /etc/resolv.conf; env; echo I am $$; touch /dev/shm/x");
    fixture.container.envs = vec![("NAME".into(), "value".into())];
    let output = bundle.run(&fixture.plan());
    for line in [
        "the pod's hosts",
        "the pod's hostname",
        "the pod's resolv.conf",
        "NAME=value",
        "HOSTNAME=pod",
        "I am 1",
    ] {
        assert!(output.lines().any(|one| one == line), "{line:?} is not in {output}");
    }
    assert!(bundle.path("shm/x").exists());
}

#[test]
fn limits_reach_the_cgroup() {
    let bundle = Bundle::new();
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max \
                      /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null; true";
    let mut fixture = bundle.fixture(script);
    fixture.container.resources.memory_limit_in_bytes = 64 << 20;
    fixture.container.resources.cpu_period = 100_000;
    fixture.container.resources.cpu_quota = 50_000;
    let output = bundle.run(&fixture.plan());
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[0], "67108864");
    assert!(lines[1].starts_with("50000"), "{output}");
}

#[test]
fn a_privileged_container_holds_all_and_is_not_filtered() {
    let bundle = Bundle::new();
    let mut fixture = bundle.fixture("cat /proc/self/status; touch /sys/kernel/mm/ksm/run && echo sys is writable");
    fixture.sandbox.privileged = true;
    fixture.container.security.privileged = true;
    fixture.container.security.seccomp = Profile::RuntimeDefault;
    let output = bundle.run(&fixture.plan());
    assert_eq!(field(&output, "Seccomp"), "0");
    let held: Vec<_> = fixture
        .host
        .capabilities
        .iter()
        .map(|name| &name["CAP_".len()..])
        .collect();
    assert_eq!(capability_set(&output, "CapBnd"), bits(&held));
}

#[test]
fn a_container_starts_with_the_pod_it_joins() {
    // /proc/self/ns names the node's namespaces, which is as good a path to join as a pod's pin.
    let bundle = Bundle::new();
    let mut fixture = bundle.fixture("echo joined; true");
    fixture.sandbox.namespaces = Default::default();
    let own = |name: &str| Some(PathBuf::from(format!("/proc/{}/ns/{name}", std::process::id())));
    fixture.namespaces = NamespacePaths {
        net: own("net"),
        ipc: own("ipc"),
        uts: own("uts"),
        pid: None,
    };
    assert_eq!(bundle.run(&fixture.plan()), "joined\n");
}

#[test]
fn mounts_and_devices_are_as_the_request_says() {
    let bundle = Bundle::new();
    let mut fixture = bundle.fixture(
        "touch /ro/x 2>&1; touch /rro/x 2>&1; touch /rw/deep/x && echo written; test -c /dev/mine && echo a device",
    );
    let request = |path: &str, readonly, recursive_read_only| MountRequest {
        container_path: path.into(),
        host_path: bundle.path("shm"),
        readonly,
        recursive_read_only,
        ..MountRequest::default()
    };
    let requests = [
        request("/rw/deep", false, false),
        request("/rw", true, false),
        request("/ro", true, false),
        request("/rro", true, true),
    ];
    fs::create_dir(bundle.path("shm/deep")).unwrap();
    let mounts = requests.each_ref().map(|request| HostMount {
        request,
        source: &request.host_path,
        propagates: HostPropagation::Private,
    });
    fixture.devices = vec![HostDevice {
        path: "/dev/mine".into(),
        kind: DeviceKind::Character,
        major: 10,
        minor: 229,
        mode: 0o20600,
        uid: 0,
        gid: 0,
        permissions: "rw".into(),
    }];
    let mut plan = fixture.plan();
    plan.mounts = &mounts;
    let output = bundle.run(&plan);
    for line in [
        "touch: /ro/x: Read-only file system",
        "touch: /rro/x: Read-only file system",
        "written",
        "a device",
    ] {
        assert!(output.lines().any(|one| one == line), "{line:?} is not in {output}");
    }
}

#[test]
fn a_container_joins_the_pid_namespace_that_a_holder_keeps() {
    const HOLDER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/berth-holder"));
    let held = Bundle::new();
    let program = held.path("root/holder");
    for dir in ["root/proc", "root/dev"] {
        fs::create_dir_all(held.path(dir)).unwrap();
    }
    fs::write(&program, HOLDER).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let pod = held.fixture("");
    let holder = holder(&HolderPlan {
        sandbox_id: &pod.sandbox_id,
        sandbox: &pod.sandbox,
        namespaces: &pod.namespaces,
        cgroup: &held.cgroup(),
        rootfs: &held.path("root"),
        host: &pod.host,
    });
    held.start(&holder.unwrap().spec);
    let status = fs::read_to_string(format!("/proc/{}/status", held.pid())).unwrap();
    for set in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(capability_set(&status, set), 0, "{set}");
    }
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    assert_eq!(field(&status, "Uid"), "65535\t65535\t65535\t65535");

    let bundle = Bundle::new();
    let mut fixture = bundle.fixture("cat /proc/1/comm");
    fixture.sandbox.namespaces.pid = PidMode::Pod;
    fixture.container.security.namespaces.pid = PidMode::Pod;
    fixture.namespaces.pid = Some(format!("/proc/{}/ns/pid", held.pid()).into());
    assert_eq!(bundle.run(&fixture.plan()), "holder\n");
}
