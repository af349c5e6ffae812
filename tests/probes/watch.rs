//! `berth.v1.Probes`, its example client, and metrics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use berth::proto::berth::probes_client::ProbesClient;
use berth::proto::berth::watch_probes_response::What;
use berth::proto::berth::{ListProbesRequest, ProbesFilter, WatchProbesRequest, WatchProbesResponse};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::{House, house, until};
use crate::ground::{POLITE, annotated, probe};
use crate::support::berth::Berth;
use crate::support::free_port;

async fn probes(house: &House) -> ProbesClient<Channel> {
    ProbesClient::new(house.berth.channel().await.unwrap())
}

fn of_pod(name: &str) -> Option<ProbesFilter> {
    Some(ProbesFilter {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        ..ProbesFilter::default()
    })
}

async fn next(stream: &mut Streaming<WatchProbesResponse>) -> What {
    let next = tokio::time::timeout(Duration::from_secs(15), stream.message());
    next.await.expect("a message in time").unwrap().unwrap().what.unwrap()
}

/// The next message of which `wanted` says so, those between left out.
async fn until_says<T>(stream: &mut Streaming<WatchProbesResponse>, wanted: impl Fn(What) -> Option<T>) -> T {
    loop {
        if let Some(found) = wanted(next(stream).await) {
            return found;
        }
    }
}

