//! StopContainer: ask it to end, then make it. Idempotent.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::operation::owned;
use super::registry::Container;
use super::{ContainerView, Core, Pods};
use crate::containerd;
use crate::failpoint::effect;
use crate::model::container::{ContainerState, Ending};
use crate::model::security::PidMode;
use crate::model::{Id, Signal};

/// How long a process may take to die of SIGKILL (uninterruptible sleep, a core dump) before the stop is an error.
pub(super) const DEATH: Duration = Duration::from_secs(30);

impl Pods {
    /// Sends the container's stop signal and, when it has not ended after `grace`, SIGKILL. Returns when it has
    /// ended. Not running is fine.
    pub async fn stop_container(&self, id: &Id, grace: Duration) -> Result<(), Error> {
        let (core, container) = (Arc::clone(&self.0), self.0.registry.container(id)?);
        owned(async move { core.stop_container_of(&container, grace).await }).await
    }

    /// Waits for a start that is under way, so that what is decided next is about what came of it.
    pub async fn settled(&self, id: &Id) -> Result<(), Error> {
        let container = self.0.registry.container(id)?;
        self.0.settled(&container).await;
        Ok(())
    }

    /// Records why a running container is about to be ended, for its status once it has. The first cause stays. Whether
    /// it runs, and had none.
    pub async fn note_ending(&self, id: &Id, ending: Ending) -> Result<bool, Error> {
        let (core, container) = (Arc::clone(&self.0), self.0.registry.container(id)?);
        owned(async move {
            let record = container.record();
            if record.ending.is_some() || !matches!(record.state, ContainerState::Running { .. }) {
                return Ok(false);
            }
            let note = || core.change_container(&container, |record| record.ending = Some(ending.clone()));
            core.until_containerd(|| effect("container.ending", note())).await?;
            Ok(true)
        })
        .await
    }

    /// The container `id`, if it runs.
    ///
    /// # Errors
    /// `WrongState` if it does not.
    pub fn must_run(&self, id: &Id) -> Result<ContainerView, Error> {
        let container = self.0.registry.container(id)?;
        match container.state() {
            ContainerState::Running { .. } => Ok(self.0.view(&container)),
            _ => Err(container.wrong_state("it must run")),
        }
    }

    /// Waits until a container does not run (any more).
    pub async fn ended(&self, id: &Id) {
        if let Ok(container) = self.0.registry.container(id) {
            container.ended().await;
        }
    }
}

impl Core {
    pub(super) async fn stop_container_of(
        self: &Arc<Self>,
        container: &Container,
        grace: Duration,
    ) -> Result<(), Error> {
        // A start in progress is awaited, so that it cannot run what was just stopped.
        self.settled(container).await;
        if !matches!(container.state(), ContainerState::Running { .. }) {
            return Ok(());
        }
        if !grace.is_zero() {
            let signal = container.record().stop_signal;
            effect("container.signal", self.signal(container, signal, false)).await?;
            if tokio::time::timeout(grace, container.ended()).await.is_ok() {
                return Ok(());
            }
        }
        effect("container.kill", self.signal(container, Signal::KILL, true)).await?;
        match tokio::time::timeout(DEATH, container.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::WillNotDie {
                id: container.id.clone(),
                after: DEATH,
            }),
        }
    }

    async fn settled(&self, container: &Container) {
        if let Ok(sandbox) = self.registry.sandbox(&container.record().sandbox) {
            drop(sandbox.claim.lock().await);
        }
    }

    /// Sends a signal to the container's first process, or to all: by the handle that berth holds, which works whoever
    /// is being restarted, or else through containerd.
    async fn signal(&self, container: &Container, signal: Signal, all: bool) -> Result<(), containerd::Error> {
        if !self.signal_kept(&container.id, signal) {
            return self.containerd.kill_task(&container.id, signal, all).await;
        }
        let record = container.record();
        // The end of a PID namespace's first process is that of all in it.
        if all && record.config.security.namespaces.pid != PidMode::Container {
            self.kill_all(&record.cgroup);
        }
        Ok(())
    }
}
