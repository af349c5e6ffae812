//! A client of the daemon under test in few words: pods, containers, and what becomes of them.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use berth::proto::runtime as pb;
use pb::runtime_service_client::RuntimeServiceClient;
use tokio::sync::Mutex;
use tonic::Status;
use tonic::transport::Channel;

use crate::support::berth::{BUSYBOX, Berth};

/// A daemon and a connection to it.
pub struct House {
    pub berth: Arc<Berth>,
    pub cri: RuntimeServiceClient<Channel>,
}

/// The daemon that tests share as long as one of them runs: each uses pods with names of its own.
pub async fn house() -> House {
    static SHARED: Mutex<Weak<Berth>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    let berth = match shared.upgrade() {
        Some(berth) => berth,
        None => Arc::new(Berth::start().await),
    };
    *shared = Arc::downgrade(&berth);
    House::of(berth).await
}

impl House {
    pub async fn of(berth: Arc<Berth>) -> Self {
        let cri = berth.runtime().await.unwrap();
        Self { berth, cri }
    }

    /// A sandbox whose containers have PID namespaces of their own, which is what kubelets ask for.
    pub async fn pod(&self, name: &str) -> Pod {
        self.pod_of(pod_config(name)).await
    }

    /// A sandbox that may have privileged containers.
    pub async fn privileged_pod(&self, name: &str) -> Pod {
        let mut config = pod_config(name);
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().privileged = true;
        self.pod_of(config).await
    }

    pub async fn pod_of(&self, config: pb::PodSandboxConfig) -> Pod {
        self.try_pod(config).await.unwrap()
    }

    pub async fn try_pod(&self, mut config: pb::PodSandboxConfig) -> Result<Pod, Status> {
        let name = config.metadata.as_ref().map(|metadata| metadata.name.clone());
        let logs = self.berth.path("logs").join(name.unwrap_or_default());
        if config.log_directory.is_empty() {
            config.log_directory = logs.display().to_string();
        }
        let request = pb::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let answer = self.cri.clone().run_pod_sandbox(request).await?;
        Ok(Pod {
            cri: self.cri.clone(),
            id: answer.into_inner().pod_sandbox_id,
            config,
        })
    }
}

/// The smallest config of a sandbox.
pub fn pod_config(name: &str) -> pb::PodSandboxConfig {
    let mut config = pb::PodSandboxConfig {
        metadata: Some(pb::PodSandboxMetadata {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            uid: format!("uid-of-{name}"),
            attempt: 0,
        }),
        ..pb::PodSandboxConfig::default()
    };
    config.namespaces().set_pid(pb::NamespaceMode::Container);
    config
}

/// The smallest config of a container that runs `command` from busybox.
pub fn container_config(name: &str, command: &[&str]) -> pb::ContainerConfig {
    pb::ContainerConfig {
        metadata: Some(pb::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(pb::ImageSpec {
            image: BUSYBOX.to_owned(),
            ..pb::ImageSpec::default()
        }),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}.log"),
        ..pb::ContainerConfig::default()
    }
}

/// The same with a line of shell.
pub fn shell(name: &str, line: &str) -> pb::ContainerConfig {
    container_config(name, &["sh", "-c", line])
}

/// The nested parts of configs, made where they are missing.
pub trait Parts {
    fn namespaces(&mut self) -> &mut pb::NamespaceOption;
}

impl Parts for pb::PodSandboxConfig {
    fn namespaces(&mut self) -> &mut pb::NamespaceOption {
        let linux = self.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        security.namespace_options.get_or_insert_default()
    }
}

impl Parts for pb::ContainerConfig {
    fn namespaces(&mut self) -> &mut pb::NamespaceOption {
        self.security().namespace_options.get_or_insert_default()
    }
}

pub trait ContainerParts {
    fn security(&mut self) -> &mut pb::LinuxContainerSecurityContext;
    fn resources(&mut self) -> &mut pb::LinuxContainerResources;
}

impl ContainerParts for pb::ContainerConfig {
    fn security(&mut self) -> &mut pb::LinuxContainerSecurityContext {
        self.linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
    }

    fn resources(&mut self) -> &mut pb::LinuxContainerResources {
        self.linux.get_or_insert_default().resources.get_or_insert_default()
    }
}

/// A sandbox that runs.
#[derive(Clone)]
pub struct Pod {
    pub cri: RuntimeServiceClient<Channel>,
    pub id: String,
    pub config: pb::PodSandboxConfig,
}

/// How a container ended, and what it wrote.
#[derive(Debug, Clone)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub status: pb::ContainerStatus,
}

impl Pod {
    pub async fn status(&self) -> pb::PodSandboxStatus {
        self.try_status().await.unwrap()
    }

