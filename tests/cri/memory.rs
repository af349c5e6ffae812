//! How much memory berth takes: little when idle, no more after pods came and went, no more under a flood of output.

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use crate::client::{House, container_config};
use crate::support::berth::Berth;
use crate::support::processes;

/// Kibibytes of memory of a process: `VmRSS` is all that is resident, `RssAnon` that without the program's own code.
fn kibibytes(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What an idle berth may take, in KiB: its memory and the field that shows it. 15 MiB are promised of a release, all
/// counted. A debug build's code is several times that of a release, so there its data alone counts.
fn limit() -> (&'static str, u64) {
    if cfg!(debug_assertions) && std::env::var_os("BERTH_TEST_BINARY").is_none() {
        ("RssAnon:", 6 << 10)
    } else {
        ("VmRSS:", 15 << 10)
    }
}

#[tokio::test]
async fn an_idle_berth_takes_less_than_15_mebibytes_also_after_ten_pods() {
    let mut berth = Berth::start().await;
    // Importing an image is not idling.
    berth.terminate();
    berth.restart(&[]).await;
    let house = House::of(Arc::new(berth)).await;
    let (field, limit) = limit();
    let fresh = kibibytes(house.berth.pid(), field);
    for number in 0..10 {
        let pod = house.pod(&format!("cycle-{number}")).await;
        let container = pod.idle("c").await;
        container.sh("true").await;
        pod.remove().await;
    }
    house.berth.assert_nothing_left("after ten pods").await;
    let used = kibibytes(house.berth.pid(), field);
    eprintln!("berth's idle memory, {field} {fresh} KiB without a pod, {used} KiB after ten pods");
    assert!(fresh < limit, "{fresh} KiB without a pod");
    assert!(used < limit, "{used} KiB after ten pods");
}

#[tokio::test]
async fn a_flood_of_output_does_not_grow_berth_or_its_shim() {
    let house = House::of(Arc::new(Berth::start().await)).await;
    let pod = house.pod("flood").await;
    pod.sh("warm", "echo up").await;
    let own = house.berth.dir.path().display().to_string();
    let shim = processes()
        .into_iter()
        .find(|(_, line)| line.contains("containerd-shim-berth-v1") && line.contains(&own));
    let shim = shim.expect("there is a shim").0;
    let resident = |pid| kibibytes(pid, "VmRSS:");
    let before = (resident(house.berth.pid()), resident(shim));
    let begin = Instant::now();
    let line = "yes 'a line of some sixty bytes, as programs like to write them out' | head -c 200000000";
    let container = pod.start(container_config("flood", &["sh", "-c", line])).await;
    loop {
        let status = container.status().await;
        if status.finished_at != 0 {
            assert_eq!(status.exit_code, 0, "{status:?}");
            break;
        }
        assert!(
            begin.elapsed().as_secs() < 60,
            "{} bytes",
            fs::metadata(&container.log).unwrap().len()
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let took = begin.elapsed();
    let after = (resident(house.berth.pid()), resident(shim));
    eprintln!("200 MB of output in {took:?}; KiB of berth and shim before {before:?}, after {after:?}");
    assert!(fs::metadata(&container.log).unwrap().len() > 200_000_000);
    assert!(after.0 < before.0 + 2048, "berth: {before:?} to {after:?} KiB");
    assert!(after.1 < before.1 + 1024, "shim: {before:?} to {after:?} KiB");
    pod.remove().await;
}
