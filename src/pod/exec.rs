//! Run a further command in a running container.
//!
//! [`Core::exec_in`] is the seam: it goes through containerd's Tasks.Exec. What calls it knows only a command, a
//! deadline, and a channel of output.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::container_start::make_pipes;
use super::error::Error;
use super::operation::owned;
use super::paths::Pipes;
use super::sandbox_stop::remove_directory;
use super::{Core, Pods};
use crate::containerd::{self, Stdio, Task};
use crate::model::container::ContainerState;
use crate::model::{Id, Refusal, Signal};
use crate::{oci, sys};

/// What one stream of ExecSync's answer holds at most; the rest is dropped (CRI: a runtime may cap it, at 16 MiB).
pub const MAX_OUTPUT: usize = 16 << 20;

/// How long output may still come after the command's end, from processes that it left behind with its pipes.
const DRAIN: Duration = Duration::from_millis(500);

/// A piece of a command's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

/// A finished command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecResult {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub code: i32,
}

impl Pods {
    /// Runs a command to its end and gives what it wrote, at most [`MAX_OUTPUT`] bytes a stream.
    ///
    /// # Errors
    /// `ExecTimeout` when it did not end in time; it has been killed then.
    pub async fn exec_sync(
        &self,
        id: &Id,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecResult, Error> {
        let (pods, id) = (self.clone(), id.clone());
        owned(async move { pods.exec_while_awaited(&id, command, timeout).await }).await
    }

    /// The same, but the command is killed when the returned future is dropped: nobody wants to know any more.
    pub async fn exec_while_awaited(
        &self,
        id: &Id,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecResult, Error> {
        let (sender, receiver) = mpsc::channel(16);
        let (code, result) = tokio::join!(self.exec(id, command, timeout, sender), collect(receiver));
        Ok(ExecResult { code: code?, ..result })
    }

    /// Runs a command and sends its output as it comes. Gives its exit code. When nobody receives any more, the
    /// command is killed.
    pub async fn exec(
        &self,
        id: &Id,
        command: Vec<String>,
        timeout: Option<Duration>,
        output: mpsc::Sender<ExecOutput>,
    ) -> Result<i32, Error> {
        if command.is_empty() || command[0].is_empty() {
            return Err(Refusal::invalid("cmd", "the command is empty").into());
        }
        let container = self.0.registry.container(id)?;
        if !matches!(container.state(), ContainerState::Running { .. }) {
            return Err(container.wrong_state("it must run"));
        }
        let (core, id) = (Arc::clone(&self.0), id.clone());
        owned(async move { core.exec_in(&id, command, timeout, output).await }).await
    }
}

async fn collect(mut outputs: mpsc::Receiver<ExecOutput>) -> ExecResult {
    let mut result = ExecResult::default();
    while let Some(output) = outputs.recv().await {
        match output {
            ExecOutput::Stdout(bytes) => append(&mut result.stdout, &bytes),
            ExecOutput::Stderr(bytes) => append(&mut result.stderr, &bytes),
        }
    }
    result
}

fn append(stream: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_OUTPUT.saturating_sub(stream.len());
    stream.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

impl Core {
    async fn exec_in(
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
        let died = tokio::time::timeout(super::container_stop::DEATH, self.containerd.wait_exec(id, exec_id)).await;
        drop(died.map_err(|_| Error::WillNotDie {
            id: id.clone(),
            after: super::container_stop::DEATH,
        })?);
        Ok(())
    }

    /// Opens what execs that an earlier berth left in a container write to. To be held while they are ended.
    pub(super) fn exec_readers(&self, id: &Id) -> Vec<pipe::Receiver> {
        let pipes = self
            .execs_of(id)
            .into_iter()
            .map(|(_, directory)| Pipes::below(&directory));
        let pipes = pipes.flat_map(|pipes| [pipes.stdout, pipes.stderr]);
        pipes.filter_map(|pipe| open(&pipe).ok()).collect()
    }

    /// Kills the execs that an earlier berth left in a container.
    pub(super) async fn end_execs(&self, id: &Id) -> Result<(), Error> {
        for (exec_id, directory) in self.execs_of(id) {
            let ended = tokio::time::timeout(super::container_stop::DEATH, self.end_exec(id, &exec_id)).await;
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

/// Sends both streams on until both have ended.
async fn copy(stdout: pipe::Receiver, stderr: pipe::Receiver, output: mpsc::Sender<ExecOutput>) {
    tokio::join!(
        copy_one(stdout, &output, ExecOutput::Stdout),
        copy_one(stderr, &output, ExecOutput::Stderr)
    );
}

async fn copy_one(mut stream: pipe::Receiver, output: &mpsc::Sender<ExecOutput>, wrap: fn(Vec<u8>) -> ExecOutput) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if output.send(wrap(buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
}
