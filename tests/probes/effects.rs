//! What results of probes do, and in which words they are told.

use std::time::{Duration, Instant};

use berth::proto::runtime as pb;

use crate::client::house;
use crate::ground::{POLITE, STUBBORN, annotated, hook, probe, with_grace};

#[tokio::test]
async fn readiness_failure_makes_the_container_not_ready_and_kills_nothing() {
    let house = house().await;
    let pod = house.pod("readiness").await;
    let check = probe("cat /dev/shm/ready", "");
    let container = pod.start(annotated("c", POLITE, &[("readiness-probe", &check)])).await;
    container
        .until("asked", |probes| probes["readiness"]["failed"].as_u64() > Some(1))
        .await;
    let probes = container.probes().await;
    assert_eq!((&probes["started"], &probes["ready"]), (&true.into(), &false.into()));
    assert_eq!(probes["readiness"]["result"], "failure");
    container.sh("echo yes > /dev/shm/ready").await;
    container.until_ready(true).await;
    let probes = container.probes().await;
    assert_eq!(probes["readiness"]["output"], "yes\n");
    assert!(probes["readiness"]["checkedAt"].as_i64() > Some(0));
    container.sh("rm /dev/shm/ready").await;
    container.until_ready(false).await;
    assert_eq!(container.status().await.state(), pb::ContainerState::ContainerRunning);
    let said =
        "Warning Unhealthy: Readiness probe failed: cat: can't open '/dev/shm/ready': No such file or directory\n";
    let events = container.events().await;
    assert!(events.iter().any(|event| event == said), "{events:#?}");
    assert!(!events.iter().any(|event| event.contains("Killing")), "{events:#?}");
    pod.remove().await;
}

#[tokio::test]
async fn liveness_failure_ends_the_container_with_its_reason_and_output_and_its_true_code() {
    let house = house().await;
    let pod = house.pod("liveness").await;
    let check = probe("[ ! -e /dev/shm/sick ] || { echo it is sick; exit 1; }", "");
    let container = pod.start(annotated("web", POLITE, &[("liveness-probe", &check)])).await;
    container
        .until("asked", |probes| probes["liveness"]["successful"].as_u64() > Some(1))
        .await;
    assert_eq!(container.probes().await["ready"], true);
    container.sh("touch /dev/shm/sick").await;
    let ended = container.ended().await;
    let status = &ended.status;
    // It was asked to end, and did so in its own way.
    assert_eq!(
        (ended.code, &*status.reason, &*status.message),
        (0, "LivenessProbeFailed", "it is sick\n")
    );
    assert!(ended.stdout.contains("TERM"), "{ended:?}");
    let events = container.events().await;
    assert_eq!(
        events,
        [
            "Warning Unhealthy: Liveness probe failed: it is sick\n",
            "Normal Killing: Container web failed liveness probe, will be restarted"
        ]
    );
    let probes = container.probes().await;
    assert_eq!((&probes["started"], &probes["ready"]), (&false.into(), &false.into()));
    pod.remove().await;
}

