//! The life of sandboxes.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use berth::proto::runtime as pb;
use tonic::Code;

use crate::client::{House, Parts, Pod, container_config, house, pod_config, shell};

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos()
        .try_into()
        .unwrap()
}

async fn list(house: &House, filter: pb::PodSandboxFilter) -> Vec<String> {
    let filter = Some(filter);
    let request = pb::ListPodSandboxRequest { filter };
    let items = house
        .cri
        .clone()
        .list_pod_sandbox(request)
        .await
        .unwrap()
        .into_inner()
        .items;
    items.into_iter().map(|item| item.id).collect()
}

#[tokio::test]
async fn a_sandbox_is_ready_then_not_ready_then_not_found() {
    let house = house().await;
    let mut config = pod_config("life");
    // Annotations come back bit for bit, whatever stands in them.
    let odd = " spaces, \"quotes\", \n lines, \u{1f6a2} and \u{0} zeros ";
    config.annotations = HashMap::from([("odd".into(), odd.into()), ("empty".into(), String::new())]);
    config.labels = HashMap::from([("app".into(), "x".repeat(5000))]);
    let begin = now();
    let pod = house.pod_of(config.clone()).await;
    assert_eq!(pod.id.len(), 64);
    assert!(
        pod.id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
        "{}",
        pod.id
    );

    let status = pod.status().await;
    assert_eq!(status.id, pod.id);
    assert_eq!(status.metadata, config.metadata);
    assert_eq!(status.state(), pb::PodSandboxState::SandboxReady);
    assert!((begin..=now()).contains(&status.created_at), "{}", status.created_at);
    assert_eq!(
        (&status.annotations, &status.labels),
        (&config.annotations, &config.labels)
    );
    let namespaces = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(namespaces, *config.namespaces());
    let ip: std::net::Ipv4Addr = status.network.unwrap().ip.parse().unwrap();
    assert!(ip.is_private(), "{ip}");

    pod.stop().await;
    let stopped = pod.status().await;
    assert_eq!(stopped.state(), pb::PodSandboxState::SandboxNotready);
    assert_eq!(stopped.created_at, status.created_at);
    assert_eq!(stopped.annotations, config.annotations);
    pod.remove().await;
    assert_eq!(pod.try_status().await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn stopping_and_removing_twice_or_what_never_was_is_fine() {
    let house = house().await;
    let pod = house.pod("idempotent").await;
    let container = pod.idle("c").await;
    for _ in 0..2 {
        container.stop(0).await;
    }
    for _ in 0..2 {
        container.remove().await;
    }
    container.stop(0).await;
    pod.idle("left-running").await;
    for _ in 0..2 {
        pod.stop().await;
    }
    for _ in 0..2 {
        pod.remove().await;
    }
    pod.stop().await;
    let unknown = Pod {
        id: "0123456789abcdef".repeat(4),
        ..pod
    };
    unknown.stop().await;
    unknown.remove().await;
}

#[tokio::test]
async fn a_sandbox_that_runs_can_be_removed_at_once() {
    let house = house().await;
    let pod = house.pod("remove-running").await;
    let container = pod.idle("c").await;
    pod.remove().await;
    assert_eq!(container.try_status(false).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_empty_id_is_an_invalid_argument_and_an_unknown_one_is_not_found() {
    let mut house = house().await;
    let mut codes = async |pod_sandbox_id: &str| {
        let (pod, container_id) = (pod_sandbox_id.to_owned(), pod_sandbox_id.to_owned());
        let cri = &mut house.cri;
        let status = pb::PodSandboxStatusRequest {
            pod_sandbox_id: pod.clone(),
            verbose: false,
        };
        let create = pb::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(container_config("c", &["true"])),
            sandbox_config: None,
        };
        let container = pb::ContainerStatusRequest {
            container_id: container_id.clone(),
            verbose: false,
        };
        let start = pb::StartContainerRequest {
            container_id: container_id.clone(),
        };
        let update = pb::UpdateContainerResourcesRequest {
            container_id: container_id.clone(),
            linux: Some(pb::LinuxContainerResources::default()),
            ..pb::UpdateContainerResourcesRequest::default()
        };
        let reopen = pb::ReopenContainerLogRequest {
            container_id: container_id.clone(),
        };
        let exec = pb::ExecSyncRequest {
            container_id,
            cmd: vec!["true".to_owned()],
            timeout: 1,
        };
        [
            cri.pod_sandbox_status(status).await.unwrap_err().code(),
            cri.create_container(create).await.unwrap_err().code(),
            cri.container_status(container).await.unwrap_err().code(),
            cri.start_container(start).await.unwrap_err().code(),
            cri.update_container_resources(update).await.unwrap_err().code(),
            cri.reopen_container_log(reopen).await.unwrap_err().code(),
            cri.exec_sync(exec).await.unwrap_err().code(),
        ]
    };
    assert_eq!(codes("").await, [Code::InvalidArgument; 7]);
    for unknown in [
        "feed".repeat(16),
        "feedfeed".to_owned(),
        "../../etc".to_owned(),
        "x".repeat(100_000),
    ] {
        assert_eq!(codes(&unknown).await, [Code::NotFound; 7], "{:.20}", unknown);
    }
    let cri = &mut house.cri;
    let code = cri
        .stop_pod_sandbox(pb::StopPodSandboxRequest::default())
        .await
        .unwrap_err()
        .code();
    assert_eq!(code, Code::InvalidArgument);
    let code = cri
        .remove_pod_sandbox(pb::RemovePodSandboxRequest::default())
        .await
        .unwrap_err()
        .code();
    assert_eq!(code, Code::InvalidArgument);
    let code = cri
        .stop_container(pb::StopContainerRequest::default())
        .await
        .unwrap_err()
        .code();
    assert_eq!(code, Code::InvalidArgument);
    let code = cri
        .remove_container(pb::RemoveContainerRequest::default())
        .await
        .unwrap_err()
        .code();
    assert_eq!(code, Code::InvalidArgument);
}

#[tokio::test]
async fn lists_are_filtered_by_id_state_and_labels_at_once() {
    let house = house().await;
    let labels = |tier: &str| HashMap::from([("test".into(), "filters".into()), ("tier".into(), tier.into())]);
    let mut pods = Vec::new();
    for tier in ["front", "back"] {
        let mut config = pod_config(&format!("filters-{tier}"));
        config.labels = labels(tier);
        pods.push(house.pod_of(config).await);
    }
    pods[1].stop().await;
    let selector = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        pb::PodSandboxFilter {
            label_selector: pairs.collect(),
            ..pb::PodSandboxFilter::default()
        }
    };
    let both = selector(&[("test", "filters")]);
    let (front, back) = (pods[0].id.clone(), pods[1].id.clone());
    assert_eq!(list(&house, both.clone()).await, [&*front, &*back]);
    assert_eq!(
        list(&house, selector(&[("test", "filters"), ("tier", "back")])).await,
        [&*back]
    );
    assert!(
        list(&house, selector(&[("test", "filters"), ("tier", "middle")]))
            .await
            .is_empty()
    );
    let state = |state: pb::PodSandboxState| pb::PodSandboxFilter {
        state: Some(pb::PodSandboxStateValue { state: state.into() }),
        ..both.clone()
    };
    assert_eq!(list(&house, state(pb::PodSandboxState::SandboxReady)).await, [&*front]);
    assert_eq!(
        list(&house, state(pb::PodSandboxState::SandboxNotready)).await,
        [&*back]
    );
    let id = |id: &str| pb::PodSandboxFilter {
        id: id.to_owned(),
        ..both.clone()
    };
    assert_eq!(list(&house, id(&front)).await, [&*front]);
    assert_eq!(list(&house, id(&back[..16])).await, [&*back]);
    assert!(list(&house, id(&"feed".repeat(16))).await.is_empty());
    for pod in pods {
        pod.remove().await;
    }
}

#[tokio::test]
async fn a_short_id_will_do_unless_two_begin_so() {
    let house = house().await;
    let mut pods: Vec<Pod> = Vec::new();
    // Of 17 ids two begin with the same digit.
    for number in 0..17 {
        let mut config = pod_config(&format!("short-{number}"));
        // The cheapest pod there is.
        config.namespaces().set_network(pb::NamespaceMode::Node);
        config.namespaces().set_ipc(pb::NamespaceMode::Node);
        pods.push(house.pod_of(config).await);
        let last = &pods[number];
        if pods[..number].iter().any(|other| other.id[..1] == last.id[..1]) {
            break;
        }
    }
    let last = pods.last().unwrap();
    let by = |id: &str| Pod {
        id: id.to_owned(),
        ..last.clone()
    };
    let ambiguous = by(&last.id[..1]).try_status().await.unwrap_err();
    assert_eq!(ambiguous.code(), Code::InvalidArgument);
    assert!(ambiguous.message().contains("ambiguous"), "{ambiguous}");
    assert_eq!(by(&last.id[..20]).status().await.id, last.id);
    for pod in &pods {
        by(&pod.id[..20]).remove().await;
        assert_eq!(pod.try_status().await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_name_and_attempt_is_taken_until_its_sandbox_is_removed() {
    let house = house().await;
    let pod = house.pod("unique").await;
    let taken = house.try_pod(pod_config("unique")).await.err().unwrap();
    assert_eq!(taken.code(), Code::AlreadyExists, "{taken}");
    assert!(taken.message().contains(&pod.id), "{taken}");
    pod.stop().await;
    let taken = house.try_pod(pod_config("unique")).await.err().unwrap();
    assert_eq!(taken.code(), Code::AlreadyExists, "{taken}");
    let mut second = pod_config("unique");
    second.metadata.as_mut().unwrap().attempt = 1;
    let second = house.pod_of(second).await;
    pod.remove().await;
    let again = house.pod("unique").await;
    assert_ne!(again.id, pod.id);
    again.remove().await;
    second.remove().await;
}

#[tokio::test]
async fn the_name_of_a_container_is_taken_in_its_sandbox_alone() {
    let house = house().await;
    let (one, other) = (house.pod("names-one").await, house.pod("names-other").await);
    let first = one.create(shell("c", "true")).await;
    let taken = one.try_create(shell("c", "true")).await.err().unwrap();
    assert_eq!(taken.code(), Code::AlreadyExists, "{taken}");
    other.create(shell("c", "true")).await;
    let mut second = shell("c", "true");
    second.metadata.as_mut().unwrap().attempt = 1;
    one.create(second).await;
    first.remove().await;
    one.create(shell("c", "true")).await;
    one.remove().await;
    other.remove().await;
}
