use proptest::prelude::*;

use super::*;
use crate::model::probe::{Check, ProbeFrom};
use ProbeKind::{Liveness, Readiness, Startup};

fn id(letter: char) -> Id {
    letter.to_string().repeat(64).parse().unwrap()
}

fn probe(success_threshold: u32, failure_threshold: u32) -> Probe {
    Probe {
        check: Check::Exec {
            command: vec!["true".into()],
        },
        from: ProbeFrom::Pod,
        initial_delay_s: 0,
        period_ms: 1000,
        timeout_ms: 1000,
        success_threshold,
        failure_threshold,
        grace_s: None,
    }
}

/// A running container past its startup gate, if `kind` is not startup's.
fn sight(kind: ProbeKind) -> Sight {
    Sight {
        container: id('a'),
        running: true,
        over: false,
        deleting: false,
        started: kind != Startup,
        elapsed: Duration::from_secs(100),
    }
}

fn counted(kind: ProbeKind, probe: &Probe, verdicts: &[Verdict]) -> (Counting, Vec<Effect>) {
    let mut counting = Counting::new(kind, id('a'));
    let effects = verdicts.iter().map(|verdict| counting.count(kind, probe, *verdict));
    let effects = effects.collect();
    (counting, effects)
}

const S: Verdict = Verdict::Success;
const F: Verdict = Verdict::Failure;
const U: Verdict = Verdict::Unknown;

#[test]
fn the_initial_result_is_readiness_failure_liveness_success_startup_unknown() {
    let result = |kind| Counting::new(kind, id('a')).result();
    assert_eq!(result(Readiness), ProbeResult::Failure);
    assert_eq!(result(Liveness), ProbeResult::Success);
    assert_eq!(result(Startup), ProbeResult::Unknown);
}

#[test]
fn a_count_in_progress_begins_anew_with_the_next_berth_and_what_it_had_come_to_stays() {
    let probe = probe(2, 3);
    let (counting, _) = counted(Liveness, &probe, &[F, F]);
    let mut resumed = counting.resumed();
    assert_eq!((resumed.result(), resumed.run()), (ProbeResult::Success, 0));
    let effects = [F, F, F].map(|verdict| resumed.count(Liveness, &probe, verdict));
    assert_eq!(effects, [Effect::Nothing, Effect::Nothing, Effect::End]);
    assert_eq!(resumed.resumed().turn(Liveness, &probe, &sight(Liveness)), Turn::Wait);
    let (ready, _) = counted(Readiness, &probe, &[S, S, F]);
    assert_eq!(ready.resumed().result(), ProbeResult::Success);
}

#[test]
fn with_a_new_container_id_the_old_result_is_dropped_counters_reset_and_the_hold_released() {
    let (mut counting, _) = counted(Liveness, &probe(1, 2), &[F, F]);
    assert_eq!(counting.turn(Liveness, &probe(1, 2), &sight(Liveness)), Turn::Wait);
    let new = Sight {
        container: id('b'),
        ..sight(Liveness)
    };
    assert_eq!(counting.turn(Liveness, &probe(1, 2), &new), Turn::Check);
    assert_eq!(counting, Counting::new(Liveness, id('b')));
    assert_eq!(counting.count(Liveness, &probe(1, 2), F), Effect::Nothing);
}

#[test]
fn not_running_is_a_failure_and_the_worker_ends_when_it_will_not_run_again() {
    for kind in ProbeKind::ALL {
        for (over, turn) in [(false, Turn::Wait), (true, Turn::Done)] {
            let mut counting = Counting::new(kind, id('a'));
            let gone = Sight {
                running: false,
                over,
                ..sight(kind)
            };
            assert_eq!(counting.turn(kind, &probe(1, 1), &gone), turn);
            assert_eq!(counting.result(), ProbeResult::Failure);
        }
    }
}