#[tokio::test]
async fn startup_failure_ends_the_container_and_until_it_succeeds_no_other_probe_runs() {
    let house = house().await;
    let pod = house.pod("startup").await;
    let startup = probe("echo not yet; exit 3", r#", "failureThreshold": 4"#).replace(r#""failureThreshold": 1, "#, "");
    let others = probe("echo asked >> /dev/shm/asked", "");
    let annotations = [
        ("startup-probe", &*startup),
        ("liveness-probe", &*others),
        ("readiness-probe", &*others),
    ];
    let container = pod.start(annotated("slow", POLITE, &annotations)).await;
    let ended = container.ended().await;
    assert_eq!(&*ended.status.reason, "StartupProbeFailed", "{ended:?}");
    assert_eq!(&*ended.status.message, "not yet\n");
    let events = container.events().await;
    let failed = events
        .iter()
        .filter(|event| *event == "Warning Unhealthy: Startup probe failed: not yet\n");
    assert_eq!(failed.count(), 4, "{events:#?}");
    let killing = "Normal Killing: Container slow failed startup probe, will be restarted";
    assert_eq!(events.last().map(String::as_str), Some(killing));
    let shm = house.berth.path("state/sandboxes").join(&pod.id).join("shm/asked");
    assert!(!shm.exists(), "a probe ran before the container had started");
    pod.remove().await;
}

#[tokio::test]
async fn a_failed_probe_runs_pre_stop_then_the_signal_then_sigkill_once() {
    let house = house().await;
    let pod = house.pod("killing").await;
    let (check, stop) = (probe("exit 1", ""), hook("echo hook >> /dev/shm/order"));
    let line = "trap 'echo TERM >> /dev/shm/order' TERM; while true; do sleep 0.05; done";
    let config = annotated("c", line, &[("liveness-probe", &check), ("pre-stop", &stop)]);
    let begin = Instant::now();
    let container = pod.start(with_grace(config, 1)).await;
    let ended = container.ended().await;
    // A pod's second becomes the floor of two.
    assert!((2..8).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    assert_eq!((ended.code, &*ended.status.reason), (137, "LivenessProbeFailed"));
    let order = house.berth.path("state/sandboxes").join(&pod.id).join("shm/order");
    assert_eq!(std::fs::read_to_string(order).unwrap(), "hook\nTERM\n");
    let events = container.events().await;
    let killings = events.iter().filter(|event| event.contains("Killing"));
    assert_eq!(killings.count(), 1, "{events:#?}");
    pod.remove().await;
}

#[tokio::test]
async fn a_probes_own_grace_goes_before_the_pods_and_the_deletions_before_both() {
    let house = house().await;
    let pod = house.pod("graces").await;
    let own = probe("exit 1", r#", "terminationGracePeriodSeconds": 2"#);
    let long = probe("exit 1", r#", "terminationGracePeriodSeconds": 60"#);
    let first = with_grace(annotated("own", STUBBORN, &[("liveness-probe", &own)]), 60);
    let mut second = with_grace(annotated("deleted", STUBBORN, &[("liveness-probe", &long)]), 60);
    let key = "io.kubernetes.pod.deletionGracePeriod".to_owned();
    second.annotations.insert(key, "2".to_owned());
    let begin = Instant::now();
    let containers = [pod.start(first).await, pod.start(second).await];
    for container in containers {
        assert_eq!(container.ended().await.code, 137);
    }
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    pod.remove().await;
}

#[tokio::test]
async fn a_container_being_stopped_is_not_killed_for_its_liveness_and_its_readiness_is_still_asked() {
    let house = house().await;
    let pod = house.pod("stopping").await;
    let line = "trap 'touch /dev/shm/sick' TERM; while true; do sleep 0.05; done";
    let check = probe("[ ! -e /dev/shm/sick ]", "");
    let container = pod
        .start(annotated(
            "c",
            line,
            &[("liveness-probe", &check), ("readiness-probe", &check)],
        ))
        .await;
    container.until_ready(true).await;
    container.stop(2).await;
    let ended = container.ended().await;
    assert_eq!((ended.code, &*ended.status.reason), (137, "Error"), "{ended:?}");
    let events = container.events().await;
    assert!(
        events
            .iter()
            .any(|event| event == "Normal Killing: Stopping container c"),
        "{events:#?}"
    );
    assert!(
        events.iter().any(|event| event.contains("Readiness probe failed")),
        "{events:#?}"
    );
    assert!(
        !events.iter().any(|event| event.contains("iveness probe")),
        "{events:#?}"
    );
    pod.remove().await;
}

#[tokio::test]
async fn a_container_without_probes_is_ready_while_it_runs() {
    let house = house().await;
    let pod = house.pod("plain").await;
    let container = pod.idle("c").await;
    assert_eq!(
        container.probes().await,
        serde_json::json!({"started": true, "ready": true})
    );
    container.stop(0).await;
    assert_eq!(
        container.probes().await,
        serde_json::json!({"started": false, "ready": false})
    );
    pod.remove().await;
}
