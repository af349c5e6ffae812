//! `runtime.v1.RuntimeService`, a routing table. An RPC that is not here answers UNIMPLEMENTED.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::status::{refused, status};
use super::translate;
use crate::lifecycle::Lifecycle;
use crate::model::Refusal;
use crate::model::sandbox::Owner;
use crate::pod::{self, ContainerView, Pods, SandboxView};
use crate::proto::runtime as pb;
use crate::proto::runtime::runtime_service_server::RuntimeService;

/// The version of the kubelet's runtime API; kubelets insist on this value.
const KUBELET_API_VERSION: &str = "0.1.0";

/// The service. `info` is what a verbose Status tells of the daemon's configuration, JSON.
pub struct Runtime {
    pub pods: Pods,
    pub lifecycle: Lifecycle,
    pub info: String,
}

type Answer<T> = Result<Response<T>, Status>;

fn fail(error: pod::Error) -> Status {
    status(&error)
}

fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

impl Runtime {
    /// The sandbox that a request means: by its id or an unambiguous start of it. Pods of `berth run` do not exist
    /// here: a kubelet would end them.
    fn sandbox(&self, field: &str, id: &str) -> Result<SandboxView, Status> {
        if id.is_empty() {
            return Err(refused(&Refusal::invalid(field, "empty")));
        }
        let view = self
            .pods
            .resolve_sandbox(id)
            .and_then(|id| self.pods.sandbox(&id))
            .map_err(fail)?;
        match view.record.owner {
            Owner::Cri => Ok(view),
            Owner::Manifest => Err(fail(pod::Error::NotFound {
                kind: pod::Kind::Sandbox,
                id: id.to_owned(),
            })),
        }
    }

    fn container(&self, id: &str) -> Result<ContainerView, Status> {
        if id.is_empty() {
            return Err(refused(&Refusal::invalid("container_id", "empty")));
        }
        let view = self
            .pods
            .resolve_container(id)
            .and_then(|id| self.pods.container(&id))
            .map_err(fail)?;
        if self.is_ours(&view) {
            return Ok(view);
        }
        Err(fail(pod::Error::NotFound {
            kind: pod::Kind::Container,
            id: id.to_owned(),
        }))
    }

    fn is_ours(&self, view: &ContainerView) -> bool {
        self.pods
            .sandbox(&view.record.sandbox)
            .is_ok_and(|sandbox| sandbox.record.owner == Owner::Cri)
    }
}

