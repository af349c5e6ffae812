//! examples/readiness-httpget-demo.yaml: a container that is not ready is left running.

use std::time::{Duration, Instant};

use crate::demo::Demo;

#[tokio::test(flavor = "multi_thread")]
async fn readiness_comes_after_15_seconds_goes_when_it_fails_and_comes_back() {
    let demo = Demo::run("readiness-httpget-demo").await;
    let started_at = demo.container()["startedAt"].clone();
    let begin = Instant::now();
    let ready = |wanted: &'static str| {
        let demo = &demo;
        move || demo.row()[0] == wanted
    };
    assert_eq!(demo.row(), ["0/1", "Running", "0"]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(demo.row()[0], "0/1", "{}", demo.describe());
    assert!(
        demo.describe().contains("\n  Ready                      False\n"),
        "{}",
        demo.describe()
    );
    demo.until(20, "it is ready", ready("1/1")).await;
    let since = nanos() - started_at.as_i64().unwrap();
    assert!(since >= 15_000_000_000, "ready after {since} ns");
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
    assert!(
        demo.describe().contains("\n  Ready                      True\n"),
        "{}",
        demo.describe()
    );
    demo.post("readyz", "fail");
    demo.until(25, "it is not ready", ready("0/1")).await;
    assert_eq!(
        demo.count(
            "Unhealthy",
            "Readiness probe failed: HTTP probe failed with statuscode: 507"
        ),
        3,
        "{}",
        demo.describe()
    );
    demo.post("readyz", "OK");
    demo.until(15, "it is ready again", ready("1/1")).await;
    let container = demo.container();
    assert_eq!(
        (&container["restarts"], &container["startedAt"]),
        (&0.into(), &started_at)
    );
    assert_eq!(demo.count("Killing", ""), 0);
    demo.end().await;
}

fn nanos() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_nanos()).unwrap()
}
