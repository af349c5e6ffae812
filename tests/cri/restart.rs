//! A berth that stops, however it stops, leaves its pods as they are, and the next one knows them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth::proto::runtime as pb;
use pb::NamespaceMode::Pod as Shared;

use crate::client::{Container, House, Parts, Pod, container_config, pod_config, shell};
use crate::support::berth::Berth;

/// What a daemon tells of everything it has, and the processes that run.
#[derive(Debug, PartialEq)]
struct Seen {
    sandboxes: BTreeMap<String, pb::PodSandboxStatus>,
    containers: BTreeMap<String, pb::ContainerStatus>,
}

async fn look(house: &House) -> Seen {
    let mut cri = house.cri.clone();
    let mut seen = Seen {
        sandboxes: BTreeMap::new(),
        containers: BTreeMap::new(),
    };
    for row in cri
        .list_pod_sandbox(pb::ListPodSandboxRequest::default())
        .await
        .unwrap()
        .into_inner()
        .items
    {
        let request = pb::PodSandboxStatusRequest {
            pod_sandbox_id: row.id.clone(),
            verbose: false,
        };
        let status = cri
            .pod_sandbox_status(request)
            .await
            .unwrap()
            .into_inner()
            .status
            .unwrap();
        seen.sandboxes.insert(row.id, status);
    }
    for row in cri
        .list_containers(pb::ListContainersRequest::default())
        .await
        .unwrap()
        .into_inner()
        .containers
    {
        let request = pb::ContainerStatusRequest {
            container_id: row.id.clone(),
            verbose: false,
        };
        let status = cri
            .container_status(request)
            .await
            .unwrap()
            .into_inner()
            .status
            .unwrap();
        seen.containers.insert(row.id, status);
    }
    seen
}

/// The same pod or container over another connection.
fn again(house: &House, pod: &Pod, container: &Container) -> (Pod, Container) {
    let cri = house.cri.clone();
    let (pod, container) = (pod.clone(), container.clone());
    (
        Pod {
            cri: cri.clone(),
            ..pod
        },
        Container { cri, ..container },
    )
}

#[tokio::test]
async fn pods_survive_sigterm_and_sigkill_and_are_as_before() {
    for end in [Berth::terminate as fn(&mut Berth), Berth::kill] {
        survive(end).await;
    }
}

async fn survive(end: fn(&mut Berth)) {
    let house = House::of(Arc::new(Berth::start().await)).await;
    let mut shared = pod_config("shared");
    shared.namespaces().set_pid(Shared);
    shared
        .annotations
        .insert("kept".to_owned(), " bit\nfor\u{0}bit ".to_owned());
    let pod = house.pod_of(shared).await;
    let container = pod
        .start(shell(
            "counts",
            "i=0; while true; do echo $i; i=$((i+1)); sleep 0.02; done",
        ))
        .await;
    pod.run(shell("failed", "exit 9")).await;
    pod.create(container_config("created", &["true"])).await;
    pod.create(container_config("start-error", &["/no/such"]))
        .await
        .start()
        .await
        .unwrap_err();
    let stopped = house.pod("stopped").await;
    stopped.stop().await;
    let mut node = pod_config("node");
    node.namespaces().set_network(pb::NamespaceMode::Node);
    house.pod_of(node).await;
    let (pid, before) = (container.pid().await, look(&house).await);

    let mut berth = Arc::into_inner(house.berth).expect("nobody else has it");
    end(&mut berth);
    tokio::time::sleep(Duration::from_millis(300)).await;
    berth.restart(&[]).await;
    let house = House::of(Arc::new(berth)).await;
    assert_eq!(look(&house).await, before);
    let (pod, container) = again(&house, &pod, &container);
    assert_eq!(container.pid().await, pid);
    assert_eq!(container.sh("echo hello").await, "hello\n");
    let taken = house.try_pod(pod_config("stopped")).await.err().unwrap();
    assert_eq!(taken.code(), tonic::Code::AlreadyExists, "{taken}");
    // No line of the log is lost, and it goes on.
    let lines = container.output().0.lines().count();
    container.says(&format!("{}\n", lines + 5)).await;
    let mut numbers: Vec<u32> = container.output().0.lines().map(|line| line.parse().unwrap()).collect();
    numbers.dedup();
    assert!(
        numbers.iter().copied().eq(0..numbers.len().try_into().unwrap()),
        "{numbers:?}"
    );
    container.stop(0).await;
    assert_eq!(container.status().await.exit_code, 137);
    // A pod still has the address that it had, and nobody else gets it.
    let other = house.pod("newcomer").await;
    assert_ne!(other.ip().await, pod.ip().await);
    for id in look(&house).await.sandboxes.into_keys() {
        Pod { id, ..pod.clone() }.remove().await;
    }
    house.berth.assert_nothing_left("after a restart").await;
    let berth = Arc::into_inner(house.berth).expect("nobody else has it");
    berth.down().await;
}

#[tokio::test]
async fn a_container_that_ended_while_berth_was_down_reports_its_true_code() {
    let house = House::of(Arc::new(Berth::start().await)).await;
    let pod = house.pod("ends-meanwhile").await;
    let line = "echo begun; until [ -e /dev/shm/go ]; do sleep 0.02; done; echo last words; exit 23";
    let container = pod.start(shell("c", line)).await;
    container.says("begun").await;
    let shm = house.berth.path("state/sandboxes").join(&pod.id).join("shm/go");
    let mut berth = Arc::into_inner(house.berth).expect("nobody else has it");
    berth.kill();
    std::fs::write(shm, "").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    berth.restart(&[]).await;
    let house = House::of(Arc::new(berth)).await;
    let (pod, container) = again(&house, &pod, &container);
    let ended = container.ended().await;
    assert_eq!((ended.code, &*ended.status.reason), (23, "Error"), "{ended:?}");
    assert_eq!(ended.stdout, "begun\nlast words\n");
    pod.remove().await;
    house.berth.assert_nothing_left("after an end nobody saw").await;
}
