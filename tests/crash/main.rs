//! Killing berth, its containerd or a shim at any instant costs nothing: what is listed is what runs, and once all
//! that is listed is removed, nothing is left.
//!
//! Needs root, containerd and runc, and `--features failpoints`. `BERTH_TEST_SEED` brings random moments back,
//! `BERTH_TEST_POINT` limits the first test to the points that contain it.
#![cfg(feature = "failpoints")]

mod dice;
mod life;
mod truth;

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use life::{Life, remove_all};
use support::berth::Berth;
use truth::Victim;

/// Puts an end to everything that is listed, and looks that nothing is left.
async fn clear(berth: &Berth, when: &str) {
    let mut runtime = berth.runtime().await.expect("berth answers");
    if let Err(status) = remove_all(&mut runtime).await {
        panic!("{when}: a removal failed: {status}\n{}", berth.log());
    }
    berth.assert_nothing_left(when).await;
}

/// The names of all failpoints that a life passes.
async fn points(berth: &mut Berth) -> Vec<String> {
    let trace = berth.path("trace");
    berth.terminate();
    berth
        .restart(&[("BERTH_FAILPOINT_TRACE", trace.to_str().unwrap())])
        .await;
    Life::new(berth, "trace")
        .await
        .live()
        .await
        .expect("an undisturbed life");
    berth.assert_nothing_left("after an undisturbed life").await;
    berth.terminate();
    berth.restart(&[]).await;
    let points: BTreeSet<_> = fs::read_to_string(trace).unwrap().lines().map(str::to_owned).collect();
    let wanted = std::env::var("BERTH_TEST_POINT").unwrap_or_default();
    points.into_iter().filter(|point| point.contains(&wanted)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn berth_may_die_before_and_after_every_effect() {
    let mut berth = Berth::start().await;
    let points = points(&mut berth).await;
    let begin = std::time::Instant::now();
    for point in &points {
        berth.terminate();
        berth.restart(&[("BERTH_FAILPOINT", point)]).await;
        let lived = Life::new(&berth, point).await.live().await;
        assert!(lived.is_err(), "{point} was never reached");
        assert!(
            berth.wait_killed(Duration::from_secs(10)),
            "{point}: {lived:?}\n{}",
            berth.log()
        );
        berth.restart(&[]).await;
        truth::check(&berth, Victim::Berth, point).await;
        clear(&berth, point).await;
        eprintln!("{:>7} ms {point}", begin.elapsed().as_millis());
    }
    berth.down().await;
}
