//! What the daemon says of itself, and the calls that it has not yet.

use berth::proto::runtime as pb;
use pb::image_service_client::ImageServiceClient;
use tonic::{Code, Response, Status};

use crate::client::house;

#[tokio::test]
async fn version_says_what_kubelets_insist_on() {
    let mut house = house().await;
    let request = pb::VersionRequest {
        version: "0.1.0".to_owned(),
    };
    let version = house.cri.version(request).await.unwrap().into_inner();
    assert_eq!((&*version.version, &*version.runtime_api_version), ("0.1.0", "v1"));
    assert_eq!(version.runtime_name, "berth");
    assert_eq!(version.runtime_version, env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn status_has_both_conditions_and_the_handlers_and_when_verbose_the_configuration() {
    let mut house = house().await;
    let mut status = async |verbose| {
        house
            .cri
            .status(pb::StatusRequest { verbose })
            .await
            .unwrap()
            .into_inner()
    };
    let brief = status(false).await;
    let conditions = brief.status.unwrap().conditions;
    for wanted in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions.iter().find(|condition| condition.r#type == wanted);
        assert!(
            condition.is_some_and(|condition| condition.status),
            "{wanted}: {conditions:?}"
        );
    }
    let handlers: Vec<_> = brief.runtime_handlers.iter().map(|handler| &*handler.name).collect();
    assert_eq!(handlers, ["", "runc"]);
    assert!(brief.features.unwrap().supplemental_groups_policy);
    assert!(brief.info.is_empty());
    let verbose = status(true).await;
    let config: serde_json::Value = serde_json::from_str(&verbose.info["config"]).unwrap();
    assert_eq!(config["root"], house.berth.path("root").display().to_string());
    // critest looks on which file system this is (its user namespace specs).
    assert_eq!(config["stateDir"], house.berth.path("root").display().to_string());
    let execs: serde_json::Value = serde_json::from_str(&verbose.info["execs"]).unwrap();
    assert_eq!(execs, serde_json::json!({"runc": "nsexec"}));
}

#[tokio::test]
async fn the_cgroup_driver_is_told_and_a_pod_cidr_is_taken() {
    let mut house = house().await;
    let config = house
        .cri
        .runtime_config(pb::RuntimeConfigRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(config.linux.unwrap().cgroup_driver(), pb::CgroupDriver::Cgroupfs);
    for pod_cidr in ["10.244.0.0/24", ""] {
        let network_config = Some(pb::NetworkConfig {
            pod_cidr: pod_cidr.to_owned(),
        });
        let runtime_config = Some(pb::RuntimeConfig { network_config });
        house
            .cri
            .update_runtime_config(pb::UpdateRuntimeConfigRequest { runtime_config })
            .await
            .unwrap();
    }
    house
        .cri
        .update_runtime_config(pb::UpdateRuntimeConfigRequest::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn calls_that_are_not_built_yet_are_unimplemented() {
    fn is_unimplemented<T>(name: &str, answer: Result<Response<T>, Status>) {
        let code = answer.err().map(|status| status.code());
        assert_eq!(code, Some(Code::Unimplemented), "{name}");
    }
    macro_rules! unimplemented_calls {
        ($client:ident: $($call:ident($request:ident)),* $(,)?) => {
            $(is_unimplemented(stringify!($call), $client.$call(pb::$request::default()).await);)*
        };
    }
    let house = house().await;
    let mut runtime = house.cri.clone();
    unimplemented_calls!(runtime:
        stream_pod_sandboxes(StreamPodSandboxesRequest),
        stream_containers(StreamContainersRequest),
        exec(ExecRequest),
        attach(AttachRequest),
        port_forward(PortForwardRequest),
        container_stats(ContainerStatsRequest),
        list_container_stats(ListContainerStatsRequest),
        stream_container_stats(StreamContainerStatsRequest),
        pod_sandbox_stats(PodSandboxStatsRequest),
        list_pod_sandbox_stats(ListPodSandboxStatsRequest),
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest),
        checkpoint_container(CheckpointContainerRequest),
        checkpoint_pod(CheckpointPodRequest),
        restore_pod(RestorePodRequest),
        get_container_events(GetEventsRequest),
        list_metric_descriptors(ListMetricDescriptorsRequest),
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest),
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest),
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest),
    );
    let mut images = ImageServiceClient::new(house.berth.channel().await.unwrap());
    unimplemented_calls!(images: stream_images(StreamImagesRequest));
}
