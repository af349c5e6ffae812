//! What a new berth does about what an earlier one left, at whatever instant that one ended.
//!
//! The records are read back; each sandbox and container is compared with what really is, and either goes on, or is
//! finished, or is undone. Then everything that berth ever makes is looked through for what no record explains:
//! snapshots, leases, cgroups, directories, addresses and links. This relies on:
//!
//! * a record is made before what it stands for and deleted after it, except a container's snapshot and a sandbox's
//!   lease, which carry labels by which they are found;
//! * every name derives from an id ([`super::paths`]);
//! * nothing else of this instance runs: the daemon holds a lock on its root directory.

use std::collections::HashSet;
use std::sync::Arc;

use super::error::Error;
use super::paths::Pipes;
use super::registry::{Container, Name, Sandbox, container_name};
use super::sandbox_stop::remove_directory;
use super::{Core, Pods, now};
use crate::containerd::{Ended, Record, Task};
use crate::model::container::ContainerState;
use crate::model::sandbox::{Pins, SandboxState};
use crate::model::{Id, causes};
use crate::{netns, sys};

/// What to do about a container, by what is recorded of it and what its task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// It is as recorded, and has no task.
    Keep,
    /// Its start was cut off before its process ran: undo it.
    UndoStart,
    /// Its process runs, but that was not recorded yet.
    Adopt { pid: u32 },
    /// It runs, as recorded.
    Watch,
    /// It ended unseen; None: nobody knows how.
    Finish(Option<Ended>),
    /// It started and ended, and neither was recorded.
    FinishUnrecorded(Ended),
    /// Its end is recorded, but its task is still there.
    Clear,
}

/// `undone`: whether a start of it was being undone.
fn decide(state: &ContainerState, task: Option<Task>, undone: bool) -> Action {
    match (state, task) {
        (ContainerState::Created | ContainerState::Exited(_), None) => Action::Keep,
        (ContainerState::Created, Some(Task::Created { .. })) => Action::UndoStart,
        (ContainerState::Created, Some(Task::Stopped(_))) if undone => Action::UndoStart,
        (ContainerState::Created, Some(Task::Running { pid })) => Action::Adopt { pid },
        (ContainerState::Created, Some(Task::Stopped(ended))) => Action::FinishUnrecorded(ended),
        (ContainerState::Running { .. }, Some(Task::Running { .. })) => Action::Watch,
        (ContainerState::Running { .. }, Some(Task::Stopped(ended))) => Action::Finish(Some(ended)),
        // Running is recorded after the start only, so a task that is but created is not the one that ran.
        (ContainerState::Running { .. }, Some(Task::Created { .. }) | None) => Action::Finish(None),
        (ContainerState::Exited(_), Some(_)) => Action::Clear,
    }
}

impl Pods {
    /// Reads back what containerd has recorded and puts right what is not as recorded. To be called once, before
    /// anything is served.
    pub async fn recover(&self) -> Result<(), Error> {
        let core = &self.0;
        core.load().await?;
        for group in core.registry.shim_groups() {
            core.group(&group);
        }
        for container in core.registry.containers() {
            if let Err(error) = core.recover_container(&container).await {
                tracing::error!(id = ?container.id, %error, "cannot put a container right");
            }
        }
        for sandbox in core.registry.sandboxes() {
            if let Err(error) = core.recover_sandbox(&sandbox).await {
                tracing::error!(id = ?sandbox.id, %error, "cannot put a sandbox right; it stays listed as not ready");
            }
        }
        if let Err(error) = core.sweep().await {
            tracing::error!(
                error = causes(&error),
                "cannot remove all leftovers; the next start tries again"
            );
        }
        Ok(())
    }
}

impl Core {
    async fn load(&self) -> Result<(), Error> {
        let records = self.containerd.records(&self.settings.instance).await?;
        let (mut sandboxes, mut containers) = (0, 0);
        for (id, record) in records {
            match record {
                Ok(Record::Sandbox(record)) => {
                    self.take_name(&Name::Sandbox(record.config.name.clone()), &id);
                    self.registry.add_sandbox(Sandbox::new(id, *record));
                    sandboxes += 1;
                }
                Ok(Record::Container(record)) => {
                    self.take_name(&container_name(&record), &id);
                    self.registry.add_container(Container::new(id, *record));
                    containers += 1;
                }
                Err(error) => {
                    tracing::error!(?id, %error, "left alone what cannot be read");
                    self.registry.leave_alone(id);
                }
            }
        }
        tracing::info!(sandboxes, containers, "read the records");
        Ok(())
    }