/// Stopping and removing what is not there is done already (CRI: these calls are idempotent).
fn present<T>(found: Result<T, Status>) -> Result<Option<T>, Status> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// The same for a thing that another call removed meanwhile.
fn gone_is_fine(result: Result<(), pod::Error>) -> Result<(), Status> {
    match result {
        Ok(()) | Err(pod::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(fail(error)),
    }
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: Request<pb::VersionRequest>) -> Answer<pb::VersionResponse> {
        answer(pb::VersionResponse {
            version: KUBELET_API_VERSION.to_owned(),
            runtime_name: "berth".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn run_pod_sandbox(&self, request: Request<pb::RunPodSandboxRequest>) -> Answer<pb::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = translate::sandbox::config(request.config.as_ref()).map_err(|refusal| refused(&refusal))?;
        let id = self
            .pods
            .run_sandbox(config, &request.runtime_handler, Owner::Cri)
            .await
            .map_err(fail)?;
        answer(pb::RunPodSandboxResponse {
            pod_sandbox_id: id.to_string(),
        })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<pb::StopPodSandboxRequest>,
    ) -> Answer<pb::StopPodSandboxResponse> {
        if let Some(view) = present(self.sandbox("pod_sandbox_id", &request.into_inner().pod_sandbox_id))? {
            gone_is_fine(self.pods.stop_sandbox(&view.id).await)?;
        }
        answer(pb::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<pb::RemovePodSandboxRequest>,
    ) -> Answer<pb::RemovePodSandboxResponse> {
        if let Some(view) = present(self.sandbox("pod_sandbox_id", &request.into_inner().pod_sandbox_id))? {
            gone_is_fine(self.pods.remove_sandbox(&view.id).await)?;
        }
        answer(pb::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<pb::PodSandboxStatusRequest>,
    ) -> Answer<pb::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let view = self.sandbox("pod_sandbox_id", &request.pod_sandbox_id)?;
        let info = if request.verbose {
            verbose(&view.record, None)
        } else {
            HashMap::new()
        };
        let status = Some(translate::sandbox::status(&view));
        answer(pb::PodSandboxStatusResponse {
            status,
            info,
            ..pb::PodSandboxStatusResponse::default()
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<pb::ListPodSandboxRequest>,
    ) -> Answer<pb::ListPodSandboxResponse> {
        let filter = request.into_inner().filter;
        let views = self.pods.sandboxes();
        let views = views
            .iter()
            .filter(|view| translate::sandbox::matches(view, filter.as_ref()));
        answer(pb::ListPodSandboxResponse {
            items: views.map(translate::sandbox::row).collect(),
        })
    }

    async fn create_container(
        &self,
        request: Request<pb::CreateContainerRequest>,
    ) -> Answer<pb::CreateContainerResponse> {
        let request = request.into_inner();
        let sandbox = self.sandbox("pod_sandbox_id", &request.pod_sandbox_id)?;
        let config = translate::container::config(request.config.as_ref(), &sandbox.record.config);
        let config = config.map_err(|refusal| refused(&refusal))?;
        let id = self.pods.create_container(&sandbox.id, config).await.map_err(fail)?;
        answer(pb::CreateContainerResponse {
            container_id: id.to_string(),
        })
    }

    async fn start_container(&self, request: Request<pb::StartContainerRequest>) -> Answer<pb::StartContainerResponse> {
        let view = self.container(&request.into_inner().container_id)?;
        self.lifecycle.start_container(&view.id).await.map_err(fail)?;
        answer(pb::StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<pb::StopContainerRequest>) -> Answer<pb::StopContainerResponse> {
        let request = request.into_inner();
        if let Some(view) = present(self.container(&request.container_id))? {
            let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
            gone_is_fine(self.lifecycle.stop_container(&view.id, grace).await)?;
        }
        answer(pb::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<pb::RemoveContainerRequest>,
    ) -> Answer<pb::RemoveContainerResponse> {
        if let Some(view) = present(self.container(&request.into_inner().container_id))? {
            gone_is_fine(self.pods.remove_container(&view.id).await)?;
        }
        answer(pb::RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: Request<pb::ListContainersRequest>) -> Answer<pb::ListContainersResponse> {
        let filter = request.into_inner().filter;
        let views = self.pods.containers();
        let ours = views.iter().filter(|view| self.is_ours(view));
        let wanted = ours.filter(|view| translate::container::matches(view, filter.as_ref()));
        answer(pb::ListContainersResponse {
            containers: wanted.map(translate::container::row).collect(),
        })
    }

    async fn container_status(
        &self,
        request: Request<pb::ContainerStatusRequest>,
    ) -> Answer<pb::ContainerStatusResponse> {
        let request = request.into_inner();
        let view = self.container(&request.container_id)?;
        let info = if request.verbose {
            let mut info = verbose(&view.record, self.pods.spec(&view.id).await.ok());
            info.extend(translate::health::info(&self.lifecycle, &view));
            info
        } else {
            HashMap::new()
        };
        answer(pb::ContainerStatusResponse {
            status: Some(translate::container::status(&view)),
            info,
        })
    }

    async fn update_container_resources(
        &self,
        request: Request<pb::UpdateContainerResourcesRequest>,
    ) -> Answer<pb::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let view = self.container(&request.container_id)?;
        let Some(linux) = request.linux else {
            return Err(refused(&Refusal::invalid("linux", "missing")));
        };
        let change = translate::resources("linux", &linux).map_err(|refusal| refused(&refusal))?;
        self.pods.update_container(&view.id, change).await.map_err(fail)?;
        answer(pb::UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<pb::ReopenContainerLogRequest>,
    ) -> Answer<pb::ReopenContainerLogResponse> {
        let view = self.container(&request.into_inner().container_id)?;
        self.pods.reopen_log(&view.id).await.map_err(fail)?;
        answer(pb::ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<pb::ExecSyncRequest>) -> Answer<pb::ExecSyncResponse> {
        let request = request.into_inner();
        let view = self.container(&request.container_id)?;
        translate::container::check_words("cmd", &request.cmd).map_err(|refusal| refused(&refusal))?;
        let timeout = match u64::try_from(request.timeout) {
            Ok(0) => None,
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => {
                return Err(refused(&Refusal::invalid(
                    "timeout",
                    format!("{} is negative", request.timeout),
                )));
            }
        };
        let result = self
            .lifecycle
            .exec_sync(&view.id, request.cmd, timeout)
            .await
            .map_err(fail)?;
        answer(pb::ExecSyncResponse {
            stdout: result.stdout,
            stderr: result.stderr,
            exit_code: result.code,
        })
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        let (containerd, network) = tokio::join!(self.pods.containerd_status(), self.pods.network_status());
        let containerd = containerd.map(drop).map_err(|error| error.to_string());
        let conditions = vec![
            condition("RuntimeReady", "ContainerdDoesNotAnswer", containerd),
            condition("NetworkReady", "NetworkNotReady", network),
        ];
        let handlers = std::iter::once(String::new()).chain(self.pods.handlers());
        let handlers = handlers.map(|name| pb::RuntimeHandler {
            name,
            features: Some(pb::RuntimeHandlerFeatures::default()),
        });
        let verbose = request.into_inner().verbose;
        answer(pb::StatusResponse {
            status: Some(pb::RuntimeStatus { conditions }),
            info: if verbose {
                let execs = serde_json::json!(self.pods.exec_ways());
                HashMap::from([
                    ("config".to_owned(), self.info.clone()),
                    ("execs".to_owned(), execs.to_string()),
                ])
            } else {
                HashMap::new()
            },
            runtime_handlers: handlers.collect(),
            features: Some(pb::RuntimeFeatures {
                supplemental_groups_policy: true,
                ..pb::RuntimeFeatures::default()
            }),
        })
    }

    async fn runtime_config(&self, _: Request<pb::RuntimeConfigRequest>) -> Answer<pb::RuntimeConfigResponse> {
        let linux = pb::LinuxRuntimeConfiguration {
            cgroup_driver: pb::CgroupDriver::Cgroupfs.into(),
        };
        answer(pb::RuntimeConfigResponse { linux: Some(linux) })
    }

    /// A pod CIDR is for CNI configurations made from a template, which berth has not; kubelets need the call to
    /// succeed.
    async fn update_runtime_config(
        &self,
        request: Request<pb::UpdateRuntimeConfigRequest>,
    ) -> Answer<pb::UpdateRuntimeConfigResponse> {
        let network = request
            .into_inner()
            .runtime_config
            .and_then(|config| config.network_config);
        if let Some(network) = network {
            tracing::info!(
                pod_cidr = network.pod_cidr,
                "told the pod CIDR; the built-in network keeps its own"
            );
        }
        answer(pb::UpdateRuntimeConfigResponse {})
    }
}

fn condition(kind: &str, reason: &str, result: Result<(), String>) -> pb::RuntimeCondition {
    let (status, reason, message) = match result {
        Ok(()) => (true, String::new(), String::new()),
        Err(message) => (false, reason.to_owned(), message),
    };
    pb::RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason,
        message,
    }
}

/// The record, and the runtime spec where there is one, as one JSON object under `info` (which is where `crictl
/// inspect` looks).
fn verbose(record: &impl serde::Serialize, spec: Option<Vec<u8>>) -> HashMap<String, String> {
    let spec = spec.and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok());
    let info = serde_json::json!({ "record": record, "runtimeSpec": spec });
    HashMap::from([("info".to_owned(), info.to_string())])
}
