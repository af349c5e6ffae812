//! The logs of containers: berth tells the log pump (a small process that outlives it, see [`crate::logs`]) what to
//! copy where, and sees to it that there is a pump.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::error::Error;
use super::paths::Pipes;
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
        self.0.pump(|pump| pump.shutdown()).await
    }
}

impl Core {
    pub(super) async fn ensure_pump(&self) -> std::io::Result<()> {
        let (socket, state) = (self.paths.pump.clone(), self.paths.state.clone());
        blocking(move || {
            if logs::Client::new(&socket).ping().is_ok() {
                return Ok(());
            }
            logs::start(&std::env::current_exe()?, &socket, &state.join("log-pump.log"))
        })
        .await
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
