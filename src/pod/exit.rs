//! The end of a container: one task per running container waits for it, records it, and clears the task away.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::registry::{Container, Sandbox};
use super::sandbox_stop::remove_directory;
use super::{Core, now};
use crate::containerd::{Ended, Task};
use crate::failpoint::effect;
use crate::model::Id;
use crate::model::container::{ContainerState, Exit};
use crate::model::sandbox::SandboxState;
use crate::sys;

/// How long the rest of a container's output may take to reach its log after its end. It takes longer only when a
/// process that outlived it holds the pipe, and the deletion of the task ends that.
const DRAIN: Duration = Duration::from_secs(2);

/// How long to wait before an end that could not be recorded or cleared away (a full disk?) is tried again.
const AGAIN: Duration = Duration::from_secs(2);

impl Core {
    /// Waits for the end of a running container in a task of the daemon's.
    pub(super) fn watch_exit(self: &Arc<Self>, container: &Arc<Container>) {
        let (core, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            let Ok(sandbox) = core.registry.sandbox(&container.record().sandbox) else {
                return;
            };
            let ended = core.wait_exit(&sandbox, &container.id).await;
            while let Err(error) = core.finish(&container, ended).await {
                tracing::error!(id = ?container.id, %error, "cannot clear away an ended container; trying again");
                tokio::time::sleep(AGAIN).await;
                if core.registry.container(&container.id).is_err() {
                    return;
                }
            }
        });
    }

    /// Waits, in a task of the daemon's, for the end of the process that holds a pod's PID namespace. Without it the
    /// kernel has killed all in that namespace and lets nobody in, so the sandbox is stopped.
    pub(super) fn watch_holder(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let (core, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        tokio::spawn(async move {
            core.wait_exit(&sandbox, &sandbox.id).await;
            if let SandboxState::Ready(_) = sandbox.state() {
                tracing::warn!(id = ?sandbox.id, "the holder of a pod's PID namespace ended; stopping the sandbox");
                if let Err(error) = core.stop_sandbox_of(&sandbox).await {
                    tracing::error!(id = ?sandbox.id, %error, "cannot stop a sandbox; it stays listed as not ready");
                }
            }
        });
    }

    /// How the task `id` ended; None when nobody can know any more.
    pub(super) async fn wait_exit(self: &Arc<Self>, sandbox: &Sandbox, id: &Id) -> Option<Ended> {
        loop {
            match self.until_containerd(|| self.containerd.wait_task(id)).await {
                Ok(ended) => return Some(ended),
                Err(error) => tracing::debug!(?id, %error, "the wait for a container's end was cut off"),
            }
            // The shim may have died, or containerd may be about to notice; it knows soon.
            match self.until_containerd(|| self.containerd.task(id)).await {
                Ok(None) => match self.reclaim(sandbox, id).await {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(error) => {
                        tracing::warn!(?id, %error, "cannot give a task back to containerd; trying again");
                        tokio::time::sleep(AGAIN).await;
                    }
                },
                Ok(Some(Task::Stopped(ended))) => return Some(ended),
                Ok(Some(_)) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Records an end and clears the task away. Also what recovery does for a container that ended meanwhile.
    pub(super) async fn finish(self: &Arc<Self>, container: &Container, ended: Option<Ended>) -> Result<(), Error> {
        let (id, record) = (&container.id, container.record());
        let ended = match (ended, self.registry.sandbox(&record.sandbox)) {
            (Some(ended), Ok(sandbox)) => self.surely(&sandbox, id, ended).await,
            (ended, _) => ended,
        };
        if let ContainerState::Running { started_at, .. } = record.state {
            if ended.is_none() {
                self.kill_leftovers(&record.cgroup);
            }
            let exit = match ended {
                Some(ended) => Exit::with_code(started_at, ended.at, ended.code, self.was_oom(&record.cgroup)),
                None => Exit::unknown(started_at, now()),
            };
            self.close_log(id, &record, DRAIN).await;
            let record = || {
                self.change_container(container, |record| {
                    record.state = ContainerState::Exited(exit.clone().because(record.ending.as_ref()));
                })
            };
            self.until_containerd(|| effect("container.exited", record())).await?;
        }
        let gone = self.clear(container).await;
        // Also when that failed: whoever waits goes on and meets the error itself.
        container.set_gone();
        gone
    }

    async fn clear(self: &Arc<Self>, container: &Container) -> Result<(), Error> {
        let record = container.record();
        let sandbox = self.registry.sandbox(&record.sandbox)?;
        self.delete_task(&sandbox, &container.id).await?;
        self.unkeep(&container.id);
        remove_directory(self.paths.container(&container.id))
    }

    /// Whether the kernel killed a process of this cgroup for memory.
    fn was_oom(&self, cgroup: &str) -> bool {
        matches!(self.settings.cgroups.oom_kills(cgroup), Ok(Some(kills)) if kills > 0)
    }

    /// Kills what a vanished shim may have left running.
    pub(super) fn kill_leftovers(&self, cgroup: &str) {
        let killed = self.kill_all(cgroup);
        if killed > 0 {
            tracing::warn!(killed, cgroup, "killed processes that nobody held any more");
        }
    }

    /// Kills all processes in a cgroup, and says how many there were.
    pub(super) fn kill_all(&self, cgroup: &str) -> usize {
        let pids = self.settings.cgroups.pids(cgroup).unwrap_or_default();
        pids.iter().for_each(|pid| sys::process::kill(pid.cast_unsigned()));
        pids.len()
    }
}
