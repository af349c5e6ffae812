//! What the core's records say about one pod.

use std::collections::BTreeMap;

use super::engine::Engine;
use super::plan::{Actual, Run, RunState, Sandbox};
use super::pod::Pod;
use super::request::DELAY;
use super::store::Store;
use crate::model::container::ContainerState;
use crate::model::sandbox::{Owner, SandboxState};
use crate::pod::{ContainerView, SandboxView};

/// The records of one pod.
pub struct Observed {
    /// The oldest first.
    pub sandboxes: Vec<SandboxView>,
    /// Those of the last sandbox, by attempt.
    pub containers: Vec<ContainerView>,
}

impl Observed {
    pub fn of(pod: &Pod, engine: &dyn Engine) -> Self {
        let mut sandboxes = engine.sandboxes();
        sandboxes.retain(|view| view.record.owner == Owner::Manifest && view.record.config.name.uid == pod.uid);
        let last = sandboxes.last().map(|view| view.id.clone());
        let mut containers = engine.containers();
        containers.retain(|view| Some(&view.record.sandbox) == last.as_ref());
        containers.sort_by_key(|view| view.record.config.attempt);
        Self { sandboxes, containers }
    }

    /// The latest life of a container.
    pub fn container(&self, name: &str) -> Option<&ContainerView> {
        self.containers
            .iter()
            .rev()
            .find(|view| view.record.config.name == name)
    }

    /// The life of a container before its latest, while it is remembered.
    pub fn before(&self, name: &str) -> Option<&ContainerView> {
        let mut lives = self.containers.iter().rev();
        lives.by_ref().filter(|view| view.record.config.name == name).nth(1)
    }

    /// For the plan. `store` is asked how often a container ran that has no record.
    pub fn actual(&self, pod: &Pod, store: &Store) -> Actual {
        let attempt = |name: &str| match self.container(name) {
            Some(view) => view.record.config.attempt + 1,
            None => store.next_attempt(pod, name),
        };
        Actual {
            sandboxes: self.sandboxes.iter().map(sandbox).collect(),
            runs: self.containers.iter().map(run).collect(),
            attempts: pod
                .all_containers()
                .map(|c| (c.name.clone(), attempt(&c.name)))
                .collect(),
            held: BTreeMap::new(),
        }
    }
}

fn sandbox(view: &SandboxView) -> Sandbox {
    Sandbox {
        id: view.id.clone(),
        ready: matches!(view.record.state, SandboxState::Ready(_)),
    }
}

fn run(view: &ContainerView) -> Run {
    let config = &view.record.config;
    let state = match &view.record.state {
        ContainerState::Created => RunState::Created,
        ContainerState::Running { .. } => RunState::Running,
        ContainerState::Exited(exit) => RunState::Exited {
            started_at: exit.started_at,
            finished_at: exit.finished_at,
            code: exit.code,
            failed: exit.code != 0 || view.record.ending.is_some(),
        },
    };
    Run {
        id: view.id.clone(),
        name: config.name.clone(),
        attempt: config.attempt,
        delay_s: config
            .annotations
            .get(DELAY)
            .and_then(|delay| delay.parse().ok())
            .unwrap_or(0),
        state,
    }
}
