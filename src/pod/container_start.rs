//! StartContainer: its pipes, its log, its task, its process.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::Mode;

use super::error::{Error, Kind};
use super::operation::Key;
use super::paths::Pipes;
use super::registry::{Container, Sandbox};
use super::sandbox_stop::remove_directory;
use super::{Core, Pods, now};
use crate::containerd::{self, Ended, Stdio, Task};
use crate::failpoint::effect;
use crate::model::Id;
use crate::model::container::{ContainerState, Exit, Reason};

/// How long a task is made again and again whose shim is killed meanwhile.
pub(super) const AGAIN: Duration = Duration::from_secs(30);

/// The exit code of a container that could not be started, as Kubernetes' other runtimes give it.
const START_ERROR_CODE: i32 = 128;

/// How long a shim may not answer: one waits up to 30 s for a reader of a process' output, and containerd takes a
/// moment to notice that one has died.
const SILENCE: Duration = Duration::from_secs(40);

impl Pods {
    /// Starts a created container.
    ///
    /// # Errors
    /// `WrongState` when it is not created or its sandbox not ready. When its process cannot be started (no such
    /// command, say), the container has ended with the reason `StartError` and the runtime's message.
    pub async fn start_container(&self, id: &Id) -> Result<(), Error> {
        let (core, container) = (Arc::clone(&self.0), self.0.registry.container(id)?);
        let work = async move { core.start_container(container).await };
        self.0.operations.joined(Key::Start(id.clone()), work).await.map(drop)
    }
}

impl Core {
    async fn start_container(self: Arc<Self>, container: Arc<Container>) -> Result<Id, Error> {
        let record = container.record();
        let sandbox = self.registry.sandbox(&record.sandbox)?;
        let _claim = sandbox.claim.lock().await;
        sandbox.ready()?;
        let own = sandbox.shim().own;
        let wrong = |state| Error::WrongState {
            kind: Kind::Container,
            id: container.id.clone(),
            state,
            wanted: "only a created container can be started",
        };
        match container.state() {
            ContainerState::Created => {}
            ContainerState::Running { .. } => return Err(wrong("running")),
            ContainerState::Exited(_) => return Err(wrong("ended")),
        }
        let deadline = Instant::now() + AGAIN;
        loop {
            let error = match self.try_start(&sandbox, &container).await {
                Ok(pid) => {
                    self.running(&container, now(), pid).await?;
                    return Ok(container.id.clone());
                }
                Err(error) => error,
            };
            self.settle_start(&sandbox, &container, &error).await?;
            match container.state() {
                ContainerState::Running { .. } => return Ok(container.id.clone()),
                // Its shim was killed. Either it ran, and has ended since; or the next shim has undone what that one
                // was about, and it can be started again.
                ContainerState::Exited(_) if own && is_shim_lost(&error) => return Ok(container.id.clone()),
                ContainerState::Created if own && is_shim_lost(&error) && Instant::now() < deadline => {}
                _ => return Err(error),
            }
        }
    }

    async fn try_start(self: &Arc<Self>, sandbox: &Sandbox, container: &Container) -> Result<u32, Error> {
        let (id, record) = (&container.id, container.record());
        let handler = self
            .handler(&sandbox.record().handler)
            .expect("the handler was checked");
        let pipes = effect("container.pipes", async { make_pipes(&self.paths.container(id)) }).await?;
        effect("container.log", self.open_log(id, &record, &pipes)).await?;
        if sandbox.shim().own {
            self.keep_pipes(sandbox, id, &pipes, record.config.stdin)?;
        }
        let start = |source| Error::Start { id: id.clone(), source };
        let rootfs = self.containerd.snapshot_mounts(&handler.snapshotter, id).await?;
        let io = Stdio {
            stdin: record.config.stdin.then_some(&*pipes.stdin),
            stdout: Some(&pipes.stdout),
            stderr: (!record.config.tty).then_some(&*pipes.stderr),
            terminal: record.config.tty,
        };
        let _alone = sandbox.making().await;
        let create = self.containerd.create_task(id, &rootfs, io, &handler.options);
        let pid = effect("container.task", create).await.map_err(start)?;
        // Before it runs: should its shim die while it does, the kernel tells its exit code to whoever has a handle.
        self.keep_process(sandbox, id).await;
        effect("container.start", self.containerd.start_task(id))
            .await
            .map_err(start)?;
        Ok(pid)
    }

