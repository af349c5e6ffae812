//! Hooks, and the kills that they are part of.

use std::time::{Duration, Instant};

use berth::proto::runtime as pb;
use tonic::Code;

use crate::client::{house, until};
use crate::ground::{POLITE, STUBBORN, annotated, hook};

#[tokio::test]
async fn post_start_runs_right_after_the_start_and_blocks_its_answer() {
    let house = house().await;
    let pod = house.pod("post-start").await;
    let config = annotated(
        "c",
        POLITE,
        &[("post-start", &hook("sleep 0.5; echo done > /dev/shm/hook; echo said"))],
    );
    let container = pod.create(config).await;
    assert_eq!(container.hooks().await, serde_json::json!({}));
    let begin = Instant::now();
    container.start().await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(500));
    assert_eq!(container.sh("cat /dev/shm/hook").await, "done\n");
    let run = &container.hooks().await["postStart"];
    assert_eq!(
        (&run["outcome"], &run["output"], &run["runs"]),
        (&"succeeded".into(), &"said\n".into(), &1.into())
    );
    assert_eq!(container.probes().await["ready"], true);
    pod.remove().await;
}

#[tokio::test]
async fn a_container_is_not_ready_and_not_probed_while_post_start_runs_and_a_repeated_start_joins() {
    let house = house().await;
    let pod = house.pod("post-start-joined").await;
    let check = crate::ground::probe("echo asked >> /dev/shm/asked", "");
    let until_go = hook("echo run >> /dev/shm/runs; until [ -e /dev/shm/go ]; do sleep 0.02; done");
    let container = pod
        .create(annotated(
            "c",
            POLITE,
            &[("readiness-probe", &check), ("post-start", &until_go)],
        ))
        .await;
    let starts = [0, 1].map(|_| {
        let container = container.clone();
        tokio::spawn(async move { container.start().await })
    });
    container.until_hook("postStart", "running").await;
    assert_eq!(container.status().await.state(), pb::ContainerState::ContainerRunning);
    let probes = container.probes().await;
    assert_eq!((&probes["started"], &probes["ready"]), (&false.into(), &false.into()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(container.sh("cat /dev/shm/asked || echo nobody").await, "nobody\n");
    container.sh("touch /dev/shm/go").await;
    for start in starts {
        start.await.unwrap().unwrap();
    }
    container.until_ready(true).await;
    assert_eq!(container.sh("cat /dev/shm/runs").await, "run\n");
    pod.remove().await;
}

#[tokio::test]
async fn post_start_failure_kills_the_container_and_is_an_error() {
    let house = house().await;
    let pod = house.pod("post-start-fails").await;
    let config = annotated(
        "c",
        POLITE,
        &[
            ("post-start", &hook("echo on stdout; echo on stderr >&2; exit 7")),
            ("pre-stop", &hook("touch /dev/shm/pre-stop")),
        ],
    );
    let container = pod.create(config).await;
    let error = container.start().await.unwrap_err();
    assert_eq!(error.code(), Code::Aborted, "{error}");
    assert!(
        error.message().contains("postStart") && error.message().contains("on stderr"),
        "{error}"
    );
    let ended = container.ended().await;
    assert_eq!((ended.code, &*ended.status.reason), (0, "FailedPostStartHook"));
    assert!(ended.status.message.contains("on stdout\non stderr"), "{ended:?}");
    let events = container.events().await;
    assert!(
        events[0].starts_with("Warning FailedPostStartHook: PostStartHook failed: "),
        "{events:#?}"
    );
    assert!(events[0].contains("on stdout\non stderr"), "{events:#?}");
    assert_eq!(events[1], "Normal Killing: FailedPostStartHook");
    // The container is killed as any other is.
    assert_eq!(container.hooks().await["preStop"]["outcome"], "succeeded");
    pod.remove().await;
}

#[tokio::test]
async fn a_stop_while_post_start_runs_cancels_it_and_runs_pre_stop() {
    let house = house().await;
    let pod = house.pod("stop-in-post-start").await;
    let config = annotated(
        "c",
        POLITE,
        &[("post-start", &hook("sleep 4343")), ("pre-stop", &hook("echo gently"))],
    );
    let container = pod.create(config).await;
    let start = tokio::spawn({
        let container = container.clone();
        async move { container.start().await }
    });
    container.until_hook("postStart", "running").await;
    let begin = Instant::now();
    container.stop(20).await;
    assert!(begin.elapsed() < Duration::from_secs(10));
    let error = start.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Aborted, "{error}");
    let ended = container.ended().await;
    assert_eq!(
        (ended.code, &*ended.status.reason),
        (0, "Completed"),
        "the client ended it, nothing else"
    );
    let hooks = container.hooks().await;
    assert_eq!(hooks["postStart"]["outcome"], "cancelled");
    assert_eq!(hooks["preStop"]["outcome"], "succeeded");
    let said = "Warning FailedPostStartHook: PostStartHook cancelled: the container is being stopped";
    assert!(container.events().await.iter().any(|event| event == said));
    pod.remove().await;
}

#[tokio::test]
async fn pre_stop_runs_before_the_signal_and_its_output_is_kept() {
    let house = house().await;
    let pod = house.pod("pre-stop").await;
    let line = "trap 'cat /dev/shm/hook; exit 3' TERM; echo up; while true; do sleep 0.05; done";
    let container = pod
        .start(annotated(
            "c",
            line,
            &[("pre-stop", &hook("echo before > /dev/shm/hook; echo hello"))],
        ))
        .await;
    container.says("up").await;
    container.stop(20).await;
    let ended = container.ended().await;
    assert_eq!(
        (ended.code, &*ended.stdout, &*ended.status.reason),
        (3, "up\nbefore\n", "Error")
    );
    let run = &container.hooks().await["preStop"];
    assert_eq!(
        (&run["outcome"], &run["output"]),
        (&"succeeded".into(), &"hello\n".into())
    );
    assert_eq!(container.events().await, ["Normal Killing: Stopping container c"]);
    pod.remove().await;
}

#[tokio::test]
async fn pre_stop_that_fails_is_told_and_the_stop_goes_on() {
    let house = house().await;
    let pod = house.pod("pre-stop-fails").await;
    let container = pod
        .start(annotated("c", POLITE, &[("pre-stop", &hook("echo oh no >&2; exit 4"))]))
        .await;
    container.says("up").await;
    container.stop(20).await;
    assert_eq!(container.ended().await.code, 0);
    let events = container.events().await;
    let failed = events
        .iter()
        .find(|event| event.starts_with("Warning FailedPreStopHook: PreStopHook failed: "));
    assert!(failed.is_some_and(|event| event.contains("oh no")), "{events:#?}");
    assert_eq!(container.hooks().await["preStop"]["outcome"], "failed");
    pod.remove().await;
}

#[tokio::test]
async fn pre_stop_that_overruns_the_grace_period_is_cancelled_and_two_seconds_remain() {
    let house = house().await;
    let pod = house.pod("pre-stop-overruns").await;
    // It would go on writing if it were but abandoned.
    let writes = hook("while true; do echo x >> /dev/shm/writes; sleep 0.05; done");
    let line = "trap 'wc -l < /dev/shm/writes; sleep 1; wc -l < /dev/shm/writes; exit 5' TERM; echo up; \
                while true; do sleep 0.05; done";
    let container = pod.start(annotated("c", line, &[("pre-stop", &writes)])).await;
    container.says("up").await;
    let begin = Instant::now();
    container.stop(1).await;
    let took = begin.elapsed();
    let ended = container.ended().await;
    assert_eq!(ended.code, 5, "it had its two seconds: {ended:?}");
    assert!((2.0..6.0).contains(&took.as_secs_f64()), "{took:?}");
    let counts: Vec<_> = ended.stdout.lines().skip(1).collect();
    assert_eq!(counts[0], counts[1], "the hook goes on");
    let said = "Warning FailedPreStopHook: PreStopHook cancelled: it did not end within the grace period of 1 s";
    let events = container.events().await;
    assert!(events.iter().any(|event| event == said), "{events:#?}");
    assert_eq!(container.hooks().await["preStop"]["outcome"], "cancelled");
    pod.remove().await;
}

#[tokio::test]
async fn the_time_of_pre_stop_is_subtracted_from_the_grace_period() {
    let house = house().await;
    let pod = house.pod("pre-stop-subtracted").await;
    let container = pod
        .start(annotated(
            "c",
            STUBBORN,
            &[("pre-stop", r#"{"sleep": {"seconds": 3}}"#)],
        ))
        .await;
    container.says("up").await;
    let begin = Instant::now();
    container.stop(6).await;
    let took = begin.elapsed().as_secs_f64();
    assert_eq!(container.ended().await.code, 137);
    assert!((5.9..8.5).contains(&took), "{took}");
    pod.remove().await;
}

#[tokio::test]
async fn pre_stop_is_not_run_without_grace_nor_for_a_container_that_exited_by_itself() {
    let house = house().await;
    let pod = house.pod("no-pre-stop").await;
    let stop = hook("touch /dev/shm/hook");
    let killed = pod.start(annotated("killed", POLITE, &[("pre-stop", &stop)])).await;
    killed.stop(0).await;
    assert_eq!(killed.ended().await.code, 137);
    let exited = pod.start(annotated("exited", "exit 9", &[("pre-stop", &stop)])).await;
    assert_eq!(exited.ended().await.code, 9);
    exited.stop(10).await;
    for container in [killed, exited] {
        assert_eq!(container.hooks().await, serde_json::json!({}));
    }
    let shm = house.berth.path("state/sandboxes").join(&pod.id).join("shm/hook");
    assert!(!shm.exists());
    pod.remove().await;
}

#[tokio::test]
async fn pre_stop_that_dies_because_its_container_ended_counts_as_done() {
    let house = house().await;
    let pod = house.pod("pre-stop-dies").await;
    for (name, stop) in [
        ("exec", hook("touch /dev/shm/end-exec; sleep 4343")),
        ("sleep", r#"{"sleep": {"seconds": 4343}}"#.to_owned()),
    ] {
        let line = format!("until [ -e /dev/shm/end-{name} ]; do sleep 0.02; done; exit 6");
        let container = pod.start(annotated(name, &line, &[("pre-stop", &stop)])).await;
        let begin = Instant::now();
        let stopping = tokio::spawn({
            let container = container.clone();
            async move { container.stop(60).await }
        });
        container.until_hook("preStop", "running").await;
        let shm = house.berth.path("state/sandboxes").join(&pod.id).join("shm");
        std::fs::write(shm.join(format!("end-{name}")), "").unwrap();
        stopping.await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert_eq!(container.ended().await.code, 6);
        assert_eq!(container.hooks().await["preStop"]["outcome"], "ended");
        let events = container.events().await;
        assert!(!events.iter().any(|event| event.contains("PreStopHook")), "{events:#?}");
    }
    pod.remove().await;
}

#[tokio::test]
async fn a_second_stop_with_less_grace_is_heeded_while_a_hook_runs_and_a_longer_one_changes_nothing() {
    let house = house().await;
    let pod = house.pod("stops").await;
    for (name, grace, code) in [("at-once", 0, 137), ("sooner", 1, 0)] {
        let container = pod
            .start(annotated(name, POLITE, &[("pre-stop", &hook("sleep 4343"))]))
            .await;
        container.says("up").await;
        let begin = Instant::now();
        let first = tokio::spawn({
            let container = container.clone();
            async move { container.stop(600).await }
        });
        container.until_hook("preStop", "running").await;
        let longer = tokio::spawn({
            let container = container.clone();
            async move { container.stop(900).await }
        });
        container.stop(grace).await;
        assert_eq!(container.ended().await.code, code);
        first.await.unwrap();
        longer.await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
        assert_eq!(container.hooks().await["preStop"]["runs"], 1);
    }
    pod.remove().await;
}

#[tokio::test]
async fn the_end_of_the_sandbox_and_a_removal_do_not_wait_for_hooks() {
    let house = house().await;
    let pod = house.pod("forced").await;
    let stop = hook("sleep 4343");
    let (first, second) = (
        pod.start(annotated("first", POLITE, &[("pre-stop", &stop)])).await,
        pod.start(annotated("second", POLITE, &[("pre-stop", &stop)])).await,
    );
    let stops = [&first, &second].map(|container| {
        let container = container.clone();
        tokio::spawn(async move { container.stop(600).await })
    });
    for container in [&first, &second] {
        container.until_hook("preStop", "running").await;
    }
    let begin = Instant::now();
    first.remove().await;
    pod.stop().await;
    for stop in stops {
        stop.await.unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(second.hooks().await["preStop"]["outcome"], "ended");
    pod.remove().await;
}

#[tokio::test]
async fn hooks_ask_by_http_and_tcp_from_inside_the_pod_and_any_answer_will_do() {
    let house = house().await;
    let pod = house.pod("hooks-by-net").await;
    let line = "mkdir /www; httpd -p 127.0.0.1:8080 -h /www; echo up; sleep 1000000";
    let server = pod.start(crate::client::shell("server", line)).await;
    server.says("up").await;
    until("it listens", || server.output().0.contains("up")).await;
    let missing = r#"{"httpGet": {"host": "localhost", "port": 8080, "path": "/missing"}}"#;
    let tcp = r#"{"tcpSocket": {"host": "127.0.0.1", "port": 8080}}"#;
    let container = pod
        .start(annotated("c", POLITE, &[("post-start", missing), ("pre-stop", tcp)]))
        .await;
    container.says("up").await;
    container.stop(10).await;
    let hooks = container.hooks().await;
    assert_eq!(
        (&hooks["postStart"]["outcome"], &hooks["preStop"]["outcome"]),
        (&"succeeded".into(), &"succeeded".into())
    );
    let https = r#"{"httpGet": {"host": "localhost", "port": 8080, "scheme": "HTTPS"}}"#;
    let nobody = r#"{"tcpSocket": {"host": "127.0.0.1", "port": 8081}}"#;
    let container = pod
        .start(annotated("d", POLITE, &[("post-start", https), ("pre-stop", nobody)]))
        .await;
    container.says("up").await;
    container.stop(10).await;
    let events = container.events().await;
    let fell_back = "Warning LifecycleHTTPFallback: request to HTTPS lifecycle hook localhost:8080 got HTTP response, \
                     retry with HTTP succeeded";
    assert!(events.iter().any(|event| event == fell_back), "{events:#?}");
    assert!(
        events
            .iter()
            .any(|event| event.contains("PreStopHook failed: dial tcp 127.0.0.1:8081")),
        "{events:#?}"
    );
    pod.remove().await;
}

#[tokio::test]
async fn what_the_kubelet_runs_itself_is_not_run_a_second_time() {
    let house = house().await;
    let pod = house.pod("kubelets").await;
    let mut config = annotated("c", POLITE, &[]);
    let key = "io.kubernetes.container.preStopHandler".to_owned();
    config.annotations.insert(key, hook("touch /dev/shm/twice"));
    let container = pod.start(config).await;
    container.says("up").await;
    container.stop(10).await;
    assert_eq!(container.hooks().await, serde_json::json!({}));
    let shm = house.berth.path("state/sandboxes").join(&pod.id).join("shm/twice");
    assert!(!shm.exists());
    pod.remove().await;
}

#[tokio::test]
async fn of_containers_that_start_at_once_each_is_probed() {
    let house = house().await;
    let pod = house.pod("start-at-once").await;
    let check = crate::ground::probe("true", "");
    let mut containers = Vec::new();
    for number in 0..8 {
        let config = annotated(
            &format!("c{number}"),
            POLITE,
            &[("readiness-probe", &check), ("post-start", &hook("true"))],
        );
        containers.push(pod.create(config).await);
    }
    let starts: Vec<_> = containers
        .iter()
        .map(|container| {
            let container = container.clone();
            tokio::spawn(async move { container.start().await })
        })
        .collect();
    for start in starts {
        start.await.unwrap().unwrap();
    }
    for container in &containers {
        container.until_ready(true).await;
    }
    pod.remove().await;
}