    /// Two of one name (an undo that failed) are both listed, so that both can be removed.
    fn take_name(&self, name: &Name, id: &Id) {
        if let Err(error) = self.registry.reserve(name, id) {
            tracing::warn!(?id, %error, "a second one of its name");
        }
    }

    async fn recover_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        let id = &container.id;
        let Ok(sandbox) = self.registry.sandbox(&container.record().sandbox) else {
            tracing::error!(?id, "left alone a container whose sandbox is not recorded");
            return Ok(());
        };
        // Their readers died with the berth that began them, and a shim that waits for one answers nothing.
        let _readers = self.exec_readers(id);
        let state = container.state();
        let task = match self.containerd.task(id).await {
            // How it is will show; that it has ended must not be assumed.
            Err(error) if error.is_shim_lost() && matches!(state, ContainerState::Running { .. }) => {
                self.watch_exit(container);
                return Ok(());
            }
            Ok(task @ Some(_)) => task,
            // Not there, or that could not be told.
            _ => self.find_task(&sandbox, id).await?,
        };
        if task.is_some() && sandbox.shim().own {
            let pipes = Pipes::below(&self.paths.container(id));
            self.keep_pipes(&sandbox, id, &pipes, container.record().config.stdin)
                .ok();
            self.keep_process(&sandbox, id).await;
        }
        let action = decide(&state, task, self.paths.undone(id).exists());
        if action != Action::Keep {
            tracing::info!(?id, ?action, "recovering a container");
        }
        match action {
            Action::Keep => {
                if state == ContainerState::Created {
                    self.forget_task(&sandbox, container).await?;
                }
                container.set_gone();
                remove_directory(self.paths.container(id))
            }
            Action::UndoStart => {
                self.delete_task(&sandbox, id).await?;
                self.close_log(id, &container.record(), std::time::Duration::ZERO).await;
                self.unkeep(id);
                remove_directory(self.paths.container(id))
            }
            Action::Adopt { pid } => {
                let started_at = sys::process::started_at(pid).unwrap_or_else(|_| now());
                self.running(container, started_at, pid).await
            }
            Action::Watch => {
                self.end_execs(id).await?;
                self.watch_exit(container);
                Ok(())
            }
            Action::Finish(ended) => self.finish(container, ended).await,
            Action::FinishUnrecorded(ended) => self.ended_unseen(container, ended).await,
            Action::Clear => self.finish(container, None).await,
        }
    }

    async fn recover_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let id = &sandbox.id;
        match sandbox.state() {
            SandboxState::Stopped => Ok(()),
            SandboxState::Creating => {
                tracing::info!(?id, "undoing a half-made sandbox");
                self.remove_sandbox_of(sandbox).await
            }
            SandboxState::Stopping(_) => {
                tracing::info!(?id, "finishing the stop of a sandbox");
                self.stop_sandbox_of(sandbox).await
            }
            SandboxState::Ready(ready) => {
                // A shim that does not tell is no reason to kill a pod; how it is will show.
                let holder_died = ready.holder.is_some()
                    && matches!(
                        self.find_task(sandbox, id).await,
                        Ok(None | Some(Task::Created { .. } | Task::Stopped(_)))
                    );
                if ready.holder.is_some() && sandbox.shim().own && !holder_died {
                    self.keep_process(sandbox, id).await;
                }
                if alive(&ready.pins) && !holder_died {
                    self.watch_ready(sandbox);
                    return Ok(self.dismiss_shim(sandbox).await?);
                }
                tracing::warn!(?id, "the namespaces of a sandbox are gone (a reboot?); stopping it");
                self.stop_sandbox_of(sandbox).await
            }
        }
    }

    /// Removes everything of this instance that no record explains.
    async fn sweep(self: &Arc<Self>) -> Result<(), Error> {
        let known = self.registry.ids();
        let instance = &self.settings.instance;
        let snapshotters: HashSet<_> = self
            .settings
            .handlers
            .values()
            .map(|handler| &handler.snapshotter)
            .collect();
        for snapshotter in snapshotters {
            // A snapshotter that is configured but not loaded holds nothing of ours.
            let snapshots = self
                .containerd
                .container_snapshots(instance, snapshotter)
                .await
                .unwrap_or_default();
            for id in snapshots.iter().filter(|id| !known.contains(id)) {
                tracing::info!(?id, "removing a root file system without a container");
                self.containerd.remove_snapshot(snapshotter, id).await?;
            }
        }
        let ours = format!("labels.\"{}\"=={instance}", crate::model::names::label::INSTANCE);
        for lease in self.containerd.leases().list(&[ours]).await? {
            if !lease.id.parse().is_ok_and(|id: Id| known.contains(&id)) {
                tracing::info!(id = lease.id, "removing a lease without a sandbox");
                self.containerd.leases().delete(&lease.id, false).await?;
            }
        }
        self.sweep_directories(&known)?;
        self.sweep_cgroups(&known).await?;
        self.sweep_shims().await?;
        self.sweep_logs().await;
        Ok(self.network.reconcile(&known).await?)
    }

    fn sweep_directories(&self, known: &HashSet<Id>) -> Result<(), Error> {
        for directory in [self.paths.sandboxes(), self.paths.containers()] {
            let Ok(entries) = std::fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries.flatten() {
                let Ok(id) = entry.file_name().to_string_lossy().parse::<Id>() else {
                    continue;
                };
                if known.contains(&id) {
                    continue;
                }
                for pin in [
                    self.paths.ipc_pin(&id),
                    self.paths.uts_pin(&id),
                    self.paths.net_pin(&id),
                ] {
                    netns::release(&pin)?;
                }
                let shm = self.paths.shm(&id);
                sys::mount::unmount(&shm).map_err(Error::file("cannot unmount", &shm))?;
                remove_directory(entry.path())?;
            }
        }
        Ok(())
    }

    async fn sweep_cgroups(&self, known: &HashSet<Id>) -> Result<(), Error> {
        let (cgroups, root) = (self.settings.cgroups.clone(), self.paths.cgroup_root.clone());
        let failed = |source| Error::Cgroup {
            path: root.clone(),
            source,
        };
        for name in cgroups.children(&root).map_err(failed)? {
            if !name.parse().is_ok_and(|id: Id| known.contains(&id)) {
                self.remove_cgroup(format!("{root}/{name}")).await?;
            }
        }
        Ok(())
    }

    /// Closes the logs of what does not run: of containers whose start was cut off, or that are gone.
    async fn sweep_logs(self: &Arc<Self>) {
        let running = self.registry.containers().into_iter();
        let running = running.filter(|container| matches!(container.state(), ContainerState::Running { .. }));
        let running: HashSet<Id> = running.map(|container| container.id.clone()).collect();
        let groups: HashSet<_> = self.registry.shim_groups().into_iter().collect();
        for group in groups {
            let running = running.clone();
            let swept = self.log_writer(&group, move |writer| {
                let logs = writer.list()?;
                let unknown = logs.iter().filter(|log| !running.contains(&log.open.id));
                unknown.for_each(|log| drop(writer.close(&log.open.id)));
                Ok(())
            });
            if let Err(error) = swept.await {
                tracing::warn!(group, %error, "cannot look for logs without a container");
            }
        }
    }
}