    /// Records that a container runs and begins to wait for its end.
    pub(super) async fn running(
        self: &Arc<Self>,
        container: &Arc<Container>,
        started_at: i64,
        pid: u32,
    ) -> Result<(), Error> {
        let state = ContainerState::Running { started_at, pid };
        // Its process runs: a containerd that is away for a moment does not change that.
        let record = || self.change_container(container, |record| record.state = state.clone());
        self.until_containerd(|| effect("container.running", record())).await?;
        self.watch_exit(container);
        Ok(())
    }

    /// Finds out what a failed start left, and puts it right: a process that runs, or ran, was started, whatever the
    /// client was told; a task without one is deleted.
    async fn settle_start(
        self: &Arc<Self>,
        sandbox: &Sandbox,
        container: &Arc<Container>,
        error: &Error,
    ) -> Result<(), Error> {
        let id = &container.id;
        match self.find_task(sandbox, id).await? {
            Some(Task::Running { pid }) => return self.running(container, now(), pid).await,
            // containerd went away after the start; the container has ended since.
            Some(Task::Stopped(ended)) if exit_of(error, sandbox.shim().own).is_none() => {
                return self.ended_unseen(container, ended).await;
            }
            Some(Task::Created { .. } | Task::Stopped(_)) => self.delete_task(sandbox, id).await?,
            None => {}
        }
        self.kill_leftovers(&container.record().cgroup);
        self.close_log(id, &container.record(), Duration::ZERO).await;
        self.unkeep(id);
        remove_directory(self.paths.container(id))?;
        if let Some(exit) = exit_of(error, sandbox.shim().own) {
            let record =
                || self.change_container(container, |record| record.state = ContainerState::Exited(exit.clone()));
            self.until_containerd(record).await?;
            container.set_gone();
        }
        Ok(self.dismiss_shim(sandbox).await?)
    }

    /// Records a start and an end that nobody saw, and clears the task away.
    pub(super) async fn ended_unseen(self: &Arc<Self>, container: &Container, ended: Ended) -> Result<(), Error> {
        let state = ContainerState::Running {
            started_at: ended.at,
            pid: 0,
        };
        let record = || self.change_container(container, |record| record.state = state.clone());
        self.until_containerd(record).await?;
        self.finish(container, Some(ended)).await
    }

    /// Ends the pod's shim if none of the pod's tasks is left: one that remained when a task's making was cut off.
    pub(super) async fn dismiss_shim(&self, sandbox: &Sandbox) -> Result<(), containerd::Error> {
        // A shim of our own is not the pod's alone.
        let Some(_alone) = sandbox.making().await else {
            return Ok(());
        };
        let Some(shim) = self.containerd.shim(&sandbox.id).await else {
            return Ok(());
        };
        let containers = self.registry.containers_of(&sandbox.id).into_iter();
        let tasks: Vec<_> = containers
            .map(|container| container.id.clone())
            .chain([sandbox.id.clone()])
            .collect();
        for task in &tasks {
            if self.until_containerd(|| self.containerd.task(task)).await?.is_some() {
                return Ok(());
            }
        }
        shim.dismiss(&tasks).await;
        Ok(())
    }

    /// Deletes the task of a container that was never recorded as started, should the pod's shim have one that
    /// containerd does not know: its making was cut off.
    pub(super) async fn forget_task(self: &Arc<Self>, sandbox: &Sandbox, container: &Container) -> Result<(), Error> {
        let Some(_alone) = sandbox.making().await else {
            return self.forget_in_shim(&sandbox.shim().group, &container.id).await;
        };
        if self
            .until_containerd(|| self.containerd.task(&container.id))
            .await?
            .is_some()
        {
            return Ok(());
        }
        if let Some(shim) = self.containerd.shim(&sandbox.id).await {
            self.kill_leftovers(&container.record().cgroup);
            shim.delete(&container.id).await;
        }
        Ok(())
    }