#[test]
fn when_the_pod_is_being_deleted_liveness_and_startup_are_success_and_stop_and_readiness_goes_on() {
    for kind in ProbeKind::ALL {
        let (mut counting, _) = counted(kind, &probe(1, 3), &[F]);
        let deleting = Sight {
            deleting: true,
            ..sight(kind)
        };
        let turn = counting.turn(kind, &probe(1, 3), &deleting);
        if kind == Readiness {
            assert_eq!((turn, counting.result()), (Turn::Check, ProbeResult::Failure));
        } else {
            assert_eq!((turn, counting.result()), (Turn::Done, ProbeResult::Success));
        }
    }
}

#[test]
fn checks_are_skipped_until_whole_seconds_since_the_start_reach_the_initial_delay() {
    let probe = Probe {
        initial_delay_s: 5,
        ..probe(1, 1)
    };
    for (millis, turn) in [
        (0, Turn::Early),
        (4999, Turn::Early),
        (5000, Turn::Check),
        (9000, Turn::Check),
    ] {
        let sight = Sight {
            elapsed: Duration::from_millis(millis),
            ..sight(Readiness)
        };
        assert_eq!(Counting::new(Readiness, id('a')).turn(Readiness, &probe, &sight), turn);
    }
}

#[test]
fn until_started_only_startup_runs_and_after_it_the_others() {
    for kind in ProbeKind::ALL {
        for started in [false, true] {
            let sight = Sight { started, ..sight(kind) };
            let runs = Counting::new(kind, id('a')).turn(kind, &probe(1, 1), &sight) == Turn::Check;
            assert_eq!(runs, started != (kind == Startup), "{kind} {started}");
        }
    }
}

#[test]
fn below_the_threshold_of_consecutive_equal_results_the_old_result_stays() {
    let probe = probe(2, 3);
    let (counting, effects) = counted(Readiness, &probe, &[S, F, S, S]);
    assert_eq!(counting.result(), ProbeResult::Success);
    assert_eq!(effects[..3], [Effect::Nothing; 3]);
    assert_eq!(effects[3], Effect::Changed);
    let (counting, _) = counted(Readiness, &probe, &[S, S, F, F, S, F, F]);
    assert_eq!(counting.result(), ProbeResult::Success);
    let (counting, _) = counted(Readiness, &probe, &[S, S, F, F, F]);
    assert_eq!(counting.result(), ProbeResult::Failure);
}

#[test]
fn the_result_of_a_prober_error_is_discarded_and_counters_are_untouched() {
    let (with, _) = counted(Liveness, &probe(1, 3), &[F, U, F, U, U]);
    let (without, _) = counted(Liveness, &probe(1, 3), &[F, F]);
    assert_eq!(with, without);
    assert_eq!(with.result(), ProbeResult::Success);
}

#[test]
fn a_warning_counts_as_success() {
    let (counting, _) = counted(Readiness, &probe(1, 3), &[Verdict::Warning]);
    assert_eq!(counting.result(), ProbeResult::Success);
}

#[test]
fn after_liveness_failure_the_worker_holds() {
    let (mut counting, effects) = counted(Liveness, &probe(1, 2), &[F, F]);
    assert_eq!(effects, [Effect::Nothing, Effect::End]);
    assert_eq!(counting.turn(Liveness, &probe(1, 2), &sight(Liveness)), Turn::Wait);
}

#[test]
fn after_startup_reaches_a_threshold_in_either_direction_the_worker_holds() {
    for (verdict, effect) in [(S, Effect::Changed), (F, Effect::End)] {
        let (mut counting, effects) = counted(Startup, &probe(1, 1), &[verdict]);
        assert_eq!(effects, [effect]);
        assert_eq!(counting.turn(Startup, &probe(1, 1), &sight(Startup)), Turn::Wait);
    }
}

