//! A pod as users see it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::engine::Engine;
use super::observe::Observed;
use super::plan::{self, Phase};
use super::pod::Pod;
use super::store::Store;
use crate::model::Id;
use crate::model::container::ContainerState;
use crate::model::sandbox::SandboxState;

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
}

pub struct ContainerStatus {
    pub name: String,
    pub image: String,
    /// None while it has not been created.
    pub id: Option<Id>,
    /// How many lives it had before the latest.
    pub restarts: u32,
    /// None while it has not been created.
    pub state: Option<ContainerState>,
    /// None while it has not been created.
    pub log: Option<PathBuf>,
}

impl PodStatus {
    pub fn of(pod: &Arc<Pod>, observed: &Observed, store: &Store, deleting: bool) -> Self {
        let last = observed.sandboxes.last();
        let containers = pod.all_containers().map(|container| {
            let view = observed.container(&container.name);
            ContainerStatus {
                name: container.name.clone(),
                image: container.image.clone(),
                id: view.map(|view| view.id.clone()),
                restarts: view.map_or(0, |view| view.record.config.attempt),
                state: view.map(|view| view.record.state.clone()),
                log: view.and_then(|view| view.log_path.clone()),
            }
        });
        Self {
            pod: Arc::clone(pod),
            phase: plan::phase(pod, &observed.actual(pod, store)),
            deleting,
            sandbox: last.map(|view| view.id.clone()),
            ips: match last.map(|view| &view.record.state) {
                Some(SandboxState::Ready(ready)) => ready.ips.clone(),
                _ => Vec::new(),
            },
            containers: containers.collect(),
        }
    }
}

pub fn is_running(engine: &dyn Engine, id: &Id) -> bool {
    let running = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
    engine
        .containers()
        .iter()
        .any(|view| view.id == *id && running(&view.record.state))
}
