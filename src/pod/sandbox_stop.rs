//! StopPodSandbox: end the pod's processes and give back everything the pod holds. Idempotent.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::operation::owned;
use super::registry::Sandbox;
use super::{Core, Pods, blocking};
use crate::failpoint::effect;
use crate::model::sandbox::{Ready, SandboxState};
use crate::model::{Id, Signal};
use crate::{netns, sys};

impl Pods {
    /// Stops a sandbox: kills its containers, releases its network and namespaces. Stopped already is fine.
    pub async fn stop_sandbox(&self, id: &Id) -> Result<(), Error> {
        let (core, sandbox) = (Arc::clone(&self.0), self.0.registry.sandbox(id)?);
        owned(async move { core.stop_sandbox_of(&sandbox).await }).await
    }
}

impl Core {
    pub(super) async fn stop_sandbox_of(self: &Arc<Self>, sandbox: &Sandbox) -> Result<(), Error> {
        let Some(holder) = self.begin_stop(sandbox).await? else {
            return Ok(());
        };
        self.kill_containers(&sandbox.id).await?;
        let _claim = sandbox.claim.lock().await;
        if sandbox.state() == SandboxState::Stopped {
            return Ok(());
        }
        self.release_sandbox(sandbox, holder).await?;
        Ok(effect("sandbox.stopped", self.set_sandbox(sandbox, SandboxState::Stopped)).await?)
    }

    /// Records that the sandbox is going, so that nothing new starts in it. None: it is stopped already. Otherwise
    /// whether it may have a holder.
    async fn begin_stop(self: &Arc<Self>, sandbox: &Sandbox) -> Result<Option<bool>, Error> {
        let _claim = sandbox.claim.lock().await;
        match sandbox.state() {
            SandboxState::Stopped => Ok(None),
            SandboxState::Stopping(ready) => Ok(Some(ready.holder.is_some())),
            SandboxState::Ready(ready) => {
                let holder = ready.holder.is_some();
                effect(
                    "sandbox.stopping",
                    self.set_sandbox(sandbox, SandboxState::Stopping(ready)),
                )
                .await?;
                Ok(Some(holder))
            }
            // It failed half-made; what it has cannot be told from here.
            SandboxState::Creating => {
                let ready = Ready {
                    holder: Some(0),
                    ..Ready::default()
                };
                effect(
                    "sandbox.stopping",
                    self.set_sandbox(sandbox, SandboxState::Stopping(ready)),
                )
                .await?;
                Ok(Some(true))
            }
        }
    }

    async fn kill_containers(self: &Arc<Self>, id: &Id) -> Result<(), Error> {
        let containers = self.registry.containers_of(id);
        let stops = containers
            .iter()
            .map(|container| self.stop_container_of(container, Duration::ZERO));
        let results = futures_util::future::join_all(stops).await;
        Error::from_all(results.into_iter().filter_map(Result::err).collect())?;
        // The pod's cgroup, mounts and namespaces are free once the tasks are gone, too.
        for container in containers {
            if matches!(container.state(), crate::model::container::ContainerState::Exited(_)) {
                container.gone().await;
            }
        }
        Ok(())
    }

    /// Gives back all that a sandbox may hold, backwards. Whatever is gone already is fine.
    pub(super) async fn release_sandbox(self: &Arc<Self>, sandbox: &Sandbox, holder: bool) -> Result<(), Error> {
        let id = &sandbox.id;
        let config = sandbox.record().config;
        let mut errors = Vec::new();
        errors.extend(self.end_tasks(sandbox, holder).await.err());
        errors.extend(self.network.detach(id).await.err().map(Error::from));
        let pins = [self.paths.net_pin(id), self.paths.ipc_pin(id), self.paths.uts_pin(id)];
        let released = effect(
            "sandbox.release",
            blocking(move || pins.iter().try_for_each(|pin| netns::release(pin))),
        );
        errors.extend(released.await.err().map(Error::from));
        let shm = self.paths.shm(id);
        let unmounted = effect("sandbox.unmount", async { sys::mount::unmount(&shm) }).await;
        errors.extend(unmounted.map_err(Error::file("cannot unmount", &shm)).err());
        if config.cgroup_parent.is_none() {
            errors.extend(
                effect("sandbox.cgroup", self.remove_cgroup(self.paths.own_cgroup(id)))
                    .await
                    .err(),
            );
        }
        errors.extend(
            effect("sandbox.directory", async { remove_directory(self.paths.sandbox(id)) })
                .await
                .err(),
        );
        Error::from_all(errors)
    }

    /// Ends what is left of a sandbox' processes once its containers have ended: its holder and its shim.
    async fn end_tasks(self: &Arc<Self>, sandbox: &Sandbox, holder: bool) -> Result<(), Error> {
        if holder {
            self.end_holder(sandbox).await?;
            let (id, config) = (&sandbox.id, sandbox.record().config);
            self.kill_leftovers(&format!("{}/{id}", self.pod_cgroup(id, &config)));
        }
        Ok(self.dismiss_shim(sandbox).await?)
    }

    pub(super) async fn end_holder(self: &Arc<Self>, sandbox: &Sandbox) -> Result<(), Error> {
        let id = &sandbox.id;
        if self.find_task(sandbox, id).await?.is_none() {
            return Ok(());
        }
        if !self.signal_kept(id, Signal::KILL) {
            effect("sandbox.holder.kill", self.containerd.kill_task(id, Signal::KILL, true)).await?;
        }
        // It dies at once; should the task be gone meanwhile, the deletion finds nothing.
        let died = tokio::time::timeout(super::container_stop::DEATH, self.wait_exit(sandbox, id)).await;
        died.map_err(|_| Error::WillNotDie {
            id: id.clone(),
            after: super::container_stop::DEATH,
        })?;
        let _others = sandbox.deleting().await;
        let delete = || effect("sandbox.holder.delete", self.containerd.delete_task(id));
        let deleted = self.until_containerd(delete).await?;
        self.unkeep(id);
        self.surely_deleted(sandbox, id, deleted).await
    }

    pub(super) async fn remove_cgroup(&self, path: String) -> Result<(), Error> {
        let cgroups = self.settings.cgroups.clone();
        let removed = {
            let path = path.clone();
            blocking(move || cgroups.remove(&path)).await
        };
        removed.map_err(|source| Error::Cgroup { path, source })
    }
}

pub(super) fn remove_directory(path: PathBuf) -> Result<(), Error> {
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("cannot remove", path)(error)),
        _ => Ok(()),
    }
}
