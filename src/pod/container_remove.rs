//! RemoveContainer: kill it if it runs, then forget it and its root file system. Idempotent.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::operation::owned;
use super::registry::Container;
use super::sandbox_stop::remove_directory;
use super::{Core, Pods};
use crate::failpoint::effect;
use crate::model::Id;
use crate::model::container::ContainerState;

impl Pods {
    /// Removes a container, running or not. Its log stays: it belongs to the client.
    pub async fn remove_container(&self, id: &Id) -> Result<(), Error> {
        let (core, container) = (Arc::clone(&self.0), self.0.registry.container(id)?);
        owned(async move { core.remove_container_of(&container).await }).await
    }
}

impl Core {
    pub(super) async fn remove_container_of(self: &Arc<Self>, container: &Container) -> Result<(), Error> {
        self.stop_container_of(container, Duration::ZERO).await?;
        if matches!(container.state(), ContainerState::Exited(_)) {
            container.gone().await;
        }
        let sandbox = self.registry.sandbox(&container.record().sandbox)?;
        let _claim = sandbox.claim.lock().await;
        let handler = self.handler(&sandbox.record().handler);
        let snapshotter = handler.map(|handler| handler.snapshotter.clone());
        let id = &container.id;
        if self.registry.container(id).is_err() {
            return Ok(());
        }
        // Where it could not be cleared away before.
        if self.until_containerd(|| self.containerd.task(id)).await?.is_some() {
            self.delete_task(&sandbox, id).await?;
        }
        if container.state() == ContainerState::Created {
            self.forget_task(&sandbox, container).await?;
        }
        effect("container.directory", async {
            remove_directory(self.paths.container(id))
        })
        .await?;
        // Once begun it is finished: what containerd did before it went away must not stay listed.
        self.until_containerd(|| effect("container.forget", self.containerd.delete_record(id)))
            .await?;
        if let Some(snapshotter) = snapshotter {
            let remove = || {
                effect(
                    "container.unsnapshot",
                    self.containerd.remove_snapshot(&snapshotter, id),
                )
            };
            self.until_containerd(remove).await?;
        }
        self.registry.drop_container(container);
        Ok(())
    }
}
