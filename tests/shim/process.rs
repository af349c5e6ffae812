//! A process that containerd knows: a task's first one, or an exec.

use std::time::Duration;

use containerd_client::services::v1::{
    CheckpointTaskRequest, CloseIoRequest, DeleteProcessRequest, DeleteResponse, DeleteTaskRequest, ExecProcessRequest,
    GetRequest, KillRequest, ListPidsRequest, MetricsRequest, PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest,
    StartRequest, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_client::types::Metric;
use containerd_client::types::v1::{Process as State, Status as Phase};
use prost_types::{Any, Timestamp};
use serde_json::Value;
use tonic::{Code, Status};

use crate::container::{self, remove_record};
use crate::node::{Node, PATIENCE};
use crate::pipes::Pipes;

const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const RESOURCES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

pub struct Process<'a> {
    node: &'a Node,
    pub id: String,
    /// Empty: the task's first process.
    pub exec_id: String,
    /// 0: an exec that was not started yet.
    pub pid: u32,
    pub pipes: Pipes,
}

impl<'a> Process<'a> {
    pub fn init(node: &'a Node, id: String, pid: u32, pipes: Pipes) -> Self {
        let exec_id = String::new();
        Self {
            node,
            id,
            exec_id,
            pid,
            pipes,
        }
    }

    /// What it is but for the node, which may be changed meanwhile.
    pub fn detach(self) -> Detached {
        let Self {
            id,
            exec_id,
            pid,
            pipes,
            ..
        } = self;
        Detached(id, exec_id, pid, pipes)
    }

    /// Gives the pid.
    pub async fn start(&self) -> Result<u32, Status> {
        let request = StartRequest {
            container_id: self.id.clone(),
            exec_id: self.exec_id.clone(),
        };
        let answer = self.node.tasks().start(self.node.request(request)).await?;
        Ok(answer.into_inner().pid)
    }

    pub async fn wait(&self) -> Result<WaitResponse, Status> {
        let request = self.node.request(WaitRequest {
            container_id: self.id.clone(),
            exec_id: self.exec_id.clone(),
        });
        Ok(self.node.tasks().wait(request).await?.into_inner())
    }

    /// Waits for the end, and gives the code.
    pub async fn ends(&self) -> u32 {
        self.wait().await.unwrap().exit_status
    }

    pub async fn state(&self) -> Result<State, Status> {
        let request = self.node.request(GetRequest {
            container_id: self.id.clone(),
            exec_id: self.exec_id.clone(),
        });
        Ok(self.node.tasks().get(request).await?.into_inner().process.unwrap())
    }

    pub async fn phase(&self) -> Phase {
        self.state().await.unwrap().status()
    }

    /// Waits until it is there.
    pub async fn reaches(&self, phase: Phase) {
        let begin = std::time::Instant::now();
        while self.phase().await != phase {
            assert!(begin.elapsed() < PATIENCE, "it does not become {phase:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn kill(&self, signal: u32) -> Result<(), Status> {
        self.signal(signal, false).await
    }

    /// Sends a signal to the process, or to `all` of the container.
    pub async fn signal(&self, signal: u32, all: bool) -> Result<(), Status> {
        let request = KillRequest {
            container_id: self.id.clone(),
            exec_id: self.exec_id.clone(),
            signal,
            all,
        };
        self.node.tasks().kill(self.node.request(request)).await.map(drop)
    }

    /// Forgets an ended process.
    pub async fn delete(&self) -> Result<DeleteResponse, Status> {
        let container_id = self.id.clone();
        let mut tasks = self.node.tasks();
        let answer = if self.exec_id.is_empty() {
            tasks
                .delete(self.node.request(DeleteTaskRequest { container_id }))
                .await
        } else {
            let exec_id = self.exec_id.clone();
            let request = DeleteProcessRequest { container_id, exec_id };
            tasks.delete_process(self.node.request(request)).await
        };
        Ok(answer?.into_inner())
    }

    /// Kills and deletes a task whatever it does, and its container's record with it.
    pub async fn remove(self) {
        match self.kill(9).await {
            Err(status) if status.code() != Code::NotFound => panic!("{status}"),
            _ => {}
        }
        if self.state().await.is_ok() {
            self.ends().await;
            self.delete().await.unwrap();
        }
        remove_record(self.node, &self.id).await;
    }

    /// Makes a further process in this task, without starting it.
    pub async fn exec(&self, exec_id: &str, exec: Exec) -> Result<Process<'a>, Status> {
        let pipes = Pipes::new(self.node, exec.stdin, exec.terminal);
        let spec = Any {
            type_url: PROCESS_URL.to_owned(),
            value: exec.spec.to_string().into_bytes(),
        };
        let request = ExecProcessRequest {
            container_id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            spec: Some(spec),
            stdin: pipes.stdin(),
            stdout: pipes.stdout(),
            stderr: pipes.stderr(),
            terminal: pipes.terminal,
        };
        self.node.tasks().exec(self.node.request(request)).await?;
        Ok(Process {
            node: self.node,
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            pid: 0,
            pipes,
        })
    }

    /// Makes one and starts it.
    pub async fn exec_run(&self, exec_id: &str, exec: Exec) -> Process<'a> {
        let mut process = self.exec(exec_id, exec).await.unwrap();
        process.pid = process.start().await.unwrap();
        process
    }