#[tokio::test]
async fn a_watch_shows_all_that_is_there_and_then_every_change() {
    let house = house().await;
    let pod = house.pod("watched").await;
    let check = probe("cat /dev/shm/ready", "");
    let container = pod
        .start(annotated("web", POLITE, &[("readiness-probe", &check)]))
        .await;
    let mut client = probes(&house).await;
    let request = WatchProbesRequest {
        filter: of_pod("watched"),
        events: true,
    };
    let mut stream = client.watch(request).await.unwrap().into_inner();
    let What::Container(first) = next(&mut stream).await else {
        panic!("the container comes first");
    };
    assert_eq!(
        (&*first.container, &*first.name, &*first.uid),
        ("web", "watched", "uid-of-watched")
    );
    assert_eq!(
        (first.container_id, first.sandbox_id),
        (container.id.clone(), pod.id.clone())
    );
    assert_eq!(first.ips, [pod.ip().await]);
    assert!(first.running && first.started && !first.ready && !first.stopping);
    assert!(matches!(next(&mut stream).await, What::Synced(_)));
    let said = until_says(&mut stream, |what| match what {
        What::Event(event) => Some(format!("{} {}: {}", event.r#type, event.reason, event.message)),
        _ => None,
    });
    assert!(
        said.await
            .starts_with("Warning Unhealthy: Readiness probe failed: cat:")
    );
    container.sh("echo yes > /dev/shm/ready").await;
    let change = |what| match what {
        What::Container(health) => Some(health),
        _ => None,
    };
    let ready = until_says(&mut stream, change).await;
    assert!(ready.ready && ready.probes[0].output == "yes\n", "{ready:?}");
    container.sh("rm /dev/shm/ready").await;
    assert!(!until_says(&mut stream, change).await.ready);
    container.stop(5).await;
    let stopping = until_says(&mut stream, change).await;
    assert!(stopping.stopping || !stopping.running, "{stopping:?}");
    pod.remove().await;
    let removed = until_says(&mut stream, |what| match what {
        What::Removed(id) => Some(id),
        _ => None,
    });
    assert_eq!(removed.await, container.id);
}

#[tokio::test]
async fn a_list_has_what_its_filter_asks_for_also_pods_of_manifests() {
    let house = house().await;
    let pod = house.pod("listed").await;
    let (first, second) = (pod.idle("first").await, pod.idle("second").await);
    let mut client = probes(&house).await;
    let mut list = async |filter| {
        let request = ListProbesRequest { filter: Some(filter) };
        let answer = client.list(request).await.unwrap().into_inner();
        answer
            .containers
            .into_iter()
            .map(|health| health.container)
            .collect::<Vec<_>>()
    };
    assert_eq!(list(of_pod("listed").unwrap()).await, ["first", "second"]);
    let by = |sandbox: &str, container: &str| ProbesFilter {
        sandbox_id: sandbox.to_owned(),
        container_id: container.to_owned(),
        ..ProbesFilter::default()
    };
    assert_eq!(list(by(&pod.id, "")).await, ["first", "second"]);
    assert_eq!(list(by("", &second.id)).await, ["second"]);
    assert!(list(by(&first.id, &second.id)).await.is_empty());
    let manifest = house.berth.path("listed.yaml");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: by-manifest}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
                containers:\n  - {name: c, image: 'busybox:latest', imagePullPolicy: Never, command: [sleep, '1000000']}\n";
    std::fs::write(&manifest, text).unwrap();
    house.berth.run(&["run", "--detach", "-f", manifest.to_str().unwrap()]);
    let begin = std::time::Instant::now();
    while list(of_pod("by-manifest").unwrap()).await != ["c"] {
        assert!(begin.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    house.berth.run(&["delete", "pod", "by-manifest"]);
    pod.remove().await;
}

/// The example, which ends with the test.
struct Example(Child);

impl Drop for Example {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn the_example_takes_an_unready_pod_out_of_a_proxys_backends_and_puts_it_back() {
    let house = house().await;
    let (backends, reloads) = (house.berth.path("backends.conf"), house.berth.path("reloads"));
    let check = probe("[ -e /tmp/ready ]", "");
    let pods = [house.pod("backend-1").await, house.pod("backend-2").await];
    let mut containers = Vec::new();
    for pod in &pods {
        let config = annotated(
            "web",
            &format!("touch /tmp/ready; {POLITE}"),
            &[("readiness-probe", &check)],
        );
        containers.push(pod.start(config).await);
    }
    let addresses = [pods[0].ip().await, pods[1].ip().await].map(|ip| format!("server {ip}:80;\n"));
    // Cargo builds examples with the tests, beside them.
    let program = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .with_file_name("examples/probes-watch");
    let child = Command::new(program)
        .arg(house.berth.socket())
        .args(["backend-", "80"])
        .arg(&backends)
        .args(["sh", "-c"])
        .arg(format!("echo reload >> {}", reloads.display()))
        .stdin(Stdio::null())
        .spawn()
        .expect("`cargo build --example probes-watch`, which `cargo test` does, has built it");
    let _example = Example(child);
    let text = || std::fs::read_to_string(&backends).unwrap_or_default();
    let all = addresses.concat();
    until("both are there", || {
        text().len() == all.len() && addresses.iter().all(|line| text().contains(line))
    })
    .await;
    containers[0].sh("rm /tmp/ready").await;
    until("the unready one is out", || text() == addresses[1]).await;
    containers[0].sh("touch /tmp/ready").await;
    until("it is back", || {
        text().len() == all.len() && text().contains(&addresses[0])
    })
    .await;
    pods[0].remove().await;
    until("the removed one is out", || text() == addresses[1]).await;
    assert!(std::fs::read_to_string(reloads).unwrap().lines().count() >= 4);
    pods[1].remove().await;
}

/// What `GET path` answers.
fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn metrics_are_named_as_the_kubelets_and_go_with_their_pod() {
    let port = free_port();
    let berth = Berth::start_configured(&format!("[metrics]\naddress = \"127.0.0.1:{port}\"\n")).await;
    let house = House::of(Arc::new(berth)).await;
    let pod = house.pod("measured").await;
    let (good, bad) = (probe("true", ""), probe("false", ""));
    let annotations = [("liveness-probe", &*good), ("readiness-probe", &*bad)];
    let container = pod.start(annotated("app", POLITE, &annotations)).await;
    let labels = |kind: &str, result: &str| {
        format!(
            "prober_probe_total{{probe_type=\"{kind}\",result=\"{result}\",container=\"app\",pod=\"measured\",\
             namespace=\"default\",pod_uid=\"uid-of-measured\"}}"
        )
    };
    let (liveness, readiness) = (labels("Liveness", "successful"), labels("Readiness", "failed"));
    until("both are counted", || {
        let text = get(port, "/metrics");
        text.contains(&liveness) && text.contains(&readiness)
    })
    .await;
    let text = get(port, "/metrics");
    assert!(
        text.starts_with("HTTP/1.1 200") && text.contains("application/openmetrics-text"),
        "{text}"
    );
    assert!(
        text.contains("prober_probe_duration_seconds_bucket{le=\"0.25\",probe_type=\"Liveness\",container=\"app\"")
    );
    assert!(get(port, "/").starts_with("HTTP/1.1 404"));
    // As a kubelet's does, a container's series outlives it until it is removed.
    container.stop(0).await;
    assert!(get(port, "/metrics").contains(&liveness));
    pod.remove().await;
    until("the series are gone", || !get(port, "/metrics").contains("measured")).await;
}
