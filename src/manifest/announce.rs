//! Tells what changed between two looks at a pod.

use std::collections::BTreeMap;

use super::events::{Happening, Journal};
use super::observe::Observed;
use super::plan::{self, Actual, Phase};
use super::pod::Pod;
use crate::model::Id;
use crate::model::container::ContainerState;
use crate::model::sandbox::SandboxState;

/// What has been told of a pod.
#[derive(Default)]
pub struct Announcer {
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
    /// Tells `journal` what is new.
    pub fn look(&mut self, pod: &Pod, observed: &Observed, actual: &Actual, now: i64, journal: &Journal) {
        self.told
            .retain(|id, _| observed.containers.iter().any(|view| view.id == *id));
        for view in &observed.containers {
            let told = self.told.get(&view.id).copied();
            let name = view.record.config.name.as_str();
            let tell = |what| journal.push(now, Some(name), what);
            if told.is_none() {
                tell(Happening::Created {
                    id: view.id.clone(),
                    attempt: view.record.config.attempt,
                });
            }
            let reached = match &view.record.state {
                ContainerState::Created => Told::Created,
                ContainerState::Running { .. } => Told::Started,
                ContainerState::Exited(_) => Told::Exited,
            };
            let started = match &view.record.state {
                ContainerState::Exited(exit) => exit.started_at > 0,
                _ => reached == Told::Started,
            };
            if started && told < Some(Told::Started) {
                tell(Happening::Started);
            }
            if let (ContainerState::Exited(exit), true) = (&view.record.state, told < Some(Told::Exited)) {
                tell(Happening::Exited {
                    code: exit.code,
                    reason: exit.reason,
                    message: exit.message.clone(),
                });
                if let Some(until) = plan::next_start(pod, actual, name).filter(|until| *until > now) {
                    tell(Happening::BackOff { until });
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
