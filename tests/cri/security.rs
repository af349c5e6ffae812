//! Capabilities, privileges and system call filters.

use std::collections::BTreeMap;
use std::fs;

use berth::proto::runtime as pb;
use tonic::Code;

use crate::client::{ContainerParts, House, Pod, container_config, house, shell};

/// The numbers of capabilities(7) that the tests speak of.
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const CHOWN: u32 = 0;
/// The default set of Docker and Kubernetes: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const DEFAULT: u64 = 0xa804_25fb;

fn bit(capability: u32) -> u64 {
    1 << capability
}

/// The sets of the process 1 of a container with these capabilities: effective, permitted, bounding, inheritable,
/// ambient.
async fn sets(pod: &Pod, name: &str, capability: Option<pb::Capability>) -> [u64; 5] {
    let mut config = shell(name, "exec cat /proc/1/status");
    config.security().capabilities = capability;
    parse(&pod.succeed(config).await)
}

fn parse(status: &str) -> [u64; 5] {
    let fields: BTreeMap<_, _> = status.lines().filter_map(|line| line.split_once(":\t")).collect();
    ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"].map(|name| u64::from_str_radix(fields[name], 16).unwrap())
}

/// What berth, and so a container, can have here.
fn all() -> u64 {
    parse(&fs::read_to_string("/proc/self/status").unwrap())[2]
}

fn capability(add: &[&str], drop: &[&str], ambient: &[&str]) -> Option<pb::Capability> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Some(pb::Capability {
        add_capabilities: words(add),
        drop_capabilities: words(drop),
        add_ambient_capabilities: words(ambient),
    })
}

#[tokio::test]
async fn capabilities_are_exact_in_every_set() {
    let house = house().await;
    let pod = house.pod("capabilities").await;
    let same = |set: u64| [set, set, set, 0, 0];
    let cases = [
        ("default", None, same(DEFAULT)),
        ("drop-all", capability(&[], &["ALL"], &[]), same(0)),
        (
            "add-one",
            capability(&["NET_ADMIN"], &[], &[]),
            same(DEFAULT | bit(NET_ADMIN)),
        ),
        ("prefix-and-case", capability(&["cap_net_admin"], &["Chown"], &[]), {
            same((DEFAULT | bit(NET_ADMIN)) & !bit(CHOWN))
        }),
        (
            "only-one",
            capability(&["NET_BIND_SERVICE"], &["ALL"], &[]),
            same(bit(NET_BIND_SERVICE)),
        ),
        ("add-all", capability(&["ALL"], &[], &[]), same(all())),
        (
            "add-all-but-one",
            capability(&["ALL"], &["NET_ADMIN"], &[]),
            same(all() & !bit(NET_ADMIN)),
        ),
    ];
    for (name, asked, wanted) in cases {
        assert_eq!(sets(&pod, name, asked).await, wanted, "{name}");
    }
    pod.remove().await;
}

#[tokio::test]
async fn an_ambient_capability_reaches_a_user_who_is_not_root() {
    let house = house().await;
    let pod = house.pod("ambient").await;
    let user = Some(pb::Int64Value { value: 1000 });
    let mut without = shell("without", "cat /proc/self/status");
    without.security().run_as_user = user;
    without.security().capabilities = capability(&["NET_BIND_SERVICE"], &["ALL"], &[]);
    let [effective, permitted, bounding, inheritable, ambient] = parse(&pod.succeed(without).await);
    assert_eq!(
        [effective, permitted, inheritable, ambient],
        [0; 4],
        "only root gains by a bounding set"
    );
    assert_eq!(bounding, bit(NET_BIND_SERVICE));
    let mut with = shell("with", "cat /proc/self/status");
    with.security().run_as_user = user;
    with.security().capabilities = capability(&[], &["ALL"], &["NET_BIND_SERVICE"]);
    assert_eq!(parse(&pod.succeed(with).await), [bit(NET_BIND_SERVICE); 5]);
    pod.remove().await;
}

#[tokio::test]
async fn an_exec_has_the_containers_capabilities_and_user() {
    let house = house().await;
    let pod = house.pod("exec-capabilities").await;
    let mut config = container_config("c", &["sleep", "1000000"]);
    config.security().capabilities = capability(&["NET_ADMIN"], &["CHOWN"], &[]);
    config.security().supplemental_groups = vec![4321];
    config.security().no_new_privs = true;
    let container = pod.start(config).await;
    let status = container.sh("cat /proc/self/status").await;
    let wanted = (DEFAULT | bit(NET_ADMIN)) & !bit(CHOWN);
    assert_eq!(parse(&status), [wanted, wanted, wanted, 0, 0]);
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert_eq!(container.sh("id -G").await, "0 4321\n");
    pod.remove().await;
}

