//! The requests that both peers get, and the clock around them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use berth::proto::runtime as cri;
use cri::runtime_service_client::RuntimeServiceClient;
use futures_util::future::try_join_all;
use tonic::transport::Channel;

use crate::Outcome;
use crate::peer::BUSYBOX;
use crate::samples::Turn;

pub type Runtime = RuntimeServiceClient<Channel>;

/// Pods that sleep, one container each: network POD, PID mode CONTAINER, no seccomp, a log.
pub struct Workload {
    logs: PathBuf,
    cgroup_parent: String,
    /// Of every container.
    pub command: Vec<String>,
    /// Of every container.
    pub annotations: HashMap<String, String>,
    made: AtomicUsize,
}

/// A running pod.
pub struct Pod {
    sandbox: String,
    container: String,
}

/// Reads the time since it was last read, and since it was made.
pub struct Clock {
    begin: Instant,
    lap: Instant,
}

impl Workload {
    pub fn new(directory: &Path, cgroup_parent: String) -> Self {
        Self {
            logs: directory.join("logs"),
            cgroup_parent,
            command: ["/bin/sleep", "1000000"].map(str::to_owned).to_vec(),
            annotations: HashMap::new(),
            made: AtomicUsize::new(0),
        }
    }

    /// A pod comes up, runs `execs` programs one after the other, and goes.
    pub async fn one(&self, runtime: &Runtime, execs: usize) -> Outcome<Turn> {
        let mut turn = Turn::new();
        let pod = self.start(runtime.clone(), &mut turn).await?;
        for _ in 0..execs {
            let clock = Clock::start();
            exec_true(runtime.clone(), &pod).await?;
            turn.push(("exec", clock.total()));
        }
        stop(runtime.clone(), pod, &mut turn).await?;
        Ok(turn)
    }

    /// As many pods as `count` come up at once, run programs (`count` at once, one in each pod), and go at once. The
    /// times are of the whole batch, divided by `count`.
    pub async fn many(&self, runtime: &Runtime, count: usize, execs: usize) -> Outcome<Turn> {
        let mut turn = Turn::new();
        let share = |clock: Clock| clock.total() / count as f64;
        let clock = Clock::start();
        let pods = self.up(runtime, count).await?;
        turn.push(("start-8", share(clock)));
        for _ in 0..execs {
            let clock = Clock::start();
            try_join_all(pods.iter().map(|pod| exec_true(runtime.clone(), pod))).await?;
            turn.push(("exec-8", share(clock)));
        }
        let clock = Clock::start();
        down(runtime, pods).await?;
        turn.push(("stop-8", share(clock)));
        Ok(turn)
    }

    /// As many pods as `count` come up at once.
    pub async fn up(&self, runtime: &Runtime, count: usize) -> Outcome<Vec<Pod>> {
        let starts = (0..count).map(|_| async { self.start(runtime.clone(), &mut Turn::new()).await });
        try_join_all(starts).await
    }

    async fn start(&self, mut runtime: Runtime, turn: &mut Turn) -> Outcome<Pod> {
        let config = self.sandbox();
        std::fs::create_dir_all(&config.log_directory)?;
        let container = self.container();
        let mut clock = Clock::start();
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let sandbox = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        turn.push(("start/sandbox", clock.lap()));
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(container),
            sandbox_config: Some(config),
        };
        let container = runtime.create_container(request).await?.into_inner().container_id;
        turn.push(("start/create", clock.lap()));
        let request = cri::StartContainerRequest {
            container_id: container.clone(),
        };
        runtime.start_container(request).await?;
        turn.push(("start/start", clock.lap()));
        turn.push(("start", clock.total()));
        Ok(Pod { sandbox, container })
    }

    fn container(&self) -> cri::ContainerConfig {
        let security = cri::LinuxContainerSecurityContext {
            namespace_options: Some(namespaces()),
            seccomp: Some(unconfined()),
            ..Default::default()
        };
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: "sleep".to_owned(),
                attempt: 0,
            }),
            image: Some(cri::ImageSpec {
                image: BUSYBOX.to_owned(),
                ..Default::default()
            }),
            command: self.command.clone(),
            annotations: self.annotations.clone(),
            log_path: "sleep.log".to_owned(),
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn sandbox(&self) -> cri::PodSandboxConfig {
        let name = format!("bench-{}", self.made.fetch_add(1, Ordering::Relaxed));
        let security = cri::LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces()),
            seccomp: Some(unconfined()),
            ..Default::default()
        };
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.clone(),
                uid: format!("{name}-uid"),
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            log_directory: self.logs.join(&name).display().to_string(),
            hostname: name,
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent.clone(),
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

fn namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: cri::NamespaceMode::Pod.into(),
        pid: cri::NamespaceMode::Container.into(),
        ipc: cri::NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn unconfined() -> cri::SecurityProfile {
    let kind = cri::security_profile::ProfileType::Unconfined;
    cri::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: String::new(),
    }
}

/// Runs `/bin/true` in a pod's container.
pub async fn exec_true(mut runtime: Runtime, pod: &Pod) -> Outcome<()> {
    let request = cri::ExecSyncRequest {
        container_id: pod.container.clone(),
        cmd: vec!["/bin/true".to_owned()],
        timeout: 10,
    };
    let answer = runtime.exec_sync(request).await?.into_inner();
    if answer.exit_code != 0 {
        return Err(format!("/bin/true ended with {}", answer.exit_code).into());
    }
    Ok(())
}

/// Asks for nothing: what a call costs the client and the socket.
pub async fn ask_nothing(mut runtime: Runtime) -> Outcome<()> {
    runtime.version(cri::VersionRequest::default()).await?;
    Ok(())
}

/// Pods go at once.
pub async fn down(runtime: &Runtime, pods: Vec<Pod>) -> Outcome<()> {
    let stops = pods
        .into_iter()
        .map(|pod| async { stop(runtime.clone(), pod, &mut Turn::new()).await });
    try_join_all(stops).await?;
    Ok(())
}

/// Kills at once: a grace period would measure the program, and process 1 of a container ignores SIGTERM anyway.
async fn stop(mut runtime: Runtime, pod: Pod, turn: &mut Turn) -> Outcome<()> {
    let Pod { sandbox, container } = pod;
    let mut clock = Clock::start();
    runtime
        .stop_container(cri::StopContainerRequest {
            container_id: container.clone(),
            timeout: 0,
        })
        .await?;
    turn.push(("stop/stop", clock.lap()));
    runtime
        .remove_container(cri::RemoveContainerRequest {
            container_id: container,
        })
        .await?;
    turn.push(("stop/remove", clock.lap()));
    runtime
        .stop_pod_sandbox(cri::StopPodSandboxRequest {
            pod_sandbox_id: sandbox.clone(),
        })
        .await?;
    turn.push(("stop/stop-sandbox", clock.lap()));
    runtime
        .remove_pod_sandbox(cri::RemovePodSandboxRequest {
            pod_sandbox_id: sandbox,
        })
        .await?;
    turn.push(("stop/remove-sandbox", clock.lap()));
    turn.push(("stop", clock.total()));
    Ok(())
}

impl Clock {
    pub fn start() -> Self {
        let now = Instant::now();
        Self { begin: now, lap: now }
    }

    /// Milliseconds since the last lap.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let time = now - std::mem::replace(&mut self.lap, now);
        time.as_secs_f64() * 1000.0
    }

    /// Milliseconds since the start.
    pub fn total(&self) -> f64 {
        self.begin.elapsed().as_secs_f64() * 1000.0
    }
}
