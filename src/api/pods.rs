//! `berth.v1.Pods`: pods of manifests.

use tokio::sync::mpsc;
use tonic::codegen::BoxStream;
use tonic::{Code, Request, Response, Status};

use super::stream::{QUEUE, stream};
use super::translate::{event, lines, name_of, pod};
use crate::cri::status;
use crate::lifecycle::Lifecycle;
use crate::manifest::{Error, Manifests};
use crate::pod::ExecOutput;
use crate::proto::berth::exec_response::What;
use crate::proto::berth::{self, pods_server};

/// The service.
pub struct PodsFace {
    manifests: Manifests,
    lifecycle: Lifecycle,
}

impl PodsFace {
    pub fn new(manifests: Manifests, lifecycle: Lifecycle) -> Self {
        Self { manifests, lifecycle }
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
        let lifecycle = self.lifecycle.clone();
        Ok(stream(|sender| async move {
            let (output, mut outputs) = mpsc::channel(QUEUE);
            let copy = async {
                while let Some(output) = outputs.recv().await {
                    let what = match output {
                        ExecOutput::Stdout(bytes) => What::Stdout(bytes),
                        ExecOutput::Stderr(bytes) => What::Stderr(bytes),
                    };
                    sender.send(berth::ExecResponse { what: Some(what) }).await?;
                }
                Ok(())
            };
            let run = async { tokio::join!(lifecycle.exec(&id, command, None, output), copy) };
            let (ended, copied) = tokio::select! {
                done = run => done,
                // Then nobody receives any more, which ends the command, also one that says nothing.
                () = sender.gone() => return Ok(()),
            };
            copied?;
            match ended {
                Ok(code) => {
                    sender
                        .send(berth::ExecResponse {
                            what: Some(What::ExitCode(code)),
                        })
                        .await
                }
                Err(error) => sender.fail(status(&error)).await,
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
