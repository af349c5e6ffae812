//! cri-contract's row of tcpSocket.

use std::time::{Duration, Instant};

use berth::dial::{Net, Target};
use berth::model::probe::ProbeKind;
use berth::probe::Verdict;
use tokio::net::TcpListener;

use crate::ground::{POD_IP, Pod, check, checked, until_closed};

#[tokio::test]
async fn tcp_succeeds_when_it_connects_and_closes() {
    let pod = Pod::new();
    let (listener, port) = pod.listen(POD_IP);
    let report = checked(&pod, &format!(r#"{{"tcpSocket": {{"port": {port}}}}}"#)).await;
    assert_eq!((report.verdict, report.output.as_str()), (Verdict::Success, ""));
    let (mut stream, from) = listener.accept().await.unwrap();
    assert!(from.ip().is_loopback());
    tokio::time::timeout(Duration::from_secs(5), until_closed(&mut stream))
        .await
        .unwrap();
}

#[tokio::test]
async fn tcp_fails_on_any_connect_error() {
    let pod = Pod::new();
    let report = checked(&pod, r#"{"tcpSocket": {"port": 9}}"#).await;
    let expected = format!("dial tcp {POD_IP}:9: connect: connection refused");
    assert_eq!((report.verdict, report.output), (Verdict::Failure, expected));
    let report = checked(&pod, r#"{"tcpSocket": {"port": 9, "host": "192.0.2.1"}}"#).await;
    let expected = "dial tcp 192.0.2.1:9: connect: network is unreachable".to_owned();
    assert_eq!((report.verdict, report.output), (Verdict::Failure, expected));
}

#[tokio::test]
async fn tcp_fails_on_time_when_nobody_answers() {
    let pod = Pod::new();
    // A queue of one that nobody empties: the kernel drops what comes more.
    let (listener, port) = pod.listen(POD_IP);
    let std = listener.into_std().unwrap();
    nix::sys::socket::listen(&std, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let probe = format!(r#"{{"tcpSocket": {{"port": {port}}}, "timeoutMilliseconds": 200}}"#);
    let begun = Instant::now();
    let mut last = checked(&pod, &probe).await;
    for _ in 0..4 {
        if last.verdict == Verdict::Failure {
            break;
        }
        last = checked(&pod, &probe).await;
    }
    assert_eq!(last.output, format!("dial tcp {POD_IP}:{port}: i/o timeout"));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn the_default_is_the_pods_ip_and_host_localhost_reaches_a_localhost_only_server() {
    let pod = Pod::new();
    for ip in ["127.0.0.1", "::1"] {
        let (_listener, port) = pod.listen(ip);
        let default = checked(&pod, &format!(r#"{{"tcpSocket": {{"port": {port}}}}}"#)).await;
        assert_eq!(default.verdict, Verdict::Failure, "{ip}");
        let probe = format!(r#"{{"tcpSocket": {{"port": {port}, "host": "localhost"}}}}"#);
        let local = checked(&pod, &probe).await;
        assert_eq!(local.verdict, Verdict::Success, "{ip}: {}", local.output);
    }
}

#[tokio::test]
async fn probe_from_host_stands_outside_the_pods_namespace() {
    let pod = Pod::new();
    let outside = TcpListener::bind((POD_IP, 0)).await.unwrap();
    let port = outside.local_addr().unwrap().port();
    let inside = checked(&pod, &format!(r#"{{"tcpSocket": {{"port": {port}}}}}"#)).await;
    assert_eq!(inside.verdict, Verdict::Failure);
    let probe = format!(r#"{{"tcpSocket": {{"port": {port}}}, "probeFrom": "host"}}"#);
    assert_eq!(checked(&pod, &probe).await.verdict, Verdict::Success);
    let host_network = Target {
        net: Net::Host,
        ..pod.target()
    };
    let probe = format!(r#"{{"tcpSocket": {{"port": {port}}}}}"#);
    assert_eq!(
        check(&host_network, ProbeKind::Liveness, &probe).await.verdict,
        Verdict::Success
    );
}

#[tokio::test]
async fn what_is_missing_on_our_side_is_nobodys_failure() {
    let gone = Target {
        net: Net::Pinned("/run/no/such/namespace".into()),
        ip: Some(POD_IP.parse().unwrap()),
    };
    let report = check(&gone, ProbeKind::Liveness, r#"{"tcpSocket": {"port": 9}}"#).await;
    assert_eq!(report.verdict, Verdict::Unknown, "{}", report.output);
    let homeless = Target {
        net: Net::Host,
        ip: None,
    };
    let report = check(&homeless, ProbeKind::Liveness, r#"{"tcpSocket": {"port": 9}}"#).await;
    assert_eq!(
        (report.verdict, report.output.as_str()),
        (Verdict::Unknown, "the pod has no IP address")
    );
}
