//! The logs of containers: berth tells the log pump (a thread of the shim, see [`crate::logs`]) what to copy where, and
//! sees to it that there is a pump.

use std::fs::OpenOptions;
use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::error::Error;
use super::paths::{Paths, Pipes};
use super::{Core, Pods, blocking};
use crate::logs::{self, protocol::Open};
use crate::model::Id;
use crate::model::container::ContainerState;
use crate::model::record::ContainerRecord;

impl Pods {
    /// Opens a running container's log anew, after it was renamed. On an error no new file was made.
    pub async fn reopen_log(&self, id: &Id) -> Result<(), Error> {
        let container = self.0.registry.container(id)?;
        if !matches!(container.state(), ContainerState::Running { .. }) {
            return Err(container.wrong_state("only a running container has an open log"));
        }
        let reopened = self
            .0
            .pump({
                let id = id.clone();
                move |pump| pump.reopen(&id)
            })
            .await;
        reopened.map_err(|error| Error::Log {
            id: id.clone(),
            message: error.to_string(),
        })
    }

    /// Keeps a log pump running: when it ends, another takes over the pipes of all running containers. Never returns.
    pub async fn keep_pump(&self) {
        loop {
            if let Err(error) = self.0.ensure_pump().await {
                tracing::error!(%error, "cannot start the log pump; containers will block when their pipes are full");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            self.0.resume_logs().await;
            if let Ok(mut connection) = UnixStream::connect(&self.0.paths.pump).await {
                // The pump never speaks first: this ends when the pump does.
                while matches!(connection.read(&mut [0; 16]).await, Ok(1..)) {}
                tracing::warn!("the log pump ended");
            }
        }
    }

    /// Ends the pump.
    pub async fn stop_pump(&self) -> Result<(), logs::Error> {
        // until the daemon keeps shims
        let pong = self.0.pump(logs::Client::ping).await?;
        crate::sys::process::kill(pong.pid);
        Ok(())
    }
}

impl Core {
    pub(super) async fn ensure_pump(&self) -> io::Result<()> {
        let paths = self.paths.clone();
        blocking(move || start_pump(&paths)).await
    }

    /// Gives the pump the pipes of all running containers. It keeps those that it has.
    pub(super) async fn resume_logs(&self) {
        for container in self.registry.containers() {
            let record = container.record();
            if let ContainerState::Running { .. } = record.state {
                let pipes = Pipes::below(&self.paths.container(&container.id));
                if let Err(error) = self.open_log(&container.id, &record, &pipes).await {
                    tracing::error!(id = ?container.id, %error, "cannot go on with a container's log");
                }
            }
        }
    }

    pub(super) async fn open_log(&self, id: &Id, record: &ContainerRecord, pipes: &Pipes) -> Result<(), Error> {
        let open = Open {
            id: id.clone(),
            stdout: pipes.stdout.clone(),
            stderr: (!record.config.tty).then(|| pipes.stderr.clone()),
            log_path: self.log_path(record),
        };
        let opened = self.pump(move |pump| pump.open(&open)).await;
        opened.map_err(|error| Error::Log {
            id: id.clone(),
            message: error.to_string(),
        })
    }

    /// Waits until all output of an ended container is in its log, at most for `patience`, and closes it.
    pub(super) async fn close_log(&self, id: &Id, patience: Duration) {
        let drained = self
            .pump({
                let id = id.clone();
                move |pump| pump.drain(&id, patience)
            })
            .await;
        match drained {
            Ok(drained) if drained.complete => {}
            Ok(drained) => tracing::warn!(
                ?id,
                reason = drained.reason,
                "not all output of a container is in its log"
            ),
            Err(error) if error.is_unknown() => {}
            Err(error) => tracing::warn!(?id, %error, "cannot close a container's log"),
        }
    }

    async fn pump<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&logs::Client) -> Result<T, logs::Error> + Send + 'static,
    ) -> Result<T, logs::Error> {
        let client = logs::Client::new(&self.paths.pump);
        blocking(move || ask(&client)).await
    }
}

/// Finds the pump that answers, or starts a process for it that outlives us.
// until the daemon keeps shims
fn start_pump(paths: &Paths) -> io::Result<()> {
    let client = logs::Client::new(&paths.pump);
    if client.ping().is_ok() {
        return Ok(());
    }
    let messages = paths.state.join("log-pump.log");
    let messages = OpenOptions::new().append(true).create(true).open(messages)?;
    let mut command = Command::new(std::env::current_exe()?.with_file_name("containerd-shim-berth-v1"));
    command.args(["log-writer", "--socket"]).arg(&paths.pump);
    command.arg("--state").arg(paths.state.join("log-pump"));
    command
        .stdin(Stdio::null())
        .stdout(messages.try_clone()?)
        .stderr(messages);
    let mut child = crate::sys::spawn::detach(&mut command).spawn()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.ping().is_err() {
        if child.try_wait()?.is_some() || Instant::now() > deadline {
            return Err(io::Error::other("the log pump does not answer"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // Should it end before we do, somebody has to take note, or it stays a zombie.
    std::thread::spawn(move || child.wait());
    Ok(())
}
