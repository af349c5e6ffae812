//! The namespaces of pods and their containers, and what pods find in them.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use berth::proto::runtime as pb;
use pb::NamespaceMode::{Container, Node, Pod as Shared, Target};

use crate::client::{ContainerParts, Parts, container_config, house, pod_config, shell, until};

/// The namespace `kind` that process `pid` of the host is in.
fn namespace(pid: impl std::fmt::Display, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    link.display().to_string()
}

#[tokio::test]
async fn a_pods_containers_share_network_ipc_and_host_name_but_not_the_nodes() {
    let house = house().await;
    let pod = house.pod("shares").await;
    let (one, other) = (pod.idle("one").await.pid().await, pod.idle("other").await.pid().await);
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(one, kind), namespace(other, kind), "{kind}");
        assert_ne!(namespace(one, kind), namespace("self", kind), "{kind}");
    }
    for kind in ["pid", "mnt"] {
        assert_ne!(namespace(one, kind), namespace(other, kind), "{kind}");
        assert_ne!(namespace(one, kind), namespace("self", kind), "{kind}");
    }
    pod.remove().await;
}

#[tokio::test]
async fn a_pod_of_the_node_has_the_nodes_network_ipc_pids_and_host_name() {
    let house = house().await;
    let mut config = pod_config("of-node");
    let namespaces = config.namespaces();
    namespaces.set_network(Node);
    namespaces.set_ipc(Node);
    namespaces.set_pid(Node);
    let asked = namespaces.clone();
    let pod = house.pod_of(config).await;
    let mut idle = container_config("c", &["sleep", "1000000"]);
    *idle.namespaces() = asked;
    let container = pod.start(idle).await;
    let pid = container.pid().await;
    for kind in ["net", "ipc", "uts", "pid"] {
        assert_eq!(namespace(pid, kind), namespace("self", kind), "{kind}");
    }
    assert_eq!(pod.ip().await, "");
    let node = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(
        container.sh("hostname; cat /etc/hostname").await,
        format!("{node}{node}")
    );
    assert_eq!(
        container.sh("cat /etc/hosts").await,
        fs::read_to_string("/etc/hosts").unwrap()
    );
    pod.remove().await;
}

#[tokio::test]
async fn a_shared_pid_namespace_has_a_holder_that_reaps_and_no_other_pod_has_one() {
    let house = house().await;
    let mut config = pod_config("shared-pids");
    config.namespaces().set_pid(Shared);
    let pod = house.pod_of(config).await;
    let mut idle = container_config("idle", &["sleep", "1000000"]);
    idle.namespaces().set_pid(Shared);
    let idle = pod.start(idle).await;
    let mut other = shell("orphans", "(sleep 0.2 & ) ; exec sleep 1000000");
    other.namespaces().set_pid(Shared);
    let other = pod.start(other).await;
    let (one, two) = (idle.pid().await, other.pid().await);
    assert_eq!(namespace(one, "pid"), namespace(two, "pid"));
    assert_ne!(namespace(one, "pid"), namespace("self", "pid"));
    let seen = idle.sh("ps -o pid,comm").await;
    let first = seen
        .lines()
        .find(|line| line.trim_start().starts_with("1 "))
        .unwrap_or_default();
    assert!(first.ends_with("holder"), "{seen}");
    // The orphan's parent is pid 1 of the namespace, which must not leave it a zombie.
    let gone = async || !idle.sh("ps -o ppid,stat,args").await.contains("sleep 0.2");
    let begin = std::time::Instant::now();
    while !gone().await {
        assert!(
            begin.elapsed().as_secs() < 10,
            "{}",
            idle.sh("ps -o ppid,stat,args").await
        );
    }
    let zombies = idle.sh("ps -o stat,comm").await;
    assert!(
        !zombies.lines().any(|line| line.trim_start().starts_with('Z')),
        "{zombies}"
    );
    // One that says nothing has its sandbox's; one that wants to be apart can be.
    let silent = pod.idle("silent").await.pid().await;
    assert_eq!(namespace(silent, "pid"), namespace(one, "pid"));
    let mut apart = container_config("apart", &["sleep", "1000000"]);
    apart.namespaces().set_pid(Container);
    let apart = pod.start(apart).await.pid().await;
    assert_ne!(namespace(apart, "pid"), namespace(one, "pid"));
    pod.remove().await;
}

