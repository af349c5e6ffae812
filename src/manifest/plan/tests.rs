use proptest::prelude::*;

use super::*;
use crate::manifest::parse;

fn pod(init: usize, main: usize, restart: &str) -> Pod {
    let list = |prefix: &str, n: usize| -> String {
        (0..n)
            .map(|i| format!("  - {{name: {prefix}{i}, image: i}}\n"))
            .collect()
    };
    let (init, main) = (list("i", init), list("m", main));
    let head = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n";
    parse(
        &format!("{head}  restartPolicy: {restart}\n  containers:\n{main}  initContainers:\n{init}"),
        0,
    )
    .unwrap()
}

/// A node that does what it is told, badly at times.
#[derive(Default)]
struct Node {
    actual: Actual,
    now: i64,
}

impl Node {
    fn perform(&mut self, step: &Step, fails: bool) {
        let actual = &mut self.actual;
        if let (true, Some(subject)) = (fails, step.subject()) {
            actual.held.insert(subject, self.now + 10 * SECOND);
            return;
        }
        match step.clone() {
            Step::RunSandbox => actual.sandboxes.push(Sandbox {
                id: Id::random(),
                ready: true,
            }),
            Step::StopSandbox(id) => {
                actual
                    .sandboxes
                    .iter_mut()
                    .find(|sandbox| sandbox.id == id)
                    .unwrap()
                    .ready = false;
                self.end_all(0);
            }
            Step::RemoveSandbox(id) => {
                if actual.sandboxes.last().is_some_and(|last| last.id == id) {
                    actual.runs.clear();
                }
                actual.sandboxes.retain(|sandbox| sandbox.id != id);
            }
            Step::Launch {
                name, attempt, delay_s, ..
            } => {
                actual.attempts.insert(name.clone(), attempt + 1);
                actual.runs.push(Run {
                    id: Id::random(),
                    name,
                    attempt,
                    delay_s,
                    state: RunState::Running,
                });
            }
            Step::Start { id, .. } => {
                actual.runs.iter_mut().find(|run| run.id == id).unwrap().state = RunState::Running;
            }
            Step::Forget { id, .. } => actual.runs.retain(|run| run.id != id),
            Step::Wait { until } => self.now = self.now.max(until),
        }
    }

    fn end_all(&mut self, code: i32) {
        for run in &mut self.actual.runs {
            if !ended(run) {
                run.state = RunState::Exited {
                    started_at: self.now,
                    finished_at: self.now,
                    code,
                    failed: code != 0,
                };
            }
        }
    }

    fn exit(&mut self, index: usize, code: i32) {
        let running: Vec<_> = self
            .actual
            .runs
            .iter_mut()
            .filter(|run| run.state == RunState::Running)
            .collect();
        let count = running.len();
        if let Some(run) = running.into_iter().nth(index % count.max(1)) {
            run.state = RunState::Exited {
                started_at: self.now,
                finished_at: self.now + 1,
                code,
                failed: code != 0,
            };
        }
    }
}

/// What may happen to a node between two steps.
#[derive(Debug, Clone)]
enum Event {
    /// The first step of the plan is done; or is tried and fails.
    Step {
        fails: bool,
    },
    /// berth dies between creating and starting a container.
    HalfLaunch,
    Exit {
        index: usize,
        code: i32,
    },
    /// The node boots.
    Boot,
    Later(i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Step { fails: false }),
        1 => Just(Event::Step { fails: true }),
        1 => Just(Event::HalfLaunch),
        3 => (any::<usize>(), prop_oneof![3 => Just(0), 1 => Just(1)]).prop_map(|(index, code)| Event::Exit { index, code }),
        1 => Just(Event::Boot),
        2 => (0..700i64).prop_map(Event::Later),
    ]
}

fn happen(node: &mut Node, pod: &Pod, event: &Event) {
    match event {
        Event::Step { fails } => {
            if let Some(step) = plan(pod, &node.actual, node.now).first() {
                check(pod, &node.actual, step);
                if !matches!(step, Step::Wait { .. }) {
                    node.perform(step, *fails);
                }
            }
        }
        Event::HalfLaunch => {
            if let Some(step @ Step::Launch { .. }) = plan(pod, &node.actual, node.now).first() {
                check(pod, &node.actual, step);
                node.perform(step, false);
                node.actual.runs.last_mut().unwrap().state = RunState::Created;
            }
        }
        Event::Exit { index, code } => node.exit(*index, *code),
        Event::Boot => {
            node.actual.held.clear();
            node.actual
                .sandboxes
                .iter_mut()
                .for_each(|sandbox| sandbox.ready = false);
            node.end_all(255);
        }
        Event::Later(seconds) => node.now += seconds * SECOND,
    }
}

