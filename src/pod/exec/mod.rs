//! Run a further command in a running container.
//!
//! [`Core::exec_in`] is the seam. Mostly a command is run without containerd and the OCI runtime ([`direct`]); where
//! that cannot be, through containerd's Tasks.Exec ([`runtime`]). What calls it knows only a command, a deadline, and
//! a channel of output.

mod direct;
mod runtime;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::error::Error;
use super::operation::owned;
use super::registry::Container;
use super::{Core, Handler, Pods};
use crate::model::container::ContainerState;
use crate::model::{Id, Refusal};
use crate::nsexec::is_joinable;

pub(super) use direct::Direct;

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
        owned(async move { pods.exec_while_awaited(&id, command, timeout, MAX_OUTPUT).await }).await
    }

    /// The same with at most `most` bytes a stream; and the command is killed when the returned future is dropped:
    /// nobody wants to know any more.
    pub async fn exec_while_awaited(
        &self,
        id: &Id,
        command: Vec<String>,
        timeout: Option<Duration>,
        most: usize,
    ) -> Result<ExecResult, Error> {
        let (sender, receiver) = mpsc::channel(16);
        let (code, result) = tokio::join!(self.exec(id, command, timeout, sender), collect(receiver, most));
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
        let core = Arc::clone(&self.0);
        owned(async move { core.exec_in(&container, command, timeout, output).await }).await
    }

    /// How commands are run in the containers of each runtime handler, in words for operators.
    pub fn exec_ways(&self) -> BTreeMap<String, &'static str> {
        let handlers = self.0.settings.handlers.iter();
        handlers
            .map(|(name, handler)| match is_direct(handler) {
                true => (name.clone(), "nsexec"),
                false => (name.clone(), "containerd Tasks.Exec"),
            })
            .collect()
    }
}

/// Whether the containers of a handler are processes of this kernel whose namespaces can be joined, which is known of
/// our own shim and of containerd's for runc, with an OCI runtime that we know.
fn is_direct(handler: &Handler) -> bool {
    let runtime = runtime(handler);
    (handler.own_shim || handler.runtime_type.starts_with("io.containerd.runc.")) && is_joinable(runtime.as_ref())
}

/// The OCI runtime of a handler.
fn runtime(handler: &Handler) -> &str {
    match handler.options.binary_name.as_str() {
        "" => "runc",
        binary => binary,
    }
}

impl Core {
    async fn exec_in(
        self: &Arc<Self>,
        container: &Container,
        command: Vec<String>,
        timeout: Option<Duration>,
        output: mpsc::Sender<ExecOutput>,
    ) -> Result<i32, Error> {
        match self.direct(container).await? {
            Some(direct) => self.exec_directly(container, &direct, command, timeout, output).await,
            None => self.exec_by_runtime(&container.id, command, timeout, output).await,
        }
    }
}

async fn collect(mut outputs: mpsc::Receiver<ExecOutput>, most: usize) -> ExecResult {
    let mut result = ExecResult::default();
    while let Some(output) = outputs.recv().await {
        match output {
            ExecOutput::Stdout(bytes) => append(&mut result.stdout, &bytes, most),
            ExecOutput::Stderr(bytes) => append(&mut result.stderr, &bytes, most),
        }
    }
    result
}

fn append(stream: &mut Vec<u8>, bytes: &[u8], most: usize) {
    let room = most.saturating_sub(stream.len());
    stream.extend_from_slice(&bytes[..bytes.len().min(room)]);
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