fn alive(pins: &Pins) -> bool {
    let boot_id = sys::boot_id().unwrap_or_default();
    let pins_of = [&pins.net, &pins.ipc, &pins.uts];
    pins.boot_id == boot_id && pins_of.into_iter().flatten().all(|pin| netns::alive(pin, &boot_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::container::Exit;

    const ENDED: Ended = Ended { code: 3, at: 7 };

    fn states() -> [ContainerState; 3] {
        let running = ContainerState::Running { started_at: 1, pid: 2 };
        [
            ContainerState::Created,
            running,
            ContainerState::Exited(Exit::with_code(1, 2, 0, false)),
        ]
    }

    #[test]
    fn every_pair_of_record_and_task_has_its_action() {
        let tasks = [
            None,
            Some(Task::Created { pid: 9 }),
            Some(Task::Running { pid: 9 }),
            Some(Task::Stopped(ENDED)),
        ];
        let expected = [
            [
                Action::Keep,
                Action::UndoStart,
                Action::Adopt { pid: 9 },
                Action::FinishUnrecorded(ENDED),
            ],
            [
                Action::Finish(None),
                Action::Finish(None),
                Action::Watch,
                Action::Finish(Some(ENDED)),
            ],
            [Action::Keep, Action::Clear, Action::Clear, Action::Clear],
        ];
        for (state, row) in states().iter().zip(expected) {
            assert_eq!(tasks.map(|task| decide(state, task, false)), row, "{state:?}");
        }
    }

    #[test]
    fn a_task_that_was_killed_before_it_ran_is_no_container_that_has_ended() {
        let ended = Some(Task::Stopped(ENDED));
        assert_eq!(decide(&ContainerState::Created, ended, true), Action::UndoStart);
        for state in states().iter().skip(1) {
            assert_eq!(decide(state, ended, true), decide(state, ended, false));
        }
    }

    #[test]
    fn an_exit_code_is_never_invented() {
        for state in states() {
            if let Action::Finish(None) = decide(&state, None, false) {
                let exit = Exit::unknown(1, 2);
                assert_eq!((exit.code, exit.reason.as_str()), (255, "Unknown"));
            }
        }
    }
}
