//! StopContainer: ask it to end, then make it. Idempotent.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::operation::owned;
use super::registry::Container;
use super::{Core, Pods};
use crate::failpoint::effect;
use crate::model::container::ContainerState;
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
}

impl Core {
    pub(super) async fn stop_container_of(&self, container: &Container, grace: Duration) -> Result<(), Error> {
        // A start in progress is awaited, so that it cannot run what was just stopped.
        if let Ok(sandbox) = self.registry.sandbox(&container.record().sandbox) {
            drop(sandbox.claim.lock().await);
        }
        if !matches!(container.state(), ContainerState::Running { .. }) {
            return Ok(());
        }
        if !grace.is_zero() {
            let signal = container.record().stop_signal;
            effect(
                "container.signal",
                self.containerd.kill_task(&container.id, signal, false),
            )
            .await?;
            if tokio::time::timeout(grace, container.ended()).await.is_ok() {
                return Ok(());
            }
        }
        effect(
            "container.kill",
            self.containerd.kill_task(&container.id, Signal::KILL, true),
        )
        .await?;
        match tokio::time::timeout(DEATH, container.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::WillNotDie {
                id: container.id.clone(),
                after: DEATH,
            }),
        }
    }
}