#[tokio::test]
async fn an_unknown_capability_is_refused_by_its_field() {
    let house = house().await;
    let pod = house.pod("no-such-capability").await;
    for (asked, field) in [
        (capability(&["NET_ADMIN", "FLY"], &[], &[]), "add_capabilities"),
        (capability(&[], &["FLY"], &[]), "drop_capabilities"),
        (capability(&[], &[], &["FLY"]), "add_ambient_capabilities"),
        (capability(&[""], &[], &[]), "add_capabilities"),
    ] {
        let mut config = shell("c", "true");
        config.security().capabilities = asked;
        let refused = pod.try_create(config).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(field), "{refused}");
    }
    pod.remove().await;
}

#[tokio::test]
async fn no_new_privs_is_as_asked() {
    let house = house().await;
    let pod = house.pod("no-new-privs").await;
    for (name, asked) in [("allowed", false), ("denied", true)] {
        let mut config = shell(name, "grep NoNewPrivs /proc/self/status");
        config.security().no_new_privs = asked;
        assert_eq!(pod.succeed(config).await, format!("NoNewPrivs:\t{}\n", u8::from(asked)));
    }
    pod.remove().await;
}

#[tokio::test]
async fn a_privileged_container_has_everything_and_sees_sys_writable() {
    let house = house().await;
    let pod = house.privileged_pod("privileged").await;
    let line = "cat /proc/self/status; grep ' /sys ' /proc/mounts; hostname changed-by-privileged && hostname";
    let mut config = shell("c", line);
    config.security().privileged = true;
    let text = pod.succeed(config).await;
    assert_eq!(parse(&text), [all(), all(), all(), 0, 0]);
    assert!(text.contains("Seccomp:\t0"), "{text}");
    assert!(text.contains("sysfs rw,"), "{text}");
    let usual = pod
        .run(shell("usual", "grep ' /sys ' /proc/mounts; hostname no-right-to"))
        .await;
    assert!(usual.stdout.contains("sysfs ro,"), "{usual:?}");
    assert_ne!(usual.code, 0);
    pod.remove().await;
    // Only a sandbox that was announced as privileged has such containers.
    let pod = house.pod("unprivileged").await;
    let mut config = shell("c", "true");
    config.security().privileged = true;
    let refused = pod.try_create(config).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    pod.remove().await;
}

async fn filtered(pod: &Pod, name: &str, profile: pb::SecurityProfile) -> crate::client::Ended {
    // As root with all capabilities, so that nothing but the filter can be in the way.
    let mut config = shell(
        name,
        "unshare -U true 2>&1; chmod 0 /tmp 2>&1; grep Seccomp: /proc/self/status",
    );
    config.security().seccomp = Some(profile);
    pod.run(config).await
}

fn profile(profile_type: pb::security_profile::ProfileType, localhost_ref: &str) -> pb::SecurityProfile {
    pb::SecurityProfile {
        profile_type: profile_type.into(),
        localhost_ref: localhost_ref.to_owned(),
    }
}

#[tokio::test]
async fn seccomp_filters_as_the_profile_says() {
    use pb::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let house = house().await;
    let pod = house.pod("seccomp").await;
    let default = filtered(&pod, "default", profile(RuntimeDefault, "")).await;
    assert!(
        default.stdout.contains("unshare: ") && default.stdout.contains("not permitted"),
        "{default:?}"
    );
    assert!(default.stdout.ends_with("Seccomp:\t2\n"), "{default:?}");
    let unconfined = filtered(&pod, "unconfined", profile(Unconfined, "")).await;
    assert_eq!(unconfined.stdout, "Seccomp:\t0\n");

    let path = write_profile(&house, "chmod.json", r#"["chmod", "fchmodat", "fchmodat2", "fchmod"]"#);
    let local = filtered(&pod, "local", profile(Localhost, &path)).await;
    assert!(
        local.stdout.contains("chmod: ") && !local.stdout.contains("unshare: "),
        "{local:?}"
    );
    assert!(local.stdout.ends_with("Seccomp:\t2\n"), "{local:?}");

    let missing = house.berth.path("profiles/missing.json").display().to_string();
    let broken = house.berth.path("profiles/broken.json");
    fs::write(&broken, "{\"defaultAction\": 5}").unwrap();
    for path in [missing, broken.display().to_string(), String::new()] {
        let mut config = shell("refused", "true");
        config.security().seccomp = Some(profile(Localhost, &path));
        let refused = pod.try_create(config).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("seccomp"), "{refused}");
    }
    pod.remove().await;
}

fn write_profile(house: &House, name: &str, calls: &str) -> String {
    let path = house.berth.path("profiles").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text = format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": {calls}, "action": "SCMP_ACT_ERRNO"}}]}}"#
    );
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn the_deprecated_seccomp_path_still_counts() {
    let house = house().await;
    let pod = house.pod("seccomp-path").await;
    let mut config = shell("c", "unshare -U true 2>&1; grep Seccomp: /proc/self/status");
    #[allow(deprecated)]
    {
        config.security().seccomp_profile_path = "runtime/default".to_owned();
    }
    let text = pod.succeed(config).await;
    assert!(text.ends_with("Seccomp:\t2\n"), "{text}");
    pod.remove().await;
}
