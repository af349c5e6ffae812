//! examples/liveness-*-demo.yaml: a container that its liveness probe finds dead is ended and started again.

use crate::demo::{Demo, greets};

/// That the container was ended for its probe after exactly three failures and runs again.
async fn is_restarted(demo: &Demo, seconds: u64, failure: &str) {
    demo.until(seconds, "it is restarted", || {
        demo.container()["restarts"] == 1 && demo.row()[1] == "Running"
    })
    .await;
    let page = demo.describe();
    assert_eq!(demo.count("Unhealthy", failure), 3, "{page}");
    let killing = "Container demo failed liveness probe, will be restarted";
    assert_eq!(demo.count("Killing", killing), 1, "{page}");
    assert_eq!(demo.count("Started", "Started container demo"), 2, "{page}");
    assert_eq!(demo.count("Pulled", "already present on machine"), 2, "{page}");
    let [ready, _, restarts] = demo.row();
    assert!(
        ready == "1/1" && restarts.starts_with("1 (") && restarts.ends_with(" ago)"),
        "{ready} {restarts}"
    );
    assert_eq!(demo.container()["last"]["reason"], "LivenessProbeFailed", "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_probe_that_fails_three_times_restarts_the_container() {
    let demo = Demo::run("liveness-exec-demo").await;
    demo.until(10, "it answers", || greets(&demo.get(80, "/"))).await;
    assert!(demo.describe().contains(
        "Liveness:       exec [/bin/sh -c [ \"$(curl -s 127.0.0.1/livez)\" == \"OK\" ]] delay=5s timeout=1s period=5s \
         #success=1 #failure=3"
    ));
    demo.post("livez", "fail");
    is_restarted(&demo, 40, "Liveness probe failed:").await;
    // The new one is healthy and stays.
    assert_eq!(demo.get(80, "/livez").unwrap().lines().last(), Some("OK"));
    demo.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_probe_that_meets_506_three_times_restarts_the_container() {
    let demo = Demo::run("liveness-httpget-demo").await;
    demo.until(10, "it answers", || greets(&demo.get(80, "/"))).await;
    assert!(
        demo.describe()
            .contains("Liveness:       http-get http://:80/livez delay=5s timeout=1s period=10s #success=1 #failure=3")
    );
    demo.post("livez", "fail");
    is_restarted(
        &demo,
        60,
        "Liveness probe failed: HTTP probe failed with statuscode: 506",
    )
    .await;
    demo.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_probe_that_is_rejected_restarts_the_container_and_then_backs_off() {
    let demo = Demo::run("liveness-tcpsocket-demo").await;
    demo.until(10, "it answers", || greets(&demo.get(80, "/"))).await;
    let probe = "Liveness:       tcp-socket :80 delay=5s timeout=1s period=5s #success=1 #failure=3";
    assert!(demo.describe().contains(probe), "{}", demo.describe());
    demo.sh("iptables -A INPUT -p tcp --dport 80 -j REJECT");
    is_restarted(&demo, 40, "connection refused").await;
    // The rule is the pod's and not the container's: the next life ends as the first.
    demo.until(40, "it backs off", || demo.row()[1] == "CrashLoopBackOff")
        .await;
    let page = demo.describe();
    assert_eq!(demo.count("Unhealthy", "connection refused"), 6, "{page}");
    assert_eq!(
        demo.count("BackOff", "Back-off restarting failed container demo in pod"),
        1,
        "{page}"
    );
    assert!(
        page.contains("      Message:      back-off 10s restarting failed container=demo pod="),
        "{page}"
    );
    assert_eq!(demo.row()[0], "0/1");
    demo.end().await;
}