#[tokio::test]
async fn a_pod_without_shared_pids_has_no_process_but_its_containers() {
    let house = house().await;
    let pod = house.pod("no-pause").await;
    let pods: BTreeSet<_> = house
        .berth
        .cgroups()
        .iter()
        .flat_map(|cgroup| processes(cgroup, &pod.id))
        .collect();
    assert_eq!(pods, BTreeSet::new(), "before its first container");
    let pid = pod.idle("c").await.pid().await;
    let pods: BTreeSet<_> = house
        .berth
        .cgroups()
        .iter()
        .flat_map(|cgroup| processes(cgroup, &pod.id))
        .collect();
    assert_eq!(pods, BTreeSet::from([pid.to_string()]));
    pod.remove().await;
}

/// The processes in and below a pod's cgroup.
fn processes(cgroup: &Path, pod: &str) -> Vec<String> {
    if !cgroup.ends_with(pod) {
        return Vec::new();
    }
    let below = fs::read_dir(cgroup).unwrap().flatten().map(|entry| entry.path());
    let below = below.filter(|path| path.is_dir()).chain([cgroup.to_owned()]);
    below
        .filter_map(|path| fs::read_to_string(path.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[tokio::test]
async fn a_container_can_join_the_pids_of_a_target() {
    let house = house().await;
    let pod = house.pod("target").await;
    let target = pod.idle("target").await;
    let mut debugger = shell("debugger", "ps -o pid,args");
    debugger.namespaces().set_pid(Target);
    debugger.namespaces().target_id = target.id.clone();
    let seen = pod.succeed(debugger.clone()).await;
    assert!(seen.contains("1 sleep 1000000"), "{seen}");
    debugger.metadata.as_mut().unwrap().attempt = 1;
    debugger.namespaces().target_id = "feed".repeat(16);
    let refused = pod.try_create(debugger.clone()).await.err().unwrap();
    assert!(refused.message().contains("target_id"), "{refused}");
    target.stop(0).await;
    debugger.namespaces().target_id = target.id.clone();
    let refused = pod.try_create(debugger).await.err().unwrap();
    assert!(refused.message().contains("does not run"), "{refused}");
    pod.remove().await;
}

#[tokio::test]
async fn host_name_resolver_and_hosts_file_are_the_pods() {
    let house = house().await;
    let mut config = pod_config("files");
    config.hostname = "ship".to_owned();
    config.dns_config = Some(pb::DnsConfig {
        servers: vec!["10.0.0.10".to_owned(), "10.0.0.11".to_owned()],
        searches: vec!["a.local".to_owned(), "b.local".to_owned()],
        options: vec!["ndots:5".to_owned()],
    });
    let pod = house.pod_of(config).await;
    let container = pod.idle("c").await;
    assert_eq!(
        container.sh("hostname; cat /etc/hostname; echo $HOSTNAME").await,
        "ship\nship\nship\n"
    );
    let resolv = "search a.local b.local\nnameserver 10.0.0.10\nnameserver 10.0.0.11\noptions ndots:5\n";
    assert_eq!(container.sh("cat /etc/resolv.conf").await, resolv);
    let hosts = container.sh("cat /etc/hosts").await;
    assert!(hosts.contains("127.0.0.1\tlocalhost\n"), "{hosts}");
    assert!(hosts.contains(&format!("{}\tship\n", pod.ip().await)), "{hosts}");
    // An application may add to it (podman's users and init scripts do), also for the container beside it.
    container.sh("echo '1.2.3.4 other' >> /etc/hosts").await;
    assert!(pod.sh("beside", "cat /etc/hosts").await.contains("1.2.3.4 other"));
    pod.remove().await;

    let plain = house.pod("files-plain").await;
    let text = plain.sh("c", "hostname; cat /etc/resolv.conf").await;
    let node = fs::read_to_string("/etc/resolv.conf").unwrap();
    assert_eq!(text, format!("files-plain\n{node}"));
    plain.remove().await;
}

#[tokio::test]
async fn shared_memory_is_the_pods_and_64_mebibytes() {
    let house = house().await;
    let pod = house.pod("shm").await;
    let one = pod.idle("one").await;
    one.sh("echo hello > /dev/shm/x").await;
    let other = pod
        .sh("other", "cat /dev/shm/x; df -k /dev/shm | tail -1; stat -c %a /dev/shm")
        .await;
    let words: Vec<_> = other.split_whitespace().collect();
    assert_eq!(
        (words[0], words[2], *words.last().unwrap()),
        ("hello", "65536", "1777"),
        "{other}"
    );
    pod.remove().await;
}

#[tokio::test]
async fn sysctls_are_set_in_the_pods_namespaces_alone() {
    let house = house().await;
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap();
    let before = (
        read("net/ipv4/ip_unprivileged_port_start"),
        read("kernel/shm_rmid_forced"),
    );
    let mut config = pod_config("sysctls");
    config.linux.get_or_insert_default().sysctls = HashMap::from([
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned()),
        ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
    ]);
    let pod = house.pod_of(config.clone()).await;
    let mut show = shell(
        "c",
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced",
    );
    // As somebody who may not bind to port 80 elsewhere.
    show.security().run_as_user = Some(pb::Int64Value { value: 1000 });
    assert_eq!(pod.succeed(show).await, "80\n1\n");
    let after = (
        read("net/ipv4/ip_unprivileged_port_start"),
        read("kernel/shm_rmid_forced"),
    );
    assert_eq!(before, after);
    pod.remove().await;

    config.namespaces().set_ipc(Node);
    let refused = house.try_pod(config).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("kernel.shm_rmid_forced"), "{refused}");
}

#[tokio::test]
async fn namespaces_that_contradict_the_sandbox_are_refused_by_their_field() {
    let house = house().await;
    let pod = house.pod("contradictions").await;
    type Set = fn(&mut pb::NamespaceOption);
    let cases: [(&str, Set); 5] = [
        ("network", |options| options.set_network(Node)),
        ("ipc", |options| options.set_ipc(Node)),
        ("pid", |options| options.set_pid(Shared)),
        ("network", |options| options.set_network(Container)),
        ("target_id", |options| options.set_pid(Target)),
    ];
    for (field, set) in cases {
        let mut config = shell("c", "true");
        config.namespaces().set_pid(Container);
        set(config.namespaces());
        let refused = pod.try_create(config).await.err().unwrap();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(field), "{refused}");
    }
    pod.remove().await;
}

#[tokio::test]
async fn a_pod_reaches_another_and_the_host_reaches_both() {
    let house = house().await;
    let (server, client) = (house.pod("net-server").await, house.pod("net-client").await);
    let line = "while true; do echo hi from the pod | nc -l -p 8080; done";
    server.start(shell("c", line)).await;
    let ip = server.ip().await;
    assert_ne!(ip, client.ip().await);
    let ask = format!("for i in $(seq 50); do nc {ip} 8080 </dev/null && exit; sleep 0.1; done; exit 1");
    assert_eq!(client.sh("c", &ask).await, "hi from the pod\n");
    let address: std::net::SocketAddr = format!("{ip}:8080").parse().unwrap();
    until("the host reaches the pod", || {
        std::net::TcpStream::connect(address).is_ok()
    })
    .await;
    server.remove().await;
    client.remove().await;
}
