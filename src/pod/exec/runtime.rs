//! Commands through containerd's Tasks.Exec, for containers whose namespaces cannot be joined from here.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::{DRAIN, ExecOutput, copy};
use crate::containerd::{self, Stdio, Task};
use crate::model::{Id, Signal};
use crate::pod::Core;
use crate::pod::container_start::make_pipes;
use crate::pod::container_stop::DEATH;
use crate::pod::error::Error;
use crate::pod::paths::Pipes;
use crate::pod::sandbox_stop::remove_directory;
use crate::{oci, sys};

impl Core {
    pub(super) async fn exec_by_runtime(
        &self,
        id: &Id,
        command: Vec<String>,
        timeout: Option<Duration>,
        output: mpsc::Sender<ExecOutput>,
    ) -> Result<i32, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let exec_id = format!("berth-{}-{number}", std::process::id());
        let directory = self.paths.execs(id).join(&exec_id);
        // The directory is the record of the exec: recovery kills what it finds there.
        let pipes = make_pipes(&directory)?;
        let result = self.exec_with(id, &exec_id, command, timeout, output, &pipes).await;
        let deleted = self.containerd.delete_exec(id, &exec_id).await;
        remove_directory(directory)?;
        let code = result?;
        deleted?;
        Ok(code)
    }

    async fn exec_with(
        &self,
        id: &Id,
        exec_id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
        output: mpsc::Sender<ExecOutput>,
        pipes: &Pipes,
    ) -> Result<i32, Error> {
        let process = exec_process(&self.containerd.spec(id).await?, command)?;
        let [stdout, stderr] = [open(&pipes.stdout)?, open(&pipes.stderr)?];
        let io = Stdio {
            stdout: Some(&pipes.stdout),
            stderr: Some(&pipes.stderr),
            ..Stdio::default()
        };
        let failed = |source: containerd::Error| Error::Exec {
            // The container is there: it is the shim that was killed, and the command with it.
            source: match source {
                containerd::Error::NotFound { what } => containerd::Error::ShimLost { what },
                source => source,
            },
        };
        self.containerd
            .create_exec(id, exec_id, process, io)
            .await
            .map_err(failed)?;
        self.containerd.start_exec(id, exec_id).await.map_err(failed)?;
        let gone = output.clone();
        let streams = tokio::spawn(copy(stdout, stderr, output));
        let ended = async {
            tokio::select! {
                ended = self.containerd.wait_exec(id, exec_id) => Some(ended),
                () = gone.closed() => None,
            }
        };
        let ended = match timeout {
            None => Ok(ended.await),
            Some(timeout) => tokio::time::timeout(timeout, ended).await.map_err(|_| timeout),
        };
        let code = match ended {
            Ok(Some(ended)) => Ok(ended.map_err(failed)?.code),
            Ok(None) => Ok(128 + 9),
            Err(timeout) => Err(Error::ExecTimeout(timeout)),
        };
        if code.is_err() || gone.is_closed() {
            self.kill_exec(id, exec_id).await?;
        }
        // The copy ends when the last holder of the pipes does; one that lives on is not waited for.
        let abort = streams.abort_handle();
        if tokio::time::timeout(DRAIN, streams).await.is_err() {
            abort.abort();
        }
        code
    }

    /// Kills an exec and all that descend from it, and waits for its end.
    async fn kill_exec(&self, id: &Id, exec_id: &str) -> Result<(), Error> {
        let descendants = match self.containerd.exec(id, exec_id).await? {
            Some(Task::Running { pid }) => sys::process::descendants(pid),
            _ => Vec::new(),
        };
        self.containerd.kill_exec(id, exec_id, Signal::KILL).await?;
        descendants.into_iter().for_each(sys::process::kill);
        let died = tokio::time::timeout(DEATH, self.containerd.wait_exec(id, exec_id)).await;
        drop(died.map_err(|_| Error::WillNotDie {
            id: id.clone(),
            after: DEATH,
        })?);
        Ok(())
    }

    /// Opens what execs that an earlier berth left in a container write to. To be held while they are ended.
    pub(in crate::pod) fn exec_readers(&self, id: &Id) -> Vec<pipe::Receiver> {
        let pipes = self
            .execs_of(id)
            .into_iter()
            .map(|(_, directory)| Pipes::below(&directory));
        let pipes = pipes.flat_map(|pipes| [pipes.stdout, pipes.stderr]);
        pipes.filter_map(|pipe| open(&pipe).ok()).collect()
    }

    /// Kills the execs that an earlier berth left in a container.
    pub(in crate::pod) async fn end_execs(&self, id: &Id) -> Result<(), Error> {
        for (exec_id, directory) in self.execs_of(id) {
            let ended = tokio::time::timeout(DEATH, self.end_exec(id, &exec_id)).await;
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(?id, exec_id, %error, "cannot end an exec of an earlier berth"),
                Err(_) => tracing::warn!(?id, exec_id, "an exec of an earlier berth does not end"),
            }
            remove_directory(directory)?;
        }
        Ok(())
    }

    /// Ends an exec in whatever state: what is made but not started may be about to start still.
    async fn end_exec(&self, id: &Id, exec_id: &str) -> Result<(), Error> {
        while let Some(exec) = self.until_containerd(|| self.containerd.exec(id, exec_id)).await? {
            if let Task::Running { pid } = exec {
                let descendants = sys::process::descendants(pid);
                self.containerd.kill_exec(id, exec_id, Signal::KILL).await?;
                descendants.into_iter().for_each(sys::process::kill);
            }
            // Refused while it runs.
            if self.containerd.delete_exec(id, exec_id).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    /// The execs that have a directory: their ids, and it.
    fn execs_of(&self, id: &Id) -> Vec<(String, PathBuf)> {
        let entries = std::fs::read_dir(self.paths.execs(id)).into_iter().flatten().flatten();
        let execs = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
        execs.collect()
    }
}

/// The container's own process with another command: the same user, directory, limits and capabilities.
fn exec_process(spec: &[u8], command: Vec<String>) -> Result<Vec<u8>, Error> {
    let unreadable = |reason: String| {
        Error::Containerd(crate::containerd::Error::Unreadable {
            what: "the spec of the container".to_owned(),
            reason,
        })
    };
    let spec: oci::Spec = serde_json::from_slice(spec).map_err(|error| unreadable(error.to_string()))?;
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| unreadable("it has no process".to_owned()))?;
    Ok(serde_json::to_vec(&oci::exec(process, command, false)).expect("a process serialises"))
}

fn open(path: &Path) -> Result<pipe::Receiver, Error> {
    pipe::OpenOptions::new()
        .open_receiver(path)
        .map_err(Error::file("cannot open the pipe", PathBuf::from(path)))
}
