//! The engine in virtual time, with commands that a test answers.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, advance, sleep, timeout};

use super::*;
use crate::dial::{Dialer, Net};
use crate::model::probe::{Check, Probe, ProbeFrom};
use crate::pod::{Error, Exec, ExecResult};

/// What a command does.
#[derive(Clone, Copy)]
enum Act {
    Exit(i32),
    Breaks,
    Hangs,
    /// Exits with 0 after so many milliseconds.
    Takes(u64),
}

/// Commands act as told, the last act for ever; when each began is kept.
#[derive(Default)]
struct Stage {
    acts: Mutex<VecDeque<Act>>,
    begun: Mutex<Vec<(String, Instant)>>,
    dropped: AtomicUsize,
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Stage {
    fn new(acts: &[Act]) -> Arc<Self> {
        Arc::new(Self {
            acts: Mutex::new(acts.iter().copied().collect()),
            ..Self::default()
        })
    }

    fn engine(self: &Arc<Self>) -> (Engine, Reports) {
        let exec: Arc<dyn Exec> = Arc::<Self>::clone(self);
        Engine::new(Checks::new(Dialer::new().unwrap(), exec))
    }

    /// Milliseconds after `since` at which the commands named so began.
    fn begun(&self, name: &str, since: Instant) -> Vec<u128> {
        let begun = self.begun.lock().unwrap();
        let begun = begun.iter().filter(|(said, _)| said == name);
        begun.map(|(_, at)| at.duration_since(since).as_millis()).collect()
    }
}

impl Exec for Stage {
    fn run<'a>(
        &'a self,
        _: &'a Id,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecResult, Error>> {
        self.begun.lock().unwrap().push((command[0].clone(), Instant::now()));
        let act = {
            let mut acts = self.acts.lock().unwrap();
            if acts.len() > 1 {
                acts.pop_front().unwrap()
            } else {
                acts[0]
            }
        };
        Box::pin(async move {
            let counted = Counted(&self.dropped);
            let exit = |code| {
                Ok(ExecResult {
                    stdout: format!("{code}").into_bytes(),
                    code,
                    ..ExecResult::default()
                })
            };
            let result = match act {
                Act::Exit(code) => exit(code),
                Act::Breaks => Err(Error::Panicked("broken".into())),
                Act::Takes(millis) => {
                    sleep(Duration::from_millis(millis)).await;
                    exit(0)
                }
                Act::Hangs => {
                    sleep(timeout.unwrap()).await;
                    Err(Error::ExecTimeout(timeout.unwrap()))
                }
            };
            std::mem::forget(counted);
            result
        })
    }
}

fn id() -> Id {
    "a".repeat(64).parse().unwrap()
}

fn probe(kind: ProbeKind) -> Probe {
    Probe {
        check: Check::Exec {
            command: vec![kind.name().to_owned()],
        },
        from: ProbeFrom::Pod,
        initial_delay_s: 0,
        period_ms: 1000,
        timeout_ms: 500,
        success_threshold: 1,
        failure_threshold: 3,
        grace_s: None,
    }
}

fn subject(kinds: &[ProbeKind]) -> Subject {
    let of = |kind| kinds.contains(&kind).then(|| probe(kind));
    Subject {
        container: id(),
        sandbox: "b".repeat(64).parse().unwrap(),
        name: "demo".into(),
        started_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64,
        target: Target {
            net: Net::Host,
            ip: None,
        },
        probes: Probes {
            liveness: of(ProbeKind::Liveness),
            readiness: of(ProbeKind::Readiness),
            startup: of(ProbeKind::Startup),
        },
    }
}

async fn next(reports: &mut Reports) -> Told {
    timeout(Duration::from_secs(3600), reports.next())
        .await
        .unwrap()
        .unwrap()
}

async fn change(reports: &mut Reports) -> Changed {
    for _ in 0..2000 {
        if let Told::Changed(changed) = next(reports).await {
            return changed;
        }
    }
    panic!("nothing changes");
}

/// A little more than the clock's grain beyond `millis`.
async fn pass(millis: u64) {
    sleep(Duration::from_millis(millis + 5)).await;
}

use ProbeKind::{Liveness, Readiness, Startup};

