//! What to do next for a pod: a pure decision over what is wanted and what is there.
//!
//! Nothing of a pod's progress is kept but in the records of its sandbox and containers, so the same decision goes on
//! with a pod after berth was killed, or the node, as in a life without.
//!
//! The rules are the kubelet's (`computePodActions`): init containers one by one, each until it succeeds; then all
//! containers; a container that ended is started again as the restart policy says, after a back-off; a sandbox that is
//! lost takes all its containers with it, and the next begins with the init containers.

use std::collections::BTreeMap;

use super::pod::{Pod, RestartPolicy};
use crate::model::Id;

/// What is there of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// The oldest first. Only the last is used; one before it would be left from a time when berth was killed.
    pub sandboxes: Vec<Sandbox>,
    /// Of the last sandbox, by attempt within each name.
    pub runs: Vec<Run>,
    /// The first attempt that no container of a name has had, in this sandbox or another. Absent: 0.
    pub attempts: BTreeMap<String, u32>,
    /// What failed, and the time (nanoseconds since the Unix epoch) before which it must not be tried again.
    pub held: BTreeMap<Subject, i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub id: Id,
    /// Whether containers can run in it.
    pub ready: bool,
}

/// One life of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub id: Id,
    pub name: String,
    pub attempt: u32,
    /// Seconds to wait after its end before the next.
    pub delay_s: u64,
    pub state: RunState,
}

/// Times are nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    Created,
    Running,
    /// `started_at` is 0 when it never ran. `failed`: with another code than 0, or ended for what its probes or its
    /// postStart hook said, whatever its code.
    Exited {
        started_at: i64,
        finished_at: i64,
        code: i32,
        failed: bool,
    },
}

/// What a step is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Sandbox,
    Container(String),
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    RunSandbox,
    /// Release what the sandbox holds; its record and its containers' stay.
    StopSandbox(Id),
    /// Remove a sandbox and its containers.
    RemoveSandbox(Id),
    /// Have the image, create the container, start it.
    Launch {
        sandbox: Id,
        name: String,
        attempt: u32,
        delay_s: u64,
    },
    /// Start what was created and not started.
    Start {
        id: Id,
        name: String,
    },
    /// Remove the record of a run that two others have followed: the one before the latest is still told of.
    Forget {
        id: Id,
        name: String,
    },
    /// Nothing before this time (nanoseconds since the Unix epoch), unless something changes.
    Wait {
        until: i64,
    },
}

impl Step {
    /// None: for a wait, which cannot fail.
    pub fn subject(&self) -> Option<Subject> {
        match self {
            Self::RunSandbox | Self::StopSandbox(_) | Self::RemoveSandbox(_) => Some(Subject::Sandbox),
            Self::Launch { name, .. } | Self::Start { name, .. } | Self::Forget { name, .. } => {
                Some(Subject::Container(name.clone()))
            }
            Self::Wait { .. } => None,
        }
    }
}

/// How far a pod is (Kubernetes' words).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No container but init containers has run yet.
    Pending,
    Running,
    /// All containers ended with code 0 and will not be started again.
    Succeeded,
    /// All containers ended, one of them otherwise, and none will be started again.
    Failed,
}

impl Phase {
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// The steps to do now, one after the other; none of them depends on another's success. Empty: nothing will ever be
/// to do unless something changes.
pub fn plan(pod: &Pod, actual: &Actual, now: i64) -> Vec<Step> {
    let mut steps = Vec::new();
    let phase = phase(pod, actual);
    let (last, left_over) = match actual.sandboxes.split_last() {
        Some((last, before)) => (Some(last), before),
        None => (None, [].as_slice()),
    };
    steps.extend(left_over.iter().map(|sandbox| Step::RemoveSandbox(sandbox.id.clone())));
    match last {
        Some(sandbox) if phase.is_over() => {
            steps.extend(sandbox.ready.then(|| Step::StopSandbox(sandbox.id.clone())));
        }
        Some(sandbox) if sandbox.ready => steps.extend(containers(pod, actual, sandbox, now)),
        // Lost, with the node's boot it may be. Another comes once all of it is released.
        Some(sandbox) => steps.push(Step::RemoveSandbox(sandbox.id.clone())),
        None => steps.push(Step::RunSandbox),
    }
    let mut steps: Vec<_> = steps.into_iter().map(|step| unless_held(step, actual, now)).collect();
    only_first_wait(&mut steps);
    steps
}

/// How far the pod is.
pub fn phase(pod: &Pod, actual: &Actual) -> Phase {
    let failed = |name: &str| actual.exit_code(name).is_some_and(|code| code != 0);
    if pod.restart == RestartPolicy::Never && pod.init.iter().any(|container| failed(&container.name)) {
        return Phase::Failed;
    }
    let last_runs = || pod.containers.iter().map(|container| actual.last_run(&container.name));
    let over = |run: Option<&Run>| run.is_some_and(|run| ended(run) && !restarts(pod, run));
    if last_runs().all(over) {
        let succeeded = pod
            .containers
            .iter()
            .all(|container| actual.exit_code(&container.name) == Some(0));
        return if succeeded { Phase::Succeeded } else { Phase::Failed };
    }
    // A pod that is never restarted cannot go on in another sandbox.
    let lost = actual.sandboxes.last().is_some_and(|sandbox| !sandbox.ready);
    if pod.restart == RestartPolicy::Never && lost && !actual.runs.is_empty() {
        return Phase::Failed;
    }
    let launched = |run: Option<&Run>| run.is_some_and(|run| run.state != RunState::Created);
    if last_runs().any(launched) {
        Phase::Running
    } else {
        Phase::Pending
    }
}

impl Actual {
    /// The latest life of a container.
    pub fn last_run(&self, name: &str) -> Option<&Run> {
        self.runs.iter().rev().find(|run| run.name == name)
    }

