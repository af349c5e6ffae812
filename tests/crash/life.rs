//! One whole life of two pods over CRI, as a kubelet would lead them: made, started, used, stopped, removed.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth::proto::runtime as cri;
use cri::runtime_service_client::RuntimeServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::dice::Dice;
use crate::support::berth::{BUSYBOX, Berth};

pub type Runtime = RuntimeServiceClient<Channel>;

/// Writes numbered lines until it is asked to end, and says so.
const WRITER: &str = "trap 'echo end; exit 7' TERM; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done";
/// Ends by itself.
const QUITTER: &str = "echo bye; exit 3";
/// No call may take longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// The client that leads the life.
pub struct Life {
    runtime: Runtime,
    logs: PathBuf,
    /// A client that goes away before it has its answer, and asks again.
    hasty: Option<Dice>,
    /// Whether a command may fail because its shim is killed.
    amid_deaths: bool,
}

impl Life {
    pub async fn new(berth: &Berth, name: &str) -> Self {
        let logs = berth.path("logs").join(name);
        fs::create_dir_all(&logs).unwrap();
        let runtime = berth.runtime().await.expect("berth answers");
        let (hasty, amid_deaths) = (None, false);
        Self {
            runtime,
            logs,
            hasty,
            amid_deaths,
        }
    }

    /// The same while shims are killed: a command in a container may fail, and says so. Nothing else may.
    pub fn amid_shims_deaths(self) -> Self {
        Self {
            amid_deaths: true,
            ..self
        }
    }

    /// The same, led by a client that drops each call after 1 to 30 ms, and repeats it then.
    pub fn hasty(self, dice: Dice) -> Self {
        Self {
            hasty: Some(dice),
            ..self
        }
    }

    /// The log of its container `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Lives. An error means that berth (or something below it) went away, or failed.
    pub async fn live(&mut self) -> Result<(), Status> {
        let alone = self.run_sandbox("alone", cri::NamespaceMode::Container).await?;
        let writer = self.create(&alone, "writer", WRITER).await?;
        self.update(&writer).await?;
        self.start(&writer).await?;
        self.exec(&writer).await?;
        self.rotate_log(&writer, "writer").await?;
        let quitter = self.create(&alone, "quitter", QUITTER).await?;
        self.start(&quitter).await?;
        let shared = self.run_sandbox("shared", cri::NamespaceMode::Pod).await?;
        let sharer = self.create(&shared, "sharer", WRITER).await?;
        self.start(&sharer).await?;
        self.expect_exit(&quitter, 3).await?;
        self.stop(&writer).await?;
        self.expect_exit(&writer, 7).await?;
        self.remove(&writer).await?;
        self.remove(&quitter).await?;
        self.stop_sandbox(&shared).await?;
        self.expect_exit(&sharer, 137).await?;
        self.remove_sandbox(&shared).await?;
        self.stop_sandbox(&alone).await?;
        self.remove_sandbox(&alone).await
    }

    pub async fn run_sandbox(&mut self, name: &str, pid: cri::NamespaceMode) -> Result<String, Status> {
        let request = cri::RunPodSandboxRequest {
            config: Some(sandbox_config(name, pid, &self.logs)),
            runtime_handler: String::new(),
        };
        let made = self.call(Runtime::run_pod_sandbox, request).await;
        match made {
            Err(status) if self.hasty.is_some() && status.code() == Code::AlreadyExists => {
                self.find_sandbox(name).await
            }
            made => made.map(|answer| answer.pod_sandbox_id),
        }
    }

    async fn find_sandbox(&mut self, name: &str) -> Result<String, Status> {
        let listed = self.call(Runtime::list_pod_sandbox, cri::ListPodSandboxRequest::default());
        let mut listed = listed.await?.items.into_iter();
        let found = listed.find(|sandbox| sandbox.metadata.as_ref().is_some_and(|metadata| metadata.name == name));
        let found = found.expect("a sandbox that exists already is listed");
        assert_eq!(found.state(), cri::PodSandboxState::SandboxReady, "half made");
        Ok(found.id)
    }

