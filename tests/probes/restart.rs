//! What becomes of probes and hooks when berth dies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth::proto::runtime as pb;

use crate::client::{Container, House, Pod};
use crate::ground::{POLITE, STUBBORN, annotated, hook, probe};
use crate::support::berth::Berth;

async fn own_house() -> House {
    House::of(Arc::new(Berth::start().await)).await
}

/// Kills berth, and starts it again after `meanwhile`.
async fn kill_and_restart(house: House, meanwhile: impl AsyncFnOnce()) -> House {
    let mut berth = Arc::into_inner(house.berth).expect("nobody else has it");
    berth.kill();
    meanwhile().await;
    berth.restart(&[]).await;
    House::of(Arc::new(berth)).await
}

fn again(house: &House, container: &Container) -> Container {
    Container {
        cri: house.cri.clone(),
        ..container.clone()
    }
}

async fn over(house: House, pod: &Pod) {
    let pod = Pod {
        cri: house.cri.clone(),
        ..pod.clone()
    };
    pod.remove().await;
    house
        .berth
        .assert_nothing_left("after a death during probes and hooks")
        .await;
    Arc::into_inner(house.berth).expect("nobody else has it").down().await;
}

fn lines(house: &House, pod: &Pod, name: &str) -> usize {
    let file = house.berth.path("state/sandboxes").join(&pod.id).join("shm").join(name);
    std::fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn killed_while_it_probes_berth_goes_on_with_what_it_knew_and_no_container_is_killed() {
    let house = own_house().await;
    let pod = house.pod("probing").await;
    let (start, check) = (
        probe("echo s >> /dev/shm/startup", ""),
        probe("[ -e /dev/shm/ready ]", ""),
    );
    let live = probe("echo l >> /dev/shm/live", "");
    let annotations = [
        ("startup-probe", &*start),
        ("readiness-probe", &*check),
        ("liveness-probe", &*live),
    ];
    let container = pod.start(annotated("c", POLITE, &annotations)).await;
    container.sh("touch /dev/shm/ready").await;
    container.until_ready(true).await;
    let pid = container.pid().await;
    let house = kill_and_restart(house, async || {}).await;
    let container = again(&house, &container);
    // A kubelet's would be unready now until its first check (enhancements#4781).
    let probes = container.probes().await;
    assert_eq!(
        (&probes["started"], &probes["ready"]),
        (&true.into(), &true.into()),
        "{probes:#}"
    );
    let asked = lines(&house, &pod, "live");
    container
        .until("asked again", |_| lines(&house, &pod, "live") > asked + 2)
        .await;
    assert_eq!(
        lines(&house, &pod, "startup"),
        1,
        "what has started is not asked again whether it has"
    );
    container.sh("rm /dev/shm/ready").await;
    container.until_ready(false).await;
    assert_eq!(container.pid().await, pid);
    over(house, &pod).await;
}

#[tokio::test]
async fn killed_after_a_probe_has_failed_berth_ends_the_container_once_and_tells_why() {
    let house = own_house().await;
    let pod = house.pod("failing").await;
    let live = probe(
        "[ ! -e /dev/shm/sick ] || { echo sick; exit 1; }",
        r#", "terminationGracePeriodSeconds": 8"#,
    );
    let annotations = [
        ("liveness-probe", live),
        ("pre-stop", hook("echo run >> /dev/shm/runs; sleep 1")),
    ];
    let annotations: Vec<_> = annotations.iter().map(|(key, json)| (*key, json.as_str())).collect();
    let container = pod.start(annotated("c", STUBBORN, &annotations)).await;
    container.says("up").await;
    container.sh("touch /dev/shm/sick").await;
    container.until_hook("preStop", "running").await;
    let begin = Instant::now();
    let house = kill_and_restart(house, async || {}).await;
    let container = again(&house, &container);
    let ended = container.ended().await;
    assert_eq!(
        (ended.code, &*ended.status.reason),
        (137, "LivenessProbeFailed"),
        "{ended:?}"
    );
    assert_eq!(ended.status.message, "sick\n");
    assert!(
        begin.elapsed() < Duration::from_secs(15),
        "what was left of the grace: {:?}",
        begin.elapsed()
    );
    // At least once: the one that was cut off has been run again.
    let run = &container.hooks().await["preStop"];
    assert_eq!(
        (&run["outcome"], &run["runs"]),
        (&"succeeded".into(), &2.into()),
        "{run}"
    );
    assert_eq!(lines(&house, &pod, "runs"), 2);
    over(house, &pod).await;
}

#[tokio::test]
async fn killed_while_post_start_runs_berth_runs_it_again_and_a_repeated_start_waits_for_it() {
    let house = own_house().await;
    let pod = house.pod("post-start").await;
    let line = "echo run >> /dev/shm/runs; until [ -e /dev/shm/go ]; do sleep 0.02; done";
    let container = pod.create(annotated("c", POLITE, &[("post-start", &hook(line))])).await;
    let start = tokio::spawn({
        let container = container.clone();
        async move { container.start().await }
    });
    container.until_hook("postStart", "running").await;
    let pid = container.pid().await;
    let house = kill_and_restart(house, async || {
        start.await.unwrap().unwrap_err();
    })
    .await;
    let container = again(&house, &container);
    let repeated = tokio::spawn({
        let container = container.clone();
        async move { container.start().await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(container.probes().await["ready"], false);
    container.sh("touch /dev/shm/go").await;
    repeated.await.unwrap().unwrap();
    let run = &container.hooks().await["postStart"];
    assert_eq!(
        (&run["outcome"], &run["runs"]),
        (&"succeeded".into(), &2.into()),
        "{run}"
    );
    assert_eq!(container.pid().await, pid);
    assert_eq!(container.probes().await["ready"], true);
    over(house, &pod).await;
}

#[tokio::test]
async fn killed_while_pre_stop_runs_berth_runs_it_again_and_finishes_the_stop_in_its_grace() {
    let house = own_house().await;
    let pod = house.pod("pre-stop").await;
    let line = "echo run >> /dev/shm/runs; until [ -e /dev/shm/go ]; do sleep 0.02; done";
    let container = pod.start(annotated("c", POLITE, &[("pre-stop", &hook(line))])).await;
    container.says("up").await;
    let client = container.clone();
    let stop = tokio::spawn(async move {
        let request = pb::StopContainerRequest {
            container_id: client.id.clone(),
            timeout: 60,
        };
        client.cri.clone().stop_container(request).await
    });
    container.until_hook("preStop", "running").await;
    let house = kill_and_restart(house, async || {
        stop.await.unwrap().unwrap_err();
    })
    .await;
    let container = again(&house, &container);
    container.until_hook("preStop", "running").await;
    assert_eq!(container.status().await.state(), pb::ContainerState::ContainerRunning);
    container.sh("touch /dev/shm/go").await;
    let ended = container.ended().await;
    assert_eq!((ended.code, &*ended.status.reason), (0, "Completed"), "{ended:?}");
    assert_eq!(container.hooks().await["preStop"]["runs"], 2);
    over(house, &pod).await;
}

#[tokio::test]
async fn a_hook_whose_container_ended_while_berth_was_down_is_told_of() {
    let house = own_house().await;
    let pod = house.pod("unseen").await;
    let line = "until [ -e /dev/shm/end ]; do sleep 0.02; done; exit 3";
    let container = pod
        .create(annotated("c", line, &[("post-start", &hook("sleep 4343"))]))
        .await;
    let start = tokio::spawn({
        let container = container.clone();
        async move { container.start().await }
    });
    container.until_hook("postStart", "running").await;
    let shm = house.berth.path("state/sandboxes").join(&pod.id).join("shm/end");
    let house = kill_and_restart(house, async || {
        start.await.unwrap().unwrap_err();
        std::fs::write(shm, "").unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    })
    .await;
    let container = again(&house, &container);
    assert_eq!(container.ended().await.code, 3);
    assert_eq!(container.hooks().await["postStart"]["outcome"], "ended");
    let events = container.events().await;
    assert!(
        events.iter().any(|event| event.contains("FailedPostStartHook")),
        "{events:#?}"
    );
    over(house, &pod).await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn killed_between_a_failed_post_start_and_the_end_that_it_calls_for_berth_still_ends_the_container() {
    let mut berth = Berth::start().await;
    berth.terminate();
    berth.restart(&[("BERTH_FAILPOINT", "lifecycle.stop:before")]).await;
    let house = House::of(Arc::new(berth)).await;
    let pod = house.pod("post-start-failed").await;
    let line = "echo run >> /dev/shm/runs; echo no; exit 3";
    let container = pod.create(annotated("c", POLITE, &[("post-start", &hook(line))])).await;
    container.start().await.unwrap_err();
    let mut berth = Arc::into_inner(house.berth).expect("nobody else has it");
    assert!(berth.wait_killed(Duration::from_secs(20)));
    berth.restart(&[]).await;
    let house = House::of(Arc::new(berth)).await;
    let ended = again(&house, &container).ended().await;
    assert_eq!(ended.status.reason, "FailedPostStartHook");
    // It had failed, but that could be known no more: at least once.
    assert_eq!(lines(&house, &pod, "runs"), 2);
    over(house, &pod).await;
}