    /// A process of this task that is only named, whether or not there is one.
    pub fn named(&self, exec_id: &str) -> Process<'a> {
        Process {
            node: self.node,
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            pid: 0,
            pipes: Pipes::new(self.node, false, false),
        }
    }

    pub async fn close_stdin(&self) -> Result<(), Status> {
        let request = CloseIoRequest {
            container_id: self.id.clone(),
            exec_id: self.exec_id.clone(),
            stdin: true,
        };
        self.node.tasks().close_io(self.node.request(request)).await.map(drop)
    }

    pub async fn resize(&self, width: u32, height: u32) -> Result<(), Status> {
        let request = ResizePtyRequest {
            container_id: self.id.clone(),
            exec_id: self.exec_id.clone(),
            width,
            height,
        };
        self.node.tasks().resize_pty(self.node.request(request)).await.map(drop)
    }

    pub async fn pause(&self) -> Result<(), Status> {
        let container_id = self.id.clone();
        let request = self.node.request(PauseTaskRequest { container_id });
        self.node.tasks().pause(request).await.map(drop)
    }

    pub async fn resume(&self) -> Result<(), Status> {
        let container_id = self.id.clone();
        let request = self.node.request(ResumeTaskRequest { container_id });
        self.node.tasks().resume(request).await.map(drop)
    }

    pub async fn checkpoint(&self) -> Result<(), Status> {
        let request = self.node.request(CheckpointTaskRequest {
            container_id: self.id.clone(),
            ..Default::default()
        });
        self.node.tasks().checkpoint(request).await.map(drop)
    }

    /// Changes the limits; `resources` as in a spec.
    pub async fn update(&self, resources: Value) -> Result<(), Status> {
        let resources = Some(Any {
            type_url: RESOURCES_URL.to_owned(),
            value: resources.to_string().into_bytes(),
        });
        let request = UpdateTaskRequest {
            container_id: self.id.clone(),
            resources,
            ..Default::default()
        };
        self.node.tasks().update(self.node.request(request)).await.map(drop)
    }

    pub async fn pids(&self) -> Result<Vec<u32>, Status> {
        let container_id = self.id.clone();
        let request = self.node.request(ListPidsRequest { container_id });
        let answer = self.node.tasks().list_pids(request).await?.into_inner();
        Ok(answer.processes.iter().map(|process| process.pid).collect())
    }

    pub async fn metrics(&self) -> Result<Vec<Metric>, Status> {
        let filters = vec![format!("id=={}", self.id)];
        let request = self.node.request(MetricsRequest { filters });
        Ok(self.node.tasks().metrics(request).await?.into_inner().metrics)
    }
}

/// A process without its node.
pub struct Detached(String, String, u32, Pipes);

impl Detached {
    pub fn attach(self, node: &Node) -> Process<'_> {
        let Self(id, exec_id, pid, pipes) = self;
        Process {
            node,
            id,
            exec_id,
            pid,
            pipes,
        }
    }
}

/// A further process to be.
pub struct Exec {
    /// OCI's `process`.
    pub spec: Value,
    stdin: bool,
    terminal: bool,
}

impl Exec {
    pub fn new(args: &[&str]) -> Self {
        Self {
            spec: container::process(args),
            stdin: false,
            terminal: false,
        }
    }

    pub fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub fn with_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    pub fn terminal(mut self) -> Self {
        self.spec["terminal"] = true.into();
        self.terminal = true;
        self.with_stdin()
    }
}

/// How long ago that was.
pub fn age(time: Option<Timestamp>) -> Duration {
    let time = std::time::SystemTime::try_from(time.expect("it has a time")).unwrap();
    time.elapsed().expect("it is not in the future")
}

/// The code of a refusal.
pub fn code<T>(result: Result<T, Status>) -> Code {
    match result {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}