    pub async fn create(&mut self, sandbox: &str, name: &str, script: &str) -> Result<String, Status> {
        // What the sandbox has is repeated with each container; only its log directory matters here.
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(container_config(name, script)),
            sandbox_config: Some(sandbox_config(name, cri::NamespaceMode::Container, &self.logs)),
        };
        match self.call(Runtime::create_container, request).await {
            Err(status) if self.hasty.is_some() && status.code() == Code::AlreadyExists => {
                let listed = self.call(Runtime::list_containers, cri::ListContainersRequest::default());
                let mut listed = listed.await?.containers.into_iter();
                let found = listed.find(|it| it.metadata.as_ref().is_some_and(|metadata| metadata.name == name));
                Ok(found.expect("a container that exists already is listed").id)
            }
            made => made.map(|answer| answer.container_id),
        }
    }

    async fn update(&mut self, id: &str) -> Result<(), Status> {
        let linux = cri::LinuxContainerResources {
            cpu_shares: 512,
            ..Default::default()
        };
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        self.call(Runtime::update_container_resources, request).await.map(drop)
    }

    pub async fn start(&mut self, id: &str) -> Result<(), Status> {
        let container_id = id.to_owned();
        let request = cri::StartContainerRequest { container_id };
        match self.call(Runtime::start_container, request).await {
            // The first call has started it.
            Err(status) if self.hasty.is_some() && status.code() == Code::FailedPrecondition => Ok(()),
            started => started.map(drop),
        }
    }

    async fn exec(&mut self, id: &str) -> Result<(), Status> {
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: ["echo", "hello"].map(str::to_owned).into(),
            timeout: 10,
        };
        let answer = self.call(Runtime::exec_sync, request).await;
        if let (true, Err(status)) = (self.amid_deaths, &answer) {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            return Ok(());
        }
        let answer = answer?;
        assert_eq!((answer.exit_code, &*answer.stdout), (0, &b"hello\n"[..]));
        Ok(())
    }

    async fn rotate_log(&mut self, id: &str, name: &str) -> Result<(), Status> {
        let log = self.log(name);
        fs::rename(&log, log.with_extension("log.1")).unwrap();
        let container_id = id.to_owned();
        let request = cri::ReopenContainerLogRequest { container_id };
        self.call(Runtime::reopen_container_log, request).await.map(drop)
    }

    pub async fn stop(&mut self, id: &str) -> Result<(), Status> {
        let request = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: 10,
        };
        self.call(Runtime::stop_container, request).await.map(drop)
    }

    pub async fn expect_exit(&mut self, id: &str, code: i32) -> Result<(), Status> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let begin = std::time::Instant::now();
        loop {
            let answer = self.call(Runtime::container_status, request.clone()).await?;
            let status = answer.status.expect("a status");
            if status.state() == cri::ContainerState::ContainerExited {
                if status.reason == "Unknown" {
                    assert_eq!(status.exit_code, 255);
                    return Err(Status::unknown("nobody knows how it ended"));
                }
                assert_eq!(status.exit_code, code, "{status:?}");
                return Ok(());
            }
            assert!(begin.elapsed() < PATIENCE, "it does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn remove(&mut self, id: &str) -> Result<(), Status> {
        let container_id = id.to_owned();
        let request = cri::RemoveContainerRequest { container_id };
        self.call(Runtime::remove_container, request).await.map(drop)
    }

    async fn stop_sandbox(&mut self, id: &str) -> Result<(), Status> {
        let pod_sandbox_id = id.to_owned();
        let request = cri::StopPodSandboxRequest { pod_sandbox_id };
        self.call(Runtime::stop_pod_sandbox, request).await.map(drop)
    }

    async fn remove_sandbox(&mut self, id: &str) -> Result<(), Status> {
        let pod_sandbox_id = id.to_owned();
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id };
        self.call(Runtime::remove_pod_sandbox, request).await.map(drop)
    }

    /// Calls once, or, in haste, goes away and calls again.
    async fn call<Q: Clone, A>(
        &mut self,
        method: impl AsyncFn(&mut Runtime, Q) -> Result<Response<A>, Status>,
        request: Q,
    ) -> Result<A, Status> {
        if let Some(dice) = &mut self.hasty {
            let patience = Duration::from_millis(dice.between(1, 30));
            let answer = tokio::time::timeout(patience, method(&mut self.runtime, request.clone()));
            if let Ok(answer) = answer.await {
                return answer.map(Response::into_inner);
            }
        }
        within(method(&mut self.runtime, request)).await
    }
}

/// What is asked for must be answered, one way or the other.
async fn within<A>(call: impl Future<Output = Result<Response<A>, Status>>) -> Result<A, Status> {
    let answer = tokio::time::timeout(PATIENCE, call).await;
    answer.expect("an answer within a minute").map(Response::into_inner)
}

/// Stops and removes all that is listed. Each call must succeed.
pub async fn remove_all(runtime: &mut Runtime) -> Result<(), Status> {
    for sandbox in within(runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()))
        .await?
        .items
    {
        let pod_sandbox_id = sandbox.id;
        within(runtime.stop_pod_sandbox(cri::StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        }))
        .await?;
        let containers = within(runtime.list_containers(cri::ListContainersRequest::default()))
            .await?
            .containers;
        let own = containers.into_iter().filter(|it| it.pod_sandbox_id == pod_sandbox_id);
        for container_id in own.map(|container| container.id) {
            within(runtime.remove_container(cri::RemoveContainerRequest { container_id })).await?;
        }
        within(runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id })).await?;
    }
    Ok(())
}

pub fn sandbox_config(name: &str, pid: cri::NamespaceMode, logs: &Path) -> cri::PodSandboxConfig {
    let options = cri::NamespaceOption {
        pid: pid.into(),
        ..Default::default()
    };
    let security = cri::LinuxSandboxSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        log_directory: logs.display().to_string(),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn container_config(name: &str, script: &str) -> cri::ContainerConfig {
    let pid = match name {
        "sharer" => cri::NamespaceMode::Pod,
        _ => cri::NamespaceMode::Container,
    };
    let options = cri::NamespaceOption {
        pid: pid.into(),
        ..Default::default()
    };
    let security = cri::LinuxContainerSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    };
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: BUSYBOX.to_owned(),
            ..Default::default()
        }),
        command: ["sh", "-c", script].map(str::to_owned).into(),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}