/// What must hold for every step that is ever planned.
fn check(pod: &Pod, actual: &Actual, step: &Step) {
    let (Step::Launch { name, .. } | Step::Start { name, .. }) = step else {
        return;
    };
    assert!(
        actual.sandboxes.last().is_some_and(|sandbox| sandbox.ready),
        "a container needs a sandbox"
    );
    assert!(
        !actual
            .runs
            .iter()
            .any(|run| run.name == *name && run.state == RunState::Running),
        "{name} would run twice"
    );
    let before = pod
        .init
        .iter()
        .position(|init| init.name == *name)
        .unwrap_or(pod.init.len());
    for init in &pod.init[..before] {
        assert_eq!(actual.exit_code(&init.name), Some(0), "{name} before {}", init.name);
    }
    if before < pod.init.len() {
        assert!(
            pod.containers.iter().all(|main| actual.last_run(&main.name).is_none()),
            "init after main"
        );
    }
    if let Step::Launch { attempt, .. } = step {
        assert!(
            actual
                .runs
                .iter()
                .all(|run| run.name != *name || run.attempt < *attempt),
            "the attempt is taken"
        );
    }
}

fn restart() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")]
}

proptest! {
    #[test]
    fn from_every_state_init_containers_succeed_in_order_before_others_start(
        init in 0..4usize, main in 1..4usize, restart in restart(), events in prop::collection::vec(event(), 0..60),
    ) {
        let (pod, mut node) = (pod(init, main, restart), Node { now: SECOND, ..Node::default() });
        for event in &events {
            happen(&mut node, &pod, event);
        }
        // From here on nothing fails, and every init container ends well.
        for _ in 0..100 {
            let steps = plan(&pod, &node.actual, node.now);
            match steps.first() {
                Some(step) => {
                    check(&pod, &node.actual, step);
                    node.perform(step, false);
                }
                None => {
                    let running = |run: &Run| run.state == RunState::Running;
                    let init = node.actual.runs.iter().position(|run| running(run) && run.name.starts_with('i'));
                    match init {
                        Some(at) => {
                            let (started_at, finished_at) = (node.now, node.now + 1);
                            node.actual.runs[at].state = RunState::Exited { started_at, finished_at, code: 0, failed: false };
                        }
                        None => break,
                    }
                }
            }
        }
        prop_assert!(plan(&pod, &node.actual, node.now).is_empty(), "the plan has an end");
        let phase = phase(&pod, &node.actual);
        let all = |wanted: fn(&Run) -> bool| pod.containers.iter().all(|c| node.actual.last_run(&c.name).is_some_and(wanted));
        match phase {
            Phase::Pending => prop_assert!(false, "it gets on"),
            Phase::Running => assert!(all(|run| run.state != RunState::Created)),
            Phase::Succeeded => assert!(all(|run| matches!(run.state, RunState::Exited { code: 0, .. }))),
            Phase::Failed => prop_assert_eq!(restart, "Never"),
        }
        if phase.is_over() {
            prop_assert!(node.actual.sandboxes.iter().all(|sandbox| !sandbox.ready), "nothing is held");
            prop_assert_ne!(restart, "Always");
        }
    }

    #[test]
    fn a_plan_waits_only_last_and_never_for_the_past(
        init in 0..3usize, main in 1..4usize, restart in restart(), events in prop::collection::vec(event(), 0..60),
    ) {
        let (pod, mut node) = (pod(init, main, restart), Node { now: SECOND, ..Node::default() });
        for event in &events {
            happen(&mut node, &pod, event);
            let steps = plan(&pod, &node.actual, node.now);
            for (i, step) in steps.iter().enumerate() {
                if let Step::Wait { until } = step {
                    prop_assert!(i + 1 == steps.len() && *until > node.now);
                }
            }
        }
    }
}

fn exited(name: &str, attempt: u32, delay_s: u64, ran: i64, code: i32) -> Run {
    let state = RunState::Exited {
        started_at: SECOND,
        finished_at: SECOND + ran,
        code,
        failed: code != 0,
    };
    Run {
        id: Id::random(),
        name: name.to_owned(),
        attempt,
        delay_s,
        state,
    }
}

fn with(runs: Vec<Run>) -> Actual {
    let attempts = runs.iter().map(|run| (run.name.clone(), run.attempt + 1)).collect();
    let sandboxes = vec![Sandbox {
        id: Id::random(),
        ready: true,
    }];
    Actual {
        sandboxes,
        runs,
        attempts,
        ..Actual::default()
    }
}

