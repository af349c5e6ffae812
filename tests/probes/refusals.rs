//! What annotations may not say.

use std::collections::BTreeMap;

use tonic::Code;

use crate::client::{container_config, house, pod_config};

#[tokio::test]
async fn a_bad_annotation_is_refused_by_name_and_field_and_nothing_is_made() {
    let house = house().await;
    let pod = house.pod("refused").await;
    for (key, json, named) in [
        (
            "berth.dev/liveness-probe",
            "{",
            r#"annotations["berth.dev/liveness-probe"]: "#,
        ),
        (
            "berth.dev/liveness-probe",
            r#"{"httpGet": {"port": 70000}}"#,
            r#"annotations["berth.dev/liveness-probe"].httpGet.port: "#,
        ),
        (
            "berth.dev/readiness-probe",
            r#"{"exec": {"command": ["true"]}, "timeoutSeconds": "soon"}"#,
            r#"annotations["berth.dev/readiness-probe"].timeoutSeconds: "#,
        ),
        (
            "berth.dev/startup-probe",
            r#"{"exec": {"command": ["true"]}, "successThreshold": 2}"#,
            r#"annotations["berth.dev/startup-probe"].successThreshold: "#,
        ),
        (
            "berth.dev/readiness-probe",
            r#"{"tcpSocket": {"port": "http"}}"#,
            r#"annotations["berth.dev/readiness-probe"].tcpSocket.port: "#,
        ),
        (
            "berth.dev/pre-stop",
            r#"{"exec": {"command": ["true"]}, "sleep": {"seconds": 1}}"#,
            r#"annotations["berth.dev/pre-stop"]: "#,
        ),
        (
            "berth.dev/post-start",
            r#"{"grpc": {"port": 1}}"#,
            r#"annotations["berth.dev/post-start"].grpc: "#,
        ),
        (
            "berth.dev/lifeness-probe",
            "{}",
            r#"annotations["berth.dev/lifeness-probe"]: "#,
        ),
    ] {
        let mut config = container_config("c", &["true"]);
        config.annotations.insert(key.to_owned(), json.to_owned());
        let error = pod.try_create(config).await.err().unwrap();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(
            error.message().starts_with(named),
            "{named} of {json}: {}",
            error.message()
        );
    }
    // The name is free, and no root file system is left.
    pod.create(container_config("c", &["true"])).await;
    pod.remove().await;
}

#[tokio::test]
async fn a_pods_annotations_reach_the_containers_that_they_name() {
    let house = house().await;
    let name = "n".repeat(63);
    let annotations = BTreeMap::from([
        (
            format!("liveness-probe.berth.dev/{name}"),
            r#"{"exec": {"command": ["false"]}, "failureThreshold": 1, "terminationGracePeriodSeconds": 1}"#,
        ),
        ("readiness-probe.berth.dev/bad".to_owned(), r#"{"httpGet": {}}"#),
    ]);
    let mut config = pod_config("pods-annotations");
    config.annotations = annotations
        .into_iter()
        .map(|(key, json)| (key, json.to_owned()))
        .collect();
    let pod = house.pod_of(config).await;
    let container = pod.start(container_config(&name, &["sleep", "1000000"])).await;
    assert_eq!(&*container.ended().await.status.reason, "LivenessProbeFailed");
    let error = pod.try_create(container_config("bad", &["true"])).await.err().unwrap();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    let field = r#"sandbox_config.annotations["readiness-probe.berth.dev/bad"].httpGet.port: "#;
    assert!(error.message().starts_with(field), "{error}");
    let other = pod.idle("other").await;
    assert_eq!(
        other.probes().await,
        serde_json::json!({"started": true, "ready": true})
    );
    pod.remove().await;
}
