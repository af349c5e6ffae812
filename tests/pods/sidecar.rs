//! examples/sidecar-container-demo.yaml: a proxy in front of an application that only localhost reaches. The proxy's
//! configuration is fetched by its postStart hook from ilinux.io, whose part the test plays.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use crate::demo::{Demo, greets};
use crate::names;
use crate::support::berth::Berth;
use crate::support::fake::{Answer, Fake};

const ENVOY: &[u8] = include_bytes!("envoy.yaml");

/// The node's address on the bridge of a berth's pods.
fn bridge_address(berth: &Berth) -> Ipv4Addr {
    let bridge = format!("berth-{}", berth.instance());
    let shown = Command::new("ip")
        .args(["-o", "-4", "addr", "show", "dev", &bridge])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let address = shown.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
    address.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_comes_through_the_sidecar_which_its_hook_has_configured() {
    let files = tempfile::tempdir().unwrap();
    let resolv_conf = files.path().join("resolv.conf");
    let berth = Berth::start_configured(&format!("[manifest]\nresolv_conf = {resolv_conf:?}\n")).await;
    let node = bridge_address(&berth);
    fs::write(&resolv_conf, format!("nameserver {node}\n")).unwrap();
    names::serve(node, "ilinux.io", node);
    let web = Fake::start_at((node, 80).into(), |request| match request.path.as_str() {
        "/envoy.yaml" => Answer::ok("application/yaml", ENVOY),
        _ => Answer::status(404),
    });
    let demo = Demo::run_by(berth, "sidecar-container-demo", &["demoapp", "envoy"]).await;
    demo.until(30, "the proxy answers from outside", || greets(&demo.get(80, "/")))
        .await;
    assert_eq!(web.seen().len(), 1);
    let answer = demo.get(80, "/").unwrap();
    assert!(answer.contains("\nVia: 1.1 envoy"), "{answer}");
    // The application sees the proxy alone.
    assert!(answer.contains("ClientIP: 127.0.0.1"), "{answer}");
    assert!(demo.get(8080, "/").is_err(), "the application is not reached directly");
    assert_eq!(demo.row(), ["2/2", "Running", "0"]);
    assert_eq!(demo.count("FailedPostStartHook", ""), 0, "{}", demo.describe());
    demo.end().await;
}
