//! A pod as users see it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::engine::Engine;
use super::events::Trouble;
use super::failures::Failures;
use super::observe::Observed;
use super::plan::{self, Actual, Phase};
use super::pod::{Container, Pod};
use super::words::full_name;
use crate::model::Id;
use crate::model::container::{ContainerState, Exit};
use crate::model::probe::Health;
use crate::model::sandbox::SandboxState;
use crate::pod::ContainerView;

pub struct PodStatus {
    pub pod: Arc<Pod>,
    pub phase: Phase,
    pub deleting: bool,
    /// None while it has no sandbox.
    pub sandbox: Option<Id>,
    /// The primary one first.
    pub ips: Vec<IpAddr>,
    /// Init containers first, in the manifest's order.
    pub containers: Vec<ContainerStatus>,
    pub conditions: Vec<Condition>,
}

/// One of Kubernetes' conditions of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub met: bool,
}

pub struct ContainerStatus {
    pub name: String,
    pub image: String,
    /// Empty while it has not been created.
    pub image_id: String,
    /// None while it has not been created.
    pub id: Option<Id>,
    /// How many lives it had before the latest.
    pub restarts: u32,
    pub state: State,
    /// How the life before ended: before the latest, or the latest while it waits to be started again.
    pub last: Option<Exit>,
    pub health: Health,
    /// None while it has not been created.
    pub log: Option<PathBuf>,
}

/// Where a container is, as a kubelet reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// One word, such as `CrashLoopBackOff`, and perhaps more.
    Waiting {
        reason: &'static str,
        message: String,
    },
    /// Since when, in nanoseconds since the Unix epoch.
    Running {
        started_at: i64,
    },
    Exited(Exit),
}

/// What a status is made of. `now`: nanoseconds since the Unix epoch.
pub struct Look<'a> {
    pub pod: &'a Arc<Pod>,
    pub observed: &'a Observed,
    pub actual: &'a Actual,
    pub failures: &'a Failures,
    pub engine: &'a dyn Engine,
    pub deleting: bool,
    pub now: i64,
}

impl Look<'_> {
    pub fn status(&self) -> PodStatus {
        let containers: Vec<_> = self.pod.all_containers().map(|c| self.container(c)).collect();
        let last = self.observed.sandboxes.last();
        let ready = match last.map(|view| &view.record.state) {
            Some(SandboxState::Ready(ready)) => Some(ready),
            _ => None,
        };
        PodStatus {
            pod: Arc::clone(self.pod),
            phase: plan::phase(self.pod, self.actual),
            deleting: self.deleting,
            sandbox: last.map(|view| view.id.clone()),
            ips: ready.map(|ready| ready.ips.clone()).unwrap_or_default(),
            conditions: conditions(ready.is_some(), containers.split_at(self.pod.init.len())),
            containers,
        }
    }

    fn container(&self, container: &Container) -> ContainerStatus {
        let (latest, before) = (
            self.observed.container(&container.name),
            self.observed.before(&container.name),
        );
        let state = self.state(container, latest);
        let exit = |view: &ContainerView| match &view.record.state {
            ContainerState::Exited(exit) => Some(exit.clone()),
            ContainerState::Created | ContainerState::Running { .. } => None,
        };
        let waits = matches!(state, State::Waiting { .. });
        let last = latest
            .filter(|_| waits)
            .and_then(exit)
            .or_else(|| before.and_then(exit));
        let mut health = latest.map_or(NOT_WELL, |view| self.engine.health(&view.id));
        if self.pod.init.iter().any(|init| init.name == container.name) {
            // Nobody asks one how it is: it is ready when it is done.
            health.ready = succeeded(&state);
        }
        ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone(),
            image_id: latest.map(|view| view.record.image_ref.clone()).unwrap_or_default(),
            id: latest.map(|view| view.id.clone()),
            restarts: latest.map_or(0, |view| view.record.config.attempt),
            state,
            last,
            health,
            log: latest.and_then(|view| view.log_path.clone()),
        }
    }

    fn state(&self, container: &Container, latest: Option<&ContainerView>) -> State {
        match latest.map(|view| &view.record.state) {
            Some(ContainerState::Running { started_at, .. }) => State::Running {
                started_at: *started_at,
            },
            Some(ContainerState::Exited(exit)) => {
                let waiting = self
                    .failed(&container.name)
                    .or_else(|| self.backing_off(container, exit));
                waiting.unwrap_or_else(|| State::Exited(exit.clone()))
            }
            None | Some(ContainerState::Created) => {
                let creating = if self.pod.init.is_empty() {
                    "ContainerCreating"
                } else {
                    "PodInitializing"
                };
                self.failed(&container.name).unwrap_or_else(|| waiting(creating, ""))
            }
        }
    }

    /// Of a container that ended and is to be started again, but not yet.
    fn backing_off(&self, container: &Container, exit: &Exit) -> Option<State> {
        let until = plan::next_start(self.pod, self.actual, &container.name)?;
        if until <= self.now || self.deleting {
            return None;
        }
        let seconds = until.saturating_sub(exit.finished_at) / 1_000_000_000;
        let message = format!(
            "back-off {seconds}s restarting failed container={} pod={}",
            container.name,
            full_name(self.pod)
        );
        Some(waiting("CrashLoopBackOff", &message))
    }

    /// Of a container that could not be started.
    fn failed(&self, name: &str) -> Option<State> {
        let failure = self.failures.of(name)?;
        let reason = match &failure.trouble {
            Trouble::Image { .. } => "ImagePullBackOff",
            Trouble::NeverPulled { .. } => "ErrImageNeverPull",
            Trouble::Container | Trouble::Sandbox | Trouble::Deletion => "CreateContainerError",
        };
        Some(waiting(reason, &failure.message))
    }
}

const NOT_WELL: Health = Health {
    started: false,
    ready: false,
};

fn waiting(reason: &'static str, message: &str) -> State {
    let message = message.to_owned();
    State::Waiting { reason, message }
}

fn succeeded(state: &State) -> bool {
    matches!(state, State::Exited(exit) if exit.code == 0)
}

/// In the kubelet's order. That a pod is here is all there is to its scheduling.
fn conditions(sandbox: bool, (init, main): (&[ContainerStatus], &[ContainerStatus])) -> Vec<Condition> {
    let ready = sandbox && main.iter().all(|container| container.health.ready);
    let conditions = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", init.iter().all(|container| container.health.ready)),
        ("Ready", ready),
        ("ContainersReady", ready),
        ("PodScheduled", true),
    ];
    conditions.map(|(kind, met)| Condition { kind, met }).into()
}

pub fn is_running(engine: &dyn Engine, id: &Id) -> bool {
    let running = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
    engine
        .containers()
        .iter()
        .any(|view| view.id == *id && running(&view.record.state))
}
