//! `berth.v1.Pods`: pods of manifests.

use std::future::Future;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Code, Request, Response, Status};

use super::translate::{event, lines, name_of, pod};
use crate::cri::status;
use crate::manifest::{Error, Manifests};
use crate::pod::{ExecOutput, Pods};
use crate::proto::berth::exec_response::What;
use crate::proto::berth::{self, pods_server};

/// Messages that wait for a slow client.
const QUEUE: usize = 16;

/// The service.
pub struct PodsFace {
    manifests: Manifests,
    pods: Pods,
}

impl PodsFace {
    pub fn new(manifests: Manifests, pods: Pods) -> Self {
        Self { manifests, pods }
    }
}

#[tonic::async_trait]
impl pods_server::Pods for PodsFace {
    async fn run(&self, request: Request<berth::RunRequest>) -> Result<Response<BoxStream<berth::Event>>, Status> {
        let text = String::from_utf8(request.into_inner().manifest)
            .map_err(|_| Status::invalid_argument("the manifest is not UTF-8"))?;
        let (wanted, mut follower) = self.manifests.run(&text).await.map_err(|error| refused(&error))?;
        Ok(stream(|sender| async move {
            while let Some(happened) = follower.next().await {
                sender.send(event(&wanted.name, &wanted.uid, happened)).await?;
            }
            Ok(())
        }))
    }

    async fn list(&self, request: Request<berth::ListRequest>) -> Result<Response<berth::ListResponse>, Status> {
        let namespace = request.into_inner().namespace;
        let mut pods = self.manifests.list();
        pods.retain(|status| namespace.is_empty() || status.pod.name.namespace == namespace);
        Ok(Response::new(berth::ListResponse {
            pods: pods.iter().map(pod).collect(),
        }))
    }

    async fn get(&self, request: Request<berth::GetRequest>) -> Result<Response<berth::Pod>, Status> {
        let name = name_of(request.into_inner().name);
        let status = self.manifests.get(&name).map_err(|error| refused(&error))?;
        Ok(Response::new(pod(&status)))
    }

    async fn events(&self, request: Request<berth::EventsRequest>) -> Result<Response<berth::EventsResponse>, Status> {
        let name = name_of(request.into_inner().name);
        let table = self.manifests.events(&name).map_err(|error| refused(&error))?;
        Ok(Response::new(lines(table)))
    }

    async fn logs(
        &self,
        request: Request<berth::LogsRequest>,
    ) -> Result<Response<BoxStream<berth::LogsResponse>>, Status> {
        let berth::LogsRequest {
            name,
            container,
            follow,
            tail,
        } = request.into_inner();
        let log = self.manifests.log(&name_of(name), &container, tail).await;
        let mut log = log.map_err(|error| refused(&error))?;
        Ok(stream(|sender| async move {
            loop {
                let next = tokio::select! {
                    next = log.next(follow) => next,
                    () = sender.gone() => return Ok(()),
                };
                match next {
                    Ok(Some(data)) => sender.send(berth::LogsResponse { data }).await?,
                    Ok(None) => return Ok(()),
                    Err(error) => {
                        return sender
                            .fail(Status::internal(format!("cannot read the log: {error}")))
                            .await;
                    }
                }
            }
        }))
    }

    async fn exec(
        &self,
        request: Request<berth::ExecRequest>,
    ) -> Result<Response<BoxStream<berth::ExecResponse>>, Status> {
        let berth::ExecRequest {
            name,
            container,
            command,
        } = request.into_inner();
        if command.is_empty() {
            return Err(Status::invalid_argument("command: required"));
        }
        let id = self
            .manifests
            .running(&name_of(name), &container)
            .map_err(|error| refused(&error))?;
        let pods = self.pods.clone();
        Ok(stream(|sender| async move {
            let (output, mut outputs) = mpsc::channel(QUEUE);
            let copy = async {
                // Without a client nobody receives any more, which ends the command.
                while let Some(output) = outputs.recv().await {
                    let what = match output {
                        ExecOutput::Stdout(bytes) => What::Stdout(bytes),
                        ExecOutput::Stderr(bytes) => What::Stderr(bytes),
                    };
                    sender.send(berth::ExecResponse { what: Some(what) }).await?;
                }
                Ok(())
            };
            let run = async {
                tokio::select! {
                    ended = pods.exec(&id, command, None, output) => Some(ended),
                    () = sender.gone() => None,
                }
            };
            let (ended, copied) = tokio::join!(run, copy);
            copied?;
            match ended {
                Some(Ok(code)) => {
                    sender
                        .send(berth::ExecResponse {
                            what: Some(What::ExitCode(code)),
                        })
                        .await
                }
                Some(Err(error)) => sender.fail(status(&error)).await,
                None => Ok(()),
            }
        }))
    }

    async fn delete(&self, request: Request<berth::DeleteRequest>) -> Result<Response<berth::DeleteResponse>, Status> {
        let berth::DeleteRequest { name, grace_seconds } = request.into_inner();
        let deleted = self.manifests.delete(&name_of(name), grace_seconds).await;
        deleted.map_err(|error| refused(&error))?;
        Ok(Response::new(berth::DeleteResponse {}))
    }
}

/// The one door from manifests' errors to gRPC codes.
fn refused(error: &Error) -> Status {
    let code = match error {
        Error::Wrong(problems) if problems.only_unsupported() => Code::Unimplemented,
        Error::Wrong(_) | Error::WhichContainer { .. } => Code::InvalidArgument,
        Error::Exists { .. } => Code::AlreadyExists,
        Error::NoPod(_) | Error::NoContainer { .. } => Code::NotFound,
        Error::NotRunning { .. } | Error::NotStarted { .. } => Code::FailedPrecondition,
        Error::Log { .. } | Error::Store(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// Sends to a client that may be gone.
struct Sender<T>(mpsc::Sender<Result<T, Status>>);

/// The client is gone.
struct Gone;

impl<T> Sender<T> {
    async fn send(&self, message: T) -> Result<(), Gone> {
        self.0.send(Ok(message)).await.map_err(|_| Gone)
    }

    async fn fail(&self, status: Status) -> Result<(), Gone> {
        self.0.send(Err(status)).await.map_err(|_| Gone)
    }

    /// Waits until the client is gone.
    async fn gone(&self) {
        self.0.closed().await;
    }
}

/// Answers with what `work` sends. It ends early when the client is gone.
fn stream<T, F>(work: impl FnOnce(Sender<T>) -> F) -> Response<BoxStream<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let work = work(Sender(sender));
    tokio::spawn(async move {
        // That the client is gone is nobody's error.
        work.await.ok();
    });
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}
