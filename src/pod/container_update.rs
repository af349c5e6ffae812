//! UpdateContainerResources: new limits for a created or running container, all or none.

use std::sync::Arc;

use super::error::Error;
use super::operation::owned;
use super::registry::Container;
use super::{Core, Pods};
use crate::containerd;
use crate::failpoint::effect;
use crate::model::Id;
use crate::model::container::ContainerState;
use crate::model::resources::Resources;
use crate::oci;

impl Pods {
    /// Changes the limits that `change` names (zero and empty mean: leave it).
    pub async fn update_container(&self, id: &Id, change: Resources) -> Result<(), Error> {
        let (core, container) = (Arc::clone(&self.0), self.0.registry.container(id)?);
        owned(async move { core.update_container(&container, change).await }).await
    }
}

impl Core {
    async fn update_container(&self, container: &Container, change: Resources) -> Result<(), Error> {
        let sandbox = self.registry.sandbox(&container.record().sandbox)?;
        let _claim = sandbox.claim.lock().await;
        let record = container.record();
        if matches!(record.state, ContainerState::Exited(_)) {
            return Err(container.wrong_state("only a created or running container has limits to change"));
        }
        let resources = record.config.resources.updated(change);
        let update = oci::limits(&resources, &self.settings.host, &mut Vec::new())?;
        let spec = self.containerd.spec(&container.id).await?;
        let changed = with_resources(&spec, &update)?;
        effect("update.spec", self.containerd.update_spec(&container.id, changed)).await?;
        if let ContainerState::Running { .. } = record.state {
            let json = serde_json::to_vec(&update).expect("resources serialise");
            if let Err(error) = effect("update.task", self.containerd.update_task(&container.id, json)).await {
                self.containerd.update_spec(&container.id, spec).await?;
                return Err(error.into());
            }
        }
        let record = self.change_container(container, |record| record.config.resources = resources);
        Ok(effect("update.record", record).await?)
    }
}

/// The spec with these limits, its device rules kept.
fn with_resources(spec: &[u8], update: &oci::LinuxResources) -> Result<Vec<u8>, Error> {
    let unreadable = |error: serde_json::Error| {
        let what = "the spec of the container".to_owned();
        Error::Containerd(containerd::Error::Unreadable {
            what,
            reason: error.to_string(),
        })
    };
    let mut spec: oci::Spec = serde_json::from_slice(spec).map_err(unreadable)?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    let devices = linux
        .resources()
        .as_ref()
        .and_then(|resources| resources.devices().clone());
    let mut resources = update.clone();
    resources.set_devices(devices);
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    Ok(serde_json::to_vec(&spec).expect("a spec serialises"))
}
