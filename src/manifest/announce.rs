//! Tells what changed between two looks at a pod.

use std::collections::BTreeMap;

use super::events::{Happening, Journal};
use super::now;
use super::observe::Observed;
use super::plan::{self, Actual, Phase};
use super::pod::Pod;
use crate::model::Id;
use crate::model::container::ContainerState;
use crate::model::sandbox::SandboxState;

/// What has been told of a pod.
pub struct Announcer {
    /// What came before this time (nanoseconds since the Unix epoch) an earlier berth has told.
    since: i64,
    told: BTreeMap<Id, Told>,
    running: bool,
    over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Created,
    Started,
    Exited,
}

impl Announcer {
    /// Tells what comes after `since`, nanoseconds since the Unix epoch.
    pub fn new(since: i64) -> Self {
        Self {
            since,
            told: BTreeMap::new(),
            running: false,
            over: false,
        }
    }

    /// Tells `journal` what is new. `ending`: nothing of the pod will be started any more.
    pub fn look(&mut self, pod: &Pod, observed: &Observed, actual: &Actual, ending: bool, journal: &Journal) {
        let now = now();
        self.told
            .retain(|id, _| observed.containers.iter().any(|view| view.id == *id));
        for view in &observed.containers {
            let told = self.told.get(&view.id).copied();
            let name = view.record.config.name.as_str();
            let since = self.since;
            let tell = |at, what| {
                if at > since {
                    journal.push(at, Some(name), what);
                }
            };
            if told.is_none() {
                let (id, attempt) = (view.id.clone(), view.record.config.attempt);
                tell(view.record.created_at, Happening::Created { id, attempt });
            }
            let reached = match &view.record.state {
                ContainerState::Created => Told::Created,
                ContainerState::Running { .. } => Told::Started,
                ContainerState::Exited(_) => Told::Exited,
            };
            let started_at = match &view.record.state {
                ContainerState::Created => 0,
                ContainerState::Running { started_at, .. } => *started_at,
                ContainerState::Exited(exit) => exit.started_at,
            };
            if started_at > 0 && told < Some(Told::Started) {
                tell(started_at, Happening::Started);
            }
            let next_start = || plan::next_start(pod, actual, name).filter(|_| !ending);
            if let (ContainerState::Exited(exit), true) = (&view.record.state, told < Some(Told::Exited)) {
                let message = exit.message.clone();
                let (code, reason) = (exit.code, exit.reason);
                tell(exit.finished_at, Happening::Exited { code, reason, message });
                if let Some(until) = next_start().filter(|until| *until > now) {
                    tell(exit.finished_at, Happening::BackOff { until });
                }
            }
            self.told.insert(view.id.clone(), reached);
        }
        self.look_at_pod(pod, observed, actual, now, journal);
    }

    fn look_at_pod(&mut self, pod: &Pod, observed: &Observed, actual: &Actual, now: i64, journal: &Journal) {
        let runs = |name: &str| {
            observed
                .container(name)
                .is_some_and(|view| matches!(view.record.state, ContainerState::Running { .. }))
        };
        let running = pod.containers.iter().all(|container| runs(&container.name));
        if running && !self.running {
            let ips = match observed.sandboxes.last().map(|view| &view.record.state) {
                Some(SandboxState::Ready(ready)) => ready.ips.clone(),
                _ => Vec::new(),
            };
            journal.push(now, None, Happening::Running { ips });
        }
        self.running = running;
        let phase = plan::phase(pod, actual);
        if phase.is_over() && !self.over {
            journal.push(
                now,
                None,
                Happening::Finished {
                    succeeded: phase == Phase::Succeeded,
                },
            );
        }
        self.over = phase.is_over();
    }
}
