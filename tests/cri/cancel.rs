//! Clients that go away: what they asked for is finished all the same, and asking again joins it.

use std::sync::Arc;
use std::time::Duration;

use berth::proto::runtime as pb;
use tonic::Code;

use crate::client::{House, Pod, container_config, pod_config, shell};
use crate::support::berth::Berth;

/// Moments at which a client leaves, from before its call is read to about when it is answered.
const MOMENTS: [u64; 8] = [0, 1, 2, 4, 8, 16, 32, 64];

#[tokio::test]
async fn a_client_that_leaves_at_any_moment_changes_nothing() {
    let house = House::of(Arc::new(Berth::start().await)).await;
    for moment in MOMENTS {
        let leave = Duration::from_millis(moment);
        let name = format!("left-after-{moment}");
        drop(tokio::time::timeout(leave, house.try_pod(pod_config(&name))).await);
        let pod = retried(&house, &name).await;
        let container = pod.create(container_config("c", &["sleep", "1000000"])).await;
        drop(tokio::time::timeout(leave, container.start()).await);
        // It joins the start that goes on, or finds it done, or does it.
        let again = container.start().await;
        let done = again
            .as_ref()
            .is_err_and(|error| error.code() == Code::FailedPrecondition);
        assert!(done || again.is_ok(), "{again:?}");
        assert_eq!(container.status().await.state(), pb::ContainerState::ContainerRunning);
        assert_eq!(container.sh("echo fine").await, "fine\n");
        drop(tokio::time::timeout(leave, container.exec(&["sleep", "0.05"], 5)).await);
        drop(tokio::time::timeout(leave, pod.try_create(shell("other", "true"))).await);
        drop(tokio::time::timeout(leave, container.stop(0)).await);
        drop(tokio::time::timeout(leave, pod.stop()).await);
        drop(tokio::time::timeout(leave, pod.remove()).await);
        pod.remove().await;
        house.berth.assert_nothing_left(&name).await;
    }
}

/// What a kubelet does after a deadline: asks again, and looks whether it is there already.
async fn retried(house: &House, name: &str) -> Pod {
    match house.try_pod(pod_config(name)).await {
        Ok(pod) => pod,
        Err(error) => {
            assert_eq!(error.code(), Code::AlreadyExists, "{error}");
            let list = pb::ListPodSandboxRequest::default();
            let mut items = house
                .cri
                .clone()
                .list_pod_sandbox(list)
                .await
                .unwrap()
                .into_inner()
                .items;
            assert_eq!(items.len(), 1, "{items:?}");
            let mut config = pod_config(name);
            config.log_directory = house.berth.path("logs").join(name).display().to_string();
            let (cri, id) = (house.cri.clone(), items.remove(0).id);
            Pod { cri, id, config }
        }
    }
}