    /// The task of a container, also one that containerd lost with its shim and that could be given back to it.
    pub(super) async fn find_task(self: &Arc<Self>, sandbox: &Sandbox, id: &Id) -> Result<Option<Task>, Error> {
        match self.until_containerd(|| self.containerd.task(id)).await? {
            None if self.reclaim(sandbox, id).await? => Ok(self.until_containerd(|| self.containerd.task(id)).await?),
            task => Ok(task),
        }
    }

    /// Kills what is left of a task and deletes it.
    pub(super) async fn delete_task(self: &Arc<Self>, sandbox: &Sandbox, id: &Id) -> Result<(), Error> {
        let _others = sandbox.deleting().await;
        let deleted = self.until_containerd(|| async {
            let task = self.containerd.task(id).await?;
            if let Some(Task::Created { .. }) = task {
                // Should we be killed now, the next berth must not take it for one that was started and has ended. A
                // full disk may keep that from being said, not a task from being deleted.
                let undone = self.paths.undone(id);
                std::fs::create_dir_all(self.paths.container(id)).ok();
                std::fs::File::create(undone).ok();
            }
            if let Some(Task::Created { .. } | Task::Running { .. }) = task {
                self.containerd.kill_task(id, crate::model::Signal::KILL, true).await?;
                let _ = tokio::time::timeout(super::container_stop::DEATH, self.containerd.wait_task(id)).await;
            }
            effect("container.untask", self.containerd.delete_task(id)).await
        });
        self.surely_deleted(sandbox, id, deleted.await?).await
    }

    /// A task that containerd did not have (any more) may be one that it lost with its shim.
    pub(super) async fn surely_deleted(
        self: &Arc<Self>,
        sandbox: &Sandbox,
        id: &Id,
        deleted: bool,
    ) -> Result<(), Error> {
        let shim = sandbox.shim();
        match deleted || !shim.own {
            true => Ok(()),
            false => self.forget_in_shim(&shim.group, id).await,
        }
    }

    /// Does something with containerd again and again while it is not there, or, for a while, a shim does not answer
    /// it. Without containerd there is nothing else to be done: this is for what must be recorded or undone.
    pub(super) async fn until_containerd<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, containerd::Error>
    where
        F: Future<Output = Result<T, containerd::Error>>,
    {
        let mut pause = Duration::from_millis(20);
        let mut silent_until = None;
        loop {
            match attempt().await {
                Err(error) if error.is_shim_lost() => {
                    let deadline = *silent_until.get_or_insert_with(|| Instant::now() + SILENCE);
                    if Instant::now() > deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(pause).await;
                }
                Err(error) if error.is_unavailable() => {
                    tracing::debug!(%error, "containerd is away; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                other => return other,
            }
        }
    }
}

fn is_shim_lost(error: &Error) -> bool {
    matches!(error, Error::Start { source, .. } if lost_with_shim(source))
}

/// Whether a task could not be made or started because its shim was killed: containerd may have forgotten it already.
pub(super) fn lost_with_shim(error: &containerd::Error) -> bool {
    error.is_shim_lost() || error.is_not_found()
}

/// How a container has ended whose start failed so. None: it has not; it can be started again.
fn exit_of(error: &Error, own_shim: bool) -> Option<Exit> {
    let Error::Start { source, .. } = error else {
        return None;
    };
    match source {
        containerd::Error::Failed { .. } => Some(Exit {
            started_at: 0,
            finished_at: now(),
            code: START_ERROR_CODE,
            reason: Reason::StartError,
            message: source.to_string(),
        }),
        // Perhaps it ran. Of a container under our own shim that would be known.
        containerd::Error::ShimLost { .. } if !own_shim => Some(Exit::unknown(0, now())),
        _ => None,
    }
}

/// Makes the named pipes of a process in `directory`; those that are there already are kept.
pub(super) fn make_pipes(directory: &Path) -> Result<Pipes, Error> {
    std::fs::create_dir_all(directory).map_err(Error::file("cannot make", directory))?;
    let pipes = Pipes::below(directory);
    for pipe in [&pipes.stdin, &pipes.stdout, &pipes.stderr] {
        match nix::unistd::mkfifo(pipe, Mode::from_bits_truncate(0o600)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(Error::file("cannot make the pipe", pipe)(error.into())),
        }
    }
    Ok(pipes)
}
