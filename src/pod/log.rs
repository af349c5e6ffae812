//! The logs of containers: berth tells the log writer (a thread of the pod's shim, see [`crate::logs`]) what to copy
//! where.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::paths::Pipes;
use super::shims::while_lost;
use super::{Core, Pods, blocking};
use crate::logs::{self, protocol::Open};
use crate::model::Id;
use crate::model::container::ContainerState;
use crate::model::record::ContainerRecord;

/// How long a new shim may take to answer in the place of one that died.
const RETRY: Duration = Duration::from_secs(10);

impl Pods {
    /// Opens a running container's log anew, after it was renamed. On an error no new file was made.
    pub async fn reopen_log(&self, id: &Id) -> Result<(), Error> {
        let container = self.0.registry.container(id)?;
        if !matches!(container.state(), ContainerState::Running { .. }) {
            return Err(container.wrong_state("only a running container has an open log"));
        }
        let reopened = self
            .0
            .log_writer(&self.0.log_group(&container.record()), {
                let id = id.clone();
                move |writer| writer.reopen(&id)
            })
            .await;
        reopened.map_err(|error| Error::Log {
            id: id.clone(),
            message: error.to_string(),
        })
    }
}

impl Core {
    /// The group of pods whose shim writes the container's log.
    fn log_group(&self, record: &ContainerRecord) -> String {
        let sandbox = self.registry.sandbox(&record.sandbox);
        sandbox.map(|sandbox| sandbox.shim()).unwrap_or_default().group
    }

    pub(super) async fn open_log(
        self: &Arc<Self>,
        id: &Id,
        record: &ContainerRecord,
        pipes: &Pipes,
    ) -> Result<(), Error> {
        let open = Open {
            id: id.clone(),
            stdout: pipes.stdout.clone(),
            stderr: (!record.config.tty).then(|| pipes.stderr.clone()),
            log_path: self.log_path(record),
        };
        let group = self.log_group(record);
        let opened = self.log_writer(&group, move |writer| writer.open(&open)).await;
        opened.map_err(|error| Error::Log {
            id: id.clone(),
            message: error.to_string(),
        })
    }

    /// Waits until all output of an ended container is in its log, at most for `patience`, and closes it.
    pub(super) async fn close_log(self: &Arc<Self>, id: &Id, record: &ContainerRecord, patience: Duration) {
        let drained = self
            .log_writer(&self.log_group(record), {
                let id = id.clone();
                move |writer| writer.drain(&id, patience)
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

    /// Asks the log writer of a group, and the next one should its shim die meanwhile.
    pub(super) async fn log_writer<T: Send + 'static>(
        self: &Arc<Self>,
        group: &str,
        ask: impl Fn(&logs::Client) -> Result<T, logs::Error> + Clone + Send + 'static,
    ) -> Result<T, logs::Error> {
        let group = self.group(group);
        let client = logs::Client::new(&group.place.log_socket());
        while_lost(RETRY, logs::Error::is_unreachable, || async {
            // Its absence is what the answer says then.
            group.ready().await.ok();
            let (client, ask) = (client.clone(), ask.clone());
            blocking(move || ask(&client)).await
        })
        .await
    }
}
