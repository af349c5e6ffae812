//! examples/init-container-demo.yaml: what an init container sets up in the pod's network stays.

use std::time::Duration;

use serde_json::Value;

use crate::demo::{Demo, greets};
use crate::support::berth::Berth;

#[tokio::test(flavor = "multi_thread")]
async fn the_init_containers_redirect_holds_and_what_was_told_outlives_berth() {
    let berth = Berth::start().await;
    let mut demo = Demo::run_by(berth, "init-container-demo", &["admin-box", "demoapp"]).await;
    for port in [80, 8080] {
        demo.until(10, &format!("{port} answers from outside"), || {
            greets(&demo.get(port, "/"))
        })
        .await;
    }
    assert_eq!(demo.row(), ["1/1", "Running", "0"]);
    let pod = demo.pod();
    let init = &pod["initContainers"][0];
    assert_eq!((&init["state"], &init["ready"]), (&"Exited".into(), &Value::from(true)));
    for (reason, text, count) in [
        (
            "Pulled",
            "Container image \"ikubernetes/admin-box:latest\" already present on machine",
            1,
        ),
        ("Created", "Created container: iptables-init", 1),
        ("Started", "Started container iptables-init", 1),
        ("Created", "Created container: demo", 1),
        ("Started", "Started container demo", 1),
    ] {
        assert_eq!(demo.count(reason, text), count, "{reason} {text}\n{}", demo.describe());
    }
    let events = |demo: &Demo| {
        let page = demo.describe();
        let (_, events) = page.split_once("\nEvents:\n").unwrap();
        let words = |line: &str| {
            line.split_whitespace()
                .filter(|word| !word.ends_with('s'))
                .collect::<Vec<_>>()
                .join(" ")
        };
        events.lines().map(words).collect::<Vec<_>>()
    };
    let before = events(&demo);
    // Events are written a second behind.
    tokio::time::sleep(Duration::from_secs(2)).await;
    demo.berth.kill();
    demo.berth.restart(&[]).await;
    demo.until(10, "the pod is there", || demo.row() == ["1/1", "Running", "0"])
        .await;
    assert_eq!(events(&demo), before);
    assert!(greets(&demo.get(8080, "/")));
    demo.end().await;
}