    pub async fn try_status(&self) -> Result<pb::PodSandboxStatus, Status> {
        let request = pb::PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: false,
        };
        let answer = self.cri.clone().pod_sandbox_status(request).await?;
        Ok(answer.into_inner().status.unwrap())
    }

    pub async fn ip(&self) -> String {
        self.status().await.network.unwrap().ip
    }

    pub async fn try_create(&self, config: pb::ContainerConfig) -> Result<Container, Status> {
        let request = pb::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config.clone()),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self
            .cri
            .clone()
            .create_container(request)
            .await?
            .into_inner()
            .container_id;
        let cri = self.cri.clone();
        let log = PathBuf::from(&self.config.log_directory).join(&config.log_path);
        Ok(Container { cri, id, log })
    }

    pub async fn create(&self, config: pb::ContainerConfig) -> Container {
        self.try_create(config).await.unwrap()
    }

    /// Creates and starts a container.
    pub async fn start(&self, config: pb::ContainerConfig) -> Container {
        let container = self.create(config).await;
        container.start().await.unwrap();
        container
    }

    /// Starts a container that does nothing until it is stopped.
    pub async fn idle(&self, name: &str) -> Container {
        self.start(container_config(name, &["sleep", "1000000"])).await
    }

    /// Runs a container to its end.
    pub async fn run(&self, config: pb::ContainerConfig) -> Ended {
        self.start(config).await.ended().await
    }

    /// Runs a line of shell, which must succeed, and gives what it printed.
    pub async fn sh(&self, name: &str, line: &str) -> String {
        self.succeed(shell(name, line)).await
    }

    /// Runs a container, which must succeed, and gives what it printed.
    pub async fn succeed(&self, config: pb::ContainerConfig) -> String {
        let ended = self.run(config).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stdout
    }

    pub async fn stop(&self) {
        let pod_sandbox_id = self.id.clone();
        self.cri
            .clone()
            .stop_pod_sandbox(pb::StopPodSandboxRequest { pod_sandbox_id })
            .await
            .unwrap();
    }

    pub async fn remove(&self) {
        let pod_sandbox_id = self.id.clone();
        self.cri
            .clone()
            .remove_pod_sandbox(pb::RemovePodSandboxRequest { pod_sandbox_id })
            .await
            .unwrap();
    }
}

/// A container that was created.
#[derive(Clone)]
pub struct Container {
    pub cri: RuntimeServiceClient<Channel>,
    pub id: String,
    pub log: PathBuf,
}

impl Container {
    pub async fn start(&self) -> Result<(), Status> {
        let container_id = self.id.clone();
        self.cri
            .clone()
            .start_container(pb::StartContainerRequest { container_id })
            .await
            .map(drop)
    }

    pub async fn stop(&self, timeout: i64) {
        let container_id = self.id.clone();
        self.cri
            .clone()
            .stop_container(pb::StopContainerRequest { container_id, timeout })
            .await
            .unwrap();
    }

    pub async fn remove(&self) {
        let container_id = self.id.clone();
        self.cri
            .clone()
            .remove_container(pb::RemoveContainerRequest { container_id })
            .await
            .unwrap();
    }

    pub async fn try_status(&self, verbose: bool) -> Result<pb::ContainerStatusResponse, Status> {
        let container_id = self.id.clone();
        let request = pb::ContainerStatusRequest { container_id, verbose };
        Ok(self.cri.clone().container_status(request).await?.into_inner())
    }

    pub async fn status(&self) -> pb::ContainerStatus {
        self.try_status(false).await.unwrap().status.unwrap()
    }

    /// Its main process as the host knows it.
    pub async fn pid(&self) -> u32 {
        let info = self.try_status(true).await.unwrap().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        let pid = &info["record"]["state"]["Running"]["pid"];
        pid.as_u64()
            .and_then(|pid| pid.try_into().ok())
            .unwrap_or_else(|| panic!("it runs: {info:#}"))
    }

    /// Waits for its end.
    pub async fn ended(&self) -> Ended {
        let begin = Instant::now();
        loop {
            let status = self.status().await;
            if status.state() == pb::ContainerState::ContainerExited {
                let (stdout, stderr) = self.output();
                let code = status.exit_code;
                return Ended {
                    code,
                    stdout,
                    stderr,
                    status,
                };
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "it does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Both streams out of its log, put together again.
    pub fn output(&self) -> (String, String) {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        for line in fs::read_to_string(&self.log).unwrap_or_default().lines() {
            let mut parts = line.splitn(4, ' ').skip(1);
            let (stream, tag, text) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
            let into = match stream {
                Some("stdout") => &mut stdout,
                Some("stderr") => &mut stderr,
                _ => panic!("no line of a CRI log: {line:?}"),
            };
            *into += text;
            if tag == Some("F") {
                into.push('\n');
            }
        }
        (stdout, stderr)
    }

    /// Waits until its log holds `text`.
    pub async fn says(&self, text: &str) {
        until(&format!("it says {text:?}"), || {
            let (stdout, stderr) = self.output();
            stdout.contains(text) || stderr.contains(text)
        })
        .await;
    }

    pub async fn exec(&self, command: &[&str], timeout: i64) -> Result<pb::ExecSyncResponse, Status> {
        let request = pb::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout,
        };
        Ok(self.cri.clone().exec_sync(request).await?.into_inner())
    }

    /// Executes a line of shell, which must succeed, and gives what it printed.
    pub async fn sh(&self, line: &str) -> String {
        let answer = self.exec(&["sh", "-c", line], 20).await.unwrap();
        let (stdout, stderr) = (String::from_utf8(answer.stdout).unwrap(), answer.stderr);
        let stderr = String::from_utf8_lossy(&stderr);
        assert_eq!(answer.exit_code, 0, "{line}: {stdout}{stderr}");
        stdout
    }
}

/// Waits up to ten seconds for something to become true.
pub async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_true() {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{what}: not within ten seconds"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
