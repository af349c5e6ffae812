//! Where checks stand: inside the pod's network, whatever is in its image and whatever keeps others out.

use std::process::Command;

use berth::proto::runtime as pb;

use crate::client::{House, container_config, house, shell};
use crate::ground::{annotated, in_pod};
use crate::support::image::{Image, Kind, Layer};

/// An image of one static program and nothing else.
pub const DISTROLESS: &str = "example.org/distroless:1";

/// Builds that image and gives it to the daemon.
pub fn import_distroless(house: &House) {
    let binary = house.berth.path("static-server");
    let built = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args([
            "--edition=2024",
            "-Copt-level=1",
            "-Ctarget-feature=+crt-static",
            "-Cstrip=symbols",
        ])
        .arg("tests/probes/static_server.rs")
        .arg("-o")
        .arg(&binary)
        .status();
    assert!(built.unwrap().success(), "the server builds");
    let bytes = std::fs::read(binary).unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(bytes.len() as u64);
    layer.append_data(&mut header, "server", &*bytes).unwrap();
    let layer = Layer::of(Kind::Gzip, layer.into_inner().unwrap());
    let image = Image::new(vec![layer], &serde_json::json!({"Entrypoint": ["/server"]}));
    house.berth.import(&image, DISTROLESS);
}

/// A container of that image that serves HTTP on 8080 and gRPC on 9090 of `host`.
pub fn distroless(name: &str, host: &str) -> pb::ContainerConfig {
    let mut config = container_config(name, &[]);
    config.image.as_mut().unwrap().image = DISTROLESS.to_owned();
    config.args = vec![format!("{host}:8080"), format!("{host}:9090")];
    config
}

/// A readiness probe by each way over the network, to `host`; empty: none is named.
fn ways(host: &str) -> [(&'static str, String); 3] {
    let host = match host {
        "" => String::new(),
        host => format!(r#", "host": "{host}""#),
    };
    let probe = |check: String| format!(r#"{{{check}, "periodMilliseconds": 100, "timeoutSeconds": 5}}"#);
    [
        (
            "http",
            probe(format!(r#""httpGet": {{"port": 8080, "path": "/ready"{host}}}"#)),
        ),
        ("tcp", probe(format!(r#""tcpSocket": {{"port": 8080{host}}}"#))),
        ("grpc", probe(format!(r#""grpc": {{"port": 9090{host}}}"#))),
    ]
}

#[tokio::test]
async fn a_server_on_loopback_alone_in_an_image_of_one_static_binary_is_probed_by_http_tcp_and_grpc() {
    let house = house().await;
    import_distroless(&house);
    let pod = house.pod("distroless").await;
    let server = pod.start(distroless("server", "127.0.0.1")).await;
    server.says("serving").await;
    for (number, (name, probe)) in ways("localhost").into_iter().enumerate() {
        let mut config = distroless(name, &format!("127.0.0.{}", 2 + number));
        config.annotations.insert("berth.dev/readiness-probe".to_owned(), probe);
        let container = pod.start(config).await;
        container.until_ready(true).await;
    }
    pod.remove().await;
}

#[tokio::test]
async fn a_pod_that_rejects_everything_from_outside_is_probed_by_http_tcp_and_grpc() {
    let house = house().await;
    import_distroless(&house);
    let pod = house.pod("fenced").await;
    in_pod(
        &house,
        &pod,
        &["iptables", "-A", "INPUT", "!", "-i", "lo", "-j", "REJECT"],
    );
    let server = pod.start(distroless("server", "0.0.0.0")).await;
    server.says("serving").await;
    for (name, probe) in ways("") {
        let container = pod
            .start(annotated(name, "sleep 1000000", &[("readiness-probe", &probe)]))
            .await;
        container.until_ready(true).await;
    }
    // From the node there is no way in.
    let from_host = r#"{"tcpSocket": {"port": 8080}, "probeFrom": "host", "periodMilliseconds": 100}"#;
    let container = pod
        .start(annotated("outside", "sleep 1000000", &[("readiness-probe", from_host)]))
        .await;
    container
        .until("refused", |probes| probes["readiness"]["failed"].as_u64() > Some(1))
        .await;
    assert_eq!(container.probes().await["ready"], false);
    pod.remove().await;
}

#[tokio::test]
async fn a_redirect_of_the_pods_holds_for_a_probe_from_the_host_and_not_for_one_from_the_pod() {
    let house = house().await;
    let pod = house.pod("redirected").await;
    // What examples/init-container-demo.yaml does in its init container.
    let rule = [
        "iptables",
        "-t",
        "nat",
        "-A",
        "PREROUTING",
        "-p",
        "tcp",
        "--dport",
        "8080",
        "-j",
        "REDIRECT",
    ];
    in_pod(&house, &pod, &[&rule[..], &["--to-port", "80"]].concat());
    let server = pod
        .start(shell(
            "server",
            "mkdir /www; echo hello > /www/index.html; httpd -f -p 80 -h /www",
        ))
        .await;
    let probe =
        |from: &str| format!(r#"{{"httpGet": {{"port": 8080}}, "probeFrom": "{from}", "periodMilliseconds": 100}}"#);
    let host = pod
        .start(annotated(
            "host",
            "sleep 1000000",
            &[("readiness-probe", &probe("host"))],
        ))
        .await;
    host.until_ready(true).await;
    let inside = pod
        .start(annotated("pod", "sleep 1000000", &[("readiness-probe", &probe("pod"))]))
        .await;
    let probes = inside
        .until("refused", |probes| probes["readiness"]["failed"].as_u64() > Some(1))
        .await;
    let said = probes["readiness"]["output"].as_str().unwrap();
    assert!(said.contains("connection refused"), "{said}");
    assert_eq!(host.probes().await["ready"], true);
    drop(server);
    pod.remove().await;
}

#[tokio::test]
async fn a_named_port_is_looked_up_where_a_kubelet_tells_it() {
    let house = house().await;
    let pod = house.pod("named-port").await;
    let probe = r#"{"httpGet": {"port": "web"}, "periodMilliseconds": 100}"#;
    let line = "mkdir /www; echo hello > /www/index.html; httpd -f -p 8081 -h /www";
    let mut config = annotated("c", line, &[("readiness-probe", probe)]);
    let ports = r#"[{"name":"web","containerPort":8081,"protocol":"TCP"}]"#;
    let key = "io.kubernetes.container.ports".to_owned();
    config.annotations.insert(key, ports.to_owned());
    let container = pod.start(config).await;
    container.until_ready(true).await;
    pod.remove().await;
}
