//! `berth-probe`, a command that is in no image.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::Code;

use crate::client::{Container, House, house, shell};
use crate::places::{distroless, import_distroless};
use crate::support::berth::Berth;

async fn answer(container: &Container, words: &str, timeout: i64) -> (i32, String, String) {
    let words: Vec<_> = words.split(' ').collect();
    let answer = container.exec(&words, timeout).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (answer.exit_code, text(answer.stdout), text(answer.stderr))
}

#[tokio::test]
async fn an_exec_probe_of_a_kubelet_can_be_http_tcp_and_grpc_on_an_image_without_a_shell() {
    let house = house().await;
    import_distroless(&house);
    let pod = house.pod("virtual").await;
    let server = pod.start(distroless("server", "127.0.0.1")).await;
    server.says("serving").await;
    let (code, stdout, _) = answer(&server, "berth-probe http http://localhost:8080/readyz", 5).await;
    assert_eq!((code, &*stdout), (0, "OK\n"));
    assert_eq!(answer(&server, "berth-probe tcp localhost:8080", 5).await.0, 0);
    let (code, stdout, stderr) = answer(&server, "berth-probe grpc localhost:9090 --service x", 5).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    let (code, stdout, stderr) = answer(&server, "berth-probe tcp :8080", 5).await;
    assert_eq!((code, &*stdout), (1, ""), "it listens on loopback alone");
    assert!(stderr.contains("connection refused"), "{stderr}");
    let (code, _, stderr) = answer(&server, "berth-probe ping localhost", 5).await;
    assert!(code == 2 && stderr.contains("usage: berth-probe"), "{stderr}");
    // `berth exec` is for pods of manifests; what it calls is the same.
    server.stop(0).await;
    let error = server.exec(&["berth-probe", "tcp", ":1"], 5).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    pod.remove().await;
}

#[tokio::test]
async fn the_timeout_of_execsync_holds_for_a_virtual_command() {
    let house = house().await;
    let pod = house.pod("virtual-timeout").await;
    // It takes the connection, and says nothing.
    let container = pod
        .start(shell("mute", "echo up; nc -l -p 8080 -e sleep 1000000"))
        .await;
    container.says("up").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begin = Instant::now();
    let error = container
        .exec(&["berth-probe", "http", "http://localhost:8080/"], 1)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(
        (0.9..4.0).contains(&begin.elapsed().as_secs_f64()),
        "{:?}",
        begin.elapsed()
    );
    pod.remove().await;
}

#[tokio::test]
async fn turned_off_the_command_is_one_like_any_other() {
    let berth = Berth::start_configured("[probes]\nvirtual_commands = false\n").await;
    let house = House::of(Arc::new(berth)).await;
    let pod = house.pod("real").await;
    let container = pod.idle("c").await;
    let error = container.exec(&["berth-probe", "tcp", ":1"], 5).await.unwrap_err();
    assert!(error.message().contains("berth-probe"), "{error}");
    container
        .sh("printf '#!/bin/sh\\necho real $@\\n' > /bin/berth-probe; chmod +x /bin/berth-probe")
        .await;
    let (code, stdout, _) = answer(&container, "berth-probe tcp :1", 5).await;
    assert_eq!((code, &*stdout), (0, "real tcp :1\n"));
    pod.remove().await;
}