#[tokio::test(start_paused = true)]
async fn the_first_run_is_at_once_and_then_one_each_period() {
    let stage = Stage::new(&[Act::Exit(0)]);
    let (engine, _reports) = stage.engine();
    let start = Instant::now();
    engine.start(subject(&[Liveness]), None);
    pass(3000).await;
    let begun = stage.begun("liveness", start);
    assert_eq!(begun.len(), 4);
    for (tick, at) in begun.iter().enumerate() {
        assert!((0..=2).contains(&(at - 1000 * tick as u128)), "{begun:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn periods_below_a_second_are_kept() {
    let stage = Stage::new(&[Act::Exit(0)]);
    let (engine, _reports) = stage.engine();
    let mut fast = subject(&[Readiness]);
    fast.probes.readiness.as_mut().unwrap().period_ms = 50;
    engine.start(fast, None);
    pass(1000).await;
    assert_eq!(
        stage.begun("readiness", Instant::now() - Duration::from_secs(2)).len(),
        21
    );
}

#[tokio::test(start_paused = true)]
async fn no_check_before_the_initial_delay_is_over() {
    let stage = Stage::new(&[Act::Exit(0)]);
    let (engine, _reports) = stage.engine();
    let start = Instant::now();
    let mut late = subject(&[Readiness]);
    late.probes.readiness.as_mut().unwrap().initial_delay_s = 5;
    engine.start(late, None);
    pass(1000).await;
    engine.trigger_readiness(&id());
    pass(5000).await;
    let begun = stage.begun("readiness", start);
    // The container's age is wall time, of which a moment has passed.
    assert!((4900..5100).contains(&begun[0]), "{begun:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_liveness_probe_is_told_after_its_checks_and_holds() {
    let stage = Stage::new(&[Act::Exit(0), Act::Exit(7)]);
    let (engine, mut reports) = stage.engine();
    engine.start(subject(&[Liveness]), None);
    let mut verdicts = Vec::new();
    let end = loop {
        match next(&mut reports).await {
            Told::Checked(checked) => verdicts.push((checked.verdict, checked.result)),
            Told::Changed(changed) => break changed,
        }
    };
    let (ok, bad) = (ProbeResult::Success, ProbeResult::Failure);
    let failure = Verdict::Failure;
    assert_eq!(
        verdicts,
        [(Verdict::Success, ok), (failure, ok), (failure, ok), (failure, bad)]
    );
    let expected = End {
        kind: Liveness,
        output: "7".into(),
    };
    assert_eq!(end.saved.end, Some(expected));
    pass(10_000).await;
    assert_eq!(engine.results(&id())[0].totals.failed, 3);
}

#[tokio::test(start_paused = true)]
async fn readiness_failure_makes_unready_and_success_ready_again() {
    let stage = Stage::new(&[Act::Exit(0), Act::Exit(1), Act::Exit(1), Act::Exit(1), Act::Exit(0)]);
    let (engine, mut reports) = stage.engine();
    engine.start(subject(&[Readiness]), None);
    assert!(!engine.health(&id()).unwrap().ready);
    for ready in [true, false, true] {
        let changed = change(&mut reports).await;
        assert_eq!((changed.health.ready, changed.health.started), (ready, true));
        assert_eq!(changed.saved.end, None);
        assert_eq!(engine.health(&id()), Some(changed.health));
    }
}

#[tokio::test(start_paused = true)]
async fn until_started_only_startup_runs_then_it_stops_and_readiness_is_checked_at_once() {
    let stage = Stage::new(&[Act::Exit(1), Act::Exit(1), Act::Takes(300), Act::Exit(0)]);
    let (engine, mut reports) = stage.engine();
    let start = Instant::now();
    engine.start(subject(&ProbeKind::ALL), None);
    assert!(!engine.health(&id()).unwrap().started);
    assert!(change(&mut reports).await.health.started);
    pass(3000).await;
    assert_eq!(stage.begun("startup", start).len(), 3);
    let readiness = stage.begun("readiness", start)[0];
    assert!((2300..2310).contains(&readiness), "{readiness}");
    // Liveness keeps its ticks.
    let liveness = stage.begun("liveness", start)[0];
    assert!((3000..3010).contains(&liveness), "{liveness}");
    assert!(engine.health(&id()).unwrap().ready);
    assert_eq!(
        engine
            .results(&id())
            .iter()
            .map(|status| status.totals.missed)
            .sum::<u64>(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_startup_probe_ends_the_container() {
    let stage = Stage::new(&[Act::Exit(3)]);
    let (engine, mut reports) = stage.engine();
    engine.start(subject(&[Startup, Liveness]), None);
    let end = change(&mut reports).await.saved.end.unwrap();
    assert_eq!((end.kind, end.output.as_str()), (Startup, "3"));
    assert!(stage.begun("liveness", Instant::now()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn inside_one_tick_are_up_to_3_tries_and_only_on_error() {
    let stage = Stage::new(&[
        Act::Breaks,
        Act::Breaks,
        Act::Breaks,
        Act::Breaks,
        Act::Exit(1),
        Act::Exit(0),
    ]);
    let (engine, mut reports) = stage.engine();
    let start = Instant::now();
    engine.start(subject(&[Liveness]), None);
    let mut verdicts = Vec::new();
    for _ in 0..3 {
        match next(&mut reports).await {
            Told::Checked(checked) => verdicts.push(checked.verdict),
            Told::Changed(changed) => panic!("{changed:?}"),
        }
    }
    assert_eq!(verdicts, [Verdict::Unknown, Verdict::Failure, Verdict::Success]);
    let seconds: Vec<_> = stage.begun("liveness", start).iter().map(|at| at / 1000).collect();
    assert_eq!(seconds, [0, 0, 0, 1, 1, 2]);
    let totals = engine.results(&id())[0].totals;
    assert_eq!((totals.unknown, totals.failed, totals.successful), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_takes_too_long_is_a_failure_that_says_so() {
    let stage = Stage::new(&[Act::Hangs]);
    let (engine, mut reports) = stage.engine();
    engine.start(subject(&[Liveness]), None);
    let end = change(&mut reports).await.saved.end.unwrap();
    assert_eq!(end.output, "command \"liveness\" timed out");
}

#[tokio::test(start_paused = true)]
async fn when_the_pod_is_being_deleted_liveness_stops_with_success_even_in_a_check_and_readiness_goes_on() {
    let stage = Stage::new(&[Act::Exit(1), Act::Exit(1), Act::Hangs]);
    let (engine, _reports) = stage.engine();
    engine.start(subject(&[Liveness, Readiness]), None);
    pass(1100).await;
    engine.deleting(&id());
    pass(1).await;
    assert_eq!(
        stage.dropped.load(Ordering::SeqCst),
        1,
        "the liveness check is cancelled, readiness' is not"
    );
    pass(5000).await;
    let results = engine.results(&id());
    assert_eq!((results[0].kind, results[0].result), (Liveness, ProbeResult::Success));
    assert_eq!(results[0].totals.failed, 1);
    assert!(results[1].totals.failed > 3);
}

#[tokio::test(start_paused = true)]
async fn the_results_of_a_container_that_has_ended_are_failures_and_it_is_not_ready() {
    let stage = Stage::new(&[Act::Exit(0)]);
    let (engine, mut reports) = stage.engine();
    engine.start(subject(&[Liveness, Readiness]), None);
    assert!(change(&mut reports).await.health.ready);
    engine.ended(&id());
    let health = change(&mut reports).await.health;
    assert!(!health.ready && !health.started);
    pass(1000).await;
    assert!(
        engine
            .results(&id())
            .iter()
            .all(|status| status.result == ProbeResult::Failure)
    );
}

#[tokio::test(start_paused = true)]
async fn to_stop_a_container_cancels_its_running_check_and_forgets_it() {
    let stage = Stage::new(&[Act::Hangs]);
    let (engine, _reports) = stage.engine();
    engine.start(subject(&[Liveness]), None);
    pass(10).await;
    engine.stop(&id());
    pass(1).await;
    assert_eq!(stage.dropped.load(Ordering::SeqCst), 1);
    assert_eq!(engine.health(&id()), None);
    pass(5000).await;
    assert_eq!(stage.begun.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_workers_end_with_the_engine() {
    let stage = Stage::new(&[Act::Exit(0)]);
    let (engine, mut reports) = stage.engine();
    engine.start(subject(&[Liveness]), None);
    pass(10).await;
    drop(engine);
    pass(5000).await;
    assert_eq!(stage.begun.lock().unwrap().len(), 1);
    assert!(matches!(reports.next().await, Some(Told::Checked(_))));
    assert!(reports.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn readiness_of_a_started_but_not_ready_container_can_be_triggered_by_hand() {
    let stage = Stage::new(&[Act::Exit(1), Act::Exit(0)]);
    let (engine, _reports) = stage.engine();
    let start = Instant::now();
    engine.start(subject(&[Readiness]), None);
    pass(300).await;
    engine.trigger_readiness(&id());
    pass(100).await;
    // Ready: no effect.
    engine.trigger_readiness(&id());
    pass(1000).await;
    let begun = stage.begun("readiness", start);
    assert_eq!(begun.len(), 3, "{begun:?}");
    assert!(
        (300..320).contains(&begun[1]) && (1300..1330).contains(&begun[2]),
        "{begun:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn results_survive_a_restart_of_berth_and_nothing_is_checked_twice_at_once() {
    let stage = Stage::new(&[Act::Exit(0)]);
    let (engine, mut reports) = stage.engine();
    engine.start(subject(&[Startup, Readiness]), None);
    // The two results may be told as one change.
    let mut changed = change(&mut reports).await;
    while !changed.health.ready {
        changed = change(&mut reports).await;
    }
    let saved = changed.saved;
    drop(engine);
    let saved = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();
    let again = Stage::new(&[Act::Exit(0)]);
    let (engine, _reports) = again.engine();
    engine.start(subject(&[Startup, Readiness]), Some(saved));
    let health = engine.health(&id()).unwrap();
    assert!(health.started && health.ready);
    pass(3000).await;
    let since = Instant::now() - Duration::from_secs(10);
    assert_eq!(again.begun("startup", since).len(), 0);
    assert!((3..=4).contains(&again.begun("readiness", since).len()));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_decided_before_a_restart_is_told_again() {
    let stage = Stage::new(&[Act::Exit(7)]);
    let (engine, mut reports) = stage.engine();
    engine.start(subject(&[Liveness]), None);
    let saved = change(&mut reports).await.saved;
    let (engine, mut reports) = stage.engine();
    engine.start(subject(&[Liveness]), Some(saved.clone()));
    let told = change(&mut reports).await.saved;
    assert!(saved.end.is_some());
    assert_eq!(told.end, saved.end);
    assert_eq!(told.get(Liveness).unwrap().result(), ProbeResult::Failure);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_resumed_probes_are_spread_over_their_period() {
    let stage = Stage::new(&[Act::Exit(0)]);
    let (engine, _reports) = stage.engine();
    let start = Instant::now();
    for number in 0..1000 {
        let mut one = subject(&[Liveness]);
        one.container = format!("{number:064x}").parse().unwrap();
        engine.start(one, Some(Saved::default()));
    }
    pass(990).await;
    let mut slots = [0; 10];
    for at in stage.begun("liveness", start) {
        slots[(at / 100).min(9) as usize] += 1;
    }
    assert!(slots.iter().all(|count| (90..=110).contains(count)), "{slots:?}");
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_is_slow_stops_no_probe_and_loses_no_end() {
    let stage = Stage::new(&[Act::Exit(0)]);
    let (engine, mut reports) = stage.engine();
    let mut fast = subject(&[Readiness]);
    fast.probes.readiness.as_mut().unwrap().period_ms = 10;
    engine.start(fast, None);
    sleep(Duration::from_secs(20)).await;
    *stage.acts.lock().unwrap() = [Act::Exit(9)].into();
    let mut dying = subject(&[Liveness]);
    dying.container = "c".repeat(64).parse().unwrap();
    engine.start(dying, None);
    sleep(Duration::from_secs(10)).await;
    assert!(engine.results(&id())[0].totals.successful >= 1999);
    assert!(engine.lost() > 1000, "{}", engine.lost());
    let ended = loop {
        let changed = change(&mut reports).await;
        if changed.saved.end.is_some() {
            break changed.subject.container.clone();
        }
    };
    assert_eq!(ended.as_str(), "c".repeat(64));
}

#[tokio::test(start_paused = true)]
async fn ticks_that_pass_during_a_check_are_counted_as_missed_and_never_made_up_for() {
    let stage = Stage::new(&[Act::Takes(450), Act::Exit(0)]);
    let (engine, mut reports) = stage.engine();
    let start = Instant::now();
    let mut fast = subject(&[Liveness]);
    fast.probes.liveness.as_mut().unwrap().period_ms = 200;
    engine.start(fast, None);
    let Told::Checked(first) = next(&mut reports).await else {
        panic!("no check")
    };
    assert_eq!(first.missed, 2);
    advance(Duration::from_millis(1)).await;
    pass(400).await;
    let begun: Vec<_> = stage.begun("liveness", start).iter().map(|at| at / 100).collect();
    assert_eq!(begun, [0, 6, 8]);
}
