//! The same command through nsexec and through containerd's Tasks.Exec with runc, line by line.

use berth::proto::runtime as pb;

use crate::client::{Container, ContainerParts, House, Parts, container_config, pod_config};
use crate::house::{Stock, by_containerd, house};

/// Everything of a process that shows, by files of /proc and by what it is told.
const COMMANDS: [&[&str]; 14] = [
    &["cat", "/proc/self/status"],
    &["cat", "/proc/self/cgroup"],
    &["cat", "/proc/self/limits"],
    &["cat", "/proc/self/attr/current"],
    &["cat", "/proc/self/mountinfo"],
    &["cat", "/proc/self/oom_score_adj"],
    &["cat", "/proc/self/stat"],
    &[
        "cat",
        "/proc/self/sessionid",
        "/proc/self/loginuid",
        "/proc/self/coredump_filter",
        "/proc/self/timerslack_ns",
    ],
    &["cat", "/proc/self/environ"],
    &["ls", "-ln", "/proc/self/ns"],
    &["ls", "-ln", "/proc/self/fd"],
    &["ls", "-ldn", "/proc/self/cwd", "/proc/self/root"],
    &["id"],
    &["sh", "-c", "umask; pwd; ulimit -a; env; trap; cat /proc/keys"],
];

async fn assert_alike(house: &House, what: &str, container: &Container) {
    for command in COMMANDS {
        let ours = container.exec(command, 20).await.unwrap();
        // ctr loses the output of a short command now and then.
        let mut theirs = by_containerd(house, &container.id, command);
        for _ in 0..5 {
            if !theirs.stdout.is_empty() || ours.stdout.is_empty() {
                break;
            }
            theirs = by_containerd(house, &container.id, command);
        }
        let text = |bytes: &[u8]| normalised(command, &container.id, &String::from_utf8_lossy(bytes));
        let (ours_text, theirs_text) = (text(&ours.stdout), text(&theirs.stdout));
        assert_eq!(
            ours_text,
            theirs_text,
            "{what}: {command:?}: {}{}",
            String::from_utf8_lossy(&ours.stderr),
            String::from_utf8_lossy(&theirs.stderr)
        );
        assert_eq!(Some(ours.exit_code), theirs.status.code(), "{what}: {command:?}");
        assert!(
            !ours_text.is_empty() || command[1].contains("attr"),
            "{what}: {command:?}"
        );
    }
}

/// Without what differs from one process to the next.
fn normalised(command: &[&str], id: &str, text: &str) -> Vec<String> {
    let lines = text.split(['\n', '\0']);
    let lines = lines.filter(|line| !passing(line));
    // Of the keyrings that can be seen, that of the container, whoever uses it how often.
    let lines = lines.filter(|line| !line.contains(" perm ") || line.contains(id));
    lines
        .map(|line| match command {
            // Its number in the hierarchy of version 2 is that of a group of its own.
            [_, "/proc/self/cgroup"] => line.split("/berth-exec-").next().unwrap().to_owned(),
            // The pid is another one; group, session, terminal and flags count.
            [_, "/proc/self/stat"] => stat(line),
            ["ls", _, "/proc/self/fd"] => descriptor(line),
            ["ls", ..] => without_time(line),
            // On the node the parent is whoever starts commands.
            [_, "/proc/self/status"] if line.starts_with("PPid:\t") && line != "PPid:\t0" => "PPid:\tsome".to_owned(),
            _ if line.contains(" perm ") => line.split(" perm ").nth(1).unwrap().to_owned(),
            _ => line.to_owned(),
        })
        .collect()
}

fn passing(line: &str) -> bool {
    let names = [
        "Tgid:",
        "Ngid:",
        "Pid:",
        "NStgid:",
        "NSpid:",
        "NSpgid:",
        "NSsid:",
        "VmPeak:",
        "VmSize:",
        "VmHWM:",
        "VmRSS:",
        "RssAnon:",
        "RssFile:",
        "RssShmem:",
        "VmData:",
        "VmExe:",
        "VmLib:",
        "VmStk:",
        "VmPTE:",
        "VmLck:",
        "VmPin:",
        "VmSwap:",
        "FDSize:",
        "voluntary_ctxt_switches:",
        "nonvoluntary_ctxt_switches:",
        "total ",
        "SigQ:",
    ];
    names.iter().any(|name| line.starts_with(name))
}

/// Whether it leads its group and its session, its terminal, its nice value, its policy.
fn stat(line: &str) -> String {
    let Some((_, rest)) = line.rsplit_once(") ") else {
        return line.to_owned();
    };
    let pid = line.split(' ').next().unwrap();
    let fields: Vec<_> = rest.split(' ').collect();
    let (parent, group, session, terminal) = (fields[1], fields[2], fields[3], fields[4]);
    let (priority, nice, threads, policy) = (fields[15], fields[16], fields[17], fields[38]);
    let parent = if parent == "0" { "none" } else { "some" };
    format!(
        "{parent} {} {} {terminal} {priority} {nice} {threads} {policy}",
        group == pid,
        session == pid
    )
}

