//! Killing berth, its containerd or a shim at any instant costs nothing: what is listed is what runs, and once all
//! that is listed is removed, nothing is left.
//!
//! Needs root, containerd and runc, and `--features failpoints`. `BERTH_TEST_SEED` brings random moments back,
//! `BERTH_TEST_POINT` limits the first test to the points that contain it.
#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used)]

mod dice;
mod life;
mod truth;

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use berth::proto::runtime::NamespaceMode;
use dice::Dice;
use life::{Life, remove_all};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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

/// One at a time: what they look for takes the whole machine.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn berth_may_die_before_and_after_every_effect() {
    let _alone = ALONE.lock().await;
    let mut berth = Berth::start().await;
    let points = points(&mut berth).await;
    let begin = Instant::now();
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

/// How long an undisturbed life takes here, in microseconds.
async fn lifetime(berth: &Berth) -> u64 {
    let begin = Instant::now();
    Life::new(berth, "first")
        .await
        .live()
        .await
        .expect("an undisturbed life");
    u64::try_from(begin.elapsed().as_micros()).unwrap()
}

/// Begins a life and lets `strike` fall upon it after `moment` microseconds.
async fn struck(berth: &mut Berth, name: &str, moment: u64, strike: impl FnOnce(&mut Berth)) {
    let mut life = Life::new(berth, name).await;
    let life = tokio::spawn(async move { life.live().await });
    tokio::time::sleep(Duration::from_micros(moment)).await;
    strike(berth);
    let lived = life
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}\n{}", berth.log()));
    eprintln!(
        "{name}: {}",
        lived.map_or_else(|status| status.to_string(), |()| "lived on".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn berth_may_die_at_any_moment() {
    let _alone = ALONE.lock().await;
    let mut dice = Dice::thrown();
    let mut berth = Berth::start().await;
    let lifetime = lifetime(&berth).await;
    for round in 0..50 {
        let (moment, again) = (dice.between(0, lifetime), dice.between(0, 2) == 0);
        let name = format!("berth {round} at {moment} us");
        struck(&mut berth, &name, moment, Berth::kill).await;
        if again {
            berth.launch(&[]);
            tokio::time::sleep(Duration::from_micros(dice.between(0, 100_000))).await;
            berth.kill();
        }
        berth.restart(&[]).await;
        truth::check(&berth, Victim::Berth, &name).await;
        clear(&berth, &name).await;
    }
    berth.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_may_die_at_any_moment() {
    let _alone = ALONE.lock().await;
    let mut dice = Dice::thrown();
    let mut berth = Berth::start().await;
    let lifetime = lifetime(&berth).await;
    for round in 0..10 {
        let moment = dice.between(0, lifetime);
        let name = format!("containerd {round} at {moment} us");
        let old = berth.containerd_pid().expect("containerd runs");
        struck(&mut berth, &name, moment, |_| end(old)).await;
        renewed(&berth, old).await;
        truth::check(&berth, Victim::Below, &name).await;
        clear(&berth, &name).await;
    }
    berth.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_may_die_at_any_moment() {
    let _alone = ALONE.lock().await;
    let mut dice = Dice::thrown();
    let mut berth = Berth::start().await;
    let lifetime = lifetime(&berth).await;
    for round in 0..10 {
        // There is one at the beginning and at the end of a life only.
        let moment = dice.between(lifetime / 10, lifetime * 9 / 10);
        let name = format!("shim {round} at {moment} us");
        let which = usize::try_from(dice.between(0, 1)).unwrap();
        struck(&mut berth, &name, moment, |berth| {
            let shims: Vec<_> = berth.shims().into_keys().collect();
            if let Some(shim) = shims.get(which).or(shims.first()) {
                end(*shim);
            }
        })
        .await;
        truth::check(&berth, Victim::Below, &name).await;
        clear(&berth, &name).await;
    }
    berth.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_changes_nothing() {
    let _alone = ALONE.lock().await;
    let mut dice = Dice::thrown();
    let berth = Berth::start().await;
    for round in 0..10 {
        let name = format!("haste {round}");
        let seed = dice.fork();
        let lived = Life::new(&berth, &name).await.hasty(seed).live().await;
        lived.unwrap_or_else(|status| panic!("{name}: {status}\n{}", berth.log()));
        berth.assert_nothing_left(&name).await;
    }
    berth.down().await;
}

/// Writes about 1 MB/s of numbered lines. That it cannot write is an exit code of its own.
const CHATTER: &str = "trap '' PIPE; trap 'echo end; exit 7' TERM; i=0; pad=$(printf %0100d 0)
    while :; do
        stop=$((i + 500)); while [ $i -lt $stop ]; do echo \"line $i $pad\" || exit 9; i=$((i + 1)); done
        sleep 0.05
    done";

/// Lets a container write while `happening` happens; gives the numbers of the lines in its log.
async fn chatter(berth: &mut Berth, happening: impl AsyncFnOnce(&mut Berth)) -> Vec<u64> {
    let mut life = Life::new(berth, "chatter").await;
    let sandbox = life.run_sandbox("alone", NamespaceMode::Container).await.unwrap();
    let id = life.create(&sandbox, "chatter", CHATTER).await.unwrap();
    life.start(&id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    happening(berth).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut life = Life::new(berth, "chatter").await;
    life.stop(&id).await.unwrap();
    life.expect_exit(&id, 7).await.unwrap();
    let numbers = numbers(&life.log("chatter"));
    clear(berth, "after the chatter").await;
    numbers
}

/// The numbers of the lines in a chatter's log.
fn numbers(log: &std::path::Path) -> Vec<u64> {
    let mut lines = truth::log(log);
    assert_eq!(lines.pop().as_deref(), Some("end"));
    assert!(lines.len() > 2000, "only {} lines", lines.len());
    let number = |line: &String| {
        let number = line.strip_prefix("line ").and_then(|rest| rest.split_once(' '));
        let whole = number.filter(|(_, pad)| pad.len() == 100);
        whole
            .unwrap_or_else(|| panic!("not a line: {line:?}"))
            .0
            .parse()
            .unwrap()
    };
    lines.iter().map(number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_is_lost_or_repeated_while_berth_is_down() {
    let _alone = ALONE.lock().await;
    let mut berth = Berth::start().await;
    let numbers = chatter(&mut berth, async |berth| {
        berth.terminate();
        tokio::time::sleep(Duration::from_secs(2)).await;
        berth.restart(&[]).await;
    })
    .await;
    let expected: Vec<_> = (0..numbers.len() as u64).collect();
    assert!(numbers == expected, "lines are lost, repeated or out of order");
    berth.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_is_lost_or_repeated_when_the_shim_is_killed() {
    let _alone = ALONE.lock().await;
    let mut berth = Berth::start().await;
    let numbers = chatter(&mut berth, async |berth| end(berth.shim_pid().unwrap())).await;
    let expected: Vec<_> = (0..numbers.len() as u64).collect();
    assert!(numbers == expected, "lines are lost, repeated or out of order");
    berth.down().await;
}

/// The shim is killed a hundred times at random while pods start, write, run commands and stop. No container dies of
/// it, no line is lost, every exit code is the true one, and berth and containerd agree again within 2 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_deaths_of_the_shim_cost_no_container_no_line_and_no_exit_code() {
    let _alone = ALONE.lock().await;
    if support::berth::handler_is_stock() {
        eprintln!("SKIPPED: containers die with the stock shim");
        return;
    }
    let mut dice = Dice::thrown();
    let berth = Berth::start().await;
    let mut long = Life::new(&berth, "long").await;
    let sandbox = long.run_sandbox("writers", NamespaceMode::Container).await.unwrap();
    let mut writers = Vec::new();
    for number in 0..3 {
        let name = format!("chatter{number}");
        let id = long.create(&sandbox, &name, CHATTER).await.unwrap();
        long.start(&id).await.unwrap();
        writers.push((name, id));
    }
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let lives = tokio::spawn({
        let mut life = Life::new(&berth, "short").await.amid_shims_deaths();
        let over = over.clone();
        async move {
            let mut lived = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                life.live()
                    .await
                    .unwrap_or_else(|status| panic!("after {lived} lives: {status}"));
                lived += 1;
            }
            lived
        }
    });
    let mut last = 0;
    for round in 0..100 {
        let begin = Instant::now();
        let shim = loop {
            if let Some(pid) = berth.shims().into_keys().find(|pid| *pid != last) {
                break pid;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(2),
                "no new shim in round {round}\n{}",
                berth.log()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        tokio::time::sleep(Duration::from_micros(dice.between(0, 400_000))).await;
        end(shim);
        last = shim;
        truth::agree(&berth, &writers, &format!("death {round}")).await;
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let lived = lives.await.unwrap_or_else(|error| panic!("{error}\n{}", berth.log()));
    eprintln!("{lived} short lives amid 100 deaths of the shim");
    for (name, id) in &writers {
        long.stop(id).await.unwrap();
        long.expect_exit(id, 7).await.unwrap();
        let numbers = numbers(&long.log(name));
        let expected: Vec<_> = (0..numbers.len() as u64).collect();
        assert!(
            numbers == expected,
            "lines of {name} are lost, repeated or out of order"
        );
    }
    clear(&berth, "after a hundred deaths").await;
    berth.down().await;
}

fn end(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
}

/// Waits until berth has a containerd other than `old`, and it answers.
async fn renewed(berth: &Berth, old: u32) {
    let begin = Instant::now();
    while berth.containerd_pid().is_none_or(|pid| pid == old)
        || support::berth::channel(&berth.containerd_socket()).await.is_err()
    {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "containerd is not started again\n{}",
            berth.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