#[test]
fn readiness_failure_never_holds_or_ends() {
    let (mut counting, effects) = counted(Readiness, &probe(1, 1), &[F, S, F, F]);
    assert_eq!(
        effects,
        [Effect::Nothing, Effect::Changed, Effect::Changed, Effect::Nothing]
    );
    assert_eq!(counting.turn(Readiness, &probe(1, 1), &sight(Readiness)), Turn::Check);
}

#[test]
fn a_result_and_a_hold_survive_a_restart() {
    let (counting, _) = counted(Liveness, &probe(1, 2), &[F, F]);
    let saved = serde_json::to_string(&counting).unwrap();
    let mut restored: Counting = serde_json::from_str(&saved).unwrap();
    assert_eq!(restored, counting);
    assert_eq!(restored.turn(Liveness, &probe(1, 2), &sight(Liveness)), Turn::Wait);
}

fn verdicts() -> impl Strategy<Value = Vec<Verdict>> {
    prop::collection::vec(prop::sample::select(vec![S, F, U, Verdict::Warning]), 0..60)
}

/// The plain telling of the rule: the last run of equal verdicts that was long enough says the result.
fn expected(verdicts: &[Verdict], probe: &Probe, mut result: ProbeResult) -> ProbeResult {
    let said = |verdict: &Verdict| match verdict {
        Verdict::Unknown => None,
        Verdict::Failure => Some(false),
        Verdict::Success | Verdict::Warning => Some(true),
    };
    let said: Vec<bool> = verdicts.iter().filter_map(said).collect();
    for run in said.chunk_by(|a, b| a == b) {
        let (threshold, reached) = match run[0] {
            true => (probe.success_threshold, ProbeResult::Success),
            false => (probe.failure_threshold, ProbeResult::Failure),
        };
        if run.len() >= threshold as usize {
            result = reached;
        }
    }
    result
}

proptest! {
    #[test]
    fn readiness_is_what_the_last_long_enough_run_says(
        verdicts in verdicts(), success in 1_u32..5, failure in 1_u32..5,
    ) {
        let probe = probe(success, failure);
        let (counting, effects) = counted(Readiness, &probe, &verdicts);
        prop_assert_eq!(counting.result(), expected(&verdicts, &probe, ProbeResult::Failure));
        prop_assert!(!effects.contains(&Effect::End));
    }

    #[test]
    fn liveness_ends_its_container_exactly_once_and_only_after_a_full_run_of_failures(
        verdicts in verdicts(), failure in 1_u32..5,
    ) {
        let probe = probe(1, failure);
        let mut counting = Counting::new(Liveness, id('a'));
        let mut ends = 0;
        for verdict in &verdicts {
            if counting.turn(Liveness, &probe, &sight(Liveness)) == Turn::Check {
                ends += u32::from(counting.count(Liveness, &probe, *verdict) == Effect::End);
            }
        }
        let failed = (0..verdicts.len()).any(|end| {
            expected(&verdicts[..=end], &probe, ProbeResult::Success) == ProbeResult::Failure
        });
        prop_assert_eq!(ends, u32::from(failed));
    }

    #[test]
    fn whatever_is_seen_and_counted_a_saved_worker_goes_on_as_if_nothing_had_been(
        verdicts in verdicts(), cut in 0_usize..60, kind in prop::sample::select(ProbeKind::ALL.to_vec()),
    ) {
        let probe = probe(1, 3);
        let mut one = Counting::new(kind, id('a'));
        let mut other = one.clone();
        for (i, verdict) in verdicts.iter().enumerate() {
            if i == cut {
                other = serde_json::from_value(serde_json::to_value(&other).unwrap()).unwrap();
            }
            let turns = [&mut one, &mut other].map(|counting| counting.turn(kind, &probe, &sight(kind)));
            prop_assert_eq!(turns[0], turns[1]);
            if turns[0] == Turn::Check {
                let effects = [&mut one, &mut other].map(|counting| counting.count(kind, &probe, *verdict));
                prop_assert_eq!(effects[0], effects[1]);
            }
        }
        prop_assert_eq!(one, other);
    }
}
