//! Cgroups: processes, figures, limits and pausing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use berth::shim::control::Client;
use berth::sys::spawn::limit_files;
use containerd_client::types::v1::Status as Phase;
use nix::sys::resource::{Resource, getrlimit};
use prost::Message;
use serde_json::json;

use crate::node::{Node, PATIENCE, is_stock, runtime};
use crate::process::{Exec, age};

/// `io.containerd.cgroups.v1.Metrics`, as much as matters (containerd's cgroup1/stats/metrics.proto).
#[derive(Clone, PartialEq, Message)]
struct Metrics {
    #[prost(message, optional, tag = "2")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "3")]
    cpu: Option<Cpu>,
    #[prost(message, optional, tag = "4")]
    memory: Option<Memory>,
}

#[derive(Clone, PartialEq, Message)]
struct Pids {
    #[prost(uint64, tag = "1")]
    current: u64,
    #[prost(uint64, tag = "2")]
    limit: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Cpu {
    #[prost(message, optional, tag = "1")]
    usage: Option<CpuUsage>,
}

#[derive(Clone, PartialEq, Message)]
struct CpuUsage {
    /// Nanoseconds.
    #[prost(uint64, tag = "1")]
    total: u64,
    #[prost(uint64, repeated, tag = "4")]
    per_cpu: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct Memory {
    #[prost(message, optional, tag = "33")]
    usage: Option<MemoryEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryEntry {
    #[prost(uint64, tag = "1")]
    limit: u64,
    #[prost(uint64, tag = "2")]
    usage: u64,
    #[prost(uint64, tag = "3")]
    max: u64,
}

const LIMIT: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_processes_of_a_container_are_listed() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    assert_eq!(process.pids().await.unwrap(), [process.pid]);
    let exec = process.exec_run("one", Exec::new(&["sleep", "1000"])).await;
    let mut pids = process.pids().await.unwrap();
    pids.sort_unstable();
    let mut wanted = [process.pid, exec.pid];
    wanted.sort_unstable();
    assert_eq!(pids, wanted);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_are_those_of_the_containers_cgroup() {
    let node = Node::start().await;
    let busy = node.shell("i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; echo done; sleep 1000");
    let process = busy
        .limited(json!({"memory": {"limit": LIMIT}, "pids": {"limit": 50}}))
        .run()
        .await;
    process.pipes.out.shows("done").await;
    let metrics = process.metrics().await.unwrap();
    assert_eq!(metrics.len(), 1);
    assert_eq!(metrics[0].id, process.id);
    assert!(age(metrics[0].timestamp) < PATIENCE);
    let data = metrics[0].data.as_ref().unwrap();
    assert_eq!(data.type_url, "io.containerd.cgroups.v1.Metrics");
    let data = Metrics::decode(&*data.value).unwrap();
    let pids = data.pids.unwrap();
    assert_eq!((pids.current, pids.limit), (1, 50));
    let cpu = data.cpu.unwrap().usage.unwrap();
    let spent: u64 = node
        .cgroup_file("cpuacct", &process.id, "cpuacct.usage")
        .parse()
        .unwrap();
    assert!(cpu.total > 10_000_000 && cpu.total <= spent, "{cpu:?}, now {spent}");
    assert_eq!(cpu.per_cpu.iter().sum::<u64>(), cpu.total);
    let usage = data.memory.unwrap().usage.unwrap();
    assert_eq!(usage.limit, LIMIT);
    assert!(
        usage.usage > 0 && usage.usage <= usage.max && usage.max <= LIMIT,
        "{usage:?}"
    );
    process.remove().await;
    node.end().await;
}

/// That runc gets it: what containers see depends on the Go that runc was built with (1.19 does not give it back).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shim_may_have_many_files_open_and_what_it_runs_as_many_as_the_shim_was_started_with() {
    if is_stock() {
        eprintln!("SKIPPED: a stock shim cannot be started before its first task");
        return;
    }
    let node = Node::start().await;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let soft = 4321.min(hard / 2);
    let mut ensure = node.ensure();
    assert!(limit_files(&mut ensure, soft).unwrap().status().unwrap().success());
    let runc = node.containerd.scratch().join("runc-limited");
    let (told, script) = (
        node.containerd.scratch().join("runc-limited.told"),
        "#!/bin/sh\nulimit -Sn >> $0.told\nexec runc \"$@\"\n",
    );
    fs::write(&runc, script).unwrap();
    fs::set_permissions(&runc, fs::Permissions::from_mode(0o755)).unwrap();

    let mut container = node.container(&["sleep", "1000"]);
    container.options.binary_name = runc.display().to_string();
    let process = container.run().await;
    let mut shim = Client::connect(&node.place().control_socket()).unwrap();
    let pid = shim.hello().unwrap().pid;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers, [hard, hard], "{line}");
    shim.upgrade(runtime().as_ref()).unwrap();
    drop(shim);
    process.remove().await;
    let told = fs::read_to_string(told).unwrap();
    assert!(
        told.lines().count() >= 2 && told.lines().all(|line| line == soft.to_string()),
        "{told}"
    );
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_can_be_changed_while_it_runs() {
    let node = Node::start().await;
    let process = node
        .container(&["sleep", "1000"])
        .limited(json!({"memory": {"limit": LIMIT}}))
        .run()
        .await;
    let limit = || node.cgroup_file("memory", &process.id, "memory.limit_in_bytes");
    assert_eq!(limit(), LIMIT.to_string());
    process
        .update(json!({"memory": {"limit": 2 * LIMIT}, "cpu": {"shares": 333}}))
        .await
        .unwrap();
    assert_eq!(limit(), (2 * LIMIT).to_string());
    assert_eq!(node.cgroup_file("cpu", &process.id, "cpu.shares"), "333");
    process.update(json!({"memory": {"limit": 4096}})).await.unwrap_err();
    assert_eq!(process.phase().await, Phase::Running);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_container_stands_still() {
    let node = Node::start().await;
    let process = node.shell("while :; do echo tick; sleep 0.02; done").run().await;
    process.pipes.out.shows("tick").await;
    process.pause().await.unwrap();
    assert_eq!(process.phase().await, Phase::Paused);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let so_far = process.pipes.out.so_far().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(process.pipes.out.so_far().len(), so_far);
    process.resume().await.unwrap();
    assert_eq!(process.phase().await, Phase::Running);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(process.pipes.out.so_far().len() > so_far);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_container_that_is_killed_ends_at_the_latest_when_it_is_resumed() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    process.pause().await.unwrap();
    process.kill(9).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    // A shim may resume what it kills by SIGKILL.
    if process.phase().await != Phase::Stopped {
        process.resume().await.unwrap();
    }
    assert_eq!(process.ends().await, 137);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_is_refused_disturbs_nothing() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    // No CRIU here, and a shim need not support it.
    process.checkpoint().await.unwrap_err();
    assert_eq!(process.phase().await, Phase::Running);
    process.remove().await;
    node.end().await;
}