    /// How its latest life ended; None: it did not.
    fn exit_code(&self, name: &str) -> Option<i32> {
        match self.last_run(name)?.state {
            RunState::Exited { code, .. } => Some(code),
            RunState::Created | RunState::Running => None,
        }
    }
}

/// The containers' turn: the first init container that has not succeeded, or all others.
fn containers(pod: &Pod, actual: &Actual, sandbox: &Sandbox, now: i64) -> Vec<Step> {
    let superseded = actual.runs.iter().filter(|run| {
        let latest = actual.runs.iter().rev().filter(|other| other.name == run.name);
        latest.take(2).all(|other| other.id != run.id)
    });
    let mut steps: Vec<_> = superseded
        .map(|run| Step::Forget {
            id: run.id.clone(),
            name: run.name.clone(),
        })
        .collect();
    match pod
        .init
        .iter()
        .find(|container| actual.exit_code(&container.name) != Some(0))
    {
        // That it failed for good was seen in the phase.
        Some(init) => steps.extend(advance(&init.name, true, actual, sandbox, now)),
        None => {
            for container in &pod.containers {
                let again = actual.last_run(&container.name).is_none_or(|run| restarts(pod, run));
                steps.extend(advance(&container.name, again, actual, sandbox, now));
            }
        }
    }
    steps
}

/// The next step of one container; `again`: whether it is started once more when it has ended.
fn advance(name: &str, again: bool, actual: &Actual, sandbox: &Sandbox, now: i64) -> Option<Step> {
    let launch = |delay_s| Step::Launch {
        sandbox: sandbox.id.clone(),
        name: name.to_owned(),
        attempt: actual.attempts.get(name).copied().unwrap_or(0),
        delay_s,
    };
    let Some(run) = actual.last_run(name) else {
        return Some(launch(0));
    };
    match run.state {
        RunState::Created => Some(Step::Start {
            id: run.id.clone(),
            name: name.to_owned(),
        }),
        RunState::Running => None,
        RunState::Exited { .. } if !again => None,
        RunState::Exited {
            started_at,
            finished_at,
            ..
        } => {
            let (until, delay_s) = back_off(run.delay_s, started_at, finished_at);
            Some(if now < until {
                Step::Wait { until }
            } else {
                launch(delay_s)
            })
        }
    }
}

/// When a container that ended may be started again; None: it did not end, or will not be started.
pub fn next_start(pod: &Pod, actual: &Actual, name: &str) -> Option<i64> {
    let run = actual.last_run(name)?;
    let RunState::Exited {
        started_at,
        finished_at,
        code,
        ..
    } = run.state
    else {
        return None;
    };
    let initial = pod.init.iter().any(|container| container.name == name);
    let again = if initial {
        code != 0 && pod.restart != RestartPolicy::Never
    } else {
        restarts(pod, run)
    };
    again.then(|| back_off(run.delay_s, started_at, finished_at).0)
}

const SECOND: i64 = 1_000_000_000;

/// When a container that ended may run again, and the delay of that next run. The first restart comes at once, the
/// next after 10 s, then ever twice that up to 300 s; who ran for 10 minutes begins anew. (The kubelet's.)
fn back_off(delay_s: u64, started_at: i64, finished_at: i64) -> (i64, u64) {
    const FIRST_S: u64 = 10;
    const LAST_S: u64 = 300;
    const FORGIVEN: i64 = 600 * SECOND;
    if started_at > 0 && finished_at.saturating_sub(started_at) >= FORGIVEN {
        return (finished_at, FIRST_S);
    }
    let until = finished_at.saturating_add(i64::try_from(delay_s).unwrap_or(i64::MAX).saturating_mul(SECOND));
    (until, delay_s.saturating_mul(2).clamp(FIRST_S, LAST_S))
}

fn ended(run: &Run) -> bool {
    matches!(run.state, RunState::Exited { .. })
}

fn restarts(pod: &Pod, run: &Run) -> bool {
    match (pod.restart, run.state) {
        (RestartPolicy::Always, _) => true,
        (RestartPolicy::OnFailure, RunState::Exited { failed, .. }) => failed,
        (RestartPolicy::OnFailure, _) => true,
        (RestartPolicy::Never, _) => false,
    }
}

fn unless_held(step: Step, actual: &Actual, now: i64) -> Step {
    let held = step.subject().and_then(|subject| actual.held.get(&subject));
    match held {
        Some(until) if now < *until => Step::Wait { until: *until },
        _ => step,
    }
}

/// Of all waits the shortest, at the end.
fn only_first_wait(steps: &mut Vec<Step>) {
    let wait = steps.iter().filter_map(|step| match step {
        Step::Wait { until } => Some(*until),
        _ => None,
    });
    let first = wait.min();
    steps.retain(|step| !matches!(step, Step::Wait { .. }));
    steps.extend(first.map(|until| Step::Wait { until }));
}

#[cfg(test)]
mod tests;
