//! RemovePodSandbox: stop it, remove its containers, forget it. Idempotent.

use std::sync::Arc;

use super::error::Error;
use super::operation::owned;
use super::registry::Sandbox;
use super::{Core, Pods};
use crate::containerd;
use crate::failpoint::effect;
use crate::model::Id;

impl Pods {
    /// Removes a sandbox and its containers, running or not.
    pub async fn remove_sandbox(&self, id: &Id) -> Result<(), Error> {
        let (core, sandbox) = (Arc::clone(&self.0), self.0.registry.sandbox(id)?);
        owned(async move { core.remove_sandbox_of(&sandbox).await }).await
    }
}

impl Core {
    pub(super) async fn remove_sandbox_of(self: &Arc<Self>, sandbox: &Sandbox) -> Result<(), Error> {
        self.stop_sandbox_of(sandbox).await?;
        for container in self.registry.containers_of(&sandbox.id) {
            self.remove_container_of(&container).await?;
        }
        let _claim = sandbox.claim.lock().await;
        if self.registry.sandbox(&sandbox.id).is_err() {
            return Ok(());
        }
        // Once begun it is finished: what containerd did before it went away must not stay listed.
        self.until_containerd(|| self.forget_sandbox(&sandbox.id)).await?;
        self.registry.drop_sandbox(sandbox);
        self.release_group(&sandbox.shim().group);
        Ok(())
    }

    /// Deletes what containerd has of a sandbox: first the record, so that a sandbox is never listed without what
    /// its record promises; a lease left behind is found by its label.
    pub(super) async fn forget_sandbox(&self, id: &Id) -> Result<(), containerd::Error> {
        effect("sandbox.forget", self.containerd.delete_record(id)).await?;
        effect("sandbox.unlease", self.containerd.leases().delete(id.as_str(), false)).await
    }
}