#[test]
fn the_first_restart_comes_at_once_then_ever_later() {
    let mut delay = 0;
    let mut waits = Vec::new();
    for _ in 0..8 {
        let (until, next) = back_off(delay, SECOND, 2 * SECOND);
        waits.push((until - 2 * SECOND) / SECOND);
        delay = next;
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn ten_minutes_of_running_are_a_new_beginning() {
    assert_eq!(back_off(300, SECOND, 601 * SECOND), (601 * SECOND, 10));
    assert_eq!(back_off(300, SECOND, 600 * SECOND).1, 300);
    // What never ran did not run for long.
    assert_eq!(back_off(40, 0, 700 * SECOND), (740 * SECOND, 80));
}

#[test]
fn all_containers_are_launched_in_order_once_the_init_containers_succeeded() {
    let pod = pod(1, 2, "Always");
    let actual = with(vec![exited("i0", 0, 0, 1, 0)]);
    let names: Vec<_> = plan(&pod, &actual, 0).iter().map(Step::subject).collect();
    assert_eq!(names, ["m0", "m1"].map(|name| Some(Subject::Container(name.into()))));
}

#[test]
fn a_failed_init_container_ends_a_pod_that_is_never_restarted_and_is_repeated_otherwise() {
    let actual = with(vec![exited("i0", 0, 0, 1, 3)]);
    let never = pod(1, 1, "Never");
    assert_eq!(phase(&never, &actual), Phase::Failed);
    assert_eq!(
        plan(&never, &actual, 0),
        [Step::StopSandbox(actual.sandboxes[0].id.clone())]
    );
    let again = plan(&pod(1, 1, "OnFailure"), &actual, 2 * SECOND);
    assert!(
        matches!(
            &again[..],
            [Step::Launch {
                attempt: 1,
                delay_s: 10,
                ..
            }]
        ),
        "{again:?}"
    );
}

#[test]
fn a_run_is_forgotten_once_two_have_followed() {
    let runs = vec![
        exited("m0", 0, 0, 1, 1),
        exited("m0", 1, 10, 1, 1),
        exited("m0", 2, 10, 1, 1),
    ];
    let pod = pod(0, 1, "Always");
    assert_eq!(
        plan(&pod, &with(runs[..2].to_vec()), 2 * SECOND),
        [Step::Wait { until: 11 * SECOND + 1 }]
    );
    let steps = plan(&pod, &with(runs.clone()), 2 * SECOND);
    let Step::Forget { id, .. } = &steps[0] else {
        panic!("{steps:?}")
    };
    assert_eq!(*id, runs[0].id);
    assert_eq!(steps[1], Step::Wait { until: 11 * SECOND + 1 });
}

#[test]
fn what_its_probes_ended_is_restarted_on_failure_whatever_its_code() {
    let mut run = exited("m0", 0, 0, 1, 0);
    let RunState::Exited { failed, .. } = &mut run.state else {
        unreachable!()
    };
    *failed = true;
    let actual = with(vec![run]);
    let launches = |restart| {
        let steps = plan(&pod(0, 1, restart), &actual, 2 * SECOND);
        steps.iter().any(|step| matches!(step, Step::Launch { .. }))
    };
    assert_eq!(["Always", "OnFailure", "Never"].map(launches), [true, true, false]);
    assert_eq!(phase(&pod(0, 1, "Never"), &actual), Phase::Succeeded);
}

#[test]
fn a_failed_step_is_not_tried_again_too_early() {
    let pod = pod(0, 2, "Always");
    let mut actual = with(Vec::new());
    actual.held.insert(Subject::Container("m0".into()), 5);
    let steps = plan(&pod, &actual, 1);
    assert_eq!(steps.len(), 2);
    assert_eq!(
        (steps[0].subject(), &steps[1]),
        (Some(Subject::Container("m1".into())), &Step::Wait { until: 5 })
    );
}

#[test]
fn the_phase_is_kubernetes_own() {
    for (restart, runs, expected) in [
        ("Always", vec![], Phase::Pending),
        (
            "Always",
            vec![exited("m0", 0, 0, 1, 0), exited("m1", 0, 0, 1, 0)],
            Phase::Running,
        ),
        (
            "OnFailure",
            vec![exited("m0", 0, 0, 1, 0), exited("m1", 0, 0, 1, 1)],
            Phase::Running,
        ),
        (
            "OnFailure",
            vec![exited("m0", 0, 0, 1, 0), exited("m1", 0, 0, 1, 0)],
            Phase::Succeeded,
        ),
        (
            "Never",
            vec![exited("m0", 0, 0, 1, 0), exited("m1", 0, 0, 1, 1)],
            Phase::Failed,
        ),
        ("Never", vec![exited("m0", 0, 0, 1, 0)], Phase::Running),
    ] {
        assert_eq!(
            phase(&pod(0, 2, restart), &with(runs.clone())),
            expected,
            "{restart} {runs:?}"
        );
    }
}