/// Number, access and kind; the pipes themselves differ.
fn descriptor(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mode = words.next().unwrap_or_default().to_owned();
    let Some((_, link)) = line
        .rsplit_once(':')
        .map(|(before, _)| before.rsplit_once(' ').unwrap_or(("", before)))
    else {
        return mode;
    };
    let owner: Vec<_> = words.skip(1).take(2).collect();
    let target = line.split(" -> ").nth(1).unwrap_or_default();
    let number = line
        .split(" -> ")
        .next()
        .and_then(|before| before.rsplit(' ').next())
        .unwrap_or_default();
    let kind = match target {
        // ctr, for one, connects its own input.
        _ if number == "0" => "input",
        "/dev/null" => "null",
        target if target.starts_with("pipe:") || target.contains("fifo") => "pipe",
        target if target.contains("/proc/") => "proc",
        _ => link,
    };
    format!("{mode} {owner:?} {number} {kind}")
}

/// The times of links in /proc are those at which somebody first looked.
fn without_time(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    match words.as_slice() {
        [mode, _, uid, gid, _, _, _, _, name @ ..] => format!("{mode} {uid} {gid} {name:?}"),
        _ => line.to_owned(),
    }
}

async fn check(name: &str, pod: pb::PodSandboxConfig, config: pb::ContainerConfig) {
    let house = house().await;
    let pod = house.stock(pod).await;
    let container = pod.start(config).await;
    assert_alike(&house, name, &container).await;
    pod.remove().await;
}

fn idle() -> pb::ContainerConfig {
    container_config("c", &["sleep", "1000000"])
}

fn profile(kind: pb::security_profile::ProfileType) -> Option<pb::SecurityProfile> {
    Some(pb::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: String::new(),
    })
}

#[tokio::test]
async fn a_plain_command_is_alike() {
    check("plain", pod_config("alike-plain"), idle()).await;
}

#[tokio::test]
async fn a_command_under_the_default_seccomp_profile_is_alike() {
    let mut config = idle();
    config.security().seccomp = profile(pb::security_profile::ProfileType::RuntimeDefault);
    check("seccomp", pod_config("alike-seccomp"), config).await;
}

/// What the filter refuses, and how: the same calls with the same errors.
#[tokio::test]
async fn refused_system_calls_are_alike() {
    let house = house().await;
    let pod = house.stock(pod_config("alike-refused")).await;
    let mut config = idle();
    config.security().seccomp = profile(pb::security_profile::ProfileType::RuntimeDefault);
    let container = pod.start(config).await;
    for line in [
        "unshare -r true",
        "unshare -m true",
        "setarch linux32 uname -m",
        "mount -t tmpfs none /mnt",
        "swapon /nothing",
        "chroot / true",
        "date -s 2020-01-01",
        "hostname other",
        "nice -n -5 true",
    ] {
        let line = format!("{line} 2>&1; echo $?");
        let ours = container.exec(&["sh", "-c", &line], 20).await.unwrap();
        let theirs = by_containerd(&house, &container.id, &["sh", "-c", &line]);
        assert_eq!(
            String::from_utf8_lossy(&ours.stdout),
            String::from_utf8_lossy(&theirs.stdout),
            "{line}"
        );
    }
    pod.remove().await;
}

#[tokio::test]
async fn a_user_with_groups_and_no_new_privileges_is_alike() {
    let mut config = idle();
    config.working_dir = "/tmp".to_owned();
    config.envs = vec![pb::KeyValue {
        key: "NAME".to_owned(),
        value: b"a value".to_vec(),
    }];
    let security = config.security();
    security.run_as_user = Some(pb::Int64Value { value: 65534 });
    security.run_as_group = Some(pb::Int64Value { value: 1234 });
    security.supplemental_groups = vec![7, 8, 9];
    security.no_new_privs = true;
    security.seccomp = profile(pb::security_profile::ProfileType::RuntimeDefault);
    check("user", pod_config("alike-user"), config).await;
}

#[tokio::test]
async fn a_user_that_nobody_knows_is_alike() {
    let mut config = idle();
    config.security().run_as_user = Some(pb::Int64Value { value: 4321 });
    check("unknown user", pod_config("alike-unknown"), config).await;
}

#[tokio::test]
async fn capabilities_are_alike() {
    let mut config = idle();
    config.security().capabilities = Some(pb::Capability {
        add_capabilities: vec!["NET_ADMIN".to_owned(), "SYS_PTRACE".to_owned()],
        drop_capabilities: vec!["CHOWN".to_owned()],
        ..pb::Capability::default()
    });
    check("capabilities", pod_config("alike-capabilities"), config).await;
    let mut config = idle();
    config.security().capabilities = Some(pb::Capability {
        drop_capabilities: vec!["ALL".to_owned()],
        ..pb::Capability::default()
    });
    config.resources().oom_score_adj = 500;
    check("none", pod_config("alike-none"), config).await;
}

#[tokio::test]
async fn a_privileged_container_is_alike() {
    let mut pod = pod_config("alike-privileged");
    pod.namespaces();
    pod.linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
        .privileged = true;
    let mut config = idle();
    config.security().privileged = true;
    check("privileged", pod, config).await;
}

#[tokio::test]
async fn the_nodes_namespaces_and_a_shared_one_are_alike() {
    let mut pod = pod_config("alike-node");
    let namespaces = pod.namespaces();
    namespaces.set_pid(pb::NamespaceMode::Node);
    namespaces.set_ipc(pb::NamespaceMode::Node);
    namespaces.set_network(pb::NamespaceMode::Node);
    let mut config = idle();
    *config.namespaces() = pod.namespaces().clone();
    check("node", pod, config).await;
    let mut pod = pod_config("alike-shared");
    pod.namespaces().set_pid(pb::NamespaceMode::Pod);
    let mut config = idle();
    *config.namespaces() = pod.namespaces().clone();
    config.security().readonly_rootfs = true;
    check("shared", pod, config).await;
}
