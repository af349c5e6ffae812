//! Commands in containers, some of which berth answers itself.

use std::time::Duration;

use tokio::sync::mpsc;

use super::{Error, Lifecycle};
use crate::model::Id;
use crate::pod::{ExecOutput, ExecResult, owned};
use crate::probe::command;

impl Lifecycle {
    /// Runs a command to its end and gives what it wrote. One named `berth-probe` is answered by berth, from inside the
    /// pod's network, and nothing of it need be in the container's image.
    ///
    /// # Errors
    /// `ExecTimeout` when it did not end in time; it has been killed, or its check cancelled, then.
    pub async fn exec_sync(
        &self,
        id: &Id,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecResult, Error> {
        if !self.is_ours(&command) {
            return self.0.pods.exec_sync(id, command, timeout).await;
        }
        let (this, id) = (self.clone(), id.clone());
        owned(async move { this.answer(&id, &command, timeout).await }).await
    }

    /// The same with the output as it comes. When nobody receives it any more, the command is killed.
    pub async fn exec(
        &self,
        id: &Id,
        command: Vec<String>,
        timeout: Option<Duration>,
        output: mpsc::Sender<ExecOutput>,
    ) -> Result<i32, Error> {
        if !self.is_ours(&command) {
            return self.0.pods.exec(id, command, timeout, output).await;
        }
        let result = self.answer(id, &command, timeout).await?;
        for piece in [ExecOutput::Stdout(result.stdout), ExecOutput::Stderr(result.stderr)] {
            // Nobody need be there any more.
            output.send(piece).await.ok();
        }
        Ok(result.code)
    }

    fn is_ours(&self, command: &[String]) -> bool {
        self.0.settings.virtual_commands && command::is_probe(command)
    }

    async fn answer(&self, id: &Id, command: &[String], timeout: Option<Duration>) -> Result<ExecResult, Error> {
        let view = self.0.pods.must_run(id)?;
        let target = self.target(&view.record.sandbox);
        // The check may take longer than its caller waits, so that a caller's timeout is told as one and not as a
        // failed check.
        let limit = timeout.map(|timeout| timeout.saturating_add(timeout));
        let answer = command::answer(&self.0.checks, id, &target, command, limit);
        let answer = match timeout {
            None => answer.await,
            Some(timeout) => tokio::time::timeout(timeout, answer)
                .await
                .map_err(|_| Error::ExecTimeout(timeout))?,
        };
        answer.map_err(Error::Probe)
    }
}
